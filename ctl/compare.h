/* What `verify` finds out: every database on every node, at one common position. verify.c tells it. */
#ifndef EDGEFS_CTL_COMPARE_H
#define EDGEFS_CTL_COMPARE_H

#include "ctl/cluster.h"

#define COMPARE_PAGES_MAX 1000 /* page numbers that are listed; more are only counted */

enum verdict {
    VERDICT_OK,      /* the same as on the primary, and (if scrubbed) all its pages match their checksums */
    VERDICT_DIFFERS, /* not as on the primary */
    VERDICT_MISSING, /* not there, but on the primary; or on the primary: not there, but on a replica */
    VERDICT_EXTRA,   /* there, but not on the primary */
    VERDICT_DAMAGED, /* pages do not match their checksums */
    VERDICT_NOT_WANTED, /* not there, and that node is not to have it */
    VERDICT_UNKNOWN, /* the node did not answer */
};

struct page_list {
    uint64_t count;
    uint32_t pages[COMPARE_PAGES_MAX]; /* the first ones, ascending */
};

/* One database on one node. */
struct compared {
    enum verdict verdict;
    const json_t *db;          /* as /v1/databases says; borrowed; NULL: not there or unknown */
    bool scrubbed;             /* its pages were read and checked */
    struct page_list *bad;     /* pages that do not match; NULL: none */
    struct page_list *differs; /* pages whose tracked checksums differ from the primary's; NULL: not known or none */
    char *note;                /* why, for people; NULL: nothing to say */
};

struct compare_node {
    const struct node *node; /* [0] is the primary */
    json_t *answer;          /* its /v1/databases at the common position; NULL: see why */
    const char *why;         /* "unreachable", "behind", "refused"; static */
    struct err error;
};

struct comparison {
    struct nodes nodes; /* primary first */
    uint64_t epoch, lsn; /* the position */
    struct compare_node *per_node; /* nodes.n */
    char **names; /* sorted */
    int n_names;
    struct compared *cells; /* [name * nodes.n + node] */
};

struct compare_options {
    const char *only;     /* one database; NULL: all */
    bool scrub;           /* let each node read its pages */
    uint64_t wait_ms;     /* how long a node may take to reach the position */
    uint64_t scrub_ms;    /* … and to read one database */
};

/* Does it all; blocks for as long as the largest database takes to be read. Errors as in cluster.h when nothing can be compared (no primary …); whatever goes
 * wrong with a single node or database becomes a verdict. On success compare_free must follow. */
int compare_run(struct cluster *c, const struct compare_options *o, struct comparison *out, struct err *e);
void compare_free(struct comparison *x);

#endif
