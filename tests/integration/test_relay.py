"""Replicas that follow replicas: upstream: primary, nearest, or a URL."""
import os
import selectors
import signal
import socket
import sqlite3
import threading
import time

import harness
import test_replicate
from harness import Cluster, EdgeTest, both_modes, rounds, wait_until


def chain(passthrough=True, n=3, upstream=None, **args):
    """A cluster that is not started: each node but the first two follows the one before it, or as `upstream` says ({index: text})."""
    cluster = Cluster(n, passthrough, start=False, **args)
    for i, node in enumerate(cluster.nodes):
        node.extra += "upstream-interval: 2s\n"
        text = (upstream or {}).get(i, cluster.nodes[i - 1].url if i > 1 and upstream is None else None)
        if text:
            node.extra += f"upstream: {text}\n"
        node.write_config()
    return cluster


def path(node):
    upstream = (node.try_status() or {}).get("upstream")
    return upstream and upstream["path"]


def follows(node, want, timeout=30):
    wait_until(lambda: path(node) == want, timeout, lambda: f"{node.name} follows {want}; it is {path(node)}")


def replicas(node):
    return sorted(r["node"] for r in node.status()["replicas"] if r["connected"])


def everywhere(cluster, name, n, timeout=20):
    for node in cluster.nodes:
        if node.running():
            test_replicate.see(node, name, "SELECT count(*) FROM t", [(n,)], timeout)


class Delay:
    """A TCP relay that holds every byte back for a while."""

    def __init__(self, port, seconds):
        self.target, self.seconds = port, seconds
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.open = True
        self.sockets = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while self.open:
            try:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                continue
            self.sockets += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self.pipe, args=(one, other), daemon=True).start()

    def pipe(self, one, other):
        held = []
        sel = selectors.DefaultSelector()
        sel.register(one, selectors.EVENT_READ)
        try:
            while True:
                wait = max(0, held[0][0] - time.monotonic()) if held else None
                if sel.select(wait):
                    data = one.recv(65536)
                    held.append((time.monotonic() + self.seconds, data))
                while held and held[0][0] <= time.monotonic():
                    data = held.pop(0)[1]
                    if not data:
                        other.shutdown(socket.SHUT_WR)
                        return
                    other.sendall(data)
        except OSError:
            pass
        finally:
            sel.close()

    def close(self):
        self.open = False
        self.listener.close()
        for s in self.sockets:
            s.close()


@both_modes
class Relay(EdgeTest):
    timeout = 120

    def test_rows_and_images_come_by_way_of_the_relay(self):
        with chain(self.passthrough, 4) as cluster:
            a, b, c, d = cluster.nodes
            for node in (a, b):
                node.start()
            harness.make_load_db(a)
            a.sql("load.db", "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 2000) INSERT INTO t (w, s, pad) SELECT i, 1, hex(randomblob(200)) FROM n")
            cluster.sync()
            for node in (c, d):
                node.start()
            follows(c, "a/b")
            follows(d, "a/b/c")
            everywhere(cluster, "load.db", 2000)
            for i in range(30):
                a.sql("load.db", "INSERT INTO t (w, s) VALUES (0, ?)", (i,))
            everywhere(cluster, "load.db", 2030)
            self.assertEqual((replicas(a), replicas(b), replicas(c)), (["b"], ["c"], ["d"]))
            self.assertEqual((d.status()["primary"], d.status()["lag_ms"]), ("a", 0))
            cluster.identical(["load.db"])

    def test_a_new_database_is_imported_through_the_relay(self):
        """Its pages are not in the log: a leaf asks the relay for them, and must not take the relay's ignorance for the primary's."""
        with chain(self.passthrough, 3) as cluster:
            a, _, c = cluster.nodes
            cluster.start()
            follows(c, "a/b")
            source = os.path.join(cluster.tmp, "source.db")
            with sqlite3.connect(source) as db:
                db.execute("CREATE TABLE t AS WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 20000) SELECT i, hex(randomblob(50)) AS x FROM n")
            db.close()
            for i in range(rounds(4)):
                harness.ctl(a, "import", source, f"dir/new{i}.db")
                wait_until(lambda: os.path.exists(c.path(f"dir/new{i}.db")), 20, "it arrives on the leaf")
                cluster.sync()
            cluster.identical()

    def test_a_leaf_survives_the_loss_of_its_relay(self):
        with chain(self.passthrough) as cluster:
            a, b, c = cluster.nodes
            cluster.start()
            follows(c, "a/b")
            harness.make_load_db(a)
            writer = cluster.load("writer", "--mounts", a.mount, "--id", 0)
            writer.wait_acked(5)
            b.stop()
            follows(c, "a")
            n = len(writer.acked())
            writer.wait_acked(n + 5)
            b.start()
            follows(c, "a/b")  # the one it is told to follow, once that is there again
            harness.halt(b.pid("replicator"))
            try:
                follows(c, "a")
                writer.check_running()
            finally:
                os.kill(b.pid("replicator"), signal.SIGCONT)
            follows(c, "a/b")
            writer.finish()
            cluster.sync()
            cluster.identical()
            harness.check_exactly_once(c, "load.db", [writer])

    def test_promotions_of_leaf_and_relay_under_writers(self):
        with chain(self.passthrough) as cluster:
            a, b, c = cluster.nodes
            cluster.start()
            follows(c, "a/b")
            harness.make_load_db(a)
            cluster.sync()
            writers = [cluster.load("writer", "--mounts", *(n.mount for n in cluster.nodes), "--id", i, "--busy", 1) for i in range(2)]
            for w in writers:
                w.wait_acked(3)
            for _ in range(rounds(3)):
                for node in (c, b, a):
                    before = [len(w.acked()) for w in writers]
                    harness.ctl(next(n for n in cluster.nodes if n.status()["role"] == "primary"), "promote", node.name, timeout=60)
                    self.assertEqual(node.status()["role"], "primary")
                    for w, k in zip(writers, before):
                        w.wait_acked(k + 3)
                    for other in cluster.nodes:
                        wait_until(lambda: (other.try_status() or {}).get("primary") == node.name and other.status()["connected"], 30, f"{other.name} knows {node.name}")
            for w in writers:
                w.finish()
            cluster.sync()
            cluster.identical()
            for n in cluster.nodes:
                harness.check_exactly_once(n, "load.db", writers)


