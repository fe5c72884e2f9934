"""Synchronous commit: what an application was told to be committed is durable on replicas, and what was refused is nowhere."""
import contextlib
import json
import os
import re
import signal
import sqlite3

import harness
from harness import Cluster, EdgeTest, Load, Session, SessionError, both_modes, wait_until, within
from test_failover import etcd_cluster, wait_followers, wait_primary


def sync(replicas=1, timeout="30s", policy="refuse", more=""):
    return f"sync-replicas: {replicas}\nsync-timeout: {timeout}\nsync-policy: {policy}\n{more}"


def count(node, w=None, name="load.db"):
    return node.sql(name, "SELECT count(*) FROM t" + (f" WHERE w = {w}" if w is not None else ""))[0][0]


def tables(node, name):
    """Names of its tables; empty while the database is not there yet."""
    return {r[0] for r in node.sql(name, "SELECT name FROM sqlite_schema WHERE type = 'table'")} if os.path.exists(node.path(name)) else set()


def records(node, since):
    return [r for r in node.get(f"/v1/log?from={since}")["records"] if r["lsn"] >= since]


@contextlib.contextmanager
def stopped(*nodes):
    """Their replicators are stopped (SIGSTOP) meanwhile."""
    pids = [n.pid("replicator") for n in nodes]
    for p in pids:
        harness.halt(p)
    try:
        yield
    finally:
        for p in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(p, signal.SIGCONT)


def connect(node, mode, name="load.db"):
    conn = sqlite3.connect(node.path(name), isolation_level=None, timeout=20)
    conn.execute("PRAGMA synchronous=FULL")
    conn.execute(f"PRAGMA journal_mode={mode}")
    return conn


