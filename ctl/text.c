#include "ctl/text.h"

#include "lib/util.h"
#include <inttypes.h>
#include <stdio.h>

const char *text_size(uint64_t bytes, char buf[TEXT_NUMBER_MAX])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double v = (double)bytes;
    size_t u = 0;
    while (v >= 1023.5 && u + 1 < ARRAY_SIZE(units)) {
        v /= 1024;
        u++;
    }
    snprintf(buf, TEXT_NUMBER_MAX, "%.*f %s", u > 0 && v < 99.95 ? 1 : 0, v, units[u]);
    return buf;
}

const char *text_duration(uint64_t ms, char buf[TEXT_NUMBER_MAX])
{
    uint64_t s = ms / 1000, min = s / 60, h = min / 60;
    if (ms < 1000)
        snprintf(buf, TEXT_NUMBER_MAX, "%" PRIu64 " ms", ms);
    else if (s < 10)
        snprintf(buf, TEXT_NUMBER_MAX, "%" PRIu64 ".%" PRIu64 " s", s, ms % 1000 / 100);
    else if (s < 60)
        snprintf(buf, TEXT_NUMBER_MAX, "%" PRIu64 " s", s);
    else if (min < 60)
        snprintf(buf, TEXT_NUMBER_MAX, "%" PRIu64 " min %" PRIu64 " s", min, s % 60);
    else if (h < 24)
        snprintf(buf, TEXT_NUMBER_MAX, "%" PRIu64 " h %" PRIu64 " min", h, min % 60);
    else
        snprintf(buf, TEXT_NUMBER_MAX, "%" PRIu64 " d %" PRIu64 " h", h / 24, h % 24);
    return buf;
}

const char *text_clock(uint64_t seconds, char buf[TEXT_NUMBER_MAX])
{
    uint64_t h = seconds / 3600, min = seconds / 60 % 60, s = seconds % 60;
    if (h)
        snprintf(buf, TEXT_NUMBER_MAX, "%" PRIu64 ":%02" PRIu64 ":%02" PRIu64, h, min, s);
    else
        snprintf(buf, TEXT_NUMBER_MAX, "%" PRIu64 ":%02" PRIu64, min, s);
    return buf;
}

/* ---- UTF-8 ------------------------------------------------------------------------------------------------- */

#define INVALID UINT32_MAX

/* The code point that begins at s, and how many bytes it takes (1 if invalid, so that a caller always moves on). RFC 3629 §4: no
 * overlong forms, no surrogates. s is not at its NUL. */
static uint32_t decode(const char *s, size_t *n)
{
    const unsigned char *p = (const unsigned char *)s;
    *n = 1;
    if (p[0] < 0x80)
        return p[0];
    size_t len = p[0] >= 0xf0 && p[0] < 0xf5 ? 4 : p[0] >= 0xe0 && p[0] < 0xf0 ? 3 : p[0] >= 0xc2 && p[0] < 0xe0 ? 2 : 0;
    if (!len)
        return INVALID;
    uint32_t c = p[0] & (0xffu >> (len + 1));
    for (size_t i = 1; i < len; i++) { /* stops at the NUL, which is no continuation byte */
        if ((p[i] & 0xc0) != 0x80)
            return INVALID;
        c = c << 6 | (p[i] & 0x3f);
    }
    if ((len == 3 && c < 0x800) || (len == 4 && (c < 0x10000 || c > 0x10ffff)) || (c >= 0xd800 && c <= 0xdfff))
        return INVALID;
    *n = len;
    return c;
}

struct range {
    uint32_t first, last;
};

static bool within(const struct range *r, size_t n, uint32_t c)
{
    for (size_t i = 0; i < n; i++)
        if (c >= r[i].first && c <= r[i].last)
            return true;
    return false;
}

static size_t char_width(uint32_t c)
{
    static const struct range zero[] = {{0x300, 0x36f},   {0x483, 0x489},   {0x591, 0x5bd},   {0x610, 0x61a},
                                        {0x64b, 0x65f},   {0x200b, 0x200d}, {0x20d0, 0x20f0}, {0xfe00, 0xfe0f},
                                        {0xfe20, 0xfe2f}, {0xfeff, 0xfeff}};
    static const struct range wide[] = {{0x1100, 0x115f}, {0x2e80, 0x303e},   {0x3041, 0xa4cf},   {0xac00, 0xd7a3},
                                        {0xf900, 0xfaff}, {0xfe30, 0xfe6f},   {0xff00, 0xff60},   {0xffe0, 0xffe6},
                                        {0x1f300, 0x1f64f}, {0x1f680, 0x1f6ff}, {0x1f900, 0x1f9ff}, {0x20000, 0x3fffd}};
    return within(zero, ARRAY_SIZE(zero), c) ? 0 : within(wide, ARRAY_SIZE(wide), c) ? 2 : 1;
}

size_t text_width(const char *s)
{
    size_t width = 0, n;
    for (; *s; s += n)
        width += char_width(decode(s, &n));
    return width;
}

size_t text_prefix(const char *s, size_t width)
{
    size_t at = 0, n;
    for (size_t used = 0; s[at]; at += n) {
        used += char_width(decode(s + at, &n));
        if (used > width)
            break;
    }
    return at;
}

char *text_printable(const char *s)
{
    static const struct range unsafe[] = {{0, 0x1f}, {0x7f, 0x9f}, {0x200e, 0x200f}, {0x2028, 0x202e}, {0x2066, 0x2069}, {INVALID, INVALID}};
    char *out = malloc(strlen(s) + 1), *p = out;
    if (!out)
        return NULL;
    size_t n;
    for (; *s; s += n) {
        if (within(unsafe, ARRAY_SIZE(unsafe), decode(s, &n)))
            *p++ = '?';
        else
            p = mempcpy(p, s, n);
    }
    *p = 0;
    return out;
}

bool text_colours(int fd)
{
    const char *no = getenv("NO_COLOR"), *term = getenv("TERM");
    return isatty(fd) && !(no && *no) && !(term && !strcmp(term, "dumb"));
}
