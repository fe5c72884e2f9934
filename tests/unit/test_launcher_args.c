#include "ctl/launcher/app.h"
#include "ctl/launcher/args.h"
#include "ctl/launcher/backoff.h"
#include "ctl/launcher/mount.h"
#include "lib/util.h"
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>

static char buffer[512];
static char *words[32];

static int parse(const char *line, struct launcher_args *args, struct err *e)
{
    char *save = NULL;
    int argc = 0;
    snprintf(buffer, sizeof buffer, "%s", line);
    for (char *p = strtok_r(buffer, " ", &save); p; p = strtok_r(NULL, " ", &save))
        words[argc++] = p;
    words[argc] = NULL;
    return launcher_args_parse(argc, words, args, e);
}

static void commands_and_options_are_understood(void **state)
{
    (void)state;
    struct launcher_args a;
    struct err e;
    assert_int_equal(parse("edgefs mount -c F", &a, &e), 0);
    assert_int_equal(a.verb, LAUNCHER_MOUNT);
    assert_string_equal(a.config.file, "F");
    assert_null(a.app);
    assert_int_equal(parse("edgefs mount --dir D --data=A --node n -- app -c x --help", &a, &e), 0);
    assert_int_equal(a.verb, LAUNCHER_MOUNT);
    assert_null(a.config.file);
    assert_string_equal(a.config.dir, "D");
    assert_string_equal(a.config.data, "A");
    assert_string_equal(a.config.node, "n");
    assert_string_equal(a.app[0], "app");
    assert_string_equal(a.app[1], "-c");
    assert_string_equal(a.app[2], "x");
    assert_string_equal(a.app[3], "--help");
    assert_null(a.app[4]);
    assert_int_equal(parse("edgefs upgrade --data A", &a, &e), 0);
    assert_int_equal(a.verb, LAUNCHER_UPGRADE);
    assert_int_equal(parse("edgefs stop -cF", &a, &e), 0);
    assert_int_equal(a.verb, LAUNCHER_STOP);
    static const char *const help[] = {"edgefs help", "edgefs --help", "edgefs -h", "edgefs mount --help", "edgefs stop -h"};
    for (size_t i = 0; i < ARRAY_SIZE(help); i++) {
        assert_int_equal(parse(help[i], &a, &e), 0);
        assert_int_equal(a.verb, LAUNCHER_HELP);
    }
    assert_int_equal(parse("edgefs version", &a, &e), 0);
    assert_int_equal(a.verb, LAUNCHER_VERSION);
}

static void a_bad_command_line_is_refused_with_a_reason(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        {"edgefs", "what should be done?"},
        {"edgefs mont", "\"mont\" is not a command"},
        {"edgefs mount", "mount needs -c FILE, or --dir DIR and --data DIR"},
        {"edgefs mount --dir D", "mount needs -c FILE, or --dir DIR and --data DIR"},
        {"edgefs mount -c F app", "mount: unexpected \"app\"; the application stands after --"},
        {"edgefs mount -c F --", "nothing stands after --"},
        {"edgefs mount -c", "-c needs a value"},
        {"edgefs mount -c F -c G", "-c is given twice"},
        {"edgefs mount -c F --verbose", "mount: unexpected \"--verbose\"; the application stands after --"},
        {"edgefs stop", "stop needs -c FILE or --data DIR, to know which node"},
        {"edgefs upgrade --dir D", "upgrade needs -c FILE or --data DIR, to know which node"},
        {"edgefs upgrade -c F x", "upgrade: unexpected \"x\""},
        {"edgefs stop -c F -- app", "stop takes no application"},
        {"edgefs version -c F", "version takes no options"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct launcher_args a;
        struct err e = {0};
        assert_int_equal(parse(bad[i][0], &a, &e), -EINVAL);
        assert_string_equal(e.text, bad[i][1]);
    }
}

