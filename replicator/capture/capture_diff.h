/* The worker's jobs for capture: opening a wal-index, and finding out by comparison what changed. */
#ifndef EDGEFS_CAPTURE_DIFF_H
#define EDGEFS_CAPTURE_DIFF_H

#include "replicator/node.h"

/* worker_fn: opens the wal-index of db and hands it to capture (mode MAPPED), or sets IDLE and asks for a diff. */
void capture_map_job(struct node *n, struct database *db, uint64_t arg);
/* worker_fn: compares every page with the tracked checksums; what differs becomes one record. */
void capture_diff_job(struct node *n, struct database *db, uint64_t arg);

/* For both: capture.c. Tells the capture thread that mode of db has changed (any thread). */
void capture_notice(struct capture *c, struct database *db);
/* Asks the capture thread to diff db soon (any thread). */
void capture_request_diff(struct capture *c, struct database *db);

#endif
