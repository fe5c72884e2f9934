/* What differs between two arrays of checksums is found through a real connection; and what a server may answer that is no answer is refused. */
#include "test_http.h"

#include "lib/crc.h"
#include "lib/util.h"
#include "replicator/image/difference_client.h"

#define PAGES 5000u

static uint64_t theirs[PAGES];
static uint32_t commit;       /* of the server */
static void (*spoil)(uint8_t *answer, size_t *len); /* NULL: it is honest */
static uint32_t asked;        /* blocks that were asked for */
static struct rig rig;
static char url[64];

static size_t head(uint8_t *p)
{
    difference_head_encode(&(struct difference_head){.page_size = 4096, .commit = commit, .epoch = 1, .from = 10, .lsn = 12, .txid = 3, .checksum = CHECKSUM_FLAG}, p);
    return DIFFERENCE_HEAD_SIZE;
}

static uint32_t pages_of(uint32_t block)
{
    uint32_t at = block * DIFFERENCE_BLOCK;
    return at < commit ? MIN(commit - at, DIFFERENCE_BLOCK) : 0;
}

static void blocks(struct http_request *r, void *arg)
{
    static uint8_t answer[1 << 20];
    size_t n, len = head(answer);
    const uint8_t *body = (const uint8_t *)http_body(r, &n);
    bool wide = http_query(r, "wide") != NULL;
    (void)arg;
    if (http_method(r) == HTTP_M_GET)
        for (uint32_t b = 0; b < difference_blocks(commit); b++, len += 8)
            be64_put(answer + len, difference_block(theirs + b * DIFFERENCE_BLOCK, pages_of(b)));
    for (; n; n -= 4, body += 4) {
        uint32_t b = be32_get(body), k = pages_of(b);
        asked++;
        be32_put(answer + len, b), be32_put(answer + len + 4, k);
        len += 8;
        for (uint32_t i = 0; i < k; i++, len += wide ? 8 : 4)
            wide ? be64_put(answer + len, theirs[b * DIFFERENCE_BLOCK + i]) : be32_put(answer + len, difference_page(theirs[b * DIFFERENCE_BLOCK + i]));
    }
    if (spoil)
        spoil(answer, &len);
    http_reply(r, 200, NULL, answer, len);
}

static int set_up(void **state)
{
    static const struct http_route routes[] = {{HTTP_M_GET | HTTP_M_POST, "/db/blocks", 0, blocks, NULL, 0}};
    (void)state;
    spoil = NULL;
    asked = 0;
    commit = PAGES;
    for (uint32_t i = 0; i < PAGES; i++)
        theirs[i] = CHECKSUM_FLAG | (i * UINT64_C(0x123456789abcdef) >> 1);
    rig_open(&rig, &(struct http_server_options){0}, routes, 1);
    snprintf(url, sizeof url, "http://127.0.0.1:%u/db", rig.port);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    rig_close(&rig);
    return 0;
}

struct try {
    struct difference d;
    struct difference_have have;
    struct err e;
    int status;
};

static struct try begin(bool wide)
{
    struct try t = {.d = {.http = http_client_new(&(struct http_client_options){0}), .url = url, .wide = wide}};
    t.have.base = malloc(sizeof theirs);
    t.have.n_base = PAGES;
    memcpy((void *)(uintptr_t)t.have.base, theirs, sizeof theirs);
    t.have.sums = calloc(PAGES * 2, sizeof(uint64_t));
    t.have.n = PAGES * 2;
    return t;
}

static int run(struct try *t)
{
    int rc = difference_begin(&t->d, &t->status, &t->e);
    return rc ? rc : difference_find(&t->d, &t->have, &t->e);
}

static void end(struct try *t)
{
    difference_end(&t->d);
    http_client_free(t->d.http);
    free((void *)(uintptr_t)t->have.base);
    free(t->have.sums);
}

static void copies_that_are_equal_cost_one_question(void **state)
{
    (void)state;
    struct try t = begin(false);
    assert_int_equal(run(&t), 0);
    assert_true(t.d.wanted == 0 && t.d.ranges_len == 0 && asked == 0);
    assert_memory_equal(t.have.sums, theirs, sizeof theirs);
    assert_true(t.d.head.from == 10 && t.d.head.lsn == 12);
    end(&t);
}

