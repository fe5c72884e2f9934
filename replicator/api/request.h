/* What the API's handlers share: parameters, bodies and names from strangers, and answers that are the same everywhere. */
#ifndef EDGEFS_REQUEST_H
#define EDGEFS_REQUEST_H

#include "replicator/node.h"
#include <jansson.h>
struct http_request;

/* Parses a decimal number of digits only, ≤ max. 0, or -EINVAL (text NULL too) and *out untouched. */
int request_u64(const char *text, uint64_t max, uint64_t *out);
/* Query parameter name as such a number, or dflt when it is absent. 0, or -EINVAL after the request was answered with 400. */
int request_query_u64(struct http_request *req, const char *name, uint64_t dflt, uint64_t max, uint64_t *out);

/* The buffered body as a JSON object, a new reference; NULL after the request was answered with 400. */
json_t *request_json(struct http_request *req);
/* A string of a JSON object, NULL if it is not there, no string, or longer than max bytes. */
const char *request_string(const json_t *o, const char *key, size_t max);
/* A number of a JSON object that is an integer 0..INT64_MAX, or dflt if it is not there. 0 or -EINVAL. */
int request_number(const json_t *o, const char *key, uint64_t dflt, uint64_t *out);

/* Splits the target /v1/databases/NAME[/verb], NAME being one percent-encoded segment, into the decoded name and the verb ("" if
 * there is none). 0; -EINVAL: not of this form, or a name that no database can have. */
int request_database(struct http_request *req, char name[LAYOUT_NAME_MAX + 1], char verb[32]);

/* True if this node is primary; otherwise the request was answered: 421 with the primary's name and URL, or 503 while it is starting or
 * handing over. */
bool request_needs_primary(struct http_request *req, struct node *n);
/* The {"error":…,"primary":…,"primary_url":…} of a 421; a new reference. */
json_t *request_not_primary(struct node *n);

/* 503 with Retry-After. */
void request_busy(struct http_request *req, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The HTTP status that fits an error code of this program. */
int request_status(int code);

/* 16 lower-case hex digits, as checksums are written in JSON; a new reference. */
json_t *request_hex(uint64_t v);

#endif
