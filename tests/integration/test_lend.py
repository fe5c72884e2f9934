"""Files that edgefs-ctl lends to a node on the same host instead of uploading them (include/edgefs/lend.h)."""
import contextlib
import glob
import http.client
import json
import os
import socket
import struct

import harness
from harness import Cluster, EdgeTest, both_modes, wait_until, within

HELLO = b"EFSFILE1"
LENT = "edgefs_imports_lent_total"


def make(node, name, mb):
    """An SQLite file of that size outside of the mount."""
    path = os.path.join(node.tmp, name)
    with node.db(None, path=path) as db:
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, pad BLOB)")
        db.execute("BEGIN")
        db.executemany("INSERT INTO t (pad) VALUES (randomblob(100000))", [()] * (mb * 10))
        db.execute("COMMIT")
    return path


def make_sparse(node, name, size):
    """Begins like a database, of which it has too many pages."""
    path = os.path.join(node.tmp, name)
    with node.db(None, path=path) as db:
        db.execute("PRAGMA page_size = 4096")
        db.execute("CREATE TABLE t (x)")
    os.truncate(path, size)
    return path


def private_files(node):
    return glob.glob(node.backing("**/.edgefs-*"), recursive=True)


def where(node):
    status, answer = node.api("GET", "/v1/local")
    assert status == 200, answer
    return answer["files"]


def has_open(node, path):
    folder = f"/proc/{node.pid('replicator')}/fd"
    with contextlib.suppress(FileNotFoundError):  # of a descriptor that was closed meanwhile: then the question comes again
        return any(os.readlink(os.path.join(folder, fd)) == path for fd in os.listdir(folder))
    return True


