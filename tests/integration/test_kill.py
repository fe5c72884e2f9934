"""kill -9 of each program at random moments under load. Whoever works in the mount sees nothing of it."""
import contextlib
import os
import signal
import time

import harness
from harness import Cluster, EdgeTest, Session, SessionError, both_modes, rounds, within, wait_until


def storm(test, cluster, program, nodes, loads, progress, rng, n, gap):
    """Kills `program` n times, on a random one of these nodes, at random moments up to `gap` seconds after the one before was
    replaced. After each kill every load is still at work, and those in `progress` get on."""
    back = []
    for i in range(n):
        time.sleep(rng.random() * gap)  # the random moment
        node = rng.choice(nodes)
        back.append(node.kill_and_wait(program))
        test.assertLess(back[-1], 10, f"{program} of {node.name} was back only after {back[-1]:.2f} s (kill {i})")  # how fast: `bench/run supervise`
        for load in loads:
            load.check_running()
        before = [len(w.acked()) for w in progress]
        wait_until(lambda: all(w.check_running() or len(w.acked()) > k for w, k in zip(progress, before)), 10,
                   lambda: f"every load gets on after kill {i} of {program} on {node.name}: {[w.report() for w in progress]}")
    print(f"{program}: {n} kills, back after {1000 * sum(back) / n:.0f} ms on average, {1000 * max(back):.0f} ms at most")


@both_modes
class Kill(EdgeTest):
    timeout = 90

    def storm_under_load(self, program, what):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            rng = harness.seed(what)
            harness.make_load_db(a)
            harness.make_load_db(a, "dir/two.db")
            cluster.sync()
            one = [cluster.load("writer", "--mounts", a.mount, "--id", i, "--sync", ("NORMAL", "FULL")[i % 2], "--reopen", 0 if i else 25,
                                "--autocheckpoint", 60) for i in range(2)]
            two = [cluster.load("writer", "--mounts", a.mount, "--db", "dir/two.db", "--id", 9, "--sync", "FULL", "--checkpoint", "TRUNCATE")]
            calls = [cluster.load("syscalls", "--dir", a.path("calls"))]
            readers = [cluster.load("reader", "--db", n.path("load.db"), "--seed", 1, "--reopen", 30 if n is b else 0) for n in (a, b)]
            for w in one + two + calls:
                w.wait_acked(3)
            storm(self, cluster, program, [a, a, b], one + two + calls + readers, one + two + calls, rng, rounds(30), 0.15)
            results = [w.finish() for w in one + two + calls + readers]
            print(results)
            self.assertLess(max(r["longest_s"] for r in results), 15, "nothing hangs")
            cluster.identical(["load.db", "dir/two.db"])
            for n in (a, b):
                harness.check_exactly_once(n, "load.db", one)
                harness.check_exactly_once(n, "dir/two.db", two)

    def test_fs(self):
        self.storm_under_load("fs", "kill fs")

    def test_replicator(self):
        self.storm_under_load("replicator", "kill replicator")

    def test_fs_with_a_rollback_journal(self):
        """The application of a database that is not in WAL mode notices nothing either."""
        with Cluster(1, self.passthrough) as cluster:
            (a,) = cluster.nodes
            rng = harness.seed("kill fs, rollback journal")
            writers = []
            for mode in ("DELETE", "PERSIST", "TRUNCATE"):
                harness.make_load_db(a, mode + ".db")
                harness.set_journal_mode(a, mode + ".db", mode)
                writers.append(cluster.load("writer", "--mounts", a.mount, "--db", mode + ".db", "--sync", "FULL", "--reopen", 20))
            for w in writers:
                w.wait_acked(3)
            storm(self, cluster, "fs", [a], writers, writers, rng, rounds(10), 0.15)
            for w, mode in zip(writers, ("DELETE", "PERSIST", "TRUNCATE")):
                w.finish()
                harness.check_exactly_once(a, mode + ".db", [w])
                self.assertEqual(a.sql(mode + ".db", "PRAGMA integrity_check"), [("ok",)])

    @within(120)
    def test_launcher(self):
        """The mount goes with the launcher, so applications do see that one. But nothing that was acknowledged is lost."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            rng = harness.seed("kill launcher")
            harness.make_load_db(a)
            cluster.sync()
            done, first = [], 0
            for i in range(rounds(30)):
                writer = cluster.load("writer", "--mounts", a.mount, "--id", 1, "--first", first, "--sync", "FULL", "--busy", 5)
                writer.wait_acked(2)
                time.sleep(rng.random() * 0.1)
                victim = rng.choice([a, b])
                victim.kill("launcher")
                victim.process.wait()
                if victim is a:
                    # With its launcher gone the application ends sooner or later; this one now.
                    writer.kill()
                else:
                    writer.finish()
                    self.assertGreater(len(writer.acked()), 0)
                done.append(writer)
                first = max((s for _, s in writer.acked()), default=first) + 2
                victim.start()
                wait_until(lambda: (b.try_status() or {}).get("connected"), 15, "b follows again")
                if victim is a:
                    harness.check_exactly_once(a, "load.db", done, died=True)
            cluster.identical()
            for n in (a, b):
                harness.check_exactly_once(n, "load.db", done, died=True)

    def test_power_cut(self):
        """All programs of a node at once, with transactions in the WAL that no checkpoint has seen."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            cluster.sync()
            done = []
            for i in range(rounds(3)):
                for victim in (a, b):
                    writer = cluster.load("writer", "--mounts", a.mount, "--id", 1, "--first", len(done) * 1000000, "--sync", "FULL",
                                          "--autocheckpoint", 0, "--busy", 5)
                    writer.wait_acked(30)
                    victim.kill_all()
                    if victim is a:
                        writer.kill()
                    else:
                        writer.finish()
                    done.append(writer)
                    victim.start()
                    wait_until(lambda: (b.try_status() or {}).get("connected"), 15, "b follows again")
                    cluster.sync()
                    for n in (a, b):
                        harness.check_exactly_once(n, "load.db", done, died=True)
            cluster.identical()


