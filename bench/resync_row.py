"""The row of `make bench` about copies that differ."""

import os
import random
import re
import statistics

import harness
from report import Line

MB = 1000
SMALL_LOG = "log: {segment-size: 1MiB, retention-bytes: 1MiB, retention-age: 1s}\n"
TURNS = 3


def resync(passthrough, sources):
    """A replica has a database of 1 GB and is stopped; rows in 1 % of its pages, chosen at random, are changed on the primary, and the log is trimmed beyond them. It is
    started again: time from its first question until the pages are in place (the replicator's own words in its log), its own checksums being known from before. On the
    wire: what the primary counts of questions, answers and pages, against the size of the pages that came. Medians of 3."""
    took = Line("resync", f"{MB} MB, 1 % of the pages changed: the replica is as the primary", "≤ 300 ms")
    wire = Line("resync", "… bytes on the wire, against the size of the pages that differ", "≤ 1.20")
    source = sources.get(MB)
    rng = random.Random(5)
    times, ratios, counts = [], [], []
    with harness.Cluster(2, passthrough, extra=SMALL_LOG) as cluster:
        a, b = cluster.nodes
        harness.ctl(a, "import", source, "r.db", timeout=60)
        cluster.sync(120)
        harness.wait_until(lambda: (b.databases().get("r.db") or {}).get("state") == "ok", 120, "the replica has it")
        pages = os.path.getsize(source) // a.databases()["r.db"]["page_size"]
        for _ in range(TURNS):
            b.stop()
            at = a.lsn()
            with a.db("r.db") as db:
                last = db.execute("SELECT max(id) FROM r").fetchone()[0]
                db.execute("PRAGMA synchronous=OFF")
                db.execute("BEGIN")
                db.executemany("UPDATE r SET pad = substr(hex(randomblob(length(pad))), 1, length(pad)) WHERE id = ?", [(rng.randrange(1, last),) for _ in range(pages // 100)])
                db.execute("COMMIT")
            with a.db("noise.db") as db:
                db.execute("CREATE TABLE IF NOT EXISTS n (id INTEGER PRIMARY KEY, x BLOB)")
                harness.wait_until(lambda: [db.execute("INSERT OR REPLACE INTO n VALUES (1, randomblob(3000))") for _ in range(300)]
                                   and a.status()["log"]["first_lsn"] > at + 1, 60, "the log is trimmed")
            harness.settle(a)
            before = [a.metric(m) for m in ("edgefs_image_sent_bytes_total", "edgefs_difference_bytes_total")]
            b.start()
            cluster.sync(60)
            harness.wait_until(lambda: b.databases()["r.db"]["state"] == "ok", 60, "the replica has it again")
            found = re.findall(r"r\.db: (\d+) of \d+ pages of (\d+) bytes fetched in (\d+) ms", b.log_tail(2000))[-1]
            n, size, ms = map(int, found)
            sent = sum(a.metric(m) for m in ("edgefs_image_sent_bytes_total", "edgefs_difference_bytes_total")) - sum(before)
            times.append(ms)
            counts.append(n)
            ratios.append(sent / (n * size))
        harness.ctl(a, "verify", "r.db")
    took.edgefs, took.ok = f"{statistics.median(times):.0f} ms", statistics.median(times) <= 300
    took.notes.append(f"{statistics.median(counts):,.0f} of {pages:,} pages came; {min(times)} to {max(times)} ms")
    wire.edgefs, wire.ok = f"{statistics.median(ratios):.3f}", statistics.median(ratios) <= 1.2
    return [took, wire]
