#include "ctl/progress.h"

#include "ctl/text.h"
#include "lib/util.h"
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/ioctl.h>

#define REDRAW_NS 100000000u
#define RATE_SAMPLE_NS 500000000u
#define LABEL_MAX 40 /* columns */
#define LABEL_BYTES_MAX 160
#define BAR_MAX 40

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* all of state */
static struct {
    bool active;
    char *label;
    uint64_t total, done;
    uint64_t begun, drawn; /* ns */
    uint64_t sample_at, sample_done;
    double rate; /* bytes/s, smoothed; 0: not known yet */
} state;
static volatile sig_atomic_t visible;

int progress_visible(void)
{
    return visible;
}

void progress_begin(const char *label, uint64_t total)
{
    progress_end();
    if (!isatty(STDERR_FILENO))
        return;
    pthread_mutex_lock(&lock);
    state.label = text_printable(label);
    state.active = state.label != NULL;
    if (state.active)
        state.label[MIN(text_prefix(state.label, LABEL_MAX), (size_t)LABEL_BYTES_MAX)] = 0;
    state.total = total;
    state.done = state.sample_done = 0;
    state.begun = state.drawn = state.sample_at = now_ns();
    state.rate = 0;
    pthread_mutex_unlock(&lock);
}

void progress_total(uint64_t total)
{
    pthread_mutex_lock(&lock);
    state.total = total;
    pthread_mutex_unlock(&lock);
}

static unsigned terminal_width(void)
{
    struct winsize w;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col ? w.ws_col : 80;
}

/* The rate people expect: of the last seconds, not jumping with each burst. */
static void sample(uint64_t now)
{
    uint64_t span = now - state.sample_at;
    if (span < RATE_SAMPLE_NS)
        return;
    double r = (double)(state.done - state.sample_done) * 1e9 / (double)span;
    state.rate = state.rate > 0 ? 0.7 * state.rate + 0.3 * r : r;
    state.sample_at = now;
    state.sample_done = state.done;
}

static char *put_bar(char *p, double part, size_t width)
{
    size_t full = (size_t)(part * (double)width);
    p = stpcpy(p, "  [");
    for (size_t i = 0; i < width; i++)
        *p++ = i < full ? '=' : i == full ? '>' : ' ';
    return stpcpy(p, "]");
}

/* label  [=====>    ]  42%  12.3 MiB of 29.0 MiB  8.1 MiB/s  0:02 left */
static void draw(uint64_t now)
{
    char done[TEXT_NUMBER_MAX], total[TEXT_NUMBER_MAX], rate[TEXT_NUMBER_MAX], left[TEXT_NUMBER_MAX], tail[160];
    double seconds = (double)(now - state.begun) / 1e9;
    double r = state.rate > 0 ? state.rate : seconds > 0 ? (double)state.done / seconds : 0;
    text_size(state.done, done);
    text_size((uint64_t)r, rate);
    bool known = state.total > 0 && state.done <= state.total;
    if (!known) {
        snprintf(tail, sizeof tail, "  %s  %s/s", done, rate);
    } else {
        double eta = r >= 1 ? (double)(state.total - state.done) / r : -1;
        int percent = (int)(100.0 * (double)state.done / (double)state.total);
        snprintf(tail, sizeof tail, "  %3d%%  %s of %s  %s/s  %s left", percent, done, text_size(state.total, total), rate,
                 eta < 0 || eta > 359999 ? "?" : text_clock((uint64_t)(eta + 0.5), left));
    }
    char line[LABEL_BYTES_MAX + BAR_MAX + sizeof tail + 8];
    size_t columns = terminal_width() - 1; /* the last one would wrap on some terminals */
    size_t used = text_width(state.label) + strlen(tail);
    char *p = stpcpy(line, state.label);
    if (known && used + 10 < columns)
        p = put_bar(p, (double)state.done / (double)state.total, MIN(columns - used - 5, (size_t)BAR_MAX));
    strcpy(p, tail);
    visible = 1; /* before the first byte: a signal in the middle of it must find it to be wiped */
    fprintf(stderr, "\r%.*s\033[K", (int)text_prefix(line, columns), line);
    fflush(stderr);
}

void progress_add(uint64_t bytes)
{
    pthread_mutex_lock(&lock);
    if (state.active) {
        uint64_t now = now_ns();
        state.done += bytes;
        sample(now);
        if (now - state.drawn >= REDRAW_NS) {
            draw(now);
            state.drawn = now;
        }
    }
    pthread_mutex_unlock(&lock);
}

void progress_end(void)
{
    pthread_mutex_lock(&lock);
    if (visible) {
        fputs("\r\033[K", stderr);
        fflush(stderr);
        visible = 0;
    }
    state.active = false;
    free(state.label);
    state.label = NULL;
    pthread_mutex_unlock(&lock);
}
