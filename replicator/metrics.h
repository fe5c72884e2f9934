/* Metrics of this process: one table, from which GET /metrics is written. Names and units follow Prometheus' conventions. */
#ifndef EDGEFS_METRICS_H
#define EDGEFS_METRICS_H

#include <stdatomic.h>
#include <stdint.h>

/* X(id, name, help): counters since the start of the process. Modules add with metrics_add(METRIC_id, n). */
#define METRICS_COUNTERS(X)                                                                                            \
    X(CAPTURED_RECORDS, "edgefs_captured_records_total", "Log records made of what applications wrote.")               \
    X(CAPTURED_TRANSACTIONS, "edgefs_captured_transactions_total", "Transactions in them.")                            \
    X(CAPTURED_PAGES, "edgefs_captured_pages_total", "Pages of those transactions.")                                   \
    X(UNORDERED, "edgefs_capture_unordered_total", "Looks whose records may not keep the order between databases.") \
    X(COMPARED, "edgefs_databases_compared_total", "Times that all pages of a database were compared with what is known of it.") \
    X(APPLIED_WRITES, "edgefs_applied_writes_total", "Transactions that were written into databases of this replica.") \
    X(IMAGES_FETCHED, "edgefs_images_fetched_total", "Database images that this replica fetched.")                     \
    X(IMAGE_PAGES_FETCHED, "edgefs_image_pages_fetched_total", "Pages that came for them: of a database that is here already, only those that differ.") \
    X(IMPORTS_TAKEN, "edgefs_imports_taken_total", "Imports that this replica had fetched by the time their records came.") \
    X(STREAMS, "edgefs_streams_opened_total", "Streams that replicas opened here.")                                    \
    X(STREAM_BYTES, "edgefs_stream_sent_bytes_total", "Bytes of log records given to streams.")                        \
    X(IMAGES, "edgefs_images_sent_total", "Database images that were sent completely.")                                \
    X(IMAGE_BYTES, "edgefs_image_sent_bytes_total", "Bytes of database images given to connections.")                  \
    X(IMAGE_PAGES_LEFT, "edgefs_image_pages_left_total", "Pages left out of images because they kept changing.")       \
    X(DIFFERENCE_BYTES, "edgefs_difference_bytes_total", "Bytes of questions and answers about which pages of a replica differ (without the pages).") \
    X(SCRUB_BYTES, "edgefs_scrub_read_bytes_total", "Bytes of databases that were read to be compared with their checksums.") \
    X(SCRUB_BAD, "edgefs_scrub_bad_pages_total", "Pages that had changed on the disk by themselves.")                  \
    X(SCRUB_MENDED, "edgefs_scrub_mended_pages_total", "Pages that were mended from another node.")                    \
    X(IMPORTS, "edgefs_imports_total", "Databases that were imported through the API.")                                \
    X(IMPORTS_LENT, "edgefs_imports_lent_total", "Imports of files that edgefs-ctl lent on this host instead of uploading them.") \
    X(IMPORT_BYTES, "edgefs_import_bytes_total", "Bytes of imported databases.")                                       \
    X(SYNC_COMMITS, "edgefs_sync_commits_total", "Commits that were answered when enough replicas had them.")           \
    X(SYNC_TIMEOUTS, "edgefs_sync_timeouts_total", "Commits that waited for replicas until sync-timeout.")               \
    X(SYNC_REFUSED, "edgefs_sync_refused_total", "Commits that failed because too few replicas had them.")               \
    X(SYNC_ASYNC, "edgefs_sync_degraded_commits_total", "Commits that did not wait because synchronous commit was degraded.") \
    X(SYNC_UNASKED, "edgefs_sync_unasked_total", "Times that transactions were found committed that should have waited and did not (PRAGMA synchronous is not FULL).") \
    X(LOG_TRIMMED, "edgefs_log_trimmed_for_room_total", "Segments of the log that were deleted before their time because the disk was filling.") \
    X(JOBS_REFUSED, "edgefs_api_jobs_refused_total", "Requests answered 503 because the queue of jobs was full.")

