"""A WAL of several GB: a reader that does not end keeps checkpoints away, then one transaction that is larger than memory for caches. What
the replicators need for it must not grow with it (28 November 2026, passthrough: 31 and 34 MB after 3 GB in transactions of 32 MB, 95 and 45 MB after one of 1.5 GB; 218 s). LONG=1 only: it
writes about 15 GB."""
import os
import unittest

import harness
from harness import Cluster, EdgeTest, Session, both_modes, wait_until, within

MB = 1 << 20
WAL = int(os.environ.get("HUGE_WAL_MB", "3072")) * MB
MEMORY = 400  # MB, of one replicator


def high_water(node):
    """Peak of what the replicator has taken for itself, in MB (mapped files left out)."""
    with open(f"/proc/{node.pid('replicator')}/status") as f:
        fields = dict(line.split(":", 1) for line in f)
    return int(fields["VmHWM"].split()[0]) // 1024


def fill(db, first, count):
    """count rows of about 1 MiB each in one transaction."""
    db.execute("BEGIN")
    for i in range(first, first + count):
        db.execute("INSERT INTO t (id, x) VALUES (?, randomblob(1044000))", (i,))
    db.execute("COMMIT")


@both_modes
@unittest.skipUnless(harness.LONG, "a campaign of its own (LONG=1)")
class HugeWal(EdgeTest):
    @within(1200)
    def test_transactions_and_one_transaction(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            with a.db("x.db", timeout=60) as db:
                db.execute("PRAGMA journal_mode=WAL")
                db.execute("PRAGMA wal_autocheckpoint=0")
                db.execute("PRAGMA synchronous=OFF")
                db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x)")
                cluster.sync()
                with Session(a.path("x.db"), timeout=60) as reader, Session(b.path("x.db"), timeout=60) as there:
                    for s in (reader, there):
                        s.sql("BEGIN")
                        self.assertEqual(s.sql("SELECT count(*) FROM t"), [(0,)])
                    n = 0
                    while os.path.getsize(a.path("x.db-wal")) < WAL:
                        fill(db, n, 32)
                        n += 32
                    cluster.sync(300)
                    self.assertEqual(b.sql("x.db", "SELECT count(*), max(id) FROM t", timeout=60), [(n, n - 1)])
                    self.assertGreaterEqual(os.path.getsize(a.path("x.db-wal")), WAL)
                    print(f"{n} MB in transactions of 32 MB: replicators of a {high_water(a)} MB, of b {high_water(b)} MB", flush=True)
                    for s in (reader, there):
                        self.assertEqual(s.sql("SELECT count(*) FROM t"), [(0,)], "its snapshot stands")
                        s.sql("COMMIT")
                        self.assertEqual(s.sql("SELECT count(*) FROM t"), [(n,)])
                fill(db, n, WAL // MB // 2)  # on top of the others: no checkpoint yet
                n += WAL // MB // 2
                cluster.sync(300)
                wait_until(lambda: b.sql("x.db", "SELECT count(*), max(id) FROM t", timeout=60) == [(n, n - 1)], 60, "the large transaction on b")
                print(f"and one of {WAL // MB // 2} MB: {high_water(a)} MB, {high_water(b)} MB", flush=True)
                self.assertEqual(db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0], 0)
                db.execute("DELETE FROM t WHERE id % 2")
                cluster.sync(300)
            cluster.identical(timeout=300)
            for node in (a, b):
                self.assertLess(high_water(node), MEMORY, f"MB, replicator of {node.name}")
