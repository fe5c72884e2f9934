"""Nodes with a proxy and an application each, and clients of them. Python's standard library only (the applications are those of examples/)."""

import base64
import contextlib
import http.client
import json
import os
import re
import socket
import struct
import threading
import urllib.parse

import harness

EXAMPLES = os.path.join(harness.ROOT, "examples")
PYTHON = "/usr/bin/python3"  # Debian's, which has Debian's packages

APPLICATIONS = {  # name: (environment variable with the database's path, its name, command)
    "notes": ("NOTES_DB", "notes.db", ["waitress-serve", "--listen=127.0.0.1:{port}", "--threads=8", "notes.wsgi:application"]),
    "feed": ("FEED_DB", "feed.db", [PYTHON, "feed.py", "serve", "{port}"]),
}
CREATE = {"notes": [PYTHON, "manage.py", "migrate", "-v0"], "feed": [PYTHON, "feed.py", "create"]}


class ProxyCluster(harness.Cluster):
    """n nodes, on each the application of examples/NAME behind a proxy. node.web: the proxy's port; node.app: the application's."""

    def __init__(self, n, application, extra=""):
        self.application = application
        super().__init__(n, start=False, prefix="efs-")
        variable, self.database, argv = APPLICATIONS[application]
        folder = os.path.join(EXAMPLES, application)
        try:
            for node in self.nodes:
                node.web, node.app = harness.free_port(), harness.free_port()
            peers = ", ".join(f"{m.name}: 'http://127.0.0.1:{m.web}'" for m in self.nodes)
            for node in self.nodes:
                node.extra += (f"proxy:\n  - name: {application}\n    listen: 127.0.0.1:{node.web}\n    target: 127.0.0.1:{node.app}\n"
                               f"    peers: {{{peers}}}\n{extra}")
                node.write_config()
                environment = [f"{variable}={node.path(self.database)}", "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1"]
                node.start(app=["env", "-C", folder, *environment, *(a.format(port=node.app) for a in argv)], wait=False)
            for node in self.nodes:
                node.wait_ready()
            self.nodes[0].wait_role("primary")
            env = dict(os.environ, PYTHONDONTWRITEBYTECODE="1", **{variable: self.nodes[0].path(self.database)})
            with self.nodes[0].db(self.database) as db:
                db.execute("PRAGMA journal_mode = WAL")
            harness.subprocess.run(CREATE[application], cwd=folder, env=env, check=True, timeout=60)
            for node in self.nodes:
                harness.wait_until(lambda m=node: listening(m.app) and listening(m.web), 30, f"application and proxy of {node.name} listen")
            self.sync()
        except BaseException:
            self.report()
            self.clean()
            raise


def listening(port):
    with contextlib.closing(socket.socket()) as s:
        s.settimeout(1)
        return s.connect_ex(("127.0.0.1", port)) == 0


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.fields = response.getheaders()
        self.body = response.read()
        self.text = self.body.decode("utf-8", "replace")

    def get(self, name, default=None):
        return next((v for n, v in self.fields if n.lower() == name.lower()), default)


class Browser:
    """What a browser does: cookies that count for every node (browsers do not tell ports apart), connections that are kept. One thread."""

    def __init__(self, nodes):
        self.nodes = nodes
        self.cookies = {}
        self.connections = {}

    def ask(self, node, method, path, form=None, headers=None, body=None):
        fields = {"Cookie": "; ".join(f"{k}={v}" for k, v in self.cookies.items())} if self.cookies else {}
        if form is not None:
            body = urllib.parse.urlencode(form)
            fields["Content-Type"] = "application/x-www-form-urlencoded"
        if "csrftoken" in self.cookies and method != "GET":
            fields["X-CSRFToken"] = self.cookies["csrftoken"]
        fields.update(headers or {})
        conn = self.connections.get(node.name)
        if conn is None:
            conn = self.connections[node.name] = http.client.HTTPConnection("127.0.0.1", node.web, timeout=60)
        conn.request(method, path, body, fields)
        answer = Answer(conn.getresponse())
        for name, value in answer.fields:
            if name.lower() == "set-cookie":
                key, _, rest = value.partition("=")
                self.cookies[key] = rest.split(";")[0]
        return answer

    def get(self, node, path, **kw):
        return self.ask(node, "GET", path, **kw)

    def post(self, node, path, form=None, **kw):
        return self.ask(node, "POST", path, form or {}, **kw)

    def close(self):
        for conn in self.connections.values():
            conn.close()
        self.connections = {}


