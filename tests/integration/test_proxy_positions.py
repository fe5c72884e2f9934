"""Three nodes, an application on each that knows nothing of EdgeFS, and clients that go through the proxies: what somebody wrote is read
everywhere at once, and stays so while nodes are behind or the primary moves."""
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time

import harness
from harness import Cluster, EdgeTest, free_port, rounds, wait_until, within

APP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "load", "kvapp.py")


class Response:
    def __init__(self, r):
        self.status = r.status
        self.headers = r.headers
        self.body = r.read().decode()
        self.position = r.headers.get("X-Write-Position")
        cookies = [c for c in r.headers.get_all("Set-Cookie", []) if c.startswith("__edge_write_pos=")]
        self.cookie = cookies[0].split(";")[0] if cookies else None
        self.how = (r.headers.get("Server-Timing") or "").partition('desc="')[2].rstrip('"')

    def __repr__(self):
        return f"{self.status} {self.body!r} {dict(self.headers)}"


class Client:
    """One keep-alive connection to each proxy, and a cookie jar for the position."""

    def __init__(self, ports):
        self.connections = [http.client.HTTPConnection("127.0.0.1", p, timeout=30) for p in ports]
        self.cookie = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for c in self.connections:
            c.close()

    def ask(self, i, method, path, body=None, headers=()):
        headers = dict(headers)
        if self.cookie:
            headers.setdefault("Cookie", self.cookie)
        self.connections[i].request(method, path, body, headers)
        r = Response(self.connections[i].getresponse())
        self.cookie = r.cookie or self.cookie
        return r

    def put(self, i, key, value, how="v"):
        return self.ask(i, "POST", f"/{how}/{key}", str(value))

    def get(self, i, key, headers=(), path="v"):
        return self.ask(i, "GET", f"/{path}/{key}", headers=headers)


@contextlib.contextmanager
def proxied(n=3, entry="", lease=None, change=None, **more):
    """A cluster with the application and a proxy on each node. more: further entries, name → lines; cluster.ports[name] are their ports.
    An entry's lines stand in a block mapping. lease(name): of that node. change(cluster, node): called before a
    configuration is written."""
    with Cluster(n, start=False) as cluster:
        entries = {"web": entry, **more}
        cluster.ports = {name: [free_port() for _ in cluster.nodes] for name in entries}
        targets = [free_port() for _ in cluster.nodes]
        for i, node in enumerate(cluster.nodes):
            lines = ["proxy:"]
            for name, text in entries.items():
                peers = ", ".join(f"{m.name}: 'http://127.0.0.1:{p}'" for m, p in zip(cluster.nodes, cluster.ports[name]))
                lines += [f"  - name: {name}", f"    listen: 127.0.0.1:{cluster.ports[name][i]}", f"    target: 127.0.0.1:{targets[i]}",
                          f"    peers: {{{peers}}}"] + [f"    {line}" for line in text.splitlines()]
            node.extra = "\n".join(lines) + "\n"
            if lease:
                node.lease = lease(node.name)
            if change:
                change(cluster, node)
            node.write_config()
        cluster.start()
        a = cluster.nodes[0]
        with a.db("app.db") as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("CREATE TABLE kv (key TEXT PRIMARY KEY, value TEXT)")
        cluster.sync()
        apps = [None] * n

        def start_app(i):
            apps[i] = subprocess.Popen([sys.executable, APP, cluster.nodes[i].path("app.db"), str(targets[i]), cluster.nodes[i].name])

        def stop_app(i):
            apps[i].kill()
            apps[i].wait()

        cluster.start_app, cluster.stop_app, cluster.targets = start_app, stop_app, targets
        try:
            for i in range(n):
                start_app(i)
            for port in targets + sum(cluster.ports.values(), []):
                wait_until(lambda p=port: answers(p), 15, f"somebody answers on port {port}")
            for ports in cluster.ports.values():
                for port in ports:
                    wait_until(lambda p=port: health(p)[0] == 200, 15, lambda p=port: f"health of port {p}: {health(p)}")
            yield cluster
        finally:
            for i in range(n):
                stop_app(i)


def answers(port):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        c.request("GET", "/v/none")
        return c.getresponse().status == 404
    except OSError:
        return False
    finally:
        c.close()


def health(port):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        c.request("GET", "/edgefs/health")
        r = c.getresponse()
        return r.status, json.loads(r.read() or "{}")
    except OSError as e:
        return 0, str(e)
    finally:
        c.close()


