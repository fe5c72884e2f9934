"""Two primaries at a time, and paused ones: one history in the end, and everything of the other one in quarantine."""
import json
import os
import signal
import time

import harness
from feed import Feed
from harness import LONG, Cluster, EdgeTest, wait_until, within
from test_failover import etcd_cluster, wait_followers, wait_primary

PAUSE = 30 if LONG else 5  # seconds; the lease is 2


def kept_rows(node, name):
    """s of the rows of t that only the quarantined state of that database has; those of `changed` rows, too."""
    rows = set()
    for item in json.loads(harness.ctl(node, "quarantine", "show", "--json", "--limit", "0"))["quarantine"]:
        for table in item["tables"]:
            if item["name"] == name and table["table"] == "t":
                rows |= {r["row"]["s"] for r in table["rows"] if r["kind"] == "only_first"} | {r["first"]["s"] for r in table["rows"] if r["kind"] == "changed"}
    return rows


class Split(EdgeTest):
    def one_history(self, cluster, old, new, names):
        wait_followers(cluster, new)
        wait_until(lambda: old.status()["role"] == "replica" and old.lsn() == new.lsn(), 30, lambda: f"the old primary has the new history: {old.status()}")
        cluster.sync()
        cluster.identical()
        for name in names:
            have = {s for (s,) in new.sql(name, "SELECT s FROM t")}
            self.assertEqual(have, {-1, *range(200, 210)})
            self.assertLessEqual(set(range(100, 110)), kept_rows(old, name), f"{name}: what the old primary had")
        self.assertEqual(json.loads(harness.ctl(new, "quarantine", "ls", "--json"))["quarantine"], [])

    def databases(self, cluster, primary, second_mode="delete"):
        names = ["load.db", "dir/two.db"]
        for name in names:
            harness.make_load_db(primary, name, mode="wal" if name == "load.db" else second_mode)
            primary.sql(name, "INSERT INTO t (w, s) VALUES (0, -1)")
        cluster.sync()
        return names

    @within(120)
    def test_a_primary_whose_replicator_was_paused_while_both_were_written(self):
        with etcd_cluster(3) as (etcd, cluster, primary):
            names = self.databases(cluster, primary, "wal")  # the end of each rollback journal would wait 10 s for the replicator
            with harness.Session(primary.path(names[0])) as one, harness.Session(primary.path(names[1])) as two:
                for session in (one, two):  # open, as applications have them: a first open would wait for the replicator
                    session.sql("SELECT count(*) FROM t")
                pid = primary.kill("replicator", signal.SIGSTOP)
                try:
                    new = wait_until(lambda: next((n for n in cluster.nodes if n is not primary and n.role() == "primary"), None), 20, "another takes over")
                    for i in range(10):
                        one.sql("INSERT INTO t (w, s) VALUES (1, ?)", 100 + i)
                        two.sql("INSERT INTO t (w, s) VALUES (1, ?)", 100 + i)
                        for name in names:
                            new.sql(name, "INSERT INTO t (w, s) VALUES (2, ?)", (200 + i,))
                finally:
                    os.kill(pid, signal.SIGCONT)
                self.one_history(cluster, primary, new, names)

    @within(120)
    def test_two_primaries_by_force(self):
        """A static lease, the primary paused, the other promoted by force, both written: the old one finds out by itself when it goes on."""
        with Cluster(2) as cluster:
            old, new = cluster.nodes
            names = self.databases(cluster, old, "wal")
            with harness.Session(old.path(names[0])) as one, harness.Session(old.path(names[1])) as two:
                for session in (one, two):
                    session.sql("SELECT count(*) FROM t")
                pid = old.kill("replicator", signal.SIGSTOP)
                try:
                    harness.ctl(new, "promote", "b", "--force", "--yes")
                    for i in range(10):
                        one.sql("INSERT INTO t (w, s) VALUES (1, ?)", 100 + i)
                        two.sql("INSERT INTO t (w, s) VALUES (1, ?)", 100 + i)
                        for name in names:
                            new.sql(name, "INSERT INTO t (w, s) VALUES (2, ?)", (200 + i,))
                finally:
                    os.kill(pid, signal.SIGCONT)
                self.one_history(cluster, old, new, names)

    @within(120)
    def test_no_position_of_the_new_history_is_reached_before_it_is_there(self):
        """The old primary had written more than the new one has. Its proxy must not take the number of its own last record for a place in the other history."""
        with Cluster(2) as cluster:
            old, new = cluster.nodes
            harness.make_load_db(old)
            cluster.sync()
            new.kill_all()
            for i in range(40):
                old.sql("load.db", "INSERT INTO t (w, s) VALUES (1, ?)", (100 + i,))
            with Feed(old) as feed:
                result, written = feed.capture(1)
                feed.until(lambda f: f.state and f.state.neighbours == {"b": False})  # then it asks b when that can be reached again
                pid = old.kill("replicator", signal.SIGSTOP)
                try:
                    new.start()
                    harness.ctl(new, "promote", "b", "--force", "--yes")
                    for i in range(5):
                        new.sql("load.db", "INSERT INTO t (w, s) VALUES (2, ?)", (200 + i,))
                finally:
                    os.kill(pid, signal.SIGCONT)
                last = (new.status()["epoch"], new.lsn())
                self.assertEqual(result, 0)
                self.assertGreater(written[1], last[1])
                said = []
                while feed.now.applied < last:
                    feed.receive(30)
                    said.append(feed.now.applied)
                self.assertEqual([p for p in said if p > last], [], f"the other history ends at {last}: {said}")
            cluster.sync()
            self.assertEqual(old.sql("load.db", "SELECT count(*) FROM t WHERE w = 1"), [(0,)])

    @within(120)
    def test_two_replicas_promoted_by_force_that_do_not_know_of_each_other(self):
        """A static lease, the primary dead: both go on from the same transaction, and begin different epochs."""
        with Cluster(3) as cluster:
            dead, one, two = cluster.nodes
            names = self.databases(cluster, dead, "wal")
            dead.kill_all()
            two.kill_all()
            harness.ctl(one, "promote", one.name, "--force", "--yes")
            first = one.status()["epoch"]
            for i in range(10):
                for name in names:
                    one.sql(name, "INSERT INTO t (w, s) VALUES (1, ?)", (100 + i,))
            one.kill_all()
            two.start()
            harness.ctl(two, "promote", two.name, "--force", "--yes")
            for i in range(10):
                for name in names:
                    two.sql(name, "INSERT INTO t (w, s) VALUES (2, ?)", (200 + i,))
            one.start()
            self.assertGreater(two.status()["epoch"], first)
            dead.start()
            self.one_history(cluster, one, two, names)

    @within(120)
    def test_two_primaries_whose_epochs_have_the_same_number(self):
        """As above, but neither lists itself in `nodes`, so each takes the next number. Both are written after they have begun, at the same LSNs, and one more node follows either."""
        with Cluster(4) as cluster:
            dead, one, two, follower = cluster.nodes
            names = self.databases(cluster, dead, "wal")
            dead.kill_all()
            for node in cluster.nodes[1:]:
                node.kill_all()
                node.peers = [p for p in node.peers if p[0] != node.name]
                node.write_config()
            for node, first in ((two, 100), (one, 200)):  # `one` stays primary: its name comes first
                node.start()
                if node is two:
                    follower.start()
                harness.ctl(node, "promote", node.name, "--force", "--yes")
                if node is two:
                    wait_until(lambda: follower.status()["connected"] and follower.status()["primary"] == two.name, 30, lambda: f"it follows: {follower.status()}")
                for i in range(10):
                    for name in names:
                        node.sql(name, "INSERT INTO t (w, s) VALUES (?, ?)", (first, first + i))
                if node is two:
                    wait_until(lambda: follower.lsn() == two.lsn(), 30, "it has everything")
                    follower.kill_all()
                node.kill_all()
            for node in (two, one, follower, dead):
                node.start()
            self.one_history(cluster, two, one, names)

    @within(150 + PAUSE)
    def test_a_primary_that_is_paused_for_long(self):
        """All programs of the primary stopped for much longer than the lease, then continued: it follows, and nothing of the new history is lost."""
        with etcd_cluster(3) as (etcd, cluster, primary):
            names = self.databases(cluster, primary)
            pids = [pid for program, pid in primary.pids().items() if program != "launcher"] + [primary.pid("launcher")]
            for pid in pids:
                harness.halt(pid)
            stopped = time.monotonic()
            try:
                others = [n for n in cluster.nodes if n is not primary]
                new = wait_until(lambda: next((n for n in others if n.role() == "primary"), None), 20, "another takes over")
                for i in range(10):
                    for name in names:
                        new.sql(name, "INSERT INTO t (w, s) VALUES (2, ?)", (200 + i,))
                wait_until(lambda: time.monotonic() > stopped + PAUSE, PAUSE + 10, "the pause is over")
            finally:
                for pid in reversed(pids):
                    os.kill(pid, signal.SIGCONT)
            wait_followers(cluster, new)
            cluster.sync()
            cluster.identical()
            self.assertIs(wait_primary(cluster), new)
            for node in cluster.nodes:
                for name in names:
                    self.assertEqual(node.sql(name, "SELECT count(*) FROM t"), [(11,)])
                self.assertEqual(json.loads(harness.ctl(node, "quarantine", "ls", "--json"))["quarantine"], [])

    @within(120)
    def test_nobody_follows_a_primary_of_an_epoch_that_has_ended(self):
        """The new primary dies in the moment in which the old one, paused until now, still says that it is primary: the replica that has the newer history
        keeps it and takes over."""
        with etcd_cluster(3) as (etcd, cluster, old):
            names = self.databases(cluster, old)
            pid = old.kill("replicator", signal.SIGSTOP)
            try:
                others = [n for n in cluster.nodes if n is not old]
                second = wait_until(lambda: next((n for n in others if n.role() == "primary"), None), 20, "another takes over")
                third = next(n for n in others if n is not second)
                wait_until(lambda: (s := third.try_status() or {}).get("connected") and s["primary"] == second.name, 20, "the third follows it")
                for name in names:
                    second.sql(name, "INSERT INTO t (w, s) VALUES (2, 200)")
                third.wait_applied(harness.settle(second))
                second.kill_all()
            finally:
                os.kill(pid, signal.SIGCONT)
            wait_until(lambda: third.role() == "primary", 30, lambda: f"the third takes over: {third.try_status()}")
            second.start()
            wait_followers(cluster, third)
            cluster.sync()
            cluster.identical()
            for name in names:
                self.assertEqual({s for (s,) in third.sql(name, "SELECT s FROM t")}, {-1, 200})

    @within(120)
    def test_the_preferred_region_goes_first_among_equals(self):
        priority = {"a": 1, "b": 20, "c": 10}
        with etcd_cluster(3, more={name: f"priority: {p}" for name, p in priority.items()}) as (etcd, cluster, primary):
            self.databases(cluster, primary)
            for _ in range(3):
                cluster.sync()
                others = [n for n in cluster.nodes if n is not primary]
                primary.kill_all()
                new = wait_primary(cluster, primary)
                self.assertEqual(new.name, max((n.name for n in others), key=priority.get))
                primary.start()
                wait_followers(cluster, new)
                primary = new
            cluster.sync()
            cluster.identical()

    @within(90)
    def test_a_replica_whose_replicator_was_killed_becomes_primary_and_lets_applications_write(self):
        """Fences outlive the replicator that took them; whoever takes over drops those of its predecessor, too."""
        with etcd_cluster(2) as (etcd, cluster, primary):
            names = self.databases(cluster, primary)
            other = next(n for n in cluster.nodes if n is not primary)
            with harness.Session(other.path(names[0]), timeout=0.5) as one, harness.Session(other.path(names[1]), timeout=0.5) as two:
                for session in (one, two):  # open, and so fenced
                    session.sql("SELECT count(*) FROM t")
                other.kill_and_wait("replicator")
                primary.kill_all()
                other.wait_role("primary", 30)
                for session in (one, two):
                    wait_until(lambda s=session: self.writes(s), 10, "applications write on the new primary")
            primary.start()
            wait_followers(cluster, other)
            cluster.sync()
            cluster.identical()

    def writes(self, session):
        try:
            session.sql("INSERT INTO t (w, s) VALUES (3, 3)")
            return True
        except harness.SessionError as e:
            self.assertIn("BUSY", e.name)
            return False
