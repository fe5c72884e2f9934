"""An application that reads the table of harness.make_load_db and checks that each snapshot is whole and none older than the
one before. Any error ends it."""
import argparse
import json
import os
import random
import sqlite3
import sys
import time

p = argparse.ArgumentParser()
p.add_argument("--stop", required=True)
p.add_argument("--db", required=True, help="path")
p.add_argument("--busy", type=float, default=10.0)
p.add_argument("--reopen", type=int, default=0, help="close and open again after so many reads")
p.add_argument("--pause", type=float, default=0.004, help="longest pause between reads, seconds")
p.add_argument("--seed", type=int, default=1)
a = p.parse_args()
rng = random.Random(a.seed)
last = reads = 0
longest = 0.0
seen = set()
c = None
while not os.path.exists(a.stop):
    begin = time.monotonic()
    if c is None:
        c = sqlite3.connect(a.db, timeout=a.busy, isolation_level=None)
        c.execute("PRAGMA cache_size=50")
    c.execute("BEGIN")
    top, counted = c.execute("SELECT (SELECT max(id) FROM t), (SELECT sum(n) FROM c)").fetchone()
    top, counted = top or 0, counted or 0
    if top != counted:
        sys.exit(f"torn snapshot: {top} rows, {counted} counted")
    if top < last:
        sys.exit(f"went back from {last} to {top}")
    if top:
        pick = rng.randrange(max(1, top - 2000), top + 1)
        w, s, pad = c.execute("SELECT w, s, pad FROM t WHERE id = ?", (pick,)).fetchone()
        if pad.lower() != f"{s:x}." * (len(pad) // len(f"{s:x}.")):
            sys.exit(f"row {pick}: w={w} s={s} pad={pad!r}")
        if pick not in {i for (i,) in c.execute("SELECT id FROM t WHERE w = ? AND s = ?", (w, s))}:
            sys.exit(f"row {pick} is not in the index")
    again = c.execute("SELECT sum(n) FROM c").fetchone()[0] or 0
    if again != counted:
        sys.exit(f"the snapshot moved: {counted}, then {again}")
    c.execute("COMMIT")
    longest = max(longest, time.monotonic() - begin)
    seen.add(top)
    last = top
    reads += 1
    if a.reopen and reads % a.reopen == 0:
        c.close()
        c = None
    if a.pause:
        time.sleep(rng.random() * a.pause)
if c is not None:
    c.close()
print(json.dumps({"reads": reads, "last": last, "states": len(seen), "longest_s": round(longest, 4)}))
