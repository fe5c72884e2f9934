"""The proxy's engine on a real node: TLS, reload, stop, upgrade, what it holds. What single messages look like is in tests/http."""
import contextlib
import http.client
import http.server
import os
import resource
import signal
import socket
import ssl
import subprocess
import threading
import time

import harness
from harness import LONG, Cluster, EdgeTest, free_port, wait_until, within


LONG_BODY = bytes(range(251)) * (16 << 12)  # 16 MiB


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/slow":
            self.server.slow.set()
            self.server.go_on.wait(20)
        if self.path == "/long":
            self.answer(LONG_BODY)
            return
        self.answer(f"{self.server.name} {self.headers.get('X-Forwarded-Proto')} {self.headers.get('X-Forwarded-For')}".encode())

    def do_POST(self):
        left, total = int(self.headers["Content-Length"]), 0
        while left:
            n = len(self.rfile.read(min(left, 1 << 20)))
            left, total = left - n, total + n
            if total == n:
                self.server.slow.set()
                self.server.go_on.wait(20)
        self.answer(f"{self.server.name} took {total}".encode())


class UnixServer(http.server.ThreadingHTTPServer):
    address_family = socket.AF_UNIX

    def server_bind(self):
        self.socket.bind(self.server_address)

    def get_request(self):
        return self.socket.accept()[0], ("unix", 0)


@contextlib.contextmanager
def origin(name, address=("127.0.0.1", 0)):
    server = (UnixServer if isinstance(address, str) else http.server.ThreadingHTTPServer)(address, Handler)
    server.daemon_threads, server.name, server.slow, server.go_on = True, name, threading.Event(), threading.Event()
    server.at = f"unix:{address}" if isinstance(address, str) else f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()


def entry(port, target, more=""):
    return f"  - {{name: p{port}, listen: 127.0.0.1:{port}, target: '{target}'{more}}}\n"


@contextlib.contextmanager
def node(*entries):
    with Cluster(1, start=False) as cluster:
        n = cluster.nodes[0]
        n.base = n.extra
        configure(n, *entries)
        cluster.start()
        yield n


def configure(n, *entries):
    n.extra = n.base + "proxy:\n" + "".join(entries)
    n.write_config()


def connect(port, timeout=20):
    """Waits until the proxy listens; from then on nobody is refused."""
    def attempt():
        with contextlib.suppress(ConnectionRefusedError):
            return socket.create_connection(("127.0.0.1", port), timeout)
    return wait_until(attempt, 20, f"somebody listens on {port}")


def get(c, path="/"):
    c.request("GET", path)
    r = c.getresponse()
    return r.status, r.read().decode()


def client(port, tls=None):
    connect(port).close()
    return http.client.HTTPSConnection("localhost", port, timeout=20, context=tls) if tls else http.client.HTTPConnection("127.0.0.1", port, timeout=20)


def connects(c):
    """How many connections the proxy has made to applications and other proxies."""
    return int(next(line.split()[-1] for line in get(c, "/edgefs/metrics")[1].splitlines() if line.startswith("edgefs_proxy_connects_total")))


def certificate(folder, name):
    """A self-signed one for localhost and 127.0.0.1: (certificate, key)."""
    cert, key = os.path.join(folder, name + ".pem"), os.path.join(folder, name + ".key")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", f"/CN={name}",
                    "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


def memory(pid):
    """Bytes that a process has of its own in memory."""
    with open(f"/proc/{pid}/smaps_rollup") as f:
        return sum(int(line.split()[1]) << 10 for line in f if line.startswith("Private_"))


