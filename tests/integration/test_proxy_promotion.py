"""Planned promotions while requests that write take long, and while WebSockets are open: no client sees an error."""
import http.client
import subprocess
import threading

import harness
from harness import EdgeTest, rounds, wait_until, within
from proxy_cluster import ProxyCluster, WebSocket
from test_proxy_positions import Client, Response, proxied


class Upload:
    """A write whose body stops in its middle until finish()."""

    def __init__(self, port, key, value):
        self.c = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.value = value.encode()
        self.c.putrequest("POST", f"/v/{key}")
        self.c.putheader("Content-Length", str(len(self.value)))
        self.c.endheaders(self.value[:1])

    def finish(self):
        self.c.send(self.value[1:])
        r = Response(self.c.getresponse())
        self.c.close()
        return r


def metric(port, name):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    c.request("GET", "/edgefs/metrics")
    page = c.getresponse().read().decode()
    c.close()
    return int(next(line.split()[-1] for line in page.splitlines() if line.startswith(name + " ")))


class Promotion(threading.Thread):
    def __init__(self, primary, target, timeout_ms):
        super().__init__(daemon=True)
        self.primary, self.target, self.timeout_ms = primary, target, timeout_ms
        self.answer = None
        self.start()

    def run(self):
        self.answer = self.primary.api("POST", "/v1/promote", {"node": self.target.name, "timeout_ms": self.timeout_ms}, timeout=120)

    def waits_for_requests(self):
        p = self.primary.status()["promotion"]
        return p and p["phase"] == "waiting for requests under way"




class ProxyPromotion(EdgeTest):
    @within(90)
    def test_an_upload_that_takes_longer_than_a_hold_is_waited_for_and_nobody_else_is(self):
        with proxied(2) as cluster, Client(cluster.ports["web"]) as client:
            a, b = cluster.nodes
            for at, (primary, target) in enumerate(((a, b), (b, a))):  # sent to the replica, then sent to the primary
                upload = Upload(cluster.ports["web"][1], f"u{at}", "the whole of it")
                wait_until(lambda k=at: metric(cluster.ports["web"][k], "edgefs_proxy_writes") == 1, 10, "its application has the upload")
                promotion = Promotion(primary, target, 60000)
                wait_until(promotion.waits_for_requests, 20, "it waits")
                for i in range(20):  # through several holds: each lets them go on again
                    r = client.put(i % 2, "k", i)
                    self.assertEqual(r.status, 200, r)
                    self.assertEqual(client.get((i + 1) % 2, "k").body, str(i))
                self.assertIsNone(promotion.answer)
                r = upload.finish()
                self.assertEqual(r.status, 200, r)
                client.cookie = r.cookie
                promotion.join(60)
                self.assertEqual((promotion.answer[0], promotion.answer[1]["primary"]), (200, target.name), promotion.answer)
                for k in (0, 1):
                    self.assertEqual(client.get(k, f"u{at}").body, "the whole of it")
                wait_until(lambda p=primary: p.status()["connected"], 20, "the old primary follows")

    @within(60)
    def test_a_promotion_that_would_break_a_client_is_not_carried_out_unless_told_to(self):
        with proxied(2) as cluster, Client(cluster.ports["web"]) as client:
            a, b = cluster.nodes
            writes = lambda: metric(cluster.ports["web"][0], "edgefs_proxy_writes")  # noqa: E731
            upload = Upload(cluster.ports["web"][0], "u", "1234")
            wait_until(lambda: writes() == 1, 10, "its application has the upload")
            done = subprocess.run([harness.CTL, "--url", a.url, "promote", "b", "--timeout", "2s"], capture_output=True, text=True, timeout=30)
            self.assertEqual(done.returncode, 1, done)
            self.assertIn("requests that write were under way on a", done.stderr)
            self.assertEqual((a.status()["role"], a.status()["promotion"]), ("primary", None))
            self.assertEqual(client.put(1, "k", 2).status, 200)
            self.assertEqual(upload.finish().status, 200)
            upload = Upload(cluster.ports["web"][0], "u", "5678")
            wait_until(lambda: writes() == 1, 10, "its application has the upload")
            done = subprocess.run([harness.CTL, "--url", a.url, "promote", "b", "--timeout", "20s", "--now"], capture_output=True, text=True, timeout=40)
            self.assertEqual(done.returncode, 0, done)
            self.assertIn("b is primary", done.stdout)
            self.assertEqual(upload.finish().status, 500, "its application writes on a replica now")
            self.assertEqual(client.put(0, "k", 4).status, 200)
            self.assertEqual([client.get(i, "u").body for i in (0, 1)], ["1234", "1234"])


