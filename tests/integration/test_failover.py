"""The lease in etcd: somebody takes over when the primary is gone, and nobody writes without the lease."""
import contextlib
import json
import os
import signal
import time

import harness
from etcd import Etcd
from harness import Cluster, EdgeTest, Session, SessionError, wait_until, within


def primary_of(cluster):
    """The one node that says that it is primary, or None."""
    found = [n for n in cluster.nodes if n.running() and (n.try_status() or {}).get("role") == "primary"]
    return found[0] if len(found) == 1 else None


def wait_primary(cluster, other_than=None, timeout=20):
    return wait_until(lambda: (p := primary_of(cluster)) is not other_than and p, timeout, "a node is primary")


def wait_followers(cluster, primary):
    for node in cluster.nodes:
        if node is not primary and node.running():
            wait_until(lambda n=node: (s := n.try_status() or {}).get("connected") and s.get("primary") == primary.name, 20,
                       lambda n=node: f"{n.name} follows {primary.name}: {n.try_status()}")


@contextlib.contextmanager
def etcd_cluster(n, ttl="2s", members=1, more=None, extra=""):
    """n nodes and an etcd; yields (etcd, cluster, primary), everybody connected. more: {name: more of that node's lease}."""
    with Etcd(members) as etcd, Cluster(n, start=False, extra=extra) as cluster:
        for node in cluster.nodes:
            node.lease = etcd.lease(ttl, (more or {}).get(node.name, ""))
            node.write_config()
            node.start(wait=False)
        for node in cluster.nodes:
            node.wait_ready()
        primary = wait_primary(cluster)
        wait_followers(cluster, primary)
        yield etcd, cluster, primary