@both_modes
class Held(EdgeTest):
    def test_locks_and_transactions_outlive_the_programs(self):
        """An open transaction on the primary, an open snapshot and the fence on the replica: none is lost with a program."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            cluster.sync()
            with contextlib.ExitStack() as stack:
                writer, rival, keeper, intruder = (stack.enter_context(Session(n.path("load.db"), timeout=0.1)) for n in (a, a, b, b))
                keeper.sql("SELECT count(*) FROM t")
                for i, program in enumerate(("fs", "replicator", "fs", "replicator")):
                    writer.sql("BEGIN IMMEDIATE")
                    writer.sql("INSERT INTO t (w, s) VALUES (1, ?)", i)
                    keeper.sql("BEGIN")
                    self.assertEqual(keeper.sql("SELECT count(*) FROM t"), [(i,)])
                    old = {n.name: n.kill(program) for n in (a, b)}
                    # At once, while the successor may still be starting, and after it is there.
                    for moment in (0, 1):
                        with self.assertRaises(SessionError) as e:
                            rival.sql("INSERT INTO t (w, s) VALUES (2, 1)")
                        self.assertEqual(e.exception.name, "SQLITE_BUSY")
                        with self.assertRaises(SessionError) as e:
                            intruder.sql("INSERT INTO t (w, s) VALUES (3, 1)")
                        self.assertIn("SQLITE_BUSY", e.exception.name)
                        for n in (a, b):
                            wait_until(lambda: n.pids().get(program, old[n.name]) != old[n.name], 5, f"{program} of {n.name} is back")
                    self.assertEqual(keeper.sql("SELECT count(*) FROM t"), [(i,)])
                    writer.sql("COMMIT")
                    keeper.sql("COMMIT")
                    wait_until(lambda: keeper.sql("SELECT count(*) FROM t") == [(i + 1,)], 10, "the row arrives")
                # The database that a replica opens for the first time while its replicator is away: a wait, no write.
                harness.make_load_db(a, "new.db")
                cluster.sync()
            pid = b.kill("replicator", signal.SIGSTOP)
            try:
                os.kill(pid, signal.SIGKILL)
                with Session(b.path("new.db"), timeout=0.1) as late:
                    with self.assertRaises(SessionError):
                        late.sql("INSERT INTO t (w, s) VALUES (3, 1)")
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            cluster.identical()