class Talker(threading.Thread):
    """Says its lines one after the other in a chat, on a WebSocket that it opens again when it ends. What it said then and did not hear was written or not: it
    looks, and says it again if not."""

    def __init__(self, cluster, number):
        super().__init__(daemon=True)
        self.cluster, self.name = cluster, f"talker{number}"
        self.random = harness.seed(self.name)
        self.stop = threading.Event()
        self.said = self.reconnects = 0
        self.refusals = []  # ends that the application announced: a write of its met the fence
        self.error = None

    def run(self):
        try:
            while not self.stop.is_set():
                self.talk()
        except Exception as e:
            self.error = f"{self.name}, line {self.said}: {e!r}"

    def talk(self):
        socket = WebSocket(self.random.choice(self.cluster.nodes).web, "/chat")
        assert socket.status == 101, socket.head
        try:
            self.say(socket, f"back after {self.said}")
            self.said += any(n.sql(self.cluster.database, "SELECT 1 FROM said WHERE who = ? AND text = ?", (self.name, str(self.said + 1)))
                             for n in self.cluster.nodes)
            while not self.stop.is_set():
                self.say(socket, str(self.said + 1))
                self.said += 1
        except ConnectionError:
            self.reconnects += 1
        finally:
            socket.close()

    def say(self, socket, text):
        """… and hears it."""
        socket.send({"who": self.name, "text": text})
        while True:
            message = socket.receive()
            if message is None:
                self.refusals.append(text)
                raise ConnectionError
            if (message["who"], message["text"]) == (self.name, text):
                return


class ProxyTunnels(EdgeTest):
    EXTRA = "    upgrade-writes: [/chat]\n"

    @within(120)
    def test_open_websockets_move_to_the_new_primary_and_no_write_in_them_meets_the_fence(self):
        with ProxyCluster(3, "feed", self.EXTRA) as cluster:
            talkers = [Talker(cluster, i) for i in range(3)]
            for t in talkers:
                t.start()
            primary = cluster.nodes[0]
            try:
                for i in range(rounds(3)):
                    before = [t.said for t in talkers]
                    wait_until(lambda b=before: any(t.error for t in talkers) or all(t.said >= n + 3 for t, n in zip(talkers, b)), 30,
                               lambda: f"everybody talks: {[(t.said, t.error) for t in talkers]}")
                    self.assertEqual([t.error for t in talkers if t.error], [])
                    target = cluster.nodes[(i + 1) % 3]
                    wait_until(lambda t=target, p=primary: any(r["node"] == t.name and r["connected"] for r in p.status()["replicas"]), 10, "it is connected")
                    cluster.promote(target, via=primary)
                    primary = target
                before = [t.said for t in talkers]
                wait_until(lambda: any(t.error for t in talkers) or all(t.said >= n + 3 for t, n in zip(talkers, before)), 30, "everybody talks")
            finally:
                for t in talkers:
                    t.stop.set()
                for t in talkers:
                    t.join(30)
            print([(t.said, t.reconnects) for t in talkers])
            self.assertEqual([t.error for t in talkers if t.error], [])
            self.assertEqual([t.refusals for t in talkers], [[], [], []])
            self.assertGreater(min(t.reconnects for t in talkers), 0)
            cluster.sync()
            for node in cluster.nodes:
                for t in talkers:
                    lines = [int(text) for (text,) in node.sql(cluster.database, "SELECT text FROM said WHERE who = ? AND text GLOB '[0-9]*' ORDER BY id", (t.name,))]
                    twice = [n for n in set(lines) if lines.count(n) > 1]  # an application that waits behind the fence and is primary again writes late
                    print(f"{node.name}, {t.name}: twice {twice}")
                    self.assertEqual(sorted(set(lines)), list(range(1, t.said + 1)))