class ProxyPositions(EdgeTest):
    @within(100)
    def test_what_was_written_anywhere_is_read_everywhere_at_once(self):
        with proxied() as cluster, Client(cluster.ports["web"]) as client:
            rng = harness.seed("read your writes")
            how = {}
            for i in range(rounds(150)):
                at = rng.randrange(3)
                w = client.put(at, f"k{i % 7}", i)
                self.assertEqual((w.status, w.headers["X-App"]), (200, "a"), w)
                self.assertIsNotNone(w.position, w)
                self.assertEqual(w.cookie, f"__edge_write_pos={w.position}")
                self.assertEqual(w.how == "local", at == 0, w)
                for k in rng.sample(range(3), 3):
                    r = client.get(k, f"k{i % 7}")
                    self.assertEqual((r.status, r.body), (200, str(i)), (i, at, k, r))
                    self.assertIn(r.how, ("local", "waited", "forwarded"))
                    if r.how == "forwarded":
                        self.assertEqual((r.headers["X-Routed-To"], r.headers["X-Reason"], r.headers["X-App"]), ("primary", "replica-lag", "a"))
                    else:
                        self.assertEqual(r.headers["X-App"], "abc"[k])
                    how[r.how] = how.get(r.how, 0) + 1
            print(f"reads: {how}")
            self.assertGreater(how["local"], 0)

    @within(60)
    def test_every_response_to_a_write_carries_a_position(self):
        with proxied(2) as cluster, Client(cluster.ports["web"]) as client:
            for at in (0, 1):
                for how, status in (("fail", 500), ("move", 303), ("own", 200)):
                    r = client.put(at, f"x-{how}-{at}", "1", how)
                    self.assertEqual(r.status, status, r)
                    self.assertIsNotNone(r.cookie, r)
                    self.assertEqual(client.get(1, f"x-{how}-{at}").body, "1")
                    if how == "own":
                        self.assertIn("mine=1; Path=/x", r.headers.get_all("Set-Cookie"))
            self.assertIsNone(client.get(0, "x-own-0").cookie, "reads carry none")
            header = {"Cookie": "", "X-Read-After-Position": client.put(0, "h", "2").position}
            self.assertEqual(client.get(1, "h", header).body, "2")
            r = client.get(1, "h", {"Cookie": "__edge_write_pos=nonsense; __edge_write_pos=99999999999999999999-1", "X-Read-After-Position": "-"})
            self.assertEqual((r.status, r.how), (200, "local"), r)

    @within(60)
    def test_a_reader_that_brings_what_it_was_given_never_reads_less_on_another_node(self):
        with proxied(2) as cluster, Client(cluster.ports["web"]) as writer, Client(cluster.ports["web"]) as reader:
            b = cluster.nodes[1]
            writer.put(0, "k", "0")
            self.assertEqual(writer.get(1, "k").body, "0")
            stopped = b.pid("replicator")
            harness.halt(stopped)
            try:
                writer.put(0, "k", "1")
                first = reader.get(0, "k", {"X-Read-After-Position": "1-0"})
                self.assertEqual((first.body, first.cookie, first.position), ("1", None, None), first)
                seen = first.headers["X-Read-Position"]
                self.assertEqual(reader.get(1, "k").body, "0", "without a position: what is there")
                r = reader.get(1, "k", {"X-Read-After-Position": seen})
                self.assertEqual((r.body, r.how), ("1", "forwarded"), r)
                self.assertEqual(len(r.headers.get_all("X-Read-Position")), 1, r)
            finally:
                os.kill(stopped, signal.SIGCONT)
            wait_until(lambda: reader.get(1, "k", {"X-Read-After-Position": seen}).how == "local", 30, "the replica is up to date again")
            r = reader.get(1, "k", {"X-Read-After-Position": seen})  # and what is read there is not more than what its position covers
            self.assertEqual(r.body, "1", r)
            number = [tuple(int(v) for v in p.split("-")) for p in (seen, r.headers["X-Read-Position"])]
            self.assertGreaterEqual(number[1], number[0])
            self.assertNotIn("X-Read-Position", reader.get(1, "k").headers, "nobody who does not ask pays for it")

    @within(60)
    def test_a_replica_that_is_behind_is_waited_for_and_then_the_primary_answers(self):
        with proxied(2, patient="max-wait: 30s") as cluster, Client(cluster.ports["web"]) as client, Client(cluster.ports["patient"]) as patient:
            a, b = cluster.nodes
            client.put(0, "k", "0")
            self.assertEqual(client.get(1, "k").body, "0")
            stopped = b.pid("replicator")
            harness.halt(stopped)
            try:
                client.put(0, "k", "1")
                r = client.get(1, "k")
                self.assertEqual((r.body, r.how, r.headers["X-App"], r.headers["X-Routed-To"], r.headers["X-Reason"]),
                                 ("1", "forwarded", "a", "primary", "replica-lag"), r)
                r = client.put(1, "k", "2")  # writes do not need the replica at all
                self.assertEqual((r.status, r.headers["X-App"]), (200, "a"), r)
                patient.cookie = client.cookie
                threading.Timer(0.3, os.kill, (stopped, signal.SIGCONT)).start()
                r = patient.get(1, "k")
                self.assertEqual((r.body, r.how, r.headers["X-App"]), ("2", "waited", "b"), r)
            finally:
                os.kill(stopped, signal.SIGCONT)
            wait_until(lambda: client.get(1, "k").how == "local", 10, "the replica is up to date again")

    @within(90)
    def test_levels_are_announced_measured_and_taken_back(self):
        entry = "degrade: {lag-time: 1s}\nfailover-wait: 500ms"
        with proxied(3, entry=entry) as cluster, Client(cluster.ports["web"]) as client:
            a, b, c = cluster.nodes
            port = cluster.ports["web"][1]
            client.put(0, "k", "1")
            self.assertEqual(client.get(1, "k").body, "1")
            status, text = health(port)
            self.assertEqual((status, text["status"], text["role"], text["degraded"], text["lag_ms"], text["primary"], text["neighbours"]),
                             (200, "ok", "replica", 0, 0, "a", {"configured": 2, "unreachable": 0}))
            for i, node in ((0, a), (2, c)):
                cluster.stop_app(i)
                node.stop()
            wait_until(lambda: health(port)[1]["levels"] == {"web": [1, 3, 4]}, 20, lambda: f"health: {health(port)}")
            status, text = health(port)
            self.assertEqual((status, text["status"], text["degraded"]), (503, "this replica is too far behind", 4))
            client.cookie = None
            r = client.get(1, "k")
            self.assertEqual((r.status, r.body, r.headers["X-Edge-Degraded"]), (200, "1", "4"), "reads go on, and say so")
            self.assertGreater(float(r.headers["X-Edge-Staleness"]), 1)
            started = time.monotonic()
            r = client.put(1, "k", "2")
            self.assertEqual((r.status, r.headers["X-Reason"]), (503, "no-primary"), r)
            self.assertTrue(r.headers["Retry-After"])
            self.assertGreater(time.monotonic() - started, 0.45, "it waited for a primary")
            for i, node in ((0, a), (2, c)):
                node.start()
                cluster.start_app(i)
            wait_until(lambda: health(port)[1]["levels"] == {}, 30, lambda: f"health: {health(port)}")
            self.assertEqual(health(port)[0], 200)
            wait_until(lambda: client.put(1, "k", "3").status != 503, 10, "writes reach the primary's proxy again")
            self.assertIsNone(client.get(1, "k").headers["X-Edge-Degraded"])

    @within(60)
    def test_requests_are_counted_and_logged(self):
        with proxied(2, entry="access-log: json") as cluster, Client(cluster.ports["web"]) as client:
            log = os.path.join(cluster.tmp, "b", "access.json")
            for node in cluster.nodes:
                node.extra += f"    access-log-file: {os.path.join(node.tmp, 'access.json')}\n"
                node.write_config()
                os.kill(node.pid("proxy"), signal.SIGHUP)
            wait_until(lambda: os.path.exists(log), 10, "the access log is there after a reload")
            for i in range(5):
                client.put(1, "k", i)
                client.get(1, "k")
            client.get(1, "k", {"X-Read-After-Position": "x"})
            page = client.ask(1, "GET", "/edgefs/metrics").body
            values = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
            self.assertEqual(int(values['edgefs_proxy_forwarded_writes_total{app="web"}']), 5)
            self.assertEqual(int(values["edgefs_proxy_positions_ignored_total"]), 1)
            self.assertEqual(int(values['edgefs_proxy_responses_total{app="web",code="5xx"}']), 0)
            self.assertEqual(values["edgefs_proxy_replicator_connected"], "1")
            wait_until(lambda: harness.read(log).count("\n") >= 11, 10, "lines are written within a tick or two")
            lines = [json.loads(line) for line in harness.read(log).splitlines()]
            writes = [x for x in lines if x.get("kind") == "write"]
            self.assertEqual([(x["method"], x["target"], x["status"], x["outcome"], x["reason"]) for x in writes],
                             [("POST", "/v/k", 200, "forwarded", "write")] * 5)

    @within(60)
    def test_positions_that_do_not_exist_cost_their_inventor_only(self):
        with proxied(2) as cluster, Client(cluster.ports["web"]) as client, Client(cluster.ports["web"]) as honest:
            epoch, lsn = client.put(0, "k", "1").position.split("-")
            made_up = {"Cookie": f"__edge_write_pos={epoch}-{int(lsn) + 1000000}"}
            r = client.get(0, "k", made_up)
            self.assertEqual((r.status, r.how), (200, "local"), "the primary knows that it does not exist")
            r = client.get(1, "k", made_up)
            self.assertEqual((r.status, r.how), (200, "forwarded"), r)
            absurd = {"Cookie": f"__edge_write_pos={epoch}-18446744073709551615"}
            self.assertEqual(client.get(1, "k", absurd).how, "local")
            honest.cookie = client.cookie
            self.assertEqual(honest.get(1, "k").body, "1")

    @within(120)
    def test_the_primary_moves_while_everybody_writes_and_nobody_notices(self):
        with proxied() as cluster:
            rng = harness.seed("promotions")
            stop, errors, last = threading.Event(), [], {}

            def user(number):
                random = harness.seed(f"user {number}")
                value = 0
                with Client(cluster.ports["web"]) as client:
                    while not stop.is_set() and not errors:
                        at = random.randrange(3)
                        w = client.put(at, f"u{number}", value + 1)
                        if w.status != 200 or not w.cookie:
                            errors.append((number, value, at, w))
                            return
                        value += 1
                        last[number] = value
                        for _ in range(3):
                            k = random.randrange(3)
                            r = client.get(k, f"u{number}")
                            if (r.status, r.body) != (200, str(value)):
                                errors.append((number, value, k, r))
                                return

            users = [threading.Thread(target=user, args=(i,)) for i in range(4)]
            for u in users:
                u.start()
            pauses, primary = [], cluster.nodes[0]
            try:
                for _ in range(rounds(6)):
                    done = sum(last.values())
                    wait_until(lambda: errors or sum(last.values()) >= done + 20, 30, lambda: f"writes go on: {last}")
                    target = rng.choice([n for n in cluster.nodes if n is not primary])
                    wait_until(lambda: any(r["node"] == target.name and r["connected"] for r in primary.status()["replicas"]), 10,
                               lambda: f"{target.name} follows {primary.name}")
                    pauses.append(cluster.promote(target, via=primary)["pause_ms"])
                    primary = target
                done = sum(last.values())
                wait_until(lambda: errors or sum(last.values()) >= done + 20, 30, lambda: f"writes go on: {last}")
            finally:
                stop.set()
                for u in users:
                    u.join()
            print(f"writes: {last}, pauses: {pauses} ms")
            self.assertEqual(errors, [])
            cluster.sync()
            for node in cluster.nodes:
                self.assertEqual(dict(node.sql("app.db", "SELECT key, CAST(value AS INTEGER) FROM kv")), {f"u{k}": v for k, v in last.items()})

    @within(60)
    def test_the_cache_never_gives_what_has_changed(self):
        entry = "cache: [{path: /cached/*, databases: [app.db]}]"
        with proxied(2, entry=entry) as cluster, Client(cluster.ports["web"]) as client:
            rng = harness.seed("cache")

            def counter(i, name):
                page = client.ask(i, "GET", "/edgefs/metrics").body
                return int(dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))[f"edgefs_proxy_cache_{name}_total"])

            for i in range(rounds(60)):
                client.put(rng.randrange(2), "k", i)
                for _ in range(4):
                    r = client.get(rng.randrange(2), "k", path="cached")
                    self.assertEqual((r.status, r.body), (200, str(i)), (i, r))
            hits = [counter(i, "hits") for i in (0, 1)]
            print(f"hits: {hits}, dropped: {[counter(i, 'changed') for i in (0, 1)]}")
            self.assertGreater(min(hits), 0)
            r = client.get(1, "k", path="cached")
            self.assertIsNotNone(client.get(1, "k", path="cached").headers["Age"])
            hits = counter(1, "hits")
            r = client.get(1, "k", {"If-None-Match": r.headers["ETag"]}, path="cached")
            self.assertEqual((r.status, r.body), (304, ""), r)
            r = client.ask(1, "HEAD", "/cached/k")
            self.assertEqual((r.status, r.body, int(r.headers["Content-Length"])), (200, "", len(str(i))), r)
            self.assertEqual(counter(1, "hits"), hits + 2)
            self.assertEqual(client.get(1, "k", path="cached").body, str(i), "the connection goes on")
            self.assertIsNone(client.get(1, "k").headers["Age"], "other routes are not cached")
            # Many at once for something that is not there yet: the application is asked once.
            with cluster.nodes[0].db("app.db") as db:
                db.execute("INSERT INTO kv VALUES ('herd', 'x')")
            cluster.sync()
            before = counter(1, "stored")
            answers, barrier = [], threading.Barrier(16)

            def one():
                with Client(cluster.ports["web"]) as c:
                    barrier.wait()
                    answers.append(c.get(1, "herd", path="cached").body)

            threads = [threading.Thread(target=one) for _ in range(16)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            self.assertEqual(answers, ["x"] * 16)
            self.assertEqual(counter(1, "stored"), before + 1)