@contextlib.contextmanager
def lent(node, *fds, hello=HELLO):
    """The number of a file that is lent; "" if the node does not take it. Until the end of the block, or s.close()."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.settimeout(30)
        s.connect(where(node))
        socket.send_fds(s, [hello], list(fds))
        try:
            yield s, s.recv(100).decode()
        except ConnectionResetError:
            yield s, ""


def put(node, name, number, token=None, body=b""):
    """(status, answer) of an import of a lent file."""
    conn = http.client.HTTPConnection("127.0.0.1", node.port, timeout=60)
    conn.request("PUT", f"/v1/databases/{name}?file={number}", body, {"Authorization": f"Bearer {token}"} if token else {})
    with conn.getresponse() as answer:
        out = answer.status, json.loads(answer.read())
    conn.close()
    return out


@both_modes
class Lend(EdgeTest):
    @within(60)
    def test_edgefs_ctl_lends_a_file_of_this_host(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            for name, mb, n in (("big.db", 20, 1), ("sub/small.db", 1, 2)):
                path = make(a, os.path.basename(name), mb)
                before = harness.read_bytes(path)
                self.assertIn("imported in", harness.ctl(b, "import", path, name))  # a replica names the primary, which is on this host, too
                self.assertEqual(a.metric(LENT), n)
                self.assertEqual(harness.read_bytes(path), before)
                cluster.sync()
                for node in cluster.nodes:
                    self.assertEqual(node.sql(name, "SELECT count(*), sum(length(pad)) FROM t"), [(mb * 10, mb * 1000000)])
            cluster.identical()
            for node in cluster.nodes:
                wait_until(lambda node=node: not private_files(node), 30, lambda node=node: f"{node.name}: {private_files(node)}")

    @within(60)
    def test_what_cannot_be_lent_is_uploaded(self):
        with Cluster(1, self.passthrough) as cluster:
            a = cluster.nodes[0]
            harness.make_load_db(a, "x.db")
            a.sql("x.db", "PRAGMA wal_checkpoint(TRUNCATE)")
            harness.ctl(a, "import", a.path("x.db"), "of-a-mount.db")
            path = make(a, "y.db", 1)
            os.unlink(where(a))
            harness.ctl(a, "import", path, "uploaded.db")
            self.assertEqual(a.sql("uploaded.db", "SELECT count(*) FROM t"), [(10,)])
            self.assertEqual(a.metric(LENT), 0)
            self.assertEqual(a.metric("edgefs_imports_total"), 2)


class LendProtocol(EdgeTest):
    @within(60)
    def test_a_number_is_for_one_request_of_one_who_may_import(self):
        with Cluster(1, True, token="secret") as cluster:
            a = cluster.nodes[0]
            self.assertEqual(os.stat(where(a)).st_mode & 0o777, 0o600)
            with open(make(a, "x.db", 1), "rb") as f:
                with lent(a, f.fileno()) as (s, number):
                    self.assertEqual(len(number), 32)
                    self.assertEqual(put(a, "x.db", number)[0], 401)
                    self.assertEqual(put(a, "x.db", number, "wrong")[0], 401)
                    self.assertEqual(put(a, "x.db", number, "secret", b"and a body")[0], 400)
                    self.assertEqual(put(a, "x.db", number[:-1] + "g", "secret")[0], 410)
                    self.assertEqual(put(a, "x.db", number, "secret")[0], 200)
                    self.assertEqual(put(a, "y.db", number, "secret")[0], 410)
                with lent(a, f.fileno()) as (s, number):
                    s.close()
                    wait_until(lambda: put(a, "y.db", number, "secret")[0] == 410, 30, "the file is no longer lent")
            self.assertEqual(list(a.databases()), ["x.db"])
            self.assertEqual(a.sql("x.db", "SELECT count(*) FROM t"), [(10,)])

    @within(60)
    def test_what_is_taken_is_a_regular_file_that_can_be_read(self):
        with Cluster(1, True) as cluster, contextlib.ExitStack() as stack:
            a = cluster.nodes[0]
            path = make(a, "x.db", 1)
            harness.make_load_db(a, "y.db")
            good, written, mounted, nothing = (os.open(p, flags) for p, flags in (
                (path, os.O_RDONLY), (path, os.O_WRONLY), (a.path("y.db"), os.O_RDONLY), (os.path.join(a.tmp, "empty"), os.O_RDWR | os.O_CREAT)))
            pipe = os.pipe()
            folder = os.open(a.tmp, os.O_RDONLY | os.O_DIRECTORY)
            for fd in (good, written, mounted, nothing, folder, *pipe):
                stack.callback(os.close, fd)
            for fds in ([written], [mounted], [nothing], [pipe[0]], [folder], [good, good], []):
                with lent(a, *fds) as (_, number):
                    self.assertEqual(number, "", fds)
            with lent(a, good, hello=b"EFSFILE2") as (_, number):
                self.assertEqual(number, "")
            with lent(a, good) as (_, number):
                self.assertEqual(len(number), 32)
                self.assertTrue(has_open(a, path))
            wait_until(lambda: not has_open(a, path), 30, "it has let go of all of them")

    @within(60)
    def test_a_lender_that_goes_calls_it_off(self):
        size = 8 << 30
        with Cluster(1, True) as cluster:
            a = cluster.nodes[0]
            with open(make_sparse(a, "x.db", size), "rb") as f, lent(a, f.fileno()) as (s, number):
                with socket.create_connection(("127.0.0.1", a.port), timeout=30) as conn:
                    conn.sendall(f"PUT /v1/databases/sub%2Fx.db?file={number} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                    wait_until(lambda: os.lseek(f.fileno(), 0, os.SEEK_CUR) > 0, 30, "it is being copied")
                    s.close()
                    self.assertNotIn(b" 200 ", conn.recv(100))
            wait_until(lambda: not private_files(a) and not os.path.exists(a.path("sub")), 30, lambda: f"it is removed: {private_files(a)}")
            self.assertLess(a.metric("edgefs_import_bytes_total"), size)
            self.assertEqual(a.databases(), {})

    @within(60)
    def test_a_file_that_is_no_whole_database_is_refused(self):
        with Cluster(1, True) as cluster:
            a = cluster.nodes[0]
            path = make_sparse(a, "x.db", 16 << 20)
            code, _, err = harness.ctl(a, "import", path, "x.db", check=False)
            self.assertEqual(code, 4, err)
            self.assertIn("its header says 2", err)
            with open(path, "r+b") as f:
                f.write(struct.pack("<16s", b"no database"))
                f.flush()
                with lent(a, f.fileno()) as (_, number):
                    self.assertEqual(put(a, "x.db", number)[0], 400)
            wait_until(lambda: not private_files(a), 30, lambda: f"it is removed: {private_files(a)}")
            self.assertEqual(a.databases(), {})
