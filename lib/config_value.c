#include "lib/config_value.h"

#include "lib/config.h"
#include "lib/util.h"
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>

#define DIGITS "0123456789"

struct unit {
    const char *name;
    uint64_t factor;
};

/* Largest unit first, so that a number is shown in the largest unit that divides it. */
static const struct unit size_units[] = {
    {"TiB", UINT64_C(1) << 40}, {"GiB", UINT64_C(1) << 30}, {"MiB", UINT64_C(1) << 20}, {"KiB", UINT64_C(1) << 10}, {"", 1}};
static const struct unit time_units[] = {{"d", 86400000}, {"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}};

static void show(char buf[32], uint64_t v, const struct unit *units, size_t n)
{
    size_t i = 0;
    while (i + 1 < n && (v == 0 || v % units[i].factor))
        i++;
    snprintf(buf, 32, "%llu%s", (unsigned long long)(v / units[i].factor), units[i].name);
}

static int parse_number(const char *text, const struct unit *units, size_t n_units, uint64_t lowest, uint64_t highest, uint64_t *out,
                        const char *what, struct err *e)
{
    char low[32], high[32];
    show(low, lowest, units, n_units);
    show(high, highest, units, n_units);
    size_t digits = strspn(text, DIGITS);
    uint64_t v = 0;
    const struct unit *u = NULL;
    for (size_t i = 0; digits && i < n_units; i++)
        if (!strcmp(text + digits, units[i].name))
            u = &units[i];
    if (!u)
        return err_set(e, ERR_CONFIG, "\"%.64s\" is not a %s", text, what);
    for (size_t i = 0; i < digits; i++)
        if (__builtin_mul_overflow(v, UINT64_C(10), &v) || __builtin_add_overflow(v, (uint64_t)(text[i] - '0'), &v))
            v = UINT64_MAX, digits = i;
    if (__builtin_mul_overflow(v, u->factor, &v) || v < lowest || v > highest)
        return err_set(e, ERR_CONFIG, "\"%.64s\" is out of range: from %s to %s", text, low, high);
    *out = v;
    return 0;
}

int config_parse_size(const char *text, uint64_t lowest, uint64_t highest, uint64_t *bytes, struct err *e)
{
    return parse_number(text, size_units, ARRAY_SIZE(size_units), lowest, highest, bytes,
                        "size: a number of bytes, or with a unit as in 512KiB, 64MiB, 1GiB, 2TiB", e);
}

int config_parse_duration(const char *text, uint64_t lowest, uint64_t highest, uint64_t *ms, struct err *e)
{
    return parse_number(text, time_units, ARRAY_SIZE(time_units), lowest, highest, ms,
                        "duration: a number with a unit as in 500ms, 1s, 5m, 24h, 7d", e);
}

int config_parse_choice(const char *text, const char *choices, int *index, struct err *e)
{
    size_t len = strlen(text);
    int i = 0;
    for (const char *p = choices; *p; i++) {
        size_t n = strcspn(p, "|");
        if (n == len && !memcmp(p, text, n)) {
            *index = i;
            return 0;
        }
        p += n + (p[n] == '|');
    }
    char list[128] = "";
    size_t at = 0;
    for (const char *p = choices; *p && at < sizeof list - 4; p++) {
        if (*p == '|')
            at += (size_t)snprintf(list + at, sizeof list - at, ", ");
        else
            list[at++] = *p;
        list[at] = 0;
    }
    return err_set(e, ERR_CONFIG, "\"%.64s\" is not %s%s", text, strchr(choices, '|') ? "one of " : "", list);
}

static bool all_of(const char *s, size_t n, const char *extra)
{
    for (size_t i = 0; i < n; i++)
        if (!((s[i] >= 'a' && s[i] <= 'z') || (s[i] >= 'A' && s[i] <= 'Z') || (s[i] >= '0' && s[i] <= '9') || strchr(extra, s[i]) != NULL))
            return false;
    return true;
}

int config_parse_name(const char *text, struct err *e)
{
    size_t n = strlen(text);
    if (n < 1 || n > CONFIG_NAME_MAX || *text == '.' || *text == '-' || !all_of(text, n, "._-"))
        return err_set(e, ERR_CONFIG,
                       "\"%.80s\" is not a node name: 1 to %d letters, digits, '.', '_' or '-', starting with a letter or digit", text,
                       CONFIG_NAME_MAX);
    return 0;
}

static int parse_port(const char *text, uint32_t lowest, uint16_t *port)
{
    size_t n = strlen(text);
    uint32_t v = 0;
    if (n < 1 || n > 5 || strspn(text, DIGITS) != n)
        return -EINVAL;
    for (size_t i = 0; i < n; i++)
        v = v * 10 + (uint32_t)(text[i] - '0');
    if (v > UINT16_MAX || v < lowest)
        return -EINVAL;
    *port = (uint16_t)v;
    return 0;
}

/* HOST:PORT into host (CONFIG_HOST_MAX + 1 bytes, brackets removed) and port. */
static int split_host_port(const char *text, uint32_t lowest_port, char *host, uint16_t *port)
{
    const char *colon = strrchr(text, ':');
    if (!colon || parse_port(colon + 1, lowest_port, port))
        return -EINVAL;
    const char *h = text;
    size_t n = (size_t)(colon - text);
    bool v6 = n >= 2 && h[0] == '[' && h[n - 1] == ']';
    if (v6)
        h++, n -= 2;
    if (n < 1 || n > CONFIG_HOST_MAX)
        return -EINVAL;
    memcpy(host, h, n);
    host[n] = 0;
    if (v6)
        return inet_pton(AF_INET6, host, &(struct in6_addr){0}) == 1 ? 0 : -EINVAL;
    if (strspn(host, DIGITS ".") == n) /* digits and dots alone are meant as an address */
        return inet_pton(AF_INET, host, &(struct in_addr){0}) == 1 ? 0 : -EINVAL;
    return all_of(host, n, ".-_") && host[0] != '-' && host[0] != '.' ? 0 : -EINVAL;
}

int config_parse_listen(const char *text, char **host, uint16_t *port, struct err *e)
{
    char h[CONFIG_HOST_MAX + 1];
    uint16_t p;
    if (split_host_port(text, 0, h, &p))
        return err_set(e, ERR_CONFIG, "\"%.80s\" is not HOST:PORT, such as 127.0.0.1:20202, [::1]:20202 or localhost:0", text);
    char *copy = strdup(h);
    if (!copy)
        return err_errno(e, ENOMEM, "configuration");
    *host = copy;
    *port = p;
    return 0;
}

int config_parse_count(const char *text, uint64_t lowest, uint64_t highest, uint64_t *count, struct err *e)
{
    static const struct unit none[] = {{"", 1}};
    return parse_number(text, none, 1, lowest, highest, count, "number", e);
}

static int parse_url(const char *text, bool tls_allowed, char **url, struct err *e)
{
    static const char scheme[] = "http://", secure[] = "https://";
    char *copy = strdup(text);
    if (!copy)
        return err_errno(e, ENOMEM, "configuration");
    size_t n = strlen(copy);
    if (n > strlen(scheme) + 1 && copy[n - 1] == '/')
        copy[n - 1] = 0;
    char h[CONFIG_HOST_MAX + 1];
    uint16_t p;
    size_t skip = !strncmp(copy, scheme, sizeof scheme - 1)                    ? sizeof scheme - 1
                  : tls_allowed && !strncmp(copy, secure, sizeof secure - 1) ? sizeof secure - 1
                                                                               : 0;
    if (!skip || split_host_port(copy + skip, 1, h, &p)) {
        free(copy);
        return err_set(e, ERR_CONFIG, "\"%.80s\" is not a URL of the form http%s://HOST:PORT", text, tls_allowed ? "[s]" : "");
    }
    *url = copy;
    return 0;
}

int config_parse_url(const char *text, char **url, struct err *e)
{
    return parse_url(text, false, url, e);
}

int config_parse_proxy_url(const char *text, char **url, struct err *e)
{
    return parse_url(text, true, url, e);
}

int config_parse_upstream(const char *text, char **upstream, struct err *e)
{
    if (!strcmp(text, CONFIG_UPSTREAM_PRIMARY) || !strcmp(text, CONFIG_UPSTREAM_NEAREST)) {
        *upstream = strdup(text);
        return *upstream ? 0 : err_errno(e, ENOMEM, "configuration");
    }
    return parse_url(text, false, upstream, NULL) ? err_set(e, ERR_CONFIG, "\"%.80s\" is neither primary nor nearest nor a URL of the form http://HOST:PORT", text) : 0;
}

int config_parse_glob(const char *text, char **glob, struct err *e)
{
    size_t n = strlen(text);
    if (!n || n > CONFIG_GLOB_MAX)
        return err_set(e, ERR_CONFIG, "\"%.40s%s\" is no pattern of 1 to %d bytes", text, n > 40 ? "…" : "", CONFIG_GLOB_MAX);
    for (const char *p = text; *p; p++)
        if ((unsigned char)*p < ' ' || *p == ',' || *p == 0x7f)
            return err_set(e, ERR_CONFIG, "\"%.80s\": a pattern has no commas and no control characters; write each as an element of the list", text);
    *glob = strdup(text);
    return *glob ? 0 : err_errno(e, ENOMEM, "configuration");
}

bool config_host_is_loopback(const char *host)
{
    struct in_addr v4;
    struct in6_addr v6;
    if (inet_pton(AF_INET, host, &v4) == 1)
        return ntohl(v4.s_addr) >> 24 == 127;
    if (inet_pton(AF_INET6, host, &v6) == 1)
        return IN6_IS_ADDR_LOOPBACK(&v6);
    return !strcmp(host, "localhost");
}

/* Levenshtein's distance, or a large number for long strings. */
static int distance(const char *a, const char *b)
{
    int row[64];
    int na = (int)strlen(a), nb = (int)strlen(b);
    if (na >= (int)ARRAY_SIZE(row) || nb >= (int)ARRAY_SIZE(row))
        return 1000;
    for (int j = 0; j <= nb; j++)
        row[j] = j;
    for (int i = 1; i <= na; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= nb; j++) {
            int replace = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = MIN(replace, MIN(row[j], row[j - 1]) + 1);
        }
    }
    return row[nb];
}

const char *config_nearest(const char *text, const char *const *candidates, int n)
{
    const char *best = NULL;
    int best_distance = (int)strlen(text) / 3 + 1; /* "nod" → "node", but "x" → nothing */
    const char *text_dot = strrchr(text, '.');
    for (int i = 0; i < n; i++) {
        const char *dot = strrchr(candidates[i], '.');
        int d = distance(text, candidates[i]);
        if (dot && *text)
            d = MIN(d, distance(text_dot ? text_dot + 1 : text, dot + 1));
        if (d < best_distance || (d == best_distance && !best && d < (int)strlen(text))) {
            best = candidates[i];
            best_distance = d;
        }
    }
    return best;
}
