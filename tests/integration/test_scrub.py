"""Pages that change on the disk by themselves: found, and mended from another node."""
import json
import mmap
import os
import time

import harness
from harness import Cluster, EdgeTest, Session, both_modes, rounds, wait_until
from test_resync import fill

OFTEN = "scrub: {interval: 1s, rate: 1GiB}\n"
NEVER = "scrub: {interval: 0s}\n"
BAD, MENDED = "edgefs_scrub_bad_pages_total", "edgefs_scrub_mended_pages_total"


def rot(path, pages, page_size=4096):
    """Other bytes, without a call that writes the file: as when the disk forgets."""
    with open(path, "r+b") as f, mmap.mmap(f.fileno(), 0) as m:
        for page in pages:
            at = (page - 1) * page_size + 1000
            m[at] ^= 0x10
        m.flush()


def settle(node, name):
    """All in the database file, nothing in a WAL."""
    wait_until(lambda: node.sql(name, "PRAGMA wal_checkpoint(TRUNCATE)")[0][0] == 0, 10, f"{name} on {node.name} is checkpointed")


@both_modes
class Scrub(EdgeTest):
    def test_pages_of_a_replica_are_mended_from_the_primary(self):
        with Cluster(2, self.passthrough, extra=OFTEN) as cluster:
            a, b = cluster.nodes
            fill(a, "w.db", "wal", 300)
            fill(a, "j.db", "delete", 300)
            cluster.sync()
            wait_until(lambda: harness.backfilled(b, "w.db"), 20, "b has it in the file")
            # One with a reader, who keeps it open; the others with nobody.
            with Session(b.path("w.db")) as reader:
                self.assertEqual(reader.sql("SELECT count(*) FROM t"), [(300,)])
                rot(b.backing("w.db"), [7, 70, 200])
                rot(b.backing("j.db"), [1, 2, 90])
                wait_until(lambda: b.metric(MENDED) == 6, 30, lambda: f"mended: {b.metric(BAD)} bad, {b.metric(MENDED)} mended")
                self.assertEqual(reader.sql("PRAGMA integrity_check"), [("ok",)])
                self.assertEqual(reader.sql("SELECT count(*), sum(length(pad)) FROM t"), [(300, 300 * 3700)])
            self.assertEqual(b.metric(BAD), 6)
            log = b.log_tail(400)
            for text in ("w.db: page 70 had changed on the disk by itself", "j.db: page 90 had changed", "mended from a"):
                self.assertIn(text, log)
            self.assertEqual([w for w in b.status()["warnings"] if "by themselves" in w], [])
            cluster.identical()

    def test_pages_of_the_primary_are_mended_from_a_replica(self):
        with Cluster(2, self.passthrough, extra=OFTEN) as cluster:
            a, b = cluster.nodes
            for name, mode in (("w.db", "wal"), ("j.db", "delete")):
                fill(a, name, mode, 300)
            settle(a, "w.db")
            cluster.sync()
            txids = {name: d["txid"] for name, d in a.databases().items()}
            with Session(a.path("w.db")) as app:
                self.assertEqual(app.sql("SELECT count(*) FROM t"), [(300,)])
                cluster.sync()
                rot(a.backing("w.db"), [7, 70, 200])
                wait_until(lambda: a.metric(MENDED) == 3, 30, lambda: f"mended: {a.metric(BAD)} bad, {a.metric(MENDED)} mended")
                self.assertEqual(app.sql("SELECT count(*), sum(length(pad)) FROM t"), [(300, 300 * 3700)])
                app.sql("UPDATE t SET v = 1 WHERE id = 5")  # it goes on as ever
            rot(a.backing("j.db"), [2, 90])
            wait_until(lambda: a.metric(MENDED) == 5, 30, lambda: f"mended: {a.metric(BAD)} bad, {a.metric(MENDED)} mended")
            cluster.sync()
            self.assertEqual(a.databases()["j.db"]["txid"], txids["j.db"], "what was mended is no transaction")
            self.assertEqual(a.databases()["w.db"]["txid"], txids["w.db"] + 1)
            self.assertIn("mended from b", a.log_tail(400))
            cluster.identical()

    def test_what_cannot_be_mended_is_said(self):
        with Cluster(2, self.passthrough, extra=OFTEN) as cluster:
            a, b = cluster.nodes
            fill(a, "w.db", "wal", 100)
            settle(a, "w.db")
            cluster.sync()
            wait_until(lambda: harness.backfilled(b, "w.db"), 20, "b has it in the file")
            a.kill("replicator", 19)  # cannot answer
            try:
                rot(b.backing("w.db"), [9, 10])
                wait_until(lambda: any("w.db: 2 pages changed on the disk by themselves (page 9" in w for w in b.status()["warnings"]), 40,
                           lambda: f"b says so: {b.status()['warnings']}")
            finally:
                a.kill("replicator", 18)
            wait_until(lambda: b.metric(MENDED) == 2, 40, "mended once the primary is back")
            wait_until(lambda: not [w for w in b.status()["warnings"] if "by themselves" in w], 10, "no warning is left")
            cluster.identical()

    def test_verify_repair(self):
        with Cluster(2, self.passthrough, extra=NEVER) as cluster:
            a, b = cluster.nodes
            fill(a, "w.db", "wal", 100)
            fill(a, "j.db", "delete", 100)
            settle(a, "w.db")
            cluster.sync()
            wait_until(lambda: harness.backfilled(b, "w.db"), 20, "b has it in the file")
            rot(b.backing("j.db"), [33])
            rot(a.backing("w.db"), [12])
            code, out, _ = harness.ctl(a, "verify", "--json", check=False)
            self.assertEqual(code, 1)
            found = {d["name"]: d["nodes"] for d in json.loads(out)["databases"]}
            self.assertEqual(found["j.db"]["b"]["bad_pages"], [33])
            self.assertEqual(found["w.db"]["a"]["bad_pages"], [12])
            out = harness.ctl(a, "verify", "--repair")
            self.assertIn("j.db on b: 1 of 1 damaged page mended from a", out)
            self.assertIn("w.db on a: 1 of 1 damaged page mended from b", out)
            cluster.identical()

    def test_nothing_is_found_in_databases_that_are_being_written(self):
        with Cluster(2, self.passthrough, extra="scrub: {interval: 1ms, rate: 1GiB}\n") as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            harness.make_load_db(a, "j.db", mode="delete")
            writers = [cluster.load("writer", "--mounts", a.mount, "--id", 0, "--large", 20)]
            with Session(a.path("j.db")) as spills:
                spills.sql("PRAGMA cache_size = 2")  # pages go into the file long before the commit
                read = [n.metric("edgefs_scrub_read_bytes_total") for n in cluster.nodes]
                for i in range(rounds(15)):
                    spills.sql("BEGIN")
                    spills.sql("WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 300) "
                               "INSERT INTO t (w, s, pad) SELECT 9, i, randomblob(1000) FROM n")
                    time.sleep(0.1)  # a transaction that takes its time, and is no damage
                    spills.sql("COMMIT" if i % 3 else "ROLLBACK")
                writers[0].finish()
                for n, before in zip(cluster.nodes, read):
                    wait_until(lambda: n.metric("edgefs_scrub_read_bytes_total") > before, 30, "scrubs have run")
            cluster.sync()
            self.assertEqual([n.metric(BAD) for n in cluster.nodes], [0, 0])
            cluster.identical()


if __name__ == "__main__":
    harness.unittest.main()
