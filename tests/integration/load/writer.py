"""An application that writes to the table of harness.make_load_db, and records each row once its COMMIT has returned.

With several mounts (--mounts) it writes wherever the primary is, as the file `.primary` tells any application, and repeats
on the new primary what met SQLITE_BUSY. Connections stay open all the time, across promotions. Every other error ends it."""
import argparse
import json
import os
import random
import sqlite3
import sys
import time

p = argparse.ArgumentParser()
p.add_argument("--stop", required=True, help="ends when this file exists")
p.add_argument("--ack", required=True, help="gets a line WRITER NUMBER for each acknowledged row")
p.add_argument("--mounts", nargs="+", required=True)
p.add_argument("--db", nargs="+", default=["load.db"], help="names inside the mount; each row goes to one of them in turn")
p.add_argument("--id", type=int, default=1)
p.add_argument("--first", type=int, default=0, help="number of the first row")
p.add_argument("--count", type=int, default=0, help="rows; 0: until --stop")
p.add_argument("--sync", default="NORMAL")
p.add_argument("--pragma", nargs="*", default=[], help="of each connection: journal_mode=TRUNCATE, for example")
p.add_argument("--busy", type=float, default=30.0, help="seconds of busy time-out")
p.add_argument("--pad", type=int, default=100, help="bytes a row, about")
p.add_argument("--pause", type=float, default=0.004, help="longest pause between rows, seconds. SQLite's locks are not fair: "
               "a writer that lets go for microseconds only starves all others")
p.add_argument("--checkpoint", default="", help="now and then PRAGMA wal_checkpoint(THIS)")
p.add_argument("--autocheckpoint", type=int, default=-1)
p.add_argument("--reopen", type=int, default=0, help="close and open again after so many rows")
p.add_argument("--large", type=int, default=0, help="now and then a transaction that rewrites so many rows")
a = p.parse_args()
rng = random.Random(a.id)
conns = {}
longest = 0.0
busy = 0


def connection(mount, name):
    key = (mount, name)
    if key not in conns:
        c = sqlite3.connect(os.path.join(mount, name), timeout=a.busy, isolation_level=None)
        c.execute(f"PRAGMA synchronous={a.sync}")
        for pragma in a.pragma:
            c.execute(f"PRAGMA {pragma}")
        if a.autocheckpoint >= 0:
            c.execute(f"PRAGMA wal_autocheckpoint={a.autocheckpoint}")
        conns[key] = c
    return conns[key]


def primary_mount():
    """The mount without a .primary file; with one mount there is no question."""
    if len(a.mounts) == 1:
        return a.mounts[0]
    for m in a.mounts:
        if not os.path.exists(os.path.join(m, ".primary")):
            return m
    return None


def write(c, number):
    c.execute("BEGIN IMMEDIATE")
    try:
        c.execute("INSERT INTO t (w, s, pad) VALUES (?, ?, ?)", (a.id, number, f"{number:x}." * (a.pad // 4)))
        c.execute("INSERT INTO c (w, n) VALUES (?, 1) ON CONFLICT (w) DO UPDATE SET n = n + 1", (a.id,))
        if a.large and number % 50 == 49:
            c.execute("UPDATE t SET pad = upper(pad) WHERE id IN (SELECT id FROM t ORDER BY id DESC LIMIT ?)", (a.large,))
        c.execute("COMMIT")
    except sqlite3.Error:
        if c.in_transaction:
            c.execute("ROLLBACK")
        raise


number = a.first
with open(a.ack, "a") as ack:
    while not os.path.exists(a.stop) and (not a.count or number < a.first + a.count):
        begin = time.monotonic()
        name = a.db[number % len(a.db)]
        while True:
            mount = primary_mount()
            try:
                if mount is None:
                    time.sleep(0.005)  # between two primaries: ask again
                else:
                    write(connection(mount, name), number)
                    break
            except sqlite3.OperationalError as e:
                if len(a.mounts) == 1 or not e.sqlite_errorname.startswith("SQLITE_BUSY"):
                    raise
                busy += 1
            if time.monotonic() - begin > 60:
                sys.exit(f"writer {a.id}: row {number} could not be written anywhere for a minute ({busy} times busy)")
        longest = max(longest, time.monotonic() - begin)
        ack.write(f"{a.id} {number}\n")
        ack.flush()
        number += 1
        if a.checkpoint and number % 40 == 0:
            connection(mount, name).execute(f"PRAGMA wal_checkpoint({a.checkpoint})").fetchall()
        if a.reopen and number % a.reopen == 0:
            while conns:
                conns.popitem()[1].close()
        if a.pause:
            time.sleep(rng.random() * a.pause)
for c in conns.values():
    c.close()
print(json.dumps({"rows": number - a.first, "longest_s": round(longest, 4), "busy": busy}))