class Failover(EdgeTest):
    @within(90)
    def test_the_most_advanced_replica_takes_over_when_the_primary_dies(self):
        with etcd_cluster(3) as (etcd, cluster, primary):
            harness.make_load_db(primary)
            behind, ahead = [n for n in cluster.nodes if n is not primary]
            for i in range(20):
                primary.sql("load.db", "INSERT INTO t (w, s) VALUES (1, ?)", (i,))
            for n in (behind, ahead):
                wait_until(lambda n=n: n.sql("load.db", "SELECT count(*) FROM t") == [(20,)], 10, "both have it")
            harness.halt(behind.pid("replicator"))  # it stays behind: more than its socket takes
            try:
                for i in range(20, 40):
                    primary.sql("load.db", "INSERT INTO t (w, s, pad) VALUES (1, ?, ?)", (i, os.urandom(1000000).hex()))
                wait_until(lambda: ahead.sql("load.db", "SELECT count(*) FROM t") == [(40,)], 20, "one has all")
                epoch = primary.status()["epoch"]
                primary.kill_all()
            finally:
                os.kill(behind.pid("replicator"), signal.SIGCONT)
            new = wait_primary(cluster, primary)
            self.assertIs(new, ahead)
            self.assertGreater(new.status()["epoch"], epoch)
            self.assertEqual(new.sql("load.db", "SELECT count(*) FROM t"), [(40,)])
            new.sql("load.db", "INSERT INTO t (w, s) VALUES (2, 0)")
            wait_until(lambda: behind.sql("load.db", "SELECT count(*) FROM t") == [(41,)], 20, "the other follows")
            primary.start()
            wait_followers(cluster, new)
            wait_until(lambda: primary.sql("load.db", "SELECT count(*) FROM t") == [(41,)], 20, "the old primary follows")
            self.assertEqual(primary.status()["role"], "replica")
            cluster.identical()

    @within(60)
    def test_a_restarted_replicator_stays_primary_in_the_same_epoch(self):
        with etcd_cluster(2) as (etcd, cluster, primary):
            harness.make_load_db(primary)
            epoch = primary.status()["epoch"]
            for _ in range(3):
                primary.kill_and_wait("replicator")
                wait_until(lambda: (primary.try_status() or {}).get("role") == "primary", 10, "it is primary again")
                primary.sql("load.db", "INSERT INTO t (w, s) VALUES (1, 1)")
            self.assertEqual(primary.status()["epoch"], epoch)
            cluster.sync()
            cluster.identical()

    @within(60)
    def test_without_etcd_a_primary_fences_itself_and_takes_over_again_when_it_is_back(self):
        with etcd_cluster(2) as (etcd, cluster, primary):
            harness.make_load_db(primary)
            cluster.sync()
            with Session(primary.path("load.db"), timeout=0.1) as app:
                app.sql("INSERT INTO t (w, s) VALUES (1, 1)")
                etcd.kill()
                wait_until(lambda: primary.status()["role"] != "primary", 10, "it fences itself")

                def refused():
                    try:
                        app.sql("INSERT INTO t (w, s) VALUES (1, 2)")
                    except SessionError as e:
                        return e.name
                    return None

                self.assertIn("BUSY", wait_until(refused, 5, "writes are refused"))
                self.assertEqual(app.sql("SELECT count(*) FROM t WHERE s = 1"), [(1,)])
                etcd.start()
                new = wait_primary(cluster)
                wait_followers(cluster, new)
                new.sql("load.db", "INSERT INTO t (w, s) VALUES (3, 3)")
            cluster.sync()
            cluster.identical()

    @within(60)
    def test_a_stopped_primary_gives_the_lease_up_at_once(self):
        with etcd_cluster(2, ttl="60s") as (etcd, cluster, primary):
            harness.make_load_db(primary)
            cluster.sync()
            other = next(n for n in cluster.nodes if n is not primary)
            primary.stop()
            wait_until(lambda: other.status()["role"] == "primary", 15, "the other takes over long before the lease runs out")
            other.sql("load.db", "INSERT INTO t (w, s) VALUES (1, 1)")
            primary.start()
            wait_followers(cluster, other)
            cluster.sync()
            cluster.identical()

    @within(90)
    def test_planned_promotions_move_the_lease(self):
        with etcd_cluster(3) as (etcd, cluster, primary):
            harness.make_load_db(primary)
            cluster.sync()
            writers = [cluster.load("writer", "--mounts", *[n.mount for n in cluster.nodes], "--id", i, "--busy", 2) for i in range(2)]
            for w in writers:
                w.wait_acked(5)
            for i in range(6):
                target = next(n for n in cluster.nodes if n is not primary)
                wait_until(lambda: any(r["node"] == target.name and r["connected"] for r in primary.status()["replicas"]), 10, "it is connected")
                answer = cluster.promote(target, via=primary)
                self.assertEqual(answer["primary"], target.name)
                primary = target
                wait_until(lambda: primary.status()["lease"]["holder"] == primary.name, 5, "the lease is the target's")
            for w in writers:
                w.finish()
            wait_followers(cluster, primary)
            cluster.identical()
            for n in cluster.nodes:
                harness.check_exactly_once(n, "load.db", writers)

    @within(60)
    def test_who_is_no_candidate_or_empty_does_not_take_over(self):
        with etcd_cluster(2, more={"b": "candidate: false"}) as (etcd, cluster, primary):
            a, b = cluster.nodes
            self.assertIs(primary, a)
            harness.make_load_db(a)
            cluster.sync()
            a.kill_all()
            wait_until(lambda: "no candidate" in " ".join(b.status()["warnings"]), 20, "b says why it does not take over")
            self.assertEqual(b.status()["role"], "replica")
            a.start()
            wait_until(lambda: primary_of(cluster) is a, 20, "a is primary again")
            wait_followers(cluster, a)
            a.kill_all()
            wait_until(lambda: "no candidate" in " ".join(b.status()["warnings"]), 20, "b does not take over")
            harness.ctl(b, "promote", "b", "--force", "--yes")  # a person decides
            b.sql("load.db", "INSERT INTO t (w, s) VALUES (1, 1)")
            a.start()
            wait_followers(cluster, b)
            cluster.sync()
            cluster.identical()

    @within(90)
    def test_a_paused_primary_is_harmless(self):
        """SIGSTOP of all its programs for longer than the lease: another takes over; what is continued follows it."""
        with etcd_cluster(2) as (etcd, cluster, primary):
            harness.make_load_db(primary)
            cluster.sync()
            other = next(n for n in cluster.nodes if n is not primary)
            pids = [primary.pid("replicator")]
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            try:
                wait_until(lambda: other.status()["role"] == "primary", 20, "the other takes over")
                other.sql("load.db", "INSERT INTO t (w, s) VALUES (1, 1)")
            finally:
                for pid in pids:
                    os.kill(pid, signal.SIGCONT)
            wait_until(lambda: primary.status()["role"] == "replica" and primary.status()["connected"], 20, "it follows")
            cluster.sync()
            cluster.identical()

    @within(90)
    def test_an_etcd_of_three_members_may_lose_one(self):
        with etcd_cluster(2, members=3, ttl="3s") as (etcd, cluster, primary):
            harness.make_load_db(primary)
            for i in range(3):
                etcd.kill(i)
                deadline = time.monotonic() + 4
                while time.monotonic() < deadline:  # longer than the lease: it was renewed with the others
                    primary.sql("load.db", "INSERT INTO t (w, s) VALUES (1, 1)", timeout=2)
                    self.assertEqual(primary.status()["role"], "primary")
                    time.sleep(0.2)
                etcd.start(i)
            cluster.sync()
            cluster.identical()

    @within(90)
    def test_what_only_the_dead_primary_had_is_kept_in_quarantine(self):
        with etcd_cluster(2) as (etcd, cluster, primary):
            harness.make_load_db(primary)
            harness.make_load_db(primary, "dir/two.db")
            cluster.sync()
            other = next(n for n in cluster.nodes if n is not primary)
            self.assertEqual(json.loads(harness.ctl(primary, "quarantine", "ls", "--json"))["quarantine"], [])
            other.kill_all()
            for i in range(3):
                primary.sql("load.db", "INSERT INTO t (w, s, pad) VALUES (1, ?, 'nobody else has it')", (i,))
                primary.sql("dir/two.db", "INSERT INTO t (w, s) VALUES (1, ?)", (i,))
            harness.make_load_db(primary, "only-here.db")
            primary.sql("load.db", "INSERT INTO t (w, s, pad) VALUES (1, 9, 'nobody else has it')")
            primary.kill_all()  # the last of it is not captured yet, perhaps
            other.start()
            wait_until(lambda: other.status()["role"] == "primary", 20, "the other takes over")
            other.sql("load.db", "INSERT INTO t (w, s, pad) VALUES (2, 1, 'the new history')")
            primary.start()
            wait_followers(cluster, other)
            wait_until(lambda: primary.lsn() == other.lsn(), 20, "the old primary has taken over the new history")
            cluster.sync()
            cluster.identical()
            self.assertFalse(os.path.exists(primary.path("only-here.db")))
            kept = json.loads(harness.ctl(primary, "quarantine", "ls", "--json"))["quarantine"]
            self.assertEqual({k["name"] for k in kept}, {"load.db", "dir/two.db", "only-here.db"}, kept)
            self.assertEqual(json.loads(harness.ctl(other, "quarantine", "ls", "--json"))["quarantine"], [])
            # The rows are in there: an LTX page holds them, LZ4 leaves such a text as it is.
            record = max((k for k in kept if k["name"] == "load.db" and k["kind"] == "record"), key=lambda k: k["lsn"])
            to = os.path.join(cluster.tmp, "record.ltx")
            harness.ctl(primary, "quarantine", "export", record["file"], to)
            with open(to, "rb") as f:
                data = f.read()
            self.assertEqual(data[:4], b"LTX1")
            self.assertIn(b"nobody else has it", data)
            whole = next(k for k in kept if k["name"] == "only-here.db" and k["kind"] == "database")
            to = os.path.join(cluster.tmp, "whole.db")
            harness.ctl(primary, "quarantine", "export", whole["file"], to)
            with primary.db("", path=to) as db:
                self.assertEqual(db.execute("SELECT count(*) FROM t").fetchall(), [(0,)])
            self.check_show(primary, kept, record)
            harness.ctl(primary, "quarantine", "drop", record["file"])
            self.assertNotIn(record["file"], [k["file"] for k in json.loads(harness.ctl(primary, "quarantine", "ls", "--json"))["quarantine"]])
            harness.ctl(primary, "quarantine", "drop", "--all")
            self.assertEqual(json.loads(harness.ctl(primary, "quarantine", "ls", "--json"))["quarantine"], [])

    @within(120)
    def test_a_transaction_that_died_with_the_primary_is_rolled_back_before_anything_is_applied(self):
        """A hot journal on a node that comes back as a replica: whether somebody reads there first or not, the file becomes the new primary's."""
        with etcd_cluster(2) as (etcd, cluster, primary):
            other = next(n for n in cluster.nodes if n is not primary)
            names = ["idle.db", "read.db"]
            for name in names:
                harness.make_load_db(primary, name, mode="delete")
                for i in range(20):
                    primary.sql(name, "INSERT INTO t (w, s, pad) VALUES (1, ?, ?)", (i, "before " * 200))
            cluster.sync()
            dead = [Session(primary.path(name)) for name in names]
            with contextlib.ExitStack() as stack:
                for name, app in zip(names, dead):
                    stack.enter_context(app)
                    app.sql("PRAGMA cache_size = 2")  # changed pages go into the file before the end of the transaction
                    app.sql("BEGIN IMMEDIATE")
                    app.sql("UPDATE t SET pad = 'in the middle ' || pad")
                    self.assertGreater(os.path.getsize(primary.backing(name + "-journal")), 0)
                for app in dead:
                    app.kill()
                primary.kill_all()
            for name in names:
                self.assertGreater(os.path.getsize(primary.backing(name + "-journal")), 0)
            new = wait_primary(cluster, primary)
            primary.start()
            wait_followers(cluster, new)
            with Session(primary.path("read.db")) as reader:
                self.assertEqual(reader.sql("SELECT count(*) FROM t WHERE pad LIKE 'before %'"), [(20,)])
                for name in names:
                    new.sql(name, "INSERT INTO t (w, s) VALUES (2, 1)")
                wait_until(lambda: reader.sql("SELECT count(*) FROM t") == [(21,)], 20, "the replica has the new row")
                self.assertEqual(reader.sql("SELECT count(*) FROM t WHERE pad LIKE 'before %'"), [(20,)])
            cluster.sync()
            cluster.identical()

    def check_show(self, node, kept, record):
        """`quarantine show` after the story above: which rows of load.db, dir/two.db and only-here.db only the dead primary had."""
        shown = json.loads(harness.ctl(node, "quarantine", "show", "--json"))["quarantine"]
        self.assertEqual({s["name"]: s["present"] for s in shown}, {"load.db": True, "dir/two.db": True, "only-here.db": False})
        tables = {(s["name"], t["table"]): t for s in shown for t in s["tables"]}
        load = tables["load.db", "t"]
        # Both sides inserted rows; ids 1 to 4 here, id 1 there: the same rowid is the same row.
        self.assertEqual((load["only_first"], load["only_second"], load["changed"]), (3, 0, 1))
        changed = next(r for r in load["rows"] if r["kind"] == "changed")
        self.assertEqual((changed["key"], changed["first"]["pad"], changed["second"]["pad"]), ({"rowid": 1}, "nobody else has it", "the new history"))
        self.assertEqual({r["row"]["s"] for r in load["rows"] if r["kind"] == "only_first"}, {1, 2, 9})
        self.assertEqual(tables["dir/two.db", "t"]["only_first"], 3)
        one = json.loads(harness.ctl(node, "quarantine", "show", record["file"], "--json", "--limit", "1"))["quarantine"]
        self.assertEqual([s["name"] for s in one], ["load.db"])
        self.assertEqual([sum(r["kind"] == "only_first" for r in t["rows"]) for t in one[0]["tables"] if t["table"] == "t"], [1])
        text = harness.ctl(node, "quarantine", "show", record["file"])
        self.assertIn("t: 3 only in quarantine (-), 0 only in the database of now (+), 1 differ (~)", text)
        self.assertIn('pad="nobody else has it" → "the new history"', text)
        self.assertIn("only-here.db", harness.ctl(node, "quarantine", "show"))
        code, _, err = harness.ctl(node, "quarantine", "show", "1-1-nothing.ltx", check=False)
        self.assertEqual((code, "no database in quarantine" in err), (4, True), err)