@both_modes
class Sync(EdgeTest):
    @within(60)
    def test_a_commit_returns_when_it_is_durable_on_a_replica(self):
        with Cluster(2, passthrough=self.passthrough, extra=sync()) as cluster:
            a, b = cluster.nodes
            for mode in ("wal", "delete", "truncate", "persist"):
                harness.make_load_db(a, mode + ".db", mode="wal" if mode == "wal" else "delete")
                with contextlib.closing(connect(a, mode, mode + ".db")) as conn:
                    for i in range(5):
                        before = a.lsn()
                        conn.execute("INSERT INTO t (w, s) VALUES (1, ?)", (i,))
                        durable = b.status()["log"]["durable_lsn"]
                        new = records(a, before + 1)
                        prepared = [r["lsn"] for r in new if r["type"] == "prepare" and r["name"] == mode + ".db"]
                        self.assertEqual(len(prepared), 1, f"{mode}: {new}")
                        self.assertGreaterEqual(durable, prepared[0], f"{mode}: {new}")
                wait_until(lambda: count(b, name=mode + ".db") == 5, 20, "applied")
            self.assertEqual(a.metric("edgefs_sync_timeouts_total"), 0)
            self.assertEqual(a.metric("edgefs_sync_unasked_total"), 0)
            self.assertGreaterEqual(a.metric("edgefs_sync_commits_total"), 20)
            cluster.identical()

    @within(60)
    def test_each_database_waits_for_as_many_replicas_as_its_pattern_says(self):
        extra = sync(timeout="500ms", more="sync-databases: {'two/*': 2, 'none*': 0}\n")
        with Cluster(3, passthrough=self.passthrough, extra=extra) as cluster, contextlib.ExitStack() as stack:
            a, b, c = cluster.nodes
            names = ("one.db", "two/x.db", "none.db")
            for name in names:
                harness.make_load_db(a, name)
            cluster.sync()
            write = {name: stack.enter_context(Session(a.path(name))) for name in names}
            for session in write.values():
                session.sql("PRAGMA synchronous=FULL")

            def insert(name, s):
                before = a.lsn()
                write[name].sql("INSERT INTO t (w, s) VALUES (1, ?)", s)
                return [r for r in records(a, before + 1) if r["type"] == "prepare" and r["name"] == name]

            for name in names:
                self.assertEqual(len(insert(name, 0)), int(name != "none.db"), name)
            with stopped(c):
                insert("one.db", 1)
                with self.assertRaises(SessionError):
                    insert("two/x.db", 1)
            with stopped(b, c):
                insert("none.db", 1)
                with self.assertRaises(SessionError):
                    insert("one.db", 2)
            wait_until(lambda: len([r for r in a.status()["replicas"] if r["connected"]]) == 2, 30, "both are back")

            def both():  # one of them may not have caught up yet
                with contextlib.suppress(SessionError):
                    return insert("two/x.db", 2)

            wait_until(both, 30, "two replicas have it durable")
            insert("one.db", 3)
            cluster.identical()
            self.assertEqual({name: sorted(s for (s,) in b.sql(name, "SELECT s FROM t")) for name in names},
                             {"one.db": [0, 1, 3], "two/x.db": [0, 2], "none.db": [0, 1]})

    def refused(self, mode):
        """A commit that no replica gets is refused, and the transaction is not seen by anybody, then or later."""
        with Cluster(2, passthrough=self.passthrough, extra=sync(timeout="400ms")) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a, mode=mode)
            with Session(a.path("load.db")) as writer, Session(a.path("load.db")) as reader:
                for s in (writer, reader):
                    s.sql("PRAGMA synchronous=FULL")
                    s.sql(f"PRAGMA journal_mode={mode}")
                writer.sql("INSERT INTO t (w, s) VALUES (1, 0)")
                with stopped(b):
                    for i in range(2):
                        with self.assertRaises(SessionError) as refusal:
                            writer.sql("INSERT INTO t (w, s, pad) VALUES (2, ?, 'refused')", i)
                        self.assertTrue(refusal.exception.name.startswith("SQLITE_IOERR"), refusal.exception.name)
                        self.assertEqual(reader.sql("SELECT count(*) FROM t WHERE w = 2"), [(0,)])
                        self.assertEqual(writer.sql("SELECT count(*) FROM t WHERE w = 2"), [(0,)])
                    with self.assertRaises(SessionError):
                        writer.sql("INSERT INTO t (w, s, pad) VALUES (2, 9, ?)", "refused, and of many frames" * 20000)
                    self.assertEqual(a.metric("edgefs_sync_refused_total"), 3)
                    a.kill_all()  # kill -9 of everything: what follows is a recovery
            wait_until(lambda: b.try_status(), 20, "b is back")
            a.start()
            wait_until(lambda: b.status()["connected"], 20, "b is connected")
            self.assertEqual(count(a), 1)
            self.assertEqual(a.sql("load.db", "PRAGMA integrity_check"), [("ok",)])
            wait_until(lambda: b.status()["applied"]["lsn"] == a.lsn(), 20, "b has all")
            self.assertEqual(count(b), 1)
            with Session(a.path("load.db")) as writer:
                writer.sql("PRAGMA synchronous=FULL")
                writer.sql("INSERT INTO t (w, s) VALUES (3, 0)")
            wait_until(lambda: count(b, 3) == 1, 20, "commits work again")
            self.assertEqual(count(b), 2)
            cluster.identical()

    @within(60)
    def test_a_refused_commit_is_visible_nowhere_wal(self):
        self.refused("wal")

    @within(60)
    def test_a_refused_commit_is_visible_nowhere_delete(self):
        self.refused("delete")

    @within(60)
    def test_a_refused_commit_is_visible_nowhere_persist(self):
        self.refused("persist")


