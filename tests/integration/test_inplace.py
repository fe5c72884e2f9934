"""Rollback-journal databases on a replica: changes go into the file itself, between its readers."""
import time

import harness
from harness import Cluster, EdgeTest, Session, SessionError, both_modes, rounds, wait_until, within
from test_journal import JOURNALS, entry, make

APPLY_WAIT = "apply-wait: 400ms\n"


@both_modes
class InPlace(EdgeTest):
    def test_readers_never_see_half_a_change(self):
        """Readers with warm caches, connections that stay and that come and go, while transactions small and large arrive."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            for mode in JOURNALS:
                harness.make_load_db(a, f"{mode}.db", mode=mode)
            cluster.sync()
            writers = [cluster.load("writer", "--mounts", a.mount, "--db", f"{m}.db", "--pragma", f"journal_mode={m}", "--large", 300, "--pause", 0.004)
                       for m in JOURNALS]
            readers = [cluster.load("reader", "--db", b.path(f"{m}.db"), "--seed", i, "--reopen", 10 * i)
                       for m in JOURNALS for i in range(2)]
            for w in writers:
                w.wait_acked(rounds(200), 40)
            for w in writers:
                w.finish()
            cluster.sync()
            for r in readers:
                self.assertGreater(r.finish()["states"], 20, "it saw the changes as they came")
            cluster.identical()

    def test_a_long_reader_delays_only_its_own_database_and_not_for_ever(self):
        with Cluster(2, self.passthrough, extra=APPLY_WAIT) as cluster:
            a, b = cluster.nodes
            for name in ("held.db", "free.db"):
                make(a, name, rows=50)
            cluster.sync()
            with Session(b.path("held.db"), timeout=5) as long, Session(b.path("held.db"), timeout=5) as other:
                long.sql("BEGIN")
                self.assertEqual(long.sql("SELECT count(*) FROM t"), [(50,)])
                a.sql("held.db", "DELETE FROM t WHERE id <= 10")
                for i in range(20):
                    a.sql("free.db", "DELETE FROM t WHERE id = ?", (i + 1,))
                    wait_until(lambda: b.sql("free.db", "SELECT count(*) FROM t") == [(49 - i,)], 5, "the other database goes on")
                wait_until(lambda: entry(b, "held.db")["state"] == "waiting", 10, "status says that it waits")
                self.assertIn("reader", entry(b, "held.db")["warning"])
                # New readers get in between the attempts, again and again; each waits for apply-wait at most.
                for _ in range(rounds(5)):
                    began = time.monotonic()
                    self.assertEqual(other.sql("SELECT count(*) FROM t"), [(50,)])
                    self.assertLess(time.monotonic() - began, 3)
                self.assertEqual(long.sql("SELECT count(*) FROM t"), [(50,)])
                a.sql("held.db", "DELETE FROM t WHERE id <= 20")
                long.sql("COMMIT")
                wait_until(lambda: other.sql("SELECT count(*) FROM t") == [(30,)], 10, "applied once the reader has left")
                wait_until(lambda: entry(b, "held.db")["state"] == "ok", 5, "and status is content again")
            cluster.identical()

    def test_a_local_writer_is_refused(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            make(a, "x.db", rows=50)
            cluster.sync()
            with Session(b.path("x.db"), timeout=0.1) as s:
                self.assertEqual(s.sql("SELECT count(*) FROM t"), [(50,)])
                for mode in ("wal", "delete"):
                    with self.assertRaises(SessionError):
                        s.sql("INSERT INTO t (v) VALUES (1)")
                    a.sql("x.db", f"PRAGMA journal_mode={mode}")
                    a.sql("x.db", "UPDATE t SET k = 5 WHERE id = 5")
                    cluster.sync()
                    self.assertEqual(s.sql("SELECT k FROM t WHERE id = 5"), [(5,)])
                with self.assertRaises(SessionError):
                    s.sql("INSERT INTO t (v) VALUES (1)")
            cluster.identical()

    @within(90)
    def test_replicator_killed_in_the_middle(self):
        """Locks outlive it, and its successor enters the change again before they are let go."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            rng = harness.seed("killed")
            harness.make_load_db(a, mode="delete")
            cluster.sync()
            writer = cluster.load("writer", "--mounts", a.mount, "--large", 3000, "--pad", 1000, "--pause", 0.002)
            readers = [cluster.load("reader", "--db", b.path("load.db"), "--seed", i, "--reopen", 7 * i, "--busy", 20) for i in range(3)]
            writer.wait_acked(100, 30)
            for _ in range(rounds(8)):
                time.sleep(rng.random() * 0.3)
                b.kill_and_wait("replicator")
                for r in readers:
                    r.check_running()
            writer.wait_acked(len(writer.acked()) + 50, 30)
            writer.finish()
            cluster.sync()
            for r in readers:
                r.finish()
            cluster.identical()
            harness.check_exactly_once(b, "load.db", [writer])

    def test_everything_killed_in_the_middle(self):
        """No lock outlives that: whoever opens the database first waits until the change is whole."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            rng = harness.seed("all killed")
            harness.make_load_db(a, mode="truncate")
            cluster.sync()
            writer = cluster.load("writer", "--mounts", a.mount, "--large", 3000, "--pad", 1000, "--pause", 0.002)
            writer.wait_acked(100, 30)
            for _ in range(rounds(4)):
                with Session(b.path("load.db")) as keep:
                    keep.sql("SELECT count(*) FROM t")
                    time.sleep(rng.random() * 0.3)
                    b.kill_all()
                b.start()
                for _ in range(5):
                    self.assertEqual(b.sql("load.db", "SELECT (SELECT count(*) FROM t) - (SELECT sum(n) FROM c)"), [(0,)])
                    self.assertEqual(b.sql("load.db", "PRAGMA integrity_check"), [("ok",)])
            writer.finish()
            cluster.identical()

    def test_promotion(self):
        """Writers with open connections, in the middle of their transactions: a pause, no error, nothing lost."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            for mode in JOURNALS:
                harness.make_load_db(a, f"{mode}.db", mode=mode)
            cluster.sync()
            writers = [cluster.load("writer", "--mounts", a.mount, b.mount, "--db", f"{m}.db", "--id", i, "--pragma", f"journal_mode={m}", "--busy", 0.1)
                       for i, m in enumerate(JOURNALS)]
            for w in writers:
                w.wait_acked(30)
            for i in range(rounds(6)):
                cluster.promote((b, a)[i % 2])
                for w in writers:
                    w.wait_acked(len(w.acked()) + 10, 30)
            for w in writers:
                w.finish()
            cluster.identical()
            for m, w in zip(JOURNALS, writers):
                harness.check_exactly_once(a, f"{m}.db", [w])