class Choice(EdgeTest):
    timeout = 240

    def test_nodes_that_are_to_follow_each_other_find_the_primary(self):
        with chain(True, 3, {}) as cluster:
            a, b, c = cluster.nodes
            for node, other in ((b, c), (c, b)):
                node.extra += f"upstream: {other.url}\n"
                node.write_config()
            cluster.start()
            harness.make_load_db(a)
            everywhere(cluster, "load.db", 0)
            for i in range(20):
                a.sql("load.db", "INSERT INTO t (w, s) VALUES (0, ?)", (i,))
                everywhere(cluster, "load.db", i + 1)
            valid = [("a", "a/b"), ("a/c", "a"), ("a", "a")]
            wait_until(lambda: (path(b), path(c)) in valid, 30, lambda: f"neither follows the other round; they are {path(b)} and {path(c)}")
            cluster.sync()
            cluster.identical()

    def test_the_nearest_is_followed(self):
        cluster = chain(True, 4, {i: "nearest" for i in (1, 2, 3)})
        far = Delay(cluster.nodes[0].port, 0.02)
        try:
            with cluster:
                a, b, c, d = cluster.nodes
                for node in cluster.nodes:
                    node.peers = [("a", far.port)] + node.peers[1:]
                    node.write_config()
                cluster.start()
                follows(b, "a")
                follows(c, "a/b", 60)
                wait_until(lambda: path(d) in ("a/b", "a/b/c"), 60, lambda: f"d follows b or c, which are near; it is {path(d)}")
                harness.make_load_db(a)
                everywhere(cluster, "load.db", 0)
                b.stop()
                follows(c, "a", 60)
                follows(d, "a/c", 60)
                a.sql("load.db", "INSERT INTO t (w, s) VALUES (0, 0)")
                everywhere(cluster, "load.db", 1)
                b.start()
                cluster.identical()
        finally:
            far.close()

    def test_near_each_other_all_follow_the_primary(self):
        with chain(True, 3, {1: "nearest", 2: "nearest"}) as cluster:
            cluster.start()
            self.assertEqual([path(n) for n in cluster.nodes[1:]], ["a", "a"])

    def test_a_replica_that_is_behind_sends_nobody_back(self):
        """A relay that lost the end of its log must not make those who have it start afresh."""
        with chain(True, 3) as cluster:
            a, b, c = cluster.nodes
            cluster.start()
            follows(c, "a/b")
            harness.make_load_db(a)
            cluster.sync()
            b.stop()
            a.sql("load.db", "INSERT INTO t (w, s) VALUES (0, 0)")
            everywhere(cluster, "load.db", 1)
            images = c.metric("edgefs_images_fetched_total")
            a.stop()  # nobody can bring b up to date
            b.start(wait=False)
            wait_until(lambda: (b.try_status() or {}).get("lsn", 0) > 0, 20, "b answers")
            wait_until(lambda: "not that far" in c.log(), 30, "b has refused c")
            self.assertEqual(c.sql("load.db", "SELECT count(*) FROM t"), [(1,)])
            self.assertNotIn("starting anew", c.log())
            a.start()
            b.wait_ready()
            follows(c, "a/b", 60)
            cluster.sync()
            cluster.identical()
            self.assertEqual(c.metric("edgefs_images_fetched_total"), images)