class Reload(EdgeTest):
    @within(30)
    def test_connections_go_on_and_rules_change(self):
        with origin("one") as one, origin("two") as two:
            kept, gone, new = free_port(), free_port(), free_port()
            with node(entry(kept, one.at), entry(gone, one.at)) as n:
                c, other = client(kept), client(gone)
                self.assertEqual(get(c)[1].split()[0], "one")
                self.assertEqual(get(other)[1].split()[0], "one")
                sock = c.sock
                configure(n, entry(kept, two.at), entry(new, two.at))
                n.kill("proxy", signal.SIGHUP)
                wait_until(lambda: get(c)[1].startswith("two"), 10, "the connection gets the new target")
                self.assertIs(c.sock, sock)
                self.assertEqual(get(client(new))[1].split()[0], "two")
                with self.assertRaises(ConnectionRefusedError):
                    socket.create_connection(("127.0.0.1", gone), 5)
                with self.assertRaises((http.client.RemoteDisconnected, ConnectionError)):
                    other.sock.settimeout(10)
                    get(other)
                # A file that is wrong changes nothing.
                configure(n, entry(kept, one.at, ", passthrough: [nonsense]"))
                n.kill("proxy", signal.SIGHUP)
                wait_until(lambda: "the old configuration stays" in n.log_tail(50), 10, "it complains")
                self.assertTrue(get(c)[1].startswith("two"))
                self.assertIs(c.sock, sock)

    @within(30)
    def test_request_under_way_ends_by_the_old_rules(self):
        with origin("one") as one, origin("two") as two:
            port = free_port()
            with node(entry(port, one.at)) as n:
                c, d = client(port), client(port)
                c.request("GET", "/slow")
                one.slow.wait(10)
                configure(n, entry(port, two.at))
                n.kill("proxy", signal.SIGHUP)
                wait_until(lambda: get(d)[1].startswith("two"), 10, "others get the new target")
                one.go_on.set()
                self.assertTrue(c.getresponse().read().startswith(b"one"))


class Ends(EdgeTest):
    @within(30)
    def test_stop_finishes_what_is_under_way(self):
        with origin("one") as one:
            port = free_port()
            with node(entry(port, one.at)) as n:
                c = client(port)
                c.request("GET", "/slow")
                one.slow.wait(10)
                stopped = []
                stopper = threading.Thread(target=lambda: stopped.append(n.stop()))
                stopper.start()

                def refused():
                    with contextlib.suppress(ConnectionResetError), socket.create_connection(("127.0.0.1", port), 5) as s:
                        return s.recv(1) == b""  # still in the backlog when the socket was closed
                    return True
                with contextlib.suppress(ConnectionRefusedError):
                    wait_until(refused, 10, "newcomers are refused")
                self.assertEqual(stopped, [])
                one.go_on.set()
                r = c.getresponse()
                self.assertEqual((r.status, r.headers["Connection"]), (200, "close"))
                self.assertTrue(r.read().startswith(b"one"))
                stopper.join()
                self.assertEqual(stopped, [0])

    @within(40)
    def test_upgrade_and_death_refuse_nobody(self):
        with origin("one") as one:
            port = free_port()
            with node(entry(port, one.at)) as n:
                slow, idle = client(port), client(port)
                self.assertEqual(get(idle)[0], 200)
                slow.request("GET", "/slow")
                one.slow.wait(10)
                failures, asked, ended = [], [], threading.Event()

                def ask():
                    while not ended.is_set():
                        try:
                            c = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
                            asked.append(get(c)[0])
                            c.close()
                        except Exception as e:
                            failures.append(repr(e))
                        time.sleep(0.002)
                asker = threading.Thread(target=ask)
                asker.start()
                try:
                    old = n.pid("proxy")
                    done = subprocess.run([harness.EDGEFS, "upgrade", "-c", n.config_file], capture_output=True, text=True, timeout=30)
                    self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
                    self.assertIn("edgefs-proxy", done.stdout + done.stderr)
                    self.assertNotEqual(n.pid("proxy"), old)
                    self.assertEqual(get(idle)[0], 200)  # a connection that was idle then
                    one.go_on.set()
                    r = slow.getresponse()  # and the request that was under way
                    self.assertEqual(r.status, 200)
                    self.assertTrue(r.read().startswith(b"one"))
                    count = len(asked)
                    wait_until(lambda: len(asked) > count + 20, 10, "the new one answers")
                finally:
                    ended.set()
                    asker.join()
                self.assertEqual(failures, [])
                n.kill_and_wait("proxy")
                self.assertEqual(get(http.client.HTTPConnection("127.0.0.1", port, timeout=20))[0], 200)