class WebSocket:
    """A client of RFC 6455, text messages only, on one thread."""

    def __init__(self, port, path, timeout=20):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout)
        self.buffer = b""
        key = base64.b64encode(os.urandom(16)).decode()
        self.sock.sendall((f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                           f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n").encode())
        while b"\r\n\r\n" not in self.buffer:
            self.fill()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        self.status = int(head.split(b" ")[1])
        self.head = head.decode("latin-1")

    def fill(self):
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionError("the WebSocket's connection ended")
        self.buffer += data

    def exact(self, n):
        while len(self.buffer) < n:
            self.fill()
        data, self.buffer = self.buffer[:n], self.buffer[n:]
        return data

    def frame(self, opcode, data):
        mask = os.urandom(4)
        length = len(data)
        head = bytes([0x80 | opcode, 0x80 | length]) if length < 126 else bytes([0x80 | opcode, 0x80 | 126]) + struct.pack("!H", length)
        self.sock.sendall(head + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(data)))

    def send(self, message):
        self.frame(1, json.dumps(message).encode())

    def receive(self):
        """The next text message; pings are answered. None when the other side closes."""
        while True:
            first, second = self.exact(2)
            length = second & 127
            if length == 126:
                (length,) = struct.unpack("!H", self.exact(2))
            elif length == 127:
                (length,) = struct.unpack("!Q", self.exact(8))
            data = self.exact(length)
            if first & 15 == 1:
                return json.loads(data)
            if first & 15 == 8:
                return None
            if first & 15 == 9:
                self.frame(10, data)

    def close(self):
        self.sock.close()


class Events:
    """A client of server-sent events on one thread."""

    def __init__(self, port, path, last=None, timeout=20):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout)
        resume = f"Last-Event-ID: {last}\r\n" if last is not None else ""
        self.sock.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n{resume}\r\n".encode())
        self.response = http.client.HTTPResponse(self.sock)
        self.response.begin()

    def next(self):
        """{"id": …, "data": …}; comments are left out."""
        event = {}
        while True:
            line = self.response.readline().decode()
            if not line:
                raise ConnectionError("the stream of events ended")
            line = line.rstrip("\n")
            if not line:
                if event:
                    return event
            elif not line.startswith(":"):
                name, _, value = line.partition(": ")
                event[name] = event[name] + "\n" + value if name in event else value

    def comment(self):
        """The comment with which the application begins: from here on nothing is missed."""
        line = self.response.readline()
        assert line.startswith(b":"), line
        self.response.readline()

    def close(self):
        self.response.close()
        self.sock.close()


class Promoter(threading.Thread):
    """Promotes the next node around, every `pause` seconds, until stopped."""

    def __init__(self, cluster, pause):
        super().__init__(daemon=True)
        self.cluster, self.pause = cluster, pause
        self.ended = threading.Event()
        self.done, self.error = 0, None

    def run(self):
        try:
            while not self.ended.wait(self.pause):
                names = [n.name for n in self.cluster.nodes]
                primary = self.cluster.primary()
                self.cluster.promote(self.cluster.by_name(names[(names.index(primary.name) + 1) % len(names)]))
                self.done += 1
        except Exception as e:
            self.error = e

    def stop(self):
        self.ended.set()
        self.join(60)
        if self.error:
            raise self.error


def sign_up(browser, node, name):
    """A new account of notes, logged in."""
    browser.get(node, "/sign-up")
    answer = browser.post(node, "/sign-up", {"username": name, "password1": "analytical-engine", "password2": "analytical-engine"})
    assert answer.status == 302, f"sign-up on {node.name}: {answer.status} {re.sub('<[^>]*>', ' ', answer.text)[:500]}"
    return browser


def log_in(browser, node, name):
    browser.get(node, "/login")
    answer = browser.post(node, "/login", {"username": name, "password": "analytical-engine"})
    assert answer.status == 302, f"login on {node.name}: {answer.status} {re.sub('<[^>]*>', ' ', answer.text)[:500]}"
    return browser