class SyncStates(EdgeTest):
    @within(60)
    def test_degraded_goes_on_without_waiting_says_so_and_returns(self):
        with Cluster(2, extra=sync(timeout="300ms", policy="degrade")) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            harness.make_load_db(a, "journal.db", mode="delete")
            with contextlib.closing(connect(a, "wal")) as conn, contextlib.closing(connect(a, "delete", "journal.db")) as other:
                conn.execute("INSERT INTO t (w, s) VALUES (1, 0)")
                self.assertEqual(a.status()["sync"]["state"], "synchronous")
                with stopped(b):
                    before, durable = a.status()["sync"]["unwaited"], a.lsn()
                    for i in range(10):
                        conn.execute("INSERT INTO t (w, s) VALUES (2, ?)", (i,))
                    status = a.status()
                    self.assertEqual(status["sync"]["state"], "degraded")
                    self.assertTrue(any("degraded" in w for w in status["warnings"]), status["warnings"])
                    self.assertEqual(a.metric("edgefs_sync_degraded"), 1)
                    self.assertEqual(a.metric("edgefs_sync_timeouts_total"), 1)
                    self.assertGreaterEqual(a.metric("edgefs_sync_degraded_commits_total"), 9)
                    self.assertEqual(status["sync"]["unwaited"], before + 10)
                    other.execute("INSERT INTO t (w, s) VALUES (2, 0)")
                    self.assertEqual(a.status()["sync"]["unwaited"], before + 11)
                    with open(a.log_file) as log:
                        start = int(re.search(r"what is committed from LSN (\d+) on is lost", log.read()).group(1))
                    self.assertEqual(start, durable + 1)
                    end = a.lsn()
                wait_until(lambda: a.status()["sync"]["state"] == "synchronous", 20, "b is back")
                self.assertEqual(a.status()["warnings"], [])
                with open(a.log_file) as log:
                    first, last = map(int, re.search(r"what was committed meanwhile, LSN (\d+) to (\d+)", log.read()).groups())
                self.assertEqual(first, start)
                self.assertGreaterEqual(last, end)
                commits = a.metric("edgefs_sync_commits_total")
                conn.execute("INSERT INTO t (w, s) VALUES (3, 0)")
                self.assertEqual(a.metric("edgefs_sync_commits_total"), commits + 1)
            wait_until(lambda: count(b) == 12, 20, "b has all")

    @within(60)
    def test_only_the_named_databases_wait_and_one_that_does_not_sync_is_warned_of(self):
        with Cluster(2, extra=sync(timeout="300ms", policy="degrade", more="sync-databases: ['s*.db']\n")) as cluster:
            a, b = cluster.nodes
            for name in ("other.db", "s1.db"):
                harness.make_load_db(a, name)
            with contextlib.closing(connect(a, "wal", "other.db")) as conn, contextlib.closing(connect(a, "wal", "s1.db")) as named:
                commits = a.metric("edgefs_sync_commits_total")
                for i in range(5):
                    conn.execute("INSERT INTO t (w, s) VALUES (1, ?)", (i,))
                self.assertEqual(a.metric("edgefs_sync_commits_total"), commits)
                named.execute("INSERT INTO t (w, s) VALUES (1, 0)")
                self.assertEqual(a.metric("edgefs_sync_commits_total"), commits + 1)
                named.execute("PRAGMA synchronous=NORMAL")
                named.execute("INSERT INTO t (w, s) VALUES (1, 1)")
                wait_until(lambda: any("s1.db" in w and "FULL" in w for w in a.status()["warnings"]), 20, "a warning")
                self.assertEqual(a.metric("edgefs_sync_unasked_total"), 1)
                named.execute("PRAGMA synchronous=FULL")
                named.execute("INSERT INTO t (w, s) VALUES (1, 2)")
                wait_until(lambda: not a.status()["warnings"], 20, "no warning any more")

    @within(60)
    def test_a_writer_that_is_killed_while_it_waits_has_not_committed(self):
        with Cluster(2, extra=sync()) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            with Session(a.path("load.db")) as reader, Session(a.path("load.db")) as writer:
                writer.sql("PRAGMA synchronous=FULL")
                writer.sql("INSERT INTO t (w, s) VALUES (1, 0)")
                self.assertEqual(reader.sql("SELECT count(*) FROM t"), [(1,)])
                since = a.lsn() + 1
                with stopped(b):
                    writer.send("INSERT INTO t (w, s) VALUES (2, 0)")
                    wait_until(lambda: a.metric("edgefs_sync_waiting") == 1, 20, "it waits")
                    self.assertEqual(reader.sql("SELECT count(*) FROM t"), [(1,)])  # readers do not
                    writer.process.kill()
                writer.process.wait(20)
                wait_until(lambda: [r["type"] for r in records(a, since)][-1:] == ["abort"], 20, lambda: f"an ABORT record: {records(a, since)}")
                self.assertEqual(reader.sql("SELECT count(*) FROM t"), [(1,)])
                reader.sql("PRAGMA synchronous=FULL")
                reader.sql("INSERT INTO t (w, s) VALUES (3, 0)")
                wait_until(lambda: count(b) == 2, 20, "b follows")
                self.assertEqual(count(b, 2), 0)
            cluster.identical()

    @within(60)
    def test_the_replicator_may_be_killed_while_a_commit_waits(self):
        with Cluster(2, extra=sync()) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            with Session(a.path("load.db")) as writer:
                writer.sql("PRAGMA synchronous=FULL")
                writer.sql("INSERT INTO t (w, s) VALUES (1, 0)")
                with stopped(b):
                    writer.send("INSERT INTO t (w, s) VALUES (1, 1)")
                    wait_until(lambda: a.metric("edgefs_sync_waiting") == 1, 20, "it waits")
                    a.kill_and_wait("replicator")
                    wait_until(lambda: a.try_status() and a.metric("edgefs_sync_waiting") == 1, 20, "the next one was asked again")
                writer.receive()
            wait_until(lambda: count(b) == 2, 20, "b has it")
            cluster.identical()

    @within(60)
    def test_a_new_primary_commits_what_may_have_been_acknowledged(self):
        for mode in ("wal", "delete"):
            with Cluster(2, extra=sync(replicas=1)) as cluster:
                a, b = cluster.nodes
                name = "load.db"
                harness.make_load_db(a, name, mode=mode)
                wait_until(lambda: "t" in tables(b, "load.db") and count(b) == 0, 20, "b has the database")
                a.extra = a.extra.replace("sync-replicas: 1", "sync-replicas: 2")  # there is only one: the commit waits, but the one has it
                a.write_config()
                a.stop()
                a.start()
                wait_until(lambda: b.status()["connected"], 20, "b is connected")
                with Session(a.path(name)) as writer:
                    writer.sql("PRAGMA synchronous=FULL")
                    writer.send("INSERT INTO t (w, s) VALUES (1, 0)")
                    wait_until(lambda: a.metric("edgefs_sync_waiting") == 1, 20, "it waits")
                    lsn = a.lsn()
                    wait_until(lambda: b.status()["log"]["durable_lsn"] >= lsn, 20, "b has it durable")
                    self.assertEqual(count(b), 0)  # and nobody sees it
                    a.kill("replicator", signal.SIGSTOP)  # that is: it says nothing of the writer's end any more
                    a.kill_all()
                b.extra = b.extra.replace("sync-replicas: 1", "sync-replicas: 0")
                b.write_config()
                b.stop()
                b.start()  # it finds the prepared transaction in its log
                harness.ctl(b, "promote", "b", "--force", "--yes")
                b.wait_role("primary")
                self.assertEqual(count(b, 1), 1, mode)
                b.sql(name, "INSERT INTO t (w, s) VALUES (2, 0)")
                a.start()
                wait_until(lambda: a.status()["connected"] and a.status()["role"] == "replica", 20, "a follows")
                wait_until(lambda: count(a) == 2, 20, "a has both")
                cluster.identical()


    def test_what_nobody_was_told_of_is_not_seen_on_the_old_primary_either(self):
        """It lies in the WAL when all is killed, and would be recovered there by whoever opens the database first."""
        with Cluster(2, extra=sync()) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            wait_until(lambda: "t" in tables(b, "load.db") and count(b) == 0, 20, "b has the database")
            b.stop()
            with Session(a.path("load.db")) as writer:
                writer.sql("PRAGMA synchronous=FULL")
                writer.send("INSERT INTO t (w, s) VALUES (1, 0)")
                wait_until(lambda: a.metric("edgefs_sync_waiting") == 1, 20, "it waits")
                a.kill("replicator", signal.SIGSTOP)  # that is: it says nothing of the writer's end
                a.kill_all()
            b.extra = b.extra.replace("sync-replicas: 1", "sync-replicas: 0")
            b.write_config()
            b.start()
            harness.ctl(b, "promote", "b", "--force", "--yes")
            b.wait_role("primary")
            b.sql("load.db", "INSERT INTO t (w, s) VALUES (2, 0)")
            a.start()

            def whole():
                seen = set()
                with contextlib.suppress(sqlite3.Error):
                    seen = set(a.sql("load.db", "SELECT w, s FROM t"))
                self.assertLessEqual(seen, {(2, 0)}, "what the cluster does not have")
                return seen

            wait_until(whole, 30, "a has what b has")
            cluster.identical()

    def waits_when_all_is_killed(self, a, b):
        """A commit waits on a for b, which is stopped, when all programs of a are killed; a starts again. Its WAL has the transaction."""
        harness.make_load_db(a)
        a.sql("load.db", "PRAGMA wal_checkpoint")
        wait_until(lambda: "t" in tables(b, "load.db") and count(b) == 0, 20, "b has the database")
        b.stop()
        with Session(a.path("load.db")) as writer:
            writer.sql("PRAGMA synchronous=FULL")
            writer.send("INSERT INTO t (w, s) VALUES (1, 0)")
            wait_until(lambda: a.metric("edgefs_sync_waiting") == 1, 20, "it waits")
            a.kill("replicator", signal.SIGSTOP)  # that is: it says nothing of the writer's end
            a.kill_all()
        a.start()
        a.wait_role("primary")

    @within(60)
    def test_what_a_primary_recovers_is_not_seen_before_replicas_have_it(self):
        """Nobody was told that it is committed. A reader that saw it would have seen what is gone if this node is lost now."""
        with Cluster(2, extra=sync(timeout="2s")) as cluster:
            a, b = cluster.nodes
            self.waits_when_all_is_killed(a, b)
            with self.assertRaises(sqlite3.OperationalError):
                count(a, 1)
            b.start()
            wait_until(lambda: b.status()["connected"], 20, "b is connected")
            self.assertEqual(count(a, 1), 1)  # the open waits as long as a commit would
            self.assertEqual(count(b, 1), 1)
            with Session(a.path("load.db")) as holder:  # leaves a WAL behind whose transactions replicas have
                holder.sql("INSERT INTO t (w, s) VALUES (2, 0)")
                holder.process.kill()
            b.stop()
            self.assertEqual(count(a, 1), 1)
            b.start()
            wait_until(lambda: b.status()["connected"] and count(b) == 2, 20, "b follows")
            cluster.identical()

    @within(60)
    def test_what_a_primary_recovers_is_seen_after_a_while_if_commits_do_not_wait_longer(self):
        with Cluster(2, extra=sync(timeout="2s", policy="degrade")) as cluster:
            a, b = cluster.nodes
            self.waits_when_all_is_killed(a, b)
            self.assertEqual(count(a, 1), 1)
            self.assertEqual(a.metric("edgefs_sync_degraded"), 1)
            b.start()
            wait_until(lambda: b.status()["connected"] and count(b) == 1, 20, "b follows")
            cluster.identical()