class Tls(EdgeTest):
    @within(30)
    def test_certificates_are_read_again(self):
        with origin("one") as one, Cluster(1, start=False) as cluster:
            n, port = cluster.nodes[0], free_port()
            cert, key = certificate(n.tmp, "first")
            n.base = n.extra
            configure(n, entry(port, one.at, f", tls: {{certificate: {cert}, key: {key}}}"))
            cluster.start()
            first = ssl.create_default_context(cafile=cert)
            first.set_alpn_protocols(["h2", "http/1.1"])
            c = client(port, first)
            self.assertEqual(get(c), (200, "one https 127.0.0.1"))
            self.assertEqual(c.sock.selected_alpn_protocol(), "http/1.1")
            os.replace(certificate(n.tmp, "second")[0], cert)
            os.replace(os.path.join(n.tmp, "second.key"), key)
            second = ssl.create_default_context(cafile=cert)
            n.kill("proxy", signal.SIGHUP)

            def renewed():
                with contextlib.suppress(ssl.SSLCertVerificationError):
                    return get(client(port, second))[0] == 200
            wait_until(renewed, 10, "the new certificate is shown")
            self.assertEqual(get(c)[0], 200)  # the connection of before goes on
            # Large bodies in both directions go through the same code.
            one.go_on.set()
            d = client(port, second)
            d.request("POST", "/", b"x" * (8 << 20))
            self.assertEqual(d.getresponse().read(), b"one took 8388608")

    @within(40)
    def test_writes_go_to_the_primary_over_tls_that_is_checked(self):
        with origin("a") as a, origin("b") as b, Cluster(2, start=False) as cluster:
            first, second = cluster.nodes
            cert, key = certificate(first.tmp, "peers")
            stranger, _ = certificate(first.tmp, "stranger")
            ports, bad = [free_port(), free_port()], [free_port(), free_port()]
            for n, o, port, wrong in zip(cluster.nodes, (a, b), ports, bad):
                n.base = n.extra
                tls = f", tls: {{certificate: {cert}, key: {key}}}, failover-wait: 1s, peer-tls: {{ca: %s}}, peers: {{a: 'https://localhost:%d', b: 'https://127.0.0.1:%d'}}"
                configure(n, entry(port, o.at, tls % (cert, *ports)), entry(wrong, o.at, tls % (stranger, *bad)))
            cluster.start()
            a.go_on.set()
            b.go_on.set()
            context = ssl.create_default_context(cafile=cert)
            c = client(ports[1], context)
            client(ports[0], context)

            def written():
                c.request("POST", "/", b"hello")
                r = c.getresponse()
                return (r.status, r.read()) == (200, b"a took 5")
            wait_until(written, 15, "a write on the replica reaches the primary's application")
            self.assertTrue(get(c)[1].startswith("b "))
            before = connects(c)
            for _ in range(20):
                self.assertTrue(written())
            self.assertLess(connects(c) - before, 3, "connections between proxies are kept")
            d = client(bad[1], context)
            d.request("POST", "/", b"hello")
            r = d.getresponse()
            self.assertEqual(r.status, 503, r.read())


def gauge(port, name):
    c = client(port)
    page = get(c, "/edgefs/metrics")[1]
    c.close()
    return int(next(line.split()[-1] for line in page.splitlines() if line.startswith(name + " ")))


class Queues(EdgeTest):
    @within(60)
    def test_who_waits_for_a_connection_to_the_application_is_refused_in_time(self):
        with origin("one") as one:
            port = free_port()
            with node(entry(port, one.at, ", limits: {target-connections: 1, queue-time: 1s}")):
                first, second = client(port), client(port)
                first.request("GET", "/slow")
                self.assertTrue(one.slow.wait(10))
                second.request("GET", "/")
                r = second.getresponse()
                self.assertEqual((r.status, r.headers["X-Reason"], r.headers["Retry-After"]), (503, "queue-time", "1"), r.read())
                r.read()
                self.assertIsNotNone(second.sock, "the connection can be used again")
                one.go_on.set()
                self.assertEqual(first.getresponse().status, 200)
                self.assertEqual(get(second)[0], 200)

    @within(60)
    def test_who_closes_while_its_request_waits_gives_up_its_place_and_who_only_half_closes_is_answered(self):
        with origin("one") as one:
            port = free_port()
            with node(entry(port, one.at, ", max-wait: 40s, limits: {target-connections: 1, queue-time: 40s}")):
                def ask(path="/", fields=""):
                    s = connect(port)
                    s.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{fields}\r\n".encode())
                    return s
                wait_until(lambda: gauge(port, "edgefs_proxy_clients") == 1, 10, "there is only the one that asks for this")
                # For a position of an epoch that is not there yet.
                s = ask(fields="X-Read-After-Position: 2-1\r\n")
                wait_until(lambda: gauge(port, "edgefs_proxy_parked") == 1, 10, "it waits")
                s.close()
                wait_until(lambda: gauge(port, "edgefs_proxy_parked") == 0, 10, "it is dropped")
                # For a connection to the application.
                first = ask("/slow")
                self.assertTrue(one.slow.wait(10))
                s, half = ask(), ask()
                wait_until(lambda: gauge(port, "edgefs_proxy_clients") == 4, 10, "they wait")
                s.close()
                half.shutdown(socket.SHUT_WR)
                wait_until(lambda: gauge(port, "edgefs_proxy_clients") == 3, 10, "one is dropped")
                one.go_on.set()
                for c in (first, half):
                    data = b""
                    while piece := c.recv(4096):
                        data += piece
                    self.assertIn(b"HTTP/1.1 200", data)
                    c.close()


