/* GET /v1/quarantine, GET and DELETE /v1/quarantine/FILE. */
#include "lib/util.h"
#include "replicator/api/api_private.h"
#include "replicator/database/quarantine.h"
#include <errno.h>
#include <stdio.h>

static void list_work(struct call *c)
{
    c->answer = json_pack("{s:o}", "quarantine", quarantine_list(c->api->node));
    if (!c->answer)
        call_error(c, &(struct err){.code = -ENOMEM, .text = "no memory"});
}

void api_quarantine(struct http_request *req, void *arg)
{
    struct api *a = arg;
    struct call *c = call_new(a, req, list_work);
    if (c)
        call_submit(c, a->jobs);
}

static void get_work(struct call *c)
{
    struct err e = {0};
    c->fd = quarantine_open(c->api->node, c->name, &c->limit, &e);
    if (c->fd >= 0)
        return;
    c->fd = -1;
    call_error(c, &e);
}

static void get_reply(struct call *c)
{
    if (http_start(c->req, 200, "application/octet-stream", (int64_t)c->limit) == 0 && c->limit)
        (void)http_write_file(c->req, c->fd, 0, c->limit); /* an error ends the connection */
    http_end(c->req);
}

static void drop_work(struct call *c)
{
    struct err e = {0};
    if (quarantine_drop(c->api->node, c->name, &e))
        call_error(c, &e);
    else
        c->answer = json_pack("{s:s}", "removed", c->name);
}

void api_quarantine_file(struct http_request *req, void *arg)
{
    struct api *a = arg;
    const char *file = http_path(req) + strlen("/v1/quarantine/");
    bool drop = http_method(req) == HTTP_M_DELETE;
    if (strlen(file) > QUARANTINE_FILE_MAX) {
        http_reply_error(req, 404, "not /v1/quarantine/FILE");
        return;
    }
    struct call *c = call_new(a, req, drop ? drop_work : get_work);
    if (!c)
        return;
    c->reply = drop ? NULL : get_reply;
    snprintf(c->name, sizeof c->name, "%s", file);
    call_submit(c, a->jobs);
}