def has(node):
    return sorted(harness.database_files(node))


@both_modes
class Partial(EdgeTest):
    """databases: {include, exclude}"""

    timeout = 90

    def partial(self, cluster, node, text):
        node.extra = text
        node.write_config()

    def make(self, a, *names):
        for name in names:
            harness.make_load_db(a, name)
            a.sql(name, "INSERT INTO t (w, s) VALUES (0, 0)")

    def test_a_replica_has_what_it_asks_for(self):
        with Cluster(2, self.passthrough, start=False) as cluster:
            a, b = cluster.nodes
            self.partial(cluster, b, "databases: {include: ['eu/*', shared.db], exclude: ['*/secret*']}\n")
            cluster.start()
            self.make(a, "eu/one.db", "us/one.db", "shared.db", "eu/secret.db", "other.db")
            cluster.sync()
            want = ["eu/one.db", "shared.db"]
            wait_until(lambda: has(b) == want, 20, lambda: f"b has {has(b)}")
            self.assertEqual(b.lsn(), a.lsn())
            # Into what it has, out of it, and within.
            os.rename(a.path("us/one.db"), a.path("eu/two.db"))
            a.sql("eu/two.db", "INSERT INTO t (w, s) VALUES (0, 1)")
            wait_until(lambda: has(b) == sorted(want + ["eu/two.db"]) and b.sql("eu/two.db", "SELECT count(*) FROM t") == [(2,)], 20, lambda: f"b has {has(b)}")
            os.rename(a.path("shared.db"), a.path("eu/shared.db"))
            os.rename(a.path("eu/one.db"), a.path("gone.db"))
            wait_until(lambda: has(b) == ["eu/shared.db", "eu/two.db"], 20, lambda: f"b has {has(b)}")
            for i in range(10):
                for name in ("other.db", "eu/shared.db"):
                    a.sql(name, "INSERT INTO t (w, s) VALUES (1, ?)", (i,))
            cluster.sync()
            self.assertEqual(b.sql("eu/shared.db", "SELECT count(*) FROM t"), [(11,)])
            cluster.identical(["eu/shared.db", "eu/two.db"])
            self.assertRegex(harness.ctl(a, "verify"), r"(?m)^other\.db .* ok +-")
            # It has not all of it, so it cannot become primary, and writers go on.
            code, out, err = harness.ctl(a, "promote", "b", check=False)
            self.assertNotEqual(code, 0)
            self.assertIn("only some of the databases", out + err)
            a.sql("other.db", "INSERT INTO t (w, s) VALUES (2, 2)")

    def test_the_choice_changes(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            self.make(a, "one.db", "two.db", "three.db")
            cluster.sync()
            self.assertEqual(has(b), ["one.db", "three.db", "two.db"])
            for text, want in (("databases: {include: [one.db]}\n", ["one.db"]), ("databases: {exclude: [one.db]}\n", ["three.db", "two.db"]),
                               ("", ["one.db", "three.db", "two.db"])):
                b.stop()
                a.sql("two.db", "INSERT INTO t (w, s) VALUES (3, 3)")
                self.partial(cluster, b, text)
                b.start()
                wait_until(lambda: has(b) == want, 30, lambda: f"{text}: b has {has(b)}, not {want}")
                cluster.sync()
                for name in want:
                    self.assertEqual(b.sql(name, "SELECT count(*) FROM t"), a.sql(name, "SELECT count(*) FROM t"))
            cluster.identical()

    def test_who_has_only_some_serves_only_those_who_want_the_same(self):
        with Cluster(4, self.passthrough, start=False) as cluster:
            a, b, c, d = cluster.nodes
            same = "databases: {include: [one.db]}\n"
            self.partial(cluster, b, same)
            self.partial(cluster, c, same + f"upstream: {b.url}\n")
            self.partial(cluster, d, f"upstream: {b.url}\n")
            cluster.start()
            self.make(a, "one.db", "two.db")
            follows(c, "a/b")
            follows(d, "a")
            cluster.sync()
            self.assertEqual([has(n) for n in (b, c, d)], [["one.db"], ["one.db"], ["one.db", "two.db"]])


if __name__ == "__main__":
    import unittest
    unittest.main()
