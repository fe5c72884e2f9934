"""Replicas that are new, were away, or have no room."""
import contextlib
import os
import subprocess
import time

import harness
from harness import Cluster, EdgeTest, Session, both_modes, rounds, wait_until


@both_modes
class CatchUp(EdgeTest):
    def test_replica_that_was_away(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            a.sql("load.db", "INSERT INTO t (w, s) VALUES (1, -1)")
            cluster.sync()
            for i in range(2):
                b.stop()
                with a.db("load.db") as db:
                    db.execute("PRAGMA synchronous=OFF")
                    for k in range(rounds(3000)):
                        db.execute("INSERT INTO t (w, s, pad) VALUES (?, ?, 'while b is away')", (i, k))
                harness.make_load_db(a, f"new{i}.db")
                if i:
                    os.unlink(a.path("new0.db"))
                b.start()
                cluster.sync()
                wait_until(lambda: b.status()["lag_ms"] < 3000, 10, "b is not behind")
                self.assertEqual(os.path.exists(b.path("new0.db")), i == 0)
            cluster.identical()

    def test_replica_killed_while_catching_up(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            cluster.sync()
            rng = harness.seed("catch up")
            for i in range(rounds(3)):
                b.stop()
                with a.db("load.db") as db:
                    db.execute("PRAGMA synchronous=OFF")
                    for k in range(3000):
                        db.execute("INSERT INTO t (w, s, pad) VALUES (?, ?, ?)", (i, k, "z" * 300))
                b.start()
                for _ in range(4):
                    time.sleep(rng.random() * 0.05)
                    b.kill_and_wait("replicator")
                b.kill_all()
                b.start()
                cluster.sync()
            cluster.identical()

    def test_new_replica_while_writers_run(self):
        with Cluster(3, self.passthrough, start=False) as cluster:
            a, b, c = cluster.nodes
            a.start()
            a.wait_role("primary")
            harness.make_load_db(a)
            with a.db("load.db") as db:
                db.execute("CREATE TABLE ballast (x)")
                db.execute("WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 30000) INSERT INTO ballast SELECT randomblob(1000) FROM n")
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            writers = [cluster.load("writer", "--mounts", a.mount, "--id", i, "--sync", ("NORMAL", "FULL")[i], "--large", 20) for i in range(2)]
            reader = cluster.load("reader", "--db", a.path("load.db"))
            for w in writers:
                w.wait_acked(20)
            for n in (b, c):
                n.start()
            # Each is read as soon as there is something, and never shows half of anything.
            late = []
            for n in (b, c):
                wait_until(lambda: os.path.exists(n.path("load.db")), 30, f"load.db on {n.name}")
                late.append(cluster.load("reader", "--db", n.path("load.db")))
            cluster.sync()
            done = [len(w.acked()) for w in writers]
            for w, k in zip(writers, done):
                w.wait_acked(k + 20)
            for load in writers + late + [reader]:
                load.finish()
            cluster.identical()
            for n in cluster.nodes:
                harness.check_exactly_once(n, "load.db", writers)

    def test_position_no_longer_served(self):
        """The log is trimmed to a megabyte: a replica that was away for longer gets an image, and is exact again."""
        with Cluster(2, self.passthrough, extra="log: {segment-size: 1MiB, retention-bytes: 1MiB, retention-age: 1s}\n") as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            harness.make_load_db(a, "gone.db")
            cluster.sync()
            at = b.lsn()
            b.stop()
            os.unlink(a.path("gone.db"))
            with a.db("load.db") as db:
                wait_until(lambda: [db.execute("INSERT INTO t (w, s, pad) VALUES (1, 1, ?)", (os.urandom(3000).hex(),)) for _ in range(300)]
                           and a.status()["log"]["first_lsn"] > at + 1, 30, lambda: f"the log is trimmed: {a.status()['log']}")
            b.start()
            cluster.sync()
            wait_until(lambda: not os.path.exists(b.path("gone.db")), 5, "what was dropped meanwhile is gone")
            cluster.identical()

    def test_the_primary_falls_silent_and_comes_back(self):
        """The primary's replicator stops for a while (as if the network were gone): replicas say so, read on, and go on."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            cluster.sync()
            a.kill_and_wait("replicator")
            pid = a.pid("replicator")
            os.kill(pid, 19)
            try:
                a.sql("load.db", "INSERT INTO t (w, s) VALUES (1, 1)")
                self.assertEqual(b.sql("load.db", "SELECT count(*) FROM t"), [(0,)])
                wait_until(lambda: not b.status()["connected"], 20, "b knows that it is cut off")
                self.assertEqual(b.api("GET", "/healthz")[0], 503)
            finally:
                os.kill(pid, 18)
            wait_until(lambda: b.sql("load.db", "SELECT count(*) FROM t") == [(1,)], 20, "the row arrives")
            wait_until(lambda: b.api("GET", "/healthz")[0] == 200, 10, "b is well")
            cluster.identical()


@contextlib.contextmanager
def small_disk(path, size):
    os.makedirs(path, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "edgefs-test", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)


SMALL_LOG = "log: {segment-size: 1MiB, retention-bytes: 1MiB, retention-age: 1s}\n"


@both_modes
class DiskFull(EdgeTest):
    def test_on_a_replica(self):
        with Cluster(2, self.passthrough, start=False, extra=SMALL_LOG) as cluster:
            a, b = cluster.nodes
            with small_disk(b.data, "24m"):
                try:
                    cluster.start()
                    harness.make_load_db(a)
                    a.sql("load.db", "INSERT INTO t (w, s) VALUES (1, 1)")
                    cluster.sync()
                    with Session(b.path("load.db")) as reader:
                        blob = "x" * 100000
                        with a.db("load.db") as db:
                            for i in range(400):
                                db.execute("INSERT INTO t (w, s, pad) VALUES (2, ?, ?)", (i, blob))

                        def said():
                            s = b.status()
                            text = " ".join(s["warnings"] + [str(d["warning"]) for d in b.databases().values()])
                            return "space" in text or "full" in text

                        wait_until(said, 20, lambda: f"b says that its disk is full: {b.status()} {b.databases()}")
                        # Reads go on, of a sound state; the primary goes on.
                        self.assertGreaterEqual(reader.sql("SELECT count(*) FROM t")[0][0], 1)
                        self.assertEqual(reader.sql("PRAGMA integrity_check"), [("ok",)])
                        a.sql("load.db", "INSERT INTO t (w, s) VALUES (3, 1)")
                        pid = b.pids()["replicator"]
                        subprocess.run(["mount", "-o", "remount,size=400m", b.data], check=True)
                        # By itself, without a restart.
                        cluster.sync(30)
                        self.assertEqual(b.pids()["replicator"], pid)
                        self.assertEqual(reader.sql("SELECT count(*) FROM t"), [(402,)])
                    wait_until(lambda: not b.status()["warnings"], 10, lambda: f"no warning left: {b.status()['warnings']}")
                    cluster.identical()
                finally:
                    b.destroy()

    def test_on_the_primary(self):
        """The application is told (SQLITE_FULL); what was committed is replicated; it goes on when there is room."""
        with Cluster(2, self.passthrough, start=False, extra=SMALL_LOG) as cluster:
            a, b = cluster.nodes
            with small_disk(a.data, "24m"):
                try:
                    cluster.start()
                    harness.make_load_db(a)
                    cluster.sync()
                    with Session(a.path("load.db")) as app:
                        done = 0
                        with self.assertRaises(harness.SessionError) as e:
                            for done in range(1000):
                                app.sql("INSERT INTO t (w, s, pad) VALUES (1, ?, ?)", done, "x" * 50000)
                        self.assertIn(e.exception.name.split("_")[1], ("FULL", "IOERR"))
                        self.assertGreater(done, 20)
                        self.assertEqual(app.sql("SELECT count(*) FROM t"), [(done,)])
                        subprocess.run(["mount", "-o", "remount,size=400m", a.data], check=True)
                        app.sql("INSERT INTO t (w, s) VALUES (2, 2)")
                        self.assertEqual(app.sql("SELECT count(*) FROM t"), [(done + 1,)])
                    wait_until(lambda: b.sql("load.db", "SELECT count(*) FROM t") == [(done + 1,)], 20, "b has all that was committed")
                    cluster.identical()
                finally:
                    a.destroy()
