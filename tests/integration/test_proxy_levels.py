"""Degradation levels and routing by lag, on mounted nodes: what docs/proxy.md says of each. (Levels 1 and 3: test_proxy_positions.)"""
import os
import signal
import threading

from etcd import Etcd
from harness import EdgeTest, Session, free_port, wait_until, within
from test_proxy_positions import Client, health, proxied
from test_proxy_promotion import metric


def levels(port):
    return health(port)[1]["levels"].get("web", [])


class ProxyLevels(EdgeTest):
    @within(90)
    def test_level_2_bounds_writes_and_sees_those_that_hang(self):
        with proxied(2, entry="degrade: {write-p50: 200ms, write-queue: 2}") as cluster, Client(cluster.ports["web"]) as client:
            a, b = cluster.ports["web"]
            self.assertEqual(client.put(0, "k", "0").status, 200)
            answers = []

            def hang(i):
                with Client(cluster.ports["web"]) as c:
                    answers.append(c.put(i % 2, f"h{i}", i, "hang").status)

            threads = [threading.Thread(target=hang, args=(i,)) for i in range(9)]
            for t in threads:
                t.start()
            wait_until(lambda: metric(a, "edgefs_proxy_writes") == 9, 20, "its application works on all")
            wait_until(lambda: levels(a) == [2], 20, lambda: f"though none has ended: {health(a)}")
            self.assertEqual(answers, [])
            for i in (0, 1):
                r = client.put(i, "k", "1")
                self.assertEqual((r.status, r.headers["X-Reason"], r.headers["X-Edge-Degraded"], r.headers["Retry-After"]), (503, "write-queue", "2", "1"), r)
                r = client.get(i, "k")
                self.assertEqual((r.status, r.body), (200, "0"), "reads go on")
            client.get(0, "go-on")  # which the application does
            for t in threads:
                t.join()
            self.assertEqual(answers, [200] * 9)
            for i in range(40):  # the queue is empty: one after the other they pass, and pull the median down
                self.assertEqual(client.put(i % 2, "k", i).status, 200)
            wait_until(lambda: levels(a) == [], 20, lambda: f"it is over: {health(a)}")
            self.assertEqual([client.get(i, f"h{k}").body for i in (0, 1) for k in range(9)], [str(k) for k in range(9)] * 2)

    @within(90)
    def test_level_4_goes_by_way_of_a_node_that_remains(self):
        def change(cluster, node):
            """b does not reach two more nodes at all, and of a not the proxy."""
            if node.name == "b":
                node.peers = [*node.peers, ("x", free_port()), ("y", free_port())]
                node.extra = node.extra.replace(f"a: 'http://127.0.0.1:{cluster.ports['web'][0]}'", f"a: 'http://127.0.0.1:{free_port()}'")

        with proxied(3, entry="failover-wait: 1s\nmax-wait: 50ms", change=change) as cluster, Client(cluster.ports["web"]) as client:
            _, b, c = cluster.nodes
            ports = cluster.ports["web"]
            wait_until(lambda: levels(ports[1]) == [4], 20, lambda: f"two nodes are out of its reach: {health(ports[1])}")
            for i in range(10):
                r = client.put(1, "k", i)
                self.assertEqual((r.status, r.headers["X-App"], r.headers["X-Routed-To"], r.headers["X-Edge-Degraded"]), (200, "a", "primary", "4"), r)
                self.assertEqual(client.get(1, "k").body, str(i))
            stopped = b.pid("replicator")
            os.kill(stopped, signal.SIGSTOP)
            try:  # its own copy stays behind: c has what the client wrote
                client.put(0, "k", "new")
                self.assertEqual(client.get(2, "k").body, "new")
                r = client.get(1, "k")
                self.assertEqual((r.status, r.body, r.headers["X-App"], r.headers["X-Routed-To"], r.headers["X-Reason"]), (200, "new", "c", "c", "neighbours-gone"), r)
                r = client.put(1, "k", "newer")
                self.assertEqual((r.status, r.headers["X-App"]), (200, "a"), r)
                cluster.stop_app(2)
                c.stop()  # nothing remains: as without a primary
                r = client.put(1, "k", "lost")
                self.assertEqual((r.status, r.headers["X-Reason"]), (503, "no-primary"), r)
            finally:
                os.kill(stopped, signal.SIGCONT)
            c.start()
            cluster.start_app(2)
            wait_until(lambda: client.put(1, "k", "again").status == 200, 20, "there is a way again")

    @within(90)
    def test_level_5_is_announced_and_what_works_goes_on(self):
        with Etcd() as etcd, proxied(2, lease=lambda name: etcd.lease("60s", "" if name == "a" else "candidate: false")) as cluster, \
                Client(cluster.ports["web"]) as client:
            ports = cluster.ports["web"]
            self.assertEqual(client.put(1, "k", "0").status, 200)
            self.assertEqual([levels(p) for p in ports], [[], []])
            etcd.kill()
            for p in ports:
                wait_until(lambda p=p: levels(p) == [5], 30, lambda p=p: f"etcd is gone: {health(p)}")
            for i in range(10):
                r = client.put(i % 2, "k", i)
                self.assertEqual((r.status, r.headers["X-Edge-Degraded"], r.headers["X-App"]), (200, "5", "a"), r)
                r = client.get((i + 1) % 2, "k")
                self.assertEqual((r.status, r.body, r.headers["X-Edge-Degraded"]), (200, str(i), "5"), r)
            self.assertEqual([(health(p)[0], health(p)[1]["lease_reachable"]) for p in ports], [(200, False)] * 2)
            etcd.start()
            for p in ports:
                wait_until(lambda p=p: levels(p) == [], 30, lambda p=p: f"etcd is back: {health(p)}")
            self.assertIsNone(client.put(1, "k", "end").headers["X-Edge-Degraded"])

    @within(90)
    def test_reads_are_routed_by_how_far_the_replica_is_behind(self):
        entry = "max-wait: 50ms\nstale-ok: [/stale/*]\nlag: {wait-records: 2, wait: 20ms, stale-records: 6}"
        with proxied(2, entry=entry) as cluster, Client(cluster.ports["web"]) as client:
            a, b = cluster.nodes
            port = cluster.ports["web"][1]
            client.put(0, "k", "v")
            a.sql("held.db", "CREATE TABLE t (x)")
            cluster.sync()

            def read(path="v", **fields):
                client.cookie = None
                r = client.get(1, "k", {name.replace("_", "-"): value for name, value in fields.items()}, path=path)
                self.assertEqual((r.status, r.body), (200, "v"), r)
                return r.headers["X-App"], r.how, r.headers["X-Reason"], r.headers["X-Edge-Staleness"] is not None

            def behind(n):
                a.sql("held.db", "INSERT INTO t VALUES (1)")
                wait_until(lambda: health(port)[1]["lag_records"] == n, 20, lambda: f"{n} records behind: {health(port)}")

            self.assertEqual(read(), ("b", "local", None, False))
            with Session(b.path("held.db")) as reader:  # a reader of a database with a rollback journal keeps the next record from being applied
                reader.sql("BEGIN")
                reader.sql("SELECT count(*) FROM t")
                for n in range(1, 9):
                    behind(n)
                    if n <= 2:
                        self.assertEqual(read(), ("b", "waited", None, True))
                    elif n <= 6:
                        self.assertEqual(read("stale"), ("b", "local", None, True))
                        self.assertEqual(read(Cache_Control="max-stale"), ("b", "local", None, True))
                        self.assertEqual(read(), ("a", "forwarded", "replica-lag", False))
                    else:
                        self.assertEqual(read("stale"), ("a", "forwarded", "replica-lag", False))
                        self.assertEqual(read(), ("a", "forwarded", "replica-lag", False))
                reader.sql("COMMIT")
            wait_until(lambda: health(port)[1]["lag_records"] == 0, 20, "it has caught up")
            self.assertEqual(read(), ("b", "local", None, False))