/* X(id, name, type, help): read from the node when somebody asks. */
#define METRICS_GAUGES(X)                                                                                              \
    X(UP, "edgefs_start_seconds", "gauge", "Seconds since the replicator started.")                                    \
    X(PRIMARY, "edgefs_primary", "gauge", "1 on the primary, else 0.")                                                 \
    X(CONNECTED, "edgefs_connected", "gauge", "1 while a replica's stream is up (always 1 on the primary).")           \
    X(EPOCH, "edgefs_epoch", "gauge", "Epoch of the last log record.")                                                 \
    X(LSN, "edgefs_log_last_lsn", "gauge", "LSN of the last record in the log.")                                       \
    X(FIRST_LSN, "edgefs_log_first_lsn", "gauge", "LSN of the oldest record that is kept.")                            \
    X(DURABLE_LSN, "edgefs_log_durable_lsn", "gauge", "LSN up to which the log is durable.")                           \
    X(APPLIED_LSN, "edgefs_applied_lsn", "gauge", "LSN that readers of the mount see.")                                \
    X(LOG_BYTES, "edgefs_log_bytes", "gauge", "Size of the log.")                                                      \
    X(LAG, "edgefs_lag_seconds", "gauge", "Time since this node last had everything that its upstream had.")           \
    X(DATABASES, "edgefs_databases", "gauge", "Databases.")                                                            \
    X(DATABASE_BYTES, "edgefs_database_bytes", "gauge", "Size of all databases together.")                             \
    X(WARNINGS, "edgefs_database_warnings", "gauge", "Databases with a warning.")                                      \
    X(DISK_FULL, "edgefs_disk_full", "gauge", "1 while the log cannot be written for lack of room.")                   \
    X(DISK_LOW, "edgefs_disk_low", "gauge", "1 while the data directory has less room left than a segment of the log takes.") \
    X(DISK_FREE, "edgefs_disk_free_bytes", "gauge", "Room that is left in the file system of the data directory.")       \
    X(SYNC_DEGRADED, "edgefs_sync_degraded", "gauge", "1 while synchronous commit is degraded: commits do not wait.")     \
    X(SYNC_WAITING, "edgefs_sync_waiting", "gauge", "Commits that wait for replicas now.")                              \
    X(STREAMS_OPEN, "edgefs_streams", "gauge", "Streams open now.")                                                    \
    X(HTTP_CONNECTIONS, "edgefs_http_connections", "gauge", "HTTP connections open now.")                              \
    X(HTTP_REQUESTS, "edgefs_http_requests_total", "counter", "HTTP requests.")                                        \
    X(HTTP_BAD, "edgefs_http_bad_requests_total", "counter", "HTTP requests that could not be understood.")            \
    X(HTTP_UNAUTHORIZED, "edgefs_http_unauthorized_total", "counter", "HTTP requests without the right token.")        \
    X(HTTP_TIMED_OUT, "edgefs_http_timeouts_total", "counter", "HTTP connections closed because they took too long.")  \
    X(HTTP_REFUSED, "edgefs_http_refused_total", "counter", "HTTP connections refused because there were too many.")   \
    X(MEMORY, "process_resident_memory_bytes", "gauge", "Resident memory of the replicator.")                          \
    X(CPU, "process_cpu_seconds_total", "counter", "CPU time of the replicator, user and system.")                     \
    X(FDS, "process_open_fds", "gauge", "Open file descriptors of the replicator.")

enum metric {
#define X(id, name, help) METRIC_##id,
    METRICS_COUNTERS(X)
#undef X
        METRICS_N
};

extern atomic_uint_fast64_t metrics_values[METRICS_N];

/* Any thread. */
static inline void metrics_add(enum metric m, uint64_t n)
{
    atomic_fetch_add_explicit(&metrics_values[m], n, memory_order_relaxed);
}

struct node;
struct stream_server;

/* Prometheus' text format (version 0.0.4), NUL-terminated, the caller's to free; NULL: no memory. The HTTP loop's thread. */
char *metrics_text(struct node *n, const struct stream_server *streams);

#endif