static void backoff_doubles_and_forgets(void **state)
{
    (void)state;
    struct backoff b = {0};
    assert_int_equal(backoff_next(&b, BACKOFF_LIVED_NS), 0); /* it had lived: at once */
    uint32_t expected = BACKOFF_FIRST_MS;
    for (int i = 0; i < 20; i++) {
        assert_int_equal(backoff_next(&b, BACKOFF_LIVED_NS - 1), expected);
        expected = MIN(expected * 2, BACKOFF_LAST_MS);
    }
    assert_int_equal(expected, BACKOFF_LAST_MS);
    assert_int_equal(backoff_next(&b, BACKOFF_LIVED_NS), 0);
    assert_int_equal(backoff_next(&b, 0), BACKOFF_FIRST_MS);
}

static void exit_statuses_are_the_shells(void **state)
{
    (void)state;
    assert_int_equal(app_exit_status(0), 0);
    assert_int_equal(app_exit_status(7 << 8), 7);
    assert_int_equal(app_exit_status(15), 143);
    assert_int_equal(app_exit_status(0x80 | 11), 139);
}

static void kernels_that_hand_over_are_known(void **state)
{
    (void)state;
    assert_true(mount_can_hand_over("6.9.0"));
    assert_true(mount_can_hand_over("6.12.3-amd64"));
    assert_true(mount_can_hand_over("7.0-rc1"));
    assert_false(mount_can_hand_over("6.8.12"));
    assert_false(mount_can_hand_over("5.15.0-91-generic"));
    assert_false(mount_can_hand_over(""));
    assert_false(mount_can_hand_over("x.y"));
}

static void mount_table_lines_are_taken_apart(void **state)
{
    (void)state;
    struct mount_entry *m = calloc(1, sizeof *m);
    assert_non_null(m);
    assert_int_equal(mount_parse_line("36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n", m), 0);
    assert_int_equal(m->major, 98);
    assert_int_equal(m->minor, 0);
    assert_string_equal(m->dir, "/mnt2");
    assert_string_equal(m->type, "ext3");
    assert_string_equal(m->source, "/dev/root");
    assert_int_equal(mount_parse_line("1 2 0:49 / /a\\040b\\134c\\011 rw - fuse.edgefs /d\\012 rw,user_id=0", m), 0);
    assert_string_equal(m->dir, "/a b\\c\t");
    assert_string_equal(m->source, "/d\n");
    static const char *const bad[] = {"", "x", "1 2 3:4", "1 2 3:4 / /m rw", "1 2 3:4 / /m rw - ", "1 2 3:4 / /m rw - fuse", "1 2 3 / /m rw - a b"};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(mount_parse_line(bad[i], m), -EINVAL);
    size_t size = 3 * PATH_MAX;
    char *line = malloc(size);
    assert_non_null(line);
    int n = sprintf(line, "1 2 3:4 / ");
    memset(line + n, 'a', size - (size_t)n - 1);
    line[size - 1] = 0;
    assert_int_equal(mount_parse_line(line, m), -EINVAL);
    free(line);
    free(m);
}

static void the_root_is_found_in_the_mount_table(void **state)
{
    (void)state;
    struct mount_entry *m = calloc(1, sizeof *m);
    assert_non_null(m);
    assert_int_equal(mount_find("/proc", NULL, NULL, m, NULL), 1);
    assert_string_equal(m->type, "proc");
    assert_int_equal(mount_find("/nonexistent", NULL, NULL, m, NULL), 0);
    assert_int_equal(mount_find("/proc", MOUNT_TYPE, NULL, m, NULL), 0);
    free(m);
}

static void a_probe_answers_with_the_errno(void **state)
{
    (void)state;
    assert_int_equal(mount_probe("/", 5000), 0);
    assert_int_equal(mount_probe("/nonexistent/x", 5000), -ENOENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(commands_and_options_are_understood),
        cmocka_unit_test(a_bad_command_line_is_refused_with_a_reason),
        cmocka_unit_test(backoff_doubles_and_forgets),
        cmocka_unit_test(exit_statuses_are_the_shells),
        cmocka_unit_test(kernels_that_hand_over_are_known),
        cmocka_unit_test(mount_table_lines_are_taken_apart),
        cmocka_unit_test(the_root_is_found_in_the_mount_table),
        cmocka_unit_test(a_probe_answers_with_the_errno),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