static void the_pages_that_differ_are_found_as_ranges(void **state)
{
    (void)state;
    for (int wide = 0; wide < 2; wide++) {
        struct try t = begin(wide);
        static const uint32_t changed[] = {1, 2, 1024, 1025, 5000};
        asked = 0;
        for (size_t i = 0; i < ARRAY_SIZE(changed); i++)
            theirs[changed[i] - 1] ^= 2;
        assert_int_equal(run(&t), 0);
        assert_int_equal(asked, 3); /* of five blocks */
        static const uint32_t expected[][2] = {{1, 2}, {1024, 2}, {5000, 1}};
        assert_int_equal(t.d.ranges_len, sizeof expected);
        for (size_t i = 0; i < ARRAY_SIZE(expected); i++) {
            assert_int_equal(be32_get(t.d.ranges + i * 8), expected[i][0]);
            assert_int_equal(be32_get(t.d.ranges + i * 8 + 4), expected[i][1]);
        }
        assert_int_equal(t.d.wanted, 5);
        assert_true(t.have.sums[0] == 0 && t.have.sums[2] == theirs[2]);
        end(&t);
    }
}

static void what_was_fetched_earlier_counts_before_the_database_and_either_may_fit(void **state)
{
    (void)state;
    struct try t = begin(false);
    theirs[9] ^= 4;
    theirs[99] ^= 4;
    t.have.sums[9] = theirs[9];                /* fetched, and as the server's */
    t.have.sums[19] = CHECKSUM_FLAG | 77;      /* fetched, and changed back since: the database's own fits */
    t.have.sums[99] = CHECKSUM_FLAG | 78;      /* neither does */
    assert_int_equal(run(&t), 0);
    assert_int_equal(t.d.wanted, 1);
    assert_int_equal(be32_get(t.d.ranges), 100);
    assert_true(t.have.sums[9] == theirs[9] && t.have.sums[19] == theirs[19] && t.have.sums[99] == 0);
    end(&t);
}

static void a_copy_that_is_shorter_or_longer_wants_what_is_missing(void **state)
{
    (void)state;
    struct try t = begin(false);
    t.have.n_base = 3000;
    assert_int_equal(run(&t), 0);
    assert_int_equal(t.d.wanted, 2000);
    assert_true(t.d.ranges_len == 8 && be32_get(t.d.ranges) == 3001);
    end(&t);
    commit = 700;
    struct try u = begin(false);
    assert_int_equal(run(&u), 0);
    assert_int_equal(u.d.wanted, 0);
    assert_int_equal(u.d.head.commit, 700);
    end(&u);
}

static void cut(uint8_t *answer, size_t *len)
{
    (void)answer;
    *len -= 3;
}
static void bad_magic(uint8_t *answer, size_t *len)
{
    (void)len;
    answer[0] ^= 1;
}
static void nothing(uint8_t *answer, size_t *len)
{
    (void)answer;
    *len = 0;
}
static void too_many_pages(uint8_t *answer, size_t *len)
{
    if (*len > DIFFERENCE_HEAD_SIZE + 8 * 5) /* of a block */
        be32_put(answer + DIFFERENCE_HEAD_SIZE + 4, UINT32_MAX);
}
static void a_block_that_nobody_asked_for(uint8_t *answer, size_t *len)
{
    if (*len > DIFFERENCE_HEAD_SIZE + 8 * 5)
        be32_put(answer + DIFFERENCE_HEAD_SIZE, 4);
}
static void another_page_size(uint8_t *answer, size_t *len)
{
    if (*len > DIFFERENCE_HEAD_SIZE + 8 * 5)
        be32_put(answer + 4, 8192);
}
static void impossibly_large(uint8_t *answer, size_t *len)
{
    (void)len;
    be32_put(answer + 4, 65536), be32_put(answer + 8, UINT32_MAX);
    be32_put(answer + 12, DIFFERENCE_BLOCK);
}

static void answers_that_cannot_be_are_refused(void **state)
{
    (void)state;
    static void (*const ways[])(uint8_t *, size_t *) = {cut, bad_magic, nothing, too_many_pages, a_block_that_nobody_asked_for, another_page_size};
    theirs[5] ^= 8;
    for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
        struct try t = begin(false);
        t.have.sums[5] = CHECKSUM_FLAG | 1;
        spoil = ways[i];
        assert_int_not_equal(run(&t), 0);
        assert_true(t.e.text[0]);
        end(&t);
    }
}

/* A size that is said, and not there: nothing is allocated for it here, and the pages that are not in the list are asked for, and not there. */
static void a_size_that_is_only_said_does_no_harm(void **state)
{
    (void)state;
    struct try t = begin(false);
    spoil = impossibly_large;
    assert_int_equal(difference_begin(&t.d, &t.status, &t.e), 0);
    assert_int_equal(t.d.n_blocks, 5);
    end(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(copies_that_are_equal_cost_one_question, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_pages_that_differ_are_found_as_ranges, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_was_fetched_earlier_counts_before_the_database_and_either_may_fit, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_copy_that_is_shorter_or_longer_wants_what_is_missing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(answers_that_cannot_be_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_size_that_is_only_said_does_no_harm, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
