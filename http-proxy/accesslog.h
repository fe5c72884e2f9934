/* One line a finished exchange, logfmt or JSON, to a file or standard error. The event loop's thread; lines are gathered and written once a
 * tick or when 64 KiB wait; if the file cannot take them they are dropped and counted, never waited for. */
#ifndef EDGEFS_PROXY_ACCESSLOG_H
#define EDGEFS_PROXY_ACCESSLOG_H

#include "http-proxy/metrics.h"

struct accesslog;

/* Of one entry of `proxy:`; *out is NULL if its access log is off. */
int accesslog_open(const struct config_proxy *app, struct accesslog **out, struct err *e);
void accesslog_close(struct accesslog *l); /* writes what is left; NULL is fine */
void accesslog_write(struct accesslog *l, const struct proxy_exchange *x);
void accesslog_tick(struct accesslog *l);
/* SIGHUP: opens the file anew (log rotation). */
void accesslog_reopen(struct accesslog *l);

#endif
