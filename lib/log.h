/* Logging to standard error, one line an event: "2026-11-21T09:00:00.123Z level component: message". Any thread.
 * (The replication log is another thing: replicator/log/rlog.h.) */
#ifndef EDGEFS_LOG_H
#define EDGEFS_LOG_H

enum log_level { LOG_LEVEL_DEBUG, LOG_LEVEL_INFO, LOG_LEVEL_WARN, LOG_LEVEL_ERROR };

/* Name of this program and node for each line; lowest level that is written. Call once, before threads. Strings are copied. */
void log_init(const char *program, const char *node, enum log_level lowest);

/* "debug", "info", "warn", "error" → level. 0 or -EINVAL. */
int log_level_parse(const char *name, enum log_level *level);

void log_write(enum log_level level, const char *component, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#define log_debug(component, ...) log_write(LOG_LEVEL_DEBUG, component, __VA_ARGS__)
#define log_info(component, ...) log_write(LOG_LEVEL_INFO, component, __VA_ARGS__)
#define log_warn(component, ...) log_write(LOG_LEVEL_WARN, component, __VA_ARGS__)
#define log_error(component, ...) log_write(LOG_LEVEL_ERROR, component, __VA_ARGS__)

#endif
