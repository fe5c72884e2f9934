#include "tests/torture/check.h"

#include "lib/util.h"
#include "tests/torture/picture.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PRIMARY_NS UINT64_C(10000000000) /* how long the primary may be busy where the model is not */
#define REPLICA_NS UINT64_C(30000000000) /* until everything that was committed is on the replica */

struct expected {
    bool empty;
    uint64_t logical, checksum;
    struct picture primary; /* without an image if an actor looked */
};

static bool from_actor(struct actor *owner, struct expected *e, char *error, size_t room)
{
    char reply[ACTOR_REPLY];
    int bad, rc_model, empty_model, rc_mount, empty_mount;
    uint64_t model, mount;
    if (!actor_send(owner, ACTOR_BOTH, "picture main") || !actor_receive(owner, reply) ||
        sscanf(reply, "picture %d %d %d %" SCNx64 " %d %d %" SCNx64 " %" SCNx64, &bad, &rc_model, &empty_model, &model, &rc_mount, &empty_mount,
               &mount, &e->checksum) != 8 || bad) {
        (void)snprintf(error, room, "read by the connection that has it locked: %s", reply);
        return false;
    }
    if (empty_model != empty_mount || (!empty_model && model != mount)) {
        (void)snprintf(error, room, "primary and model differ for the connection that has it locked: %s", reply);
        return false;
    }
    e->empty = empty_mount;
    e->logical = mount;
    return true;
}

static bool from_files(struct files *f, int database, struct expected *e, char *error, size_t room)
{
    char model_path[4200], path[4200];
    files_path(f, FILES_MODEL, database, model_path, sizeof model_path);
    files_path(f, FILES_PRIMARY, database, path, sizeof path);
    struct picture model;
    picture_open(model_path, SQLITE_OPEN_READWRITE, false, &model);
    uint64_t deadline = now_ns() + PRIMARY_NS;
    for (;;) {
        picture_open(path, SQLITE_OPEN_READWRITE, false, &e->primary);
        if (e->primary.rc != SQLITE_BUSY || model.rc == SQLITE_BUSY || now_ns() > deadline)
            break;
        picture_free(&e->primary);
        f->retries++;
        usleep(1000);
    }
    bool good = picture_same(&model, &e->primary);
    if (!good)
        (void)snprintf(error, room, "%s: primary and model differ: model %s%s%016" PRIx64 ", primary %s%s%016" PRIx64, files_name(f, database),
                       model.error, model.empty ? "empty " : "", model.logical, e->primary.error, e->primary.empty ? "empty " : "", e->primary.logical);
    picture_free(&model);
    e->empty = e->primary.empty;
    e->logical = e->primary.logical;
    e->checksum = e->primary.checksum;
    return good;
}

struct replica_look {
    struct picture picture;
    uint64_t txid[2], checksum[2]; /* NAME-pos on primary and replica */
    bool position[2];
};

static bool replica_agrees(const struct expected *e, const struct replica_look *l)
{
    const struct picture *p = &l->picture;
    if (p->rc != SQLITE_OK || p->empty != e->empty)
        return false;
    if (e->empty)
        return true;
    return p->logical == e->logical && p->checksum == e->checksum && l->position[0] && l->position[1] && l->txid[0] == l->txid[1] &&
           l->checksum[0] == e->checksum && l->checksum[1] == e->checksum;
}

static void describe(const struct files *f, int database, const struct expected *e, const struct replica_look *l, char *error, size_t room)
{
    char where[500] = "";
    if (e->primary.image && l->picture.image)
        picture_difference(&e->primary, &l->picture, where, sizeof where);
    (void)snprintf(error, room,
                   "%s: the replica does not become what the primary is: primary %s%016" PRIx64 " pages %016" PRIx64 ", replica %s%s%016" PRIx64
                   " pages %016" PRIx64 "; positions %" PRIx64 "/%016" PRIx64 " and %" PRIx64 "/%016" PRIx64 "; pages differ:%s",
                   files_name(f, database), e->empty ? "empty " : "", e->logical, e->checksum, l->picture.error, l->picture.empty ? "empty " : "",
                   l->picture.logical, l->picture.checksum, l->txid[0], l->checksum[0], l->txid[1], l->checksum[1], *where ? where : " nowhere");
}

static bool replica_follows(struct files *f, int database, const struct expected *e, char *error, size_t room)
{
    char primary[4200], replica[4200];
    files_path(f, FILES_PRIMARY, database, primary, sizeof primary);
    files_path(f, FILES_REPLICA, database, replica, sizeof replica);
    uint64_t deadline = now_ns() + REPLICA_NS;
    useconds_t pause = 500;
    for (;;) {
        struct replica_look l = {0};
        l.position[0] = picture_position(primary, &l.txid[0], &l.checksum[0]);
        l.position[1] = picture_position(replica, &l.txid[1], &l.checksum[1]);
        picture_open(replica, SQLITE_OPEN_READONLY, false, &l.picture);
        bool agrees = replica_agrees(e, &l), late = now_ns() > deadline;
        /* What no reader may ever see is not waited for. */
        bool broken = l.picture.rc == SQLITE_CORRUPT || l.picture.rc == SQLITE_NOTADB;
        if (!agrees && (late || broken))
            describe(f, database, e, &l, error, room);
        picture_free(&l.picture);
        if (agrees)
            break;
        if (late || broken)
            return false;
        usleep(pause);
        pause = MIN(pause * 2, 20000u);
    }
    struct picture whole;
    picture_open(replica, SQLITE_OPEN_READWRITE, true, &whole);
    picture_free(&whole);
    if (whole.rc != SQLITE_OK && whole.rc != SQLITE_BUSY) {
        (void)snprintf(error, room, "%s on the replica: %s", files_name(f, database), whole.error);
        return false;
    }
    return true;
}

bool check_database(struct files *f, int database, struct actor *owner, char *error, size_t room)
{
    struct expected e = {0};
    bool good = owner ? from_actor(owner, &e, error, room) : from_files(f, database, &e, error, room);
    if (good)
        good = replica_follows(f, database, &e, error, room);
    picture_free(&e.primary);
    return good;
}
