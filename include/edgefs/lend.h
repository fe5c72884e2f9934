/* How edgefs-ctl lends an open file to the replicator of a node on the same host, which saves an import the way through HTTP: the replicator copies the file
 * itself. Packets on <data>/run/files.sock (SOCK_SEQPACKET; GET /v1/local of the HTTP API says where that is):
 *
 *   edgefs-ctl ──► replicator   LEND_HELLO, with one descriptor: a regular file, open for reading
 *   replicator ──► edgefs-ctl   LEND_NUMBER_LEN hex digits, the file's number
 *
 * PUT /v1/databases/NAME?file=NUMBER, without a body, then takes the file, once. It is lent as long as the connection is open; if that ends while the file is
 * being copied, the import is called off.
 *
 * Who may import is decided by that request alone, as ever: the socket gives no right to anything. It is mode 0600 in the data directory: only the node's user, and
 * root, who own its databases anyway, can make the replicator hold a descriptor. The number is a random one, so that no other client of the API can take a file that
 * is lent. The file is read from its beginning through the descriptor's own position: so the lender sees (lseek) how far it is; and the locks of its open file
 * description stay as long as the replicator has it. */
#ifndef EDGEFS_LEND_H
#define EDGEFS_LEND_H

#define LEND_HELLO "EFSFILE1" /* 8 bytes, without the NUL */
#define LEND_NUMBER_LEN 32

#endif
