"""The WAL as applications treat it: restarts, checkpoints of every kind, its removal and return."""
import os
import struct
import subprocess
import time

import harness
from harness import Cluster, EdgeTest, Session, both_modes, rounds, within, wait_until


def salts(node, name):
    """(checkpoint sequence number, salt-1) in the header of the WAL, or None."""
    try:
        with open(node.backing(name + "-wal"), "rb") as f:
            head = f.read(32)
            return struct.unpack(">II", head[12:20]) if len(head) == 32 else None
    except FileNotFoundError:
        return None


def a_shm(node):
    """The wal-index header. By another process: closing the file in this one would drop the locks that SQLite holds on it here."""
    return subprocess.run(["head", "-c", "48", node.path("load.db-shm")], stdout=subprocess.PIPE, check=True).stdout


@both_modes
class Wal(EdgeTest):
    def test_a_snapshot_of_an_empty_wal_can_become_a_write(self):
        """Nothing of ours changes the wal-index under a reader: it would get SQLITE_BUSY_SNAPSHOT, which no busy time-out helps against."""
        with Cluster(1, self.passthrough) as cluster:
            (a,) = cluster.nodes
            harness.make_load_db(a)
            for i in range(5):
                with a.db("load.db", timeout=0) as db:  # nobody else has it open: its WAL is empty
                    db.execute("BEGIN")
                    db.execute("SELECT count(*) FROM t").fetchall()
                    before = a_shm(a)
                    deadline = time.monotonic() + 0.3  # time for what must not happen
                    while time.monotonic() < deadline and before == a_shm(a):
                        time.sleep(0.01)
                    self.assertEqual(before, a_shm(a), "the wal-index is left alone")
                    db.execute("INSERT INTO t (w, s) VALUES (1, ?)", (i,))
                    db.execute("COMMIT")
            with a.db("load.db", timeout=0) as db:  # without a snapshot it is told how large the database is
                db.execute("SELECT count(*) FROM t").fetchall()
                wait_until(lambda: struct.unpack("=I", a_shm(a)[20:24])[0] > 0, 5, "the wal-index says the size")

    def test_restarts(self):
        """A WAL that starts again every few transactions, under load."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            cluster.sync()
            with Session(a.path("load.db")) as keep:  # so that the WAL is not removed with the last writer
                keep.sql("INSERT INTO c (w, n) VALUES (99, 0)")
                first = salts(a, "load.db")
                writers = [cluster.load("writer", "--mounts", a.mount, "--id", i, "--autocheckpoint", 10, "--large", 30) for i in range(2)]
                for w in writers:
                    w.wait_acked(rounds(600))
                    w.finish()
                self.assertGreater(salts(a, "load.db")[0] - first[0], 10, "the WAL did start again")
            cluster.identical()
            for n in (a, b):
                harness.check_exactly_once(n, "load.db", writers)

    def test_checkpoints_by_the_application(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            kinds = ("PASSIVE", "FULL", "RESTART", "TRUNCATE")
            writers = []
            for i, kind in enumerate(kinds):
                harness.make_load_db(a, kind + ".db")
                writers.append(cluster.load("writer", "--mounts", a.mount, "--db", kind + ".db", "--id", i, "--checkpoint", kind,
                                            "--autocheckpoint", 0))
            for w in writers:
                w.wait_acked(rounds(250))
            for w in writers:
                w.finish()
            cluster.identical()
            for w, kind in zip(writers, kinds):
                for n in (a, b):
                    harness.check_exactly_once(n, kind + ".db", [w])

    def test_truncate_right_after_commit(self):
        """The frames of a transaction disappear as soon as it is committed: capture sees them all the same."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            with a.db("load.db") as db:
                for i in range(100):
                    db.execute("INSERT INTO t (w, s, pad) VALUES (1, ?, ?)", (i, "x" * 3000))
                    self.assertEqual(db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0], 0)
                    self.assertEqual(os.path.getsize(a.backing("load.db-wal")), 0)
                    if i % 10 == 0:
                        cluster.sync()
                        self.assertEqual(b.sql("load.db", "SELECT count(*) FROM t"), [(i + 1,)])
            cluster.identical()

    def test_last_close_removes_the_wal_and_the_next_open_makes_it(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            cluster.sync()
            for i in range(60):
                a.sql("load.db", "INSERT INTO t (w, s) VALUES (1, ?)", (i,))
                if i % 3 == 0:
                    # In between, the same on the replica.
                    wait_until(lambda: b.sql("load.db", "SELECT count(*) FROM t") == [(i + 1,)], 5, f"row {i} on b")
            cluster.identical()

    @within(90)
    def test_wal_restarts_while_capture_is_away(self):
        """The replicator is dead or stopped while frames are checkpointed and overwritten: what it missed is found."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            cluster.sync()
            writers = [cluster.load("writer", "--mounts", a.mount, "--id", i, "--autocheckpoint", 5) for i in range(2)]
            for _ in range(rounds(8)):
                a.kill_and_wait("replicator")
                n = len(writers[0].acked())
                writers[0].wait_acked(n + 30)
            for w in writers:
                w.finish()
            cluster.identical()
            for n in (a, b):
                harness.check_exactly_once(n, "load.db", writers)

    def test_unclosed_wal_of_a_killed_application(self):
        """kill -9 of the application in the middle of a transaction: the next one recovers, replicas never see the half."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            for i in range(10):
                with Session(a.path("load.db")) as app:
                    app.sql("PRAGMA cache_size = 5")
                    app.sql("INSERT INTO t (w, s) VALUES (1, ?)", i)
                    app.sql("BEGIN IMMEDIATE")
                    for k in range(40):
                        app.sql("INSERT INTO t (w, s, pad) VALUES (2, ?, ?)", k, "y" * 2000)
                    app.kill()
                a.sql("load.db", "INSERT INTO c (n) VALUES (1)")
                wait_until(lambda: b.sql("load.db", "SELECT count(*) FROM c") == [(i + 1,)], 5, "the next transaction arrives")
                self.assertEqual(b.sql("load.db", "SELECT w, count(*) FROM t GROUP BY w"), [(1, i + 1)])
            cluster.identical()

    def test_a_change_that_cannot_be_captured_is_never_silent(self):
        """A rollback-journal database: until it is captured, status and log say so. Back in WAL mode, everything is there."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            cluster.sync()
            harness.set_journal_mode(a, "load.db", "DELETE")
            a.sql("load.db", "INSERT INTO t (w, s) VALUES (1, 1)")

            def told_or_done():
                entry = a.databases()["load.db"]
                return entry["warning"] or b.sql("load.db", "SELECT count(*) FROM t") == [(1,)]

            wait_until(told_or_done, 10, lambda: f"a warning, or the row: {a.databases()['load.db']}")
            if a.databases()["load.db"]["warning"]:
                self.assertGreater(a.status()["databases"]["warnings"], 0)
                self.assertIn("load.db", a.log())
                self.assertIn("load.db", harness.ctl(a, "status") + harness.ctl(a, "databases"))
            harness.set_journal_mode(a, "load.db", "WAL")
            a.sql("load.db", "INSERT INTO t (w, s) VALUES (1, 2)")
            wait_until(lambda: b.sql("load.db", "SELECT count(*) FROM t") == [(2,)], 10, "both rows arrive")
            wait_until(lambda: not a.databases()["load.db"]["warning"], 10, "the warning is gone")
            cluster.identical()