class Holds(EdgeTest):
    @within(40)
    def test_body_larger_than_memory_is_allowed_for_is_streamed(self):
        size = (1 << 30) if LONG else (200 << 20)
        with origin("one") as one:
            port = free_port()
            with node(entry(port, one.at)) as n:
                c = client(port)
                pid = n.pid("proxy")
                before = memory(pid)
                block, sent = b"\0" * (1 << 20), 0
                c.putrequest("POST", "/")
                c.putheader("Content-Length", str(size))
                c.endheaders()
                c.sock.settimeout(0.5)
                try:  # the application reads a little and stops: so do we
                    while sent < size:
                        sent += c.sock.send(block)
                except TimeoutError:
                    pass
                self.assertTrue(one.slow.wait(10))
                self.assertLess(sent, 32 << 20, "back-pressure reaches the client")
                self.assertLess(memory(pid) - before, 4 << 20)
                one.go_on.set()
                c.sock.settimeout(20)
                while sent < size:
                    sent += c.sock.send(block[:size - sent])
                self.assertEqual(c.getresponse().read(), f"one took {size}".encode())
                self.assertLess(memory(pid) - before, 4 << 20)

    @within(60)
    def test_a_long_response_is_spliced_once_the_proxy_is_short_of_processor_time(self):
        with origin("one") as one, contextlib.ExitStack() as stack:
            port = free_port()
            with node(entry(port, one.at)) as n:
                c = client(port)
                pid = n.pid("proxy")

                def pipes():
                    found = 0
                    for fd in os.listdir(f"/proc/{pid}/fd"):
                        with contextlib.suppress(FileNotFoundError):
                            found += os.readlink(f"/proc/{pid}/fd/{fd}").startswith("pipe:")
                    return found

                before = pipes()
                core = {min(os.sched_getaffinity(0))}
                other = stack.enter_context(subprocess.Popen(["sh", "-c", "while :; do :; done"]))
                stack.callback(other.kill)
                for p in (pid, other.pid):
                    os.sched_setaffinity(p, core)
                os.setpriority(os.PRIO_PROCESS, pid, 19)  # it gets a sixtieth of that processor …
                with contextlib.suppress(FileNotFoundError), open(f"/proc/{pid}/autogroup", "w") as f:
                    f.write("19")  # … where sessions share it, too (sched_autogroup)

                def spliced():
                    c.request("GET", "/long")
                    r = c.getresponse()
                    parts, seen = [], 0
                    while part := r.read(1 << 20):
                        parts.append(part)
                        seen = max(seen, pipes() - before)
                    self.assertTrue(b"".join(parts) == LONG_BODY, "the body arrives unchanged")
                    return seen > 0

                wait_until(spliced, 40, "the body goes through a pipe")

    @within(40)
    def test_idle_connections_hold_little(self):
        count = 10000 if LONG else 4000
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        with origin("one") as one, contextlib.ExitStack() as stack:
            port = free_port()
            with node(entry(port, one.at)) as n:
                connect(port).close()
                pid = n.pid("proxy")
                before = memory(pid)
                for _ in range(count):
                    s = stack.enter_context(socket.create_connection(("127.0.0.1", port), 20))
                    s.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                    data = b""
                    while b"127.0.0.1" not in data:
                        data += s.recv(4096)
                self.assertLess(memory(pid) - before, count * 10000)

    @within(30)
    def test_unix_socket_and_name_are_targets(self):
        with origin("name") as name, Cluster(1, start=False) as cluster:
            n = cluster.nodes[0]
            n.base = n.extra
            path, ports = os.path.join(n.tmp, "app.sock"), [free_port(), free_port()]
            with origin("unix", path) as unix:
                configure(n, entry(ports[0], unix.at), entry(ports[1], name.at.replace("127.0.0.1", "localhost")))
                cluster.start()
                self.assertTrue(get(client(ports[0]))[1].startswith("unix"))
                self.assertTrue(get(client(ports[1]))[1].startswith("name"))
