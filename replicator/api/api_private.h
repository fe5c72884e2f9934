/* Shared by the files of the API: replicator/api*.c, image_server.c, import.c. */
#ifndef EDGEFS_API_PRIVATE_H
#define EDGEFS_API_PRIVATE_H

#include "lib/http/server.h"
#include "replicator/api/api.h"
#include "replicator/jobs.h"
#include "replicator/api/request.h"
#include <sys/queue.h>

struct event;
struct lent_server;
struct waiter;

struct api {
    struct node *node;
    struct event_base *base;
    struct http_server *http;
    struct stream_server *streams;
    struct lent_server *lent; /* NULL: that socket could not be opened */
    struct jobs *jobs;   /* what takes long: scans, copies, imports */
    struct jobs *copying; /* copies of files that were lent, one at a time: they take the disk's time, not a thread that others wait for */
    struct jobs *urgent; /* the target's half of a promotion: waits for nothing else */
    TAILQ_HEAD(, waiter) waiters; /* api_wait.c */
    struct event *wait_timer;
    pthread_mutex_t lock; /* guards stopped */
    bool stopped;         /* there is no HTTP server any more */
};

/* Any thread: http_server_post, or -ESHUTDOWN once the API is stopped. */
int api_post(struct api *a, void (*fn)(void *arg), void *arg);

/* A request that is answered after work in another thread, or when something has happened. Whoever is last, the work or the request's
 * end, frees it. */
struct call {
    struct job job;
    struct api *api;
    struct http_request *req; /* NULL once the client is gone. The loop's thread */
    bool finished;            /* nobody works on it any more. The loop's thread */
    void (*run)(struct call *c);   /* the work; fills what follows. A thread of the pool */
    void (*reply)(struct call *c); /* answers c->req, which is not NULL; NULL: status, answer and e are the answer. The loop's thread */
    int status;      /* 200, or of an error */
    json_t *answer;  /* taken over */
    struct err e;    /* text of an error, if answer is NULL */
    int fd;          /* -1; closed at the end */
    /* arguments */
    char name[LAYOUT_NAME_MAX + 1];
    json_t *body;
    uint64_t from, limit;
    void *extra; /* what else it needs; given to free_extra at the end */
    void (*free_extra)(void *extra);
};

/* Takes req. NULL after the request was answered with 503. */
struct call *call_new(struct api *a, struct http_request *req, void (*run)(struct call *c));
/* Hands it to a pool; answers 503 if that is full. c is no longer the caller's. */
void call_submit(struct call *c, struct jobs *j);
/* The work is done: answers, if there is still somebody to answer. The loop's thread; c is no longer the caller's. */
void call_finish(struct call *c);
/* Sets the error of c from e: status and text. */
void call_error(struct call *c, const struct err *e);

/* Handlers. arg: the struct api. */
void api_databases(struct http_request *req, void *arg);
void api_database(struct http_request *req, void *arg); /* everything below /v1/databases/ */
void api_checksum(struct api *a, struct http_request *req, const char *name);
void api_sums(struct api *a, struct http_request *req, const char *name);
void api_repair(struct api *a, struct http_request *req, const char *name);
void api_log(struct http_request *req, void *arg);
void api_log_record(struct http_request *req, void *arg);
void api_quarantine(struct http_request *req, void *arg);
void api_quarantine_file(struct http_request *req, void *arg);
void api_wait(struct http_request *req, void *arg);
void api_promote(struct http_request *req, void *arg);
void api_handover(struct http_request *req, void *arg);
void api_handover_cancel(struct http_request *req, void *arg);

/* Calls fn(c) in the loop's thread once this node has applied lsn, or when wait_ms are over (then c->status is 408); not later than that
 * if the client goes. fn finishes the call. */
void api_when_applied(struct call *c, uint64_t lsn, uint64_t wait_ms, void (*fn)(struct call *c));
void api_wait_close(struct api *a);

#endif
