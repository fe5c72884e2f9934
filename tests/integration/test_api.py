"""The HTTP API towards strangers: who may ask, what may be asked, and what bad clients cost."""
import json
import os
import re
import socket
import subprocess
import time

import harness
from harness import Cluster, EdgeTest, wait_until


def raw(node, data, timeout=10, half_close=False):
    """Sends bytes, returns all that comes until the server closes (or b"" on a reset)."""
    with socket.create_connection(("127.0.0.1", node.port), timeout=timeout) as s:
        try:
            s.sendall(data)
            if half_close:
                s.shutdown(socket.SHUT_WR)
            got = b""
            while piece := s.recv(65536):
                got += piece
            return got
        except ConnectionError:
            return b""


def rss_kib(pid):
    with open(f"/proc/{pid}/status") as f:
        return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1))


class Api(EdgeTest):
    def test_shapes_are_as_documented(self):
        with Cluster(2) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a, "dir/x.db")
            cluster.sync()
            for n, role in ((a, "primary"), (b, "replica")):
                s = n.status()
                self.assertEqual((s["node"], s["role"], s["primary"], s["primary_url"], s["url"]), (n.name, role, "a", a.url, n.url))
                self.assertEqual(s["applied"], {"epoch": s["epoch"], "lsn": s["lsn"]})
                self.assertEqual(s["dir"], n.mount)
                self.assertEqual(s["data"], n.data)
                self.assertEqual(s["pid"], n.pids()["replicator"])
                self.assertEqual(s["log"]["last_lsn"], s["lsn"])
                self.assertEqual(s["databases"]["count"], 1)
                self.assertTrue(s["connected"])
                self.assertEqual({(x["name"], x["url"]) for x in s["nodes"]}, {("a", a.url), ("b", b.url)})
                self.assertIsNone(s["promotion"])
                d = n.databases()["dir/x.db"]
                self.assertEqual((d["kind"], d["mode"], d["page_size"], d["state"], d["warning"]), ("database", "wal", 4096, "ok", None))
                self.assertRegex(d["checksum"], "^[89a-f][0-9a-f]{15}$")
                code, body = n.api("GET", "/healthz")
                self.assertEqual((code, body["status"], body["role"]), (200, "ok", role))
                code, sums = n.api("GET", "/v1/databases/dir%2Fx.db/checksum")
                self.assertEqual((code, sums["checksum"], sums["bad_count"], sums["bad_pages"]), (200, d["checksum"], 0, []))
            replica = a.status()["replicas"][0]
            self.assertEqual((replica["node"], replica["connected"]), ("b", True))
            wait_until(lambda: a.status()["replicas"][0]["applied_lsn"] == a.lsn(), 5, "b's acknowledgement")
            log = a.get("/v1/log")
            self.assertEqual(log["last_lsn"], a.lsn())
            tx = [r for r in log["records"] if r["type"] == "tx"]
            self.assertTrue(tx)
            code, ltx = a.api("GET", f"/v1/log/{tx[-1]['lsn']}")
            self.assertEqual((code, ltx[:4], len(ltx)), (200, b"LTX1", tx[-1]["payload"]))
            code, image = b.api("GET", "/v1/databases/dir%2Fx.db/image")
            self.assertEqual((code, image[:16]), (200, b"SQLite format 3\0"))
            code, metrics = a.api("GET", "/metrics")
            self.assertEqual(code, 200)
            lines = [line for line in metrics.decode().splitlines() if line and not line.startswith("#")]
            self.assertGreater(len(lines), 10)
            for line in lines:
                self.assertRegex(line, r'^[a-zA-Z_:][a-zA-Z0-9_:]*(\{[^}]*\})? -?[0-9.e+naNIf-]+$')

    def test_at_one_common_position(self):
        """?lsn=N: what every node answers for a position is the same, whatever happened since."""
        with Cluster(2) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            points = []
            for i in range(5):
                a.sql("load.db", "INSERT INTO t (w, s) VALUES (1, ?)", (i,))
                points.append(cluster.sync())
            for lsn in points:
                entries = [n.get(f"/v1/databases?lsn={lsn}")["databases"] for n in (a, b)]
                self.assertEqual(*[[(d["name"], d["txid"], d["checksum"]) for d in e] for e in entries])
            self.assertEqual(b.api("GET", f"/v1/databases?lsn={points[-1] + 1000}&wait_ms=50")[0], 408)

    def test_token(self):
        with Cluster(2, token="s3cret-token-of-the-test") as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            a.sql("load.db", "INSERT INTO t (w, s) VALUES (1, 1)")
            cluster.identical()  # replication and edgefs-ctl bring it
            self.assertEqual(a.api("GET", "/healthz", token=False)[0], 200)
            for method, path in (("GET", "/v1/status"), ("GET", "/v1/databases"), ("GET", "/metrics"), ("POST", "/v1/promote"),
                                 ("GET", "/v1/stream?epoch=0&lsn=0"), ("PUT", "/v1/databases/x.db"), ("GET", "/v1/nothing"),
                                 ("GET", "/v1/databases/load.db/image"), ("POST", "/v1/ack"), ("POST", "/v1/handover")):
                for header in (None, "Bearer wrong", "Bearer s3cret-token-of-the-tes", "Bearer s3cret-token-of-the-test2", "Basic s3cret-token-of-the-test", "s3cret-token-of-the-test", "Bearer "):
                    code, _ = a.api(method, path, headers={"Authorization": header} if header else {}, token=False)
                    self.assertEqual(code, 401, (method, path, header))
            self.assertEqual(a.api("GET", "/v1/status")[0], 200)
            self.assertEqual(a.role(), "primary")
            self.assertNotIn("s3cret", a.log() + b.log())
            rc, _, err = subprocess.run([harness.CTL, "--url", a.url, "status"], capture_output=True, text=True).returncode, None, None
            self.assertNotEqual(rc, 0)

    def test_another_address_needs_a_token(self):
        with Cluster(1, start=False) as cluster:
            (a,) = cluster.nodes
            text = a.config_text().replace("listen: 127.0.0.1:", "listen: 0.0.0.0:")
            with open(a.config_file, "w") as f:
                f.write(text)
            a.start(wait=False)
            self.assertEqual(a.process.wait(10), 2)
            self.assertIn("token", a.log())
            token = os.path.join(a.tmp, "tok")
            with open(token, "w") as f:
                f.write("a-token-of-some-length\n")
            os.chmod(token, 0o600)
            with open(a.config_file, "w") as f:
                f.write(text + f"auth: {{token-file: {token}}}\n")
            a.token = "a-token-of-some-length"
            a.start()
            self.assertEqual(a.api("GET", "/v1/status")[0], 200)
            self.assertEqual(a.api("GET", "/v1/status", token=False)[0], 401)

    def test_hostile_names(self):
        with Cluster(2) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            with open(os.path.join(cluster.tmp, "secret.db"), "wb") as f:
                f.write(open(a.backing("load.db"), "rb").read())
            body = open(a.backing("load.db"), "rb").read()
            names = ["..%2F..%2F..%2Fsecret.db", "%2E%2E%2Fx.db", "..", ".", "", "a%2F..%2F..%2Fx.db", "%2Fetc%2Fpasswd", "a%2F%2Fb.db",
                     "a%00b.db", "x" * 2000, "a%2F", ".edgefs-secret", "%FF%FE", "%", "%zz", "load.db-wal", "load.db-shm", "load.db-journal",
                     "load.db-pos", ".primary", ".lag", "load.db%2Fx.db"]
            before = set(os.listdir(cluster.tmp)) | set(os.listdir(a.tmp)) | set(os.listdir(a.data))
            for name in names:
                for suffix in ("/image", "/checksum", "/sums"):
                    code, _ = a.api("GET", f"/v1/databases/{name}{suffix}")
                    self.assertIn(code, (400, 404, 405, 414), (name, suffix))
                code, answer = a.api("PUT", f"/v1/databases/{name}", body)
                self.assertIn(code, (400, 403, 404, 405, 409, 414, 500) if name in ("load.db%2Fx.db",) else (400, 403, 404, 405, 409, 414), (name, answer))
            self.assertEqual(set(os.listdir(cluster.tmp)) | set(os.listdir(a.tmp)) | set(os.listdir(a.data)), before)
            self.assertEqual(set(a.databases()), {"load.db"})
            self.assertEqual(a.role(), "primary")
            cluster.identical()

    def test_hostile_requests(self):
        with Cluster(1) as cluster:
            (a,) = cluster.nodes
            pid = a.pids()["replicator"]
            for data in (b"GET /v1/status HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 100000 + b"\r\n",
                         b"GET /" + b"a" * 1000000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
                         b"A" * 1000000,
                         b"GET /v1/status HTTP/1.1\r\nHost: x\r\nX: a\rb\r\n\r\n",
                         b"GET /v1/status HTTP/1.1\r\nHost: x\r\nX: a\r\n folded\r\n\r\n",
                         b"POST /v1/wait HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                         b"POST /v1/wait HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
                         b"POST /v1/wait HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
                         b"POST /v1/wait HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
                         b"POST /v1/wait HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
                         b"GET /v1/status HTTP/9.9\r\n\r\n", b"\0" * 1000, b"\r\n\r\n\r\n\r\n"):
                answer = raw(a, data, half_close=True)
                self.assertTrue(answer == b"" or re.match(rb"HTTP/1.1 (4\d\d|501|505) ", answer), (data[:60], answer[:200]))
            for method in ("DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"):
                self.assertIn(a.api(method, "/v1/status")[0], (400, 404, 405, 501), method)
            for body in (b"", b"{", b"[]", b"null", b'{"lsn": 1, "lsn": 2}', b'{"lsn": "x"}', b'{"lsn": -5}', b'{"lsn": 1e99}',
                         b"[" * 5000, b'{"lsn": 1, "timeout_ms": 99999999}', b'{"lsn":' + b"1" * 5000 + b"}"):
                self.assertIn(a.api("POST", "/v1/wait", body)[0], (400, 413), body[:40])
            self.assertEqual(a.api("POST", "/v1/wait", b"x" * (1 << 20))[0], 413)
            for path in ("/v1/log?from=x", "/v1/log?limit=-1", "/v1/databases?lsn=x", "/v1/stream?epoch=x&lsn=1", "/v1/stream?lsn=-1&epoch=1",
                         "/v1/log/x", "/v1/log/99999999999999999999999"):
                self.assertIn(a.api("GET", path)[0], (400, 404), path)
            self.assertEqual(a.api("GET", "/v1/log/999999999")[0], 404)
            self.assertEqual(a.pids()["replicator"], pid, "the same process all the time")

    def test_slow_and_silent_clients_cost_little_and_hold_up_nobody(self):
        with Cluster(2) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            with a.db("load.db") as db:
                db.execute("WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 60000)"
                           "INSERT INTO t (w, s, pad) SELECT 1, i, hex(randomblob(150)) FROM n")
            cluster.sync()
            pid = a.pids()["replicator"]
            before = rss_kib(pid)
            sockets = []
            try:
                for i in range(60):
                    s = socket.create_connection(("127.0.0.1", a.port), timeout=10)
                    sockets.append(s)
                    s.sendall([b"", b"GET /v1/sta", b"GET /v1/databases/load.db/image HTTP/1.1\r\nHost: x\r\n\r\n",
                               b"GET /v1/stream?epoch=0&lsn=0 HTTP/1.1\r\nHost: x\r\n\r\n",
                               b"PUT /v1/databases/slow.db HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\nSQLite form",
                               b"GET /v1/databases/load.db/image?format=pages HTTP/1.1\r\nHost: x\r\n\r\n"][i % 6])
                # Nobody of them reads. The node does its work meanwhile: write, follow, answer, checkpoint.
                for i in range(50):
                    times = [time.monotonic()]
                    for step in (lambda: a.sql("load.db", "INSERT INTO t (w, s) VALUES (2, ?)", (i,)), a.lsn, lambda: a.wait_applied(lsn, 5)):
                        lsn = step()
                        times.append(time.monotonic())
                    self.assertLess(times[-1] - times[0], 5, f"round {i}: write, status, wait took {[y - x for x, y in zip(times, times[1:])]}")
                self.assertEqual(a.sql("load.db", "PRAGMA wal_checkpoint(TRUNCATE)")[0][0], 0)
                wait_until(lambda: b.sql("load.db", "SELECT count(*) FROM t WHERE w = 2") == [(50,)], 10, "b follows")
                grown = rss_kib(pid) - before
                self.assertLess(grown, 40 * 1024, f"60 slow clients cost {grown} KiB")
            finally:
                for s in sockets:
                    s.close()
            cluster.identical()
            self.assertEqual(a.pids()["replicator"], pid)
            self.assertNotIn("slow.db", a.databases())

    def test_wait(self):
        with Cluster(2) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            lsn = cluster.sync()
            begin = time.monotonic()
            self.assertEqual(b.api("POST", "/v1/wait", {"lsn": lsn + 1, "timeout_ms": 300})[0], 408)
            self.assertGreaterEqual(time.monotonic() - begin, 0.29)
            self.assertEqual(b.api("POST", "/v1/wait", {"lsn": lsn, "timeout_ms": 0})[0], 200)
            p = subprocess.Popen([harness.CTL, "--url", b.url, "wait", "--lsn", str(lsn + 1)], stdout=subprocess.DEVNULL)
            try:
                a.sql("load.db", "INSERT INTO t (w, s) VALUES (1, 1)")
                self.assertEqual(p.wait(10), 0)
            finally:
                p.kill()
                p.wait()

    def test_ctl_status_and_databases(self):
        with Cluster(3) as cluster:
            a, b, c = cluster.nodes
            harness.make_load_db(a, "dir/x.db")
            cluster.sync()
            for node in cluster.nodes:
                text = harness.ctl(node, "status")
                for n in cluster.nodes:
                    self.assertRegex(text, rf"(?m)^\W*{n.name}\b.*{'primary' if n is a else 'replica'}")
            doc = json.loads(harness.ctl(b, "status", "--json"))
            self.assertIn('"primary"', json.dumps(doc))
            self.assertIn("dir/x.db", harness.ctl(a, "databases"))
            self.assertEqual(harness.ctl(a, "verify", "dir/x.db", check=False)[0], 0)
            # A node that is down is shown as that, and the others are.
            c.stop()
            rc, text, err = harness.ctl(a, "status", check=False)
            self.assertRegex(text, r"(?m)^\W*b\b.*replica")
            self.assertIn("c", text)
            rc, _, err = harness.ctl(a, "nonsense", check=False)
            self.assertEqual(rc, 2)
            rc = subprocess.run([harness.CTL, "--url", f"http://127.0.0.1:{harness.free_port()}", "status"], capture_output=True).returncode
            self.assertEqual(rc, 3)

    def test_verify_finds_a_changed_page(self):
        """A bit flipped in a database file behind everybody's back: verify says which database, node and page, and exits 1."""
        with Cluster(2) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            with a.db("load.db") as db:
                db.executemany("INSERT INTO t (w, s, pad) VALUES (1, ?, ?)", [(i, "x" * 500) for i in range(500)])
            cluster.identical()  # on the primary that leaves an empty WAL: pages are read from the database file
            offset = 20 * 4096 + 100
            with open(a.backing("load.db"), "r+b", buffering=0) as f:
                byte = os.pread(f.fileno(), 1, offset)
                os.pwrite(f.fileno(), bytes([byte[0] ^ 1]), offset)
                rc, text, err = harness.ctl(a, "verify", check=False)
                self.assertEqual(rc, 1, text + err)
                self.assertRegex(text + err, r"(?s)load\.db.*\b21\b")
                os.pwrite(f.fileno(), byte, offset)
            cluster.verify()
