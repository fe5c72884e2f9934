"""What the proxies of two nodes do with requests that have to go to the primary: fly-replay, loops, the bounded queue while there is no primary."""
import threading

from harness import EdgeTest, wait_until, within
from proxy_cluster import listening
from test_proxy_positions import Client, proxied
from test_proxy_promotion import metric


class ProxyForward(EdgeTest):
    @within(90)
    def test_fly_replay_sends_a_request_to_the_primary_with_its_body_and_counts_as_a_write(self):
        with proxied(2, entry="read-only-methods: [GET, HEAD, OPTIONS, POST]\nreplay-body: 1KiB") as cluster, Client(cluster.ports["web"]) as client:
            for i in range(10):
                r = client.put(1, "k", f"value {i}", "replay")  # a read for the proxy: the replica's application gets it, and cannot write
                self.assertEqual((r.status, r.headers["X-App"], r.how, r.headers["fly-replay"]), (200, "a", "forwarded", None), r)
                self.assertIsNotNone(r.position, r)
                for k in (0, 1):
                    self.assertEqual(client.get(k, "k").body, f"value {i}")
            r = client.put(1, "k", "x" * 50000, "replay")  # more than is kept, and more than comes with a head: the application's own answer
            self.assertEqual((r.status, r.headers["X-App"]), (409, "b"), r)
            r = client.put(0, "k", "on the primary", "replay")
            self.assertEqual((r.status, r.headers["X-App"], r.how), (200, "a", "local"), r)
            self.assertEqual(metric(cluster.ports["web"][1], 'edgefs_proxy_replayed_total{app="web"}'), 10)

    @within(60)
    def test_a_request_that_goes_round_in_circles_ends(self):
        with proxied(2) as cluster, Client(cluster.ports["web"]) as client:
            for hop in ("4", "9", "x", "1;what", "", "-1"):
                self.assertEqual(client.ask(1, "GET", "/v/none", headers={"Edgefs-Hop": hop}).status, 508, hop)
            for hop in ("1", "3", "1;relay", "1;write;relay"):
                self.assertEqual(client.ask(0, "GET", "/v/none", headers={"Edgefs-Hop": hop}).status, 404, hop)

    @within(90)
    def test_while_there_is_no_primary_a_bounded_number_waits_and_the_rest_is_refused(self):
        with proxied(2, entry="failover-wait: 30s\nfailover-queue: 3") as cluster, Client(cluster.ports["web"]) as client:
            a, _ = cluster.nodes
            port = cluster.ports["web"][1]
            cluster.stop_app(0)
            a.stop()
            answers = []

            def write(i):
                with Client(cluster.ports["web"]) as c:
                    answers.append(c.put(1, f"k{i}", i).status)

            threads = [threading.Thread(target=write, args=(i,)) for i in range(3)]
            for t in threads:
                t.start()
            wait_until(lambda: metric(port, "edgefs_proxy_parked") == 3, 15, "they wait")
            r = client.put(1, "more", "1")
            self.assertEqual((r.status, r.headers["X-Reason"], r.headers["Retry-After"]), (503, "failover-queue", "1"), r)
            self.assertEqual(client.get(1, "none").status, 404, "reads go on")
            cluster.start_app(0)
            wait_until(lambda: listening(cluster.targets[0]), 15, "its application listens, and opens the database when it is asked")
            a.start()
            for t in threads:
                t.join()
            self.assertEqual(answers, [200] * 3)
            self.assertEqual([client.get(0, f"k{i}").body for i in range(3)], ["0", "1", "2"])