class SyncFailover(EdgeTest):
    @within(90)
    def test_no_acknowledged_commit_is_lost_with_the_primary(self):
        with etcd_cluster(3, extra=sync(policy="degrade")) as (etcd, cluster, primary):
            names = ["load.db", "more.db"]
            for name in names:
                harness.make_load_db(primary, name, mode="wal" if name == "load.db" else "delete")
            writers = [Load(cluster, "writer", ["--mounts", primary.mount, "--db", name, "--sync", "FULL", "--id", i, "--pause", "0.001"])
                       for i, name in enumerate(names + names)]
            for w in writers:
                w.wait_acked(100)
            primary.kill_all()
            for w in writers:
                w.kill()
            new = wait_primary(cluster, primary, 30)
            for name in names:
                mine = [w for i, w in enumerate(writers) if (names + names)[i] == name]
                self.assertGreater(harness.check_exactly_once(new, name, mine, died=True), 0)
            new.sql("load.db", "PRAGMA integrity_check")
            primary.start()
            wait_followers(cluster, new)
            wait_until(lambda: count(primary) == count(new), 30, lambda: f"the old primary has the same: {count(primary)}, {count(new)}")
            cluster.identical()

    @within(90)
    def test_who_may_lack_an_acknowledged_commit_does_not_take_over_before_enough_others_are_heard(self):
        with etcd_cluster(3, extra=sync()) as (etcd, cluster, primary):
            harness.make_load_db(primary)
            has, lacks = [n for n in cluster.nodes if n is not primary]
            wait_until(lambda: "t" in tables(lacks, "load.db") and count(lacks) == 0, 20, "the database is everywhere")
            with stopped(lacks), Session(primary.path("load.db")) as writer:
                writer.sql("PRAGMA synchronous=FULL")
                writer.sql("INSERT INTO t (w, s) VALUES (1, 0)")  # acknowledged: one replica has it
                primary.kill_all()
                has.kill_all()
            wait_until(lambda: "it takes 2" in json.dumps(lacks.status()["warnings"]), 30, lambda: f"it waits, and says why: {lacks.status()}")
            lacked = count(lacks) == 0  # else it found the transaction in its socket when it went on
            self.assertEqual(lacks.status()["role"], "replica")
            has.start(wait=False)
            new = wait_primary(cluster, primary, 30)
            if lacked:
                self.assertIs(new, has)
            self.assertEqual(count(new), 1)
            primary.start()
            wait_followers(cluster, new)
            cluster.identical()

    @within(90)
    def test_a_node_that_fences_itself_ends_the_commits_that_wait(self):
        """Nothing that the fence does may wait for what only the end of such a commit gives free: the inode of its WAL, which fsync has locked."""
        with etcd_cluster(2, extra=sync(timeout="4s")) as (etcd, cluster, primary):
            replica = next(n for n in cluster.nodes if n is not primary)
            for name, mode in (("load.db", "wal"), ("more.db", "delete")):
                harness.make_load_db(primary, name, mode=mode)
            wait_until(lambda: all("t" in tables(replica, name) and count(replica, name=name) == 0 for name in ("load.db", "more.db")), 20, "the databases are everywhere")
            with contextlib.ExitStack() as stack:
                writers = [stack.enter_context(Session(primary.path(name))) for name in ("load.db", "more.db")]
                for w in writers:
                    w.sql("PRAGMA synchronous=FULL")
                with stopped(replica):
                    etcd.signal(signal.SIGSTOP)
                    for w in writers:
                        w.send("INSERT INTO t (w, s) VALUES (1, 0)")
                    wait_until(lambda: "could not be renewed" in primary.log(), 30, "it fences itself")
                    for w in writers:
                        with self.assertRaises(SessionError):
                            w.receive()
                    wait_until(lambda: primary.status()["role"] == "replica", 30, "it is fenced")
                    etcd.signal(signal.SIGCONT)
            new = wait_primary(cluster, timeout=30)
            self.assertEqual(count(new), 0)
            # 1: not as it should be, and open: docs/synchronous-commit.md, "What is not done yet". Seen once, on a machine with much else to do.
            self.assertIn(count(new, name="more.db"), (0, 1))
            self.assertNotIn("no answer to hook", primary.log())
            wait_followers(cluster, new)
            cluster.identical()


if __name__ == "__main__":
    harness.unittest.main()
