"""The launcher of a node is killed while applications go on: on a replica they cannot commit anything; and if all that keeps them from it is killed, too, what they commit is in quarantine."""
import contextlib
import json
import os
import signal

import harness
from harness import Cluster, EdgeTest, Session, SessionError, both_modes, wait_until, within
from test_failover import etcd_cluster, wait_followers
from test_split import kept_rows

NAMES = {"load.db": "wal", "dir/two.db": "delete"}


def databases(cluster, primary):
    for name, mode in NAMES.items():
        harness.make_load_db(primary, name, mode=mode)
        primary.sql(name, "INSERT INTO t (w, s) VALUES (0, -1)")
    cluster.sync()


@contextlib.contextmanager
def sessions(node, synchronous="NORMAL"):
    """{name: a connection that has read}."""
    with contextlib.ExitStack() as stack:
        all_of_them = {name: stack.enter_context(Session(node.path(name), 0.2)) for name in NAMES}
        for session in all_of_them.values():
            session.sql(f"PRAGMA synchronous={synchronous}")
            session.sql("SELECT count(*) FROM t")
        yield all_of_them


def quarantined(node):
    return json.loads(harness.ctl(node, "quarantine", "ls", "--json"))["quarantine"]


def rows(node, name):
    return {s for (s,) in node.sql(name, "SELECT s FROM t")}


class Orphan(EdgeTest):
    timeout = 60

    def refused(self, session, s):
        with self.assertRaises(SessionError) as refused:
            session.sql("INSERT INTO t (w, s) VALUES (9, ?)", s)
        self.assertRegex(refused.exception.name, "BUSY|READONLY|IOERR|CANTOPEN")

    def gone(self, node, pids):
        wait_until(lambda: not any(harness.alive(p) for p in pids.values()), 30, lambda: f"nothing of {node.name} runs any more: {node.pids()}")


@both_modes
class Replica(Orphan):
    def test_no_application_commits_on_a_replica_whose_launcher_was_killed(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            databases(cluster, a)
            with sessions(b) as on_b:
                pids, log = b.pids(), len(b.log())
                b.kill("launcher")
                b.process.wait()
                for i in range(3):  # whatever the other programs know by now
                    for session in on_b.values():
                        self.refused(session, 100 + i)
                wait_until(lambda: "keeping applications from writing" in b.log()[log:], 30, lambda: "the replicator stays: " + b.log()[log:])
                for name, session in on_b.items():
                    self.refused(session, 200)
                    self.assertEqual(session.sql("SELECT s FROM t"), [(-1,)], "reads go on")
                self.assertTrue(harness.alive(pids["replicator"]))
                on_b["load.db"].close()  # the fence of the other one stands
                self.refused(on_b["dir/two.db"], 201)
            self.gone(b, {"replicator": pids["replicator"]})
            for name in NAMES:
                a.sql(name, "INSERT INTO t (w, s) VALUES (0, 1)")
            b.start()
            cluster.sync()
            cluster.identical()
            self.assertEqual({name: rows(b, name) for name in NAMES}, {name: {-1, 1} for name in NAMES})
            self.assertEqual(quarantined(b), [])

    def killed(self, victims):
        """Each of the databases of a replica is written by an application after those programs of it were killed."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            databases(cluster, a)
            expected = {-1}
            for round_ in range(2):
                with sessions(b) as on_b:
                    if "fs" in victims:  # frames in the WAL: with an empty one SQLite asks edgefs-fs for the file's size. Else both rounds are at the same place of the log
                        for name in NAMES:
                            a.sql(name, "INSERT INTO t (w, s) VALUES (0, ?)", (round_,))
                        expected.add(round_)
                        cluster.sync()
                    pids = b.pids()
                    for program in victims:
                        os.kill(pids[program], signal.SIGKILL)
                    b.process.wait()
                    self.gone(b, {p: pids[p] for p in victims})
                    committed = set()
                    for name, session in on_b.items():
                        with contextlib.suppress(SessionError):
                            session.sql("INSERT INTO t (w, s) VALUES (9, ?)", 300 + round_)
                            committed.add(name)
                    if self.passthrough or "fs" not in victims:
                        self.assertIn("load.db", committed, "with a WAL nothing is synced, so the application is told that it is committed")
                b.kill_all()
                b.start()
                wait_until(lambda: all(d["state"] == "ok" for d in b.databases().values()), 30, lambda: f"b has the primary's pages again: {b.databases()}")
                cluster.sync()
                cluster.identical()
                for name in committed:
                    self.assertEqual(rows(b, name), expected)
                    self.assertLessEqual(set(range(300, 301 + round_)), kept_rows(b, name), f"{name}: what was committed on the replica")
            self.assertEqual(quarantined(a), [])

    def test_what_is_committed_on_a_replica_while_it_stops_is_in_quarantine(self):
        """With the replicator go the fences, and an application that still has a database open keeps the mount for some seconds."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            databases(cluster, a)
            committed = set()
            with sessions(b) as on_b:
                log = len(b.log())
                b.process.send_signal(signal.SIGTERM)
                wait_until(lambda: "is still used by" in b.log()[log:], 30, lambda: "it waits for the applications: " + b.log()[log:])
                for name, session in on_b.items():
                    with contextlib.suppress(SessionError):
                        session.sql("INSERT INTO t (w, s) VALUES (9, 300)")
                        committed.add(name)
            self.assertEqual(b.process.wait(30), 0)
            a.sql("load.db", "INSERT INTO t (w, s) VALUES (0, 1)")
            b.start()
            wait_until(lambda: all(d["state"] == "ok" for d in b.databases().values()), 30, lambda: f"b has the primary's pages again: {b.databases()}")
            cluster.sync()
            cluster.identical()
            self.assertEqual(rows(b, "load.db"), {-1, 1})
            for name in committed:
                self.assertIn(300, kept_rows(b, name), f"{name}: what was committed on the replica")
            self.assertIn("load.db", committed, "nothing fences it any more: if this changes, so should what is expected here")
            self.assertEqual(quarantined(a), [])

    @within(120)
    def test_what_is_committed_on_a_replica_without_launcher_and_replicator_is_in_quarantine(self):
        self.killed(("launcher", "replicator"))

    @within(120)
    def test_what_is_committed_on_a_replica_all_of_whose_programs_were_killed_is_in_quarantine(self):
        self.killed(("launcher", "replicator", "fs"))


class Primary(Orphan):
    @within(120)
    def test_a_primary_whose_launcher_was_killed_lets_go_of_the_lease_and_lets_nobody_write(self):
        with etcd_cluster(3) as (_, cluster, primary):
            databases(cluster, primary)
            with sessions(primary) as on_it:
                pids = primary.pids()
                primary.kill("launcher")
                primary.process.wait()
                new = wait_until(lambda: next((n for n in cluster.nodes if n is not primary and n.role() == "primary"), None), 30, "another takes over")
                for name, session in on_it.items():
                    self.refused(session, 100)
                    new.sql(name, "INSERT INTO t (w, s) VALUES (2, 2)")
            self.gone(primary, {"replicator": pids["replicator"]})
            primary.start(wait=False)
            primary.wait_ready(60)
            wait_followers(cluster, new)
            cluster.sync()
            cluster.identical()
            self.assertEqual({name: rows(primary, name) for name in NAMES}, {name: {-1, 2} for name in NAMES})
            self.assertEqual(quarantined(primary), [])

