#include "fs/spare.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#define STACK_SIZE (512u << 10)

struct spare {
    pthread_mutex_t mutex; /* guards the queue */
    pthread_cond_t more;
    struct spare_work *head, **tail;
};

void spare_defer(struct spare *s, struct spare_work *w, void (*fn)(void *arg), void *arg)
{
    *w = (struct spare_work){.fn = fn, .arg = arg};
    pthread_mutex_lock(&s->mutex);
    *s->tail = w;
    s->tail = &w->next;
    pthread_cond_signal(&s->more);
    pthread_mutex_unlock(&s->mutex);
}

static void *run(void *arg)
{
    struct spare *s = arg;
    for (;;) {
        pthread_mutex_lock(&s->mutex);
        while (!s->head)
            pthread_cond_wait(&s->more, &s->mutex);
        struct spare_work *w = s->head;
        s->head = w->next;
        if (!s->head)
            s->tail = &s->head;
        pthread_mutex_unlock(&s->mutex);
        w->fn(w->arg);
    }
    return NULL;
}

int spare_thread(void *(*fn)(void *), void *arg, unsigned long *id, struct err *e)
{
    pthread_attr_t a;
    pthread_t made;
    pthread_attr_init(&a);
    pthread_attr_setstacksize(&a, STACK_SIZE);
    int rc = pthread_create(&made, &a, fn, arg);
    pthread_attr_destroy(&a);
    if (rc)
        return err_errno(e, rc, "start a thread");
    if (id)
        *id = made;
    else
        pthread_detach(made);
    return 0;
}

int spare_start(struct spare **out, struct err *e)
{
    struct spare *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(e, -ENOMEM, "out of memory");
    s->tail = &s->head;
    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->more, NULL);
    *out = s;
    int rc = 0;
    for (int i = 0; i < SPARE_THREADS && rc == 0; i++)
        rc = spare_thread(run, s, NULL, e);
    return rc; /* threads that did start may use s: it stays */
}
