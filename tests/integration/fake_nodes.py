"""Nodes that are played by a test, and edgefs-ctl run against them: what test_ctl_fake.py is made of.

The nodes are HTTP servers on 127.0.0.1, port chosen by the kernel, that answer as docs/api.md says, unless a test hooks in.
Standard library only."""


import contextlib
import fcntl
import http.server
import json
import os
import pty
import re
import select
import shutil
import socket
import sqlite3
import struct
import subprocess
import tempfile
import termios
import threading
import time
import unittest
import urllib.parse

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("EDGEFS_BUILD") or os.path.join(ROOT, "build"))
CTL = os.path.join(BUILD, "edgefs-ctl")

OK, NO, USAGE, UNREACHABLE, REFUSED, LOCAL = range(6)


# ---- LTX files: independent of lib/ltx.c ----

CRC_TABLE = []
for _i in range(256):
    _c = _i
    for _ in range(8):
        _c = _c >> 1 ^ (0xD800000000000000 if _c & 1 else 0)
    CRC_TABLE.append(_c)


def crc64(data, crc=0):
    crc ^= 0xFFFFFFFFFFFFFFFF
    for b in data:
        crc = CRC_TABLE[(crc ^ b) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFFFFFFFFFF


def lz4_literals(data):
    """One LZ4 block that holds data as it is."""
    if len(data) < 15:
        return bytes([len(data) << 4]) + data
    rest = len(data) - 15
    return b"\xf0" + b"\xff" * (rest // 255) + bytes([rest % 255]) + data


def varint(v):
    out = b""
    while v >= 0x80:
        out += bytes([v & 0x7F | 0x80])
        v >>= 7
    return out + bytes([v])


def ltx(min_txid, max_txid, page=b"x" * 512):
    flag = 1 << 63
    head = struct.pack(">4sIIIQQQQ", b"LTX1", 0, 512, 3, min_txid, max_txid, 1700000000000, flag | 5).ljust(100, b"\0")
    block = lz4_literals(page)
    frame = struct.pack(">IHI", 2, 1, len(block))
    index = varint(2) + varint(100) + varint(len(frame) + len(block)) + b"\0"
    tail = struct.pack(">QQ", len(index), flag | 9)
    crc = crc64(head + frame + page + b"\0" * 6 + index + tail)
    return head + frame + block + b"\0" * 6 + index + tail + struct.pack(">Q", crc | flag)


# ---- fake nodes ----

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args):
        pass

    def handle_expect_100(self):
        node = self.server.node
        if self.command == "PUT" and node.refuse_put:
            status, body = node.refuse_put
            self.close_connection = True
            self.answer(status, body)
            return False
        return super().handle_expect_100()

    def answer(self, status, body, headers=()):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for k, v in headers:
            self.send_header(k, v)
        self.end_headers()
        self.wfile.write(body)

    def dispatch(self):
        node = self.server.node
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        body = b""
        if self.headers.get("Content-Length"):
            if self.command == "PUT" and node.refuse_put:
                self.close_connection = True
                return self.answer(*node.refuse_put)
            left = int(self.headers["Content-Length"])
            while left:
                piece = self.rfile.read(min(left, 65536))
                if not piece:
                    break
                body += piece
                left -= len(piece)
                if node.pace:
                    time.sleep(node.pace)  # a slow link, so that there is progress to show
        with node.lock:
            node.requests.append((self.command, self.path, body, dict(self.headers)))
        if node.token and self.headers.get("Authorization") != "Bearer " + node.token:
            return self.answer(401, {"error": "a token is needed"})
        for (method, prefix), fn in list(node.hooks.items()):
            if method == self.command and url.path.startswith(prefix):
                done = fn(self, url.path, query, body)
                if done is not None:
                    return None if done is True else self.answer(*done)
        return self.answer(*node.answer(self.command, url.path, query, body))

    do_GET = do_PUT = do_POST = dispatch


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request, client_address):
        pass  # clients that hang up are part of the tests


def database(name, checksum="8000000000000001", txid=5, pages=3, **more):
    return {"name": name, "kind": "database", "mode": "wal", "page_size": 4096, "pages": pages, "bytes": pages * 4096, "txid": txid,
            "checksum": checksum, "lsn": 40, "state": "ok", "warning": None, "open": False, **more}


class Node:
    def __init__(self, name, role="replica"):
        self.name, self.role = name, role
        self.lock = threading.Lock()
        self.requests, self.hooks = [], {}
        self.token = self.refuse_put = None
        self.pace = 0
        self.epoch, self.lsn = 3, 4711
        self.databases, self.scrubs, self.sums, self.images, self.records = [], {}, {}, {}, []
        self.status_more, self.cluster, self.payloads, self.imported = {}, [self], {}, {}
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)  # no hiding of an upload in the kernel
        self.server.node = self
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def stop(self):
        if self.server:
            self.server.shutdown()
            self.server.server_close()
            self.thread.join()
            self.server = None

    def primary(self):
        return next((n for n in self.cluster if n.role in ("primary", "handing-over")), None)

    def status(self):
        p = self.primary()
        return {"node": self.name, "version": "0.1.0", "role": self.role, "url": self.url, "primary": p and p.name, "primary_url": p and p.url,
                "epoch": self.epoch, "lsn": self.lsn, "applied": {"epoch": self.epoch, "lsn": self.lsn},
                "log": {"first_lsn": 1, "last_lsn": self.lsn, "durable_lsn": self.lsn, "bytes": 1048576},
                "lag_ms": 0, "connected": True, "uptime_s": 7384, "pid": 1,
                "databases": {"count": len(self.databases), "bytes": sum(d["bytes"] for d in self.databases), "warnings": 0},
                "warnings": [], "replicas": [], "nodes": [{"name": n.name, "url": n.url} for n in self.cluster], "promotion": None,
                **self.status_more}

    def seen(self, method, prefix):
        with self.lock:
            return [r for r in self.requests if r[0] == method and r[1].startswith(prefix)]

    def only_primary(self):
        p = self.primary()
        return 421, {"error": f"this is a replica; {p.name} is primary", "primary": p.name, "primary_url": p.url}

    def answer(self, method, path, query, body):
        part = [urllib.parse.unquote(p) for p in path.split("/")][1:]
        if (method, path) == ("GET", "/v1/status"):
            return 200, self.status()
        if (method, path) == ("GET", "/v1/databases"):
            if int(query.get("lsn", 0)) > self.lsn:
                return 408, {"error": "not reached"}
            return 200, {"epoch": self.epoch, "lsn": int(query.get("lsn", self.lsn)), "databases": self.databases}
        if (method, path) == ("GET", "/v1/log"):
            return 200, self.log(query)
        if method == "GET" and part[:2] == ["v1", "log"]:
            return (200, self.payloads[int(part[2])]) if int(part[2]) in self.payloads else (410, {"error": "no longer kept"})
        if (method, path) == ("POST", "/v1/wait"):
            lsn = json.loads(body)["lsn"]
            return (200, {"epoch": self.epoch, "lsn": self.lsn}) if lsn <= self.lsn else (408, {"error": "not reached"})
        if (method, path) == ("POST", "/v1/promote"):
            return self.promote(json.loads(body))
        if part[:2] == ["v1", "databases"] and len(part) in (3, 4):
            return self.one_database(method, part[2], part[3] if len(part) == 4 else "", body)
        return 404, {"error": "no such thing: " + path}

    def log(self, query):
        first = self.records[0]["lsn"] if self.records else 1
        last = self.records[-1]["lsn"] if self.records else 0
        start, limit = int(query.get("from", first)), min(int(query.get("limit", 1000)), 10000)
        return {"first_lsn": first, "last_lsn": last, "records": [r for r in self.records if r["lsn"] >= start][:limit]}

    def promote(self, request):
        if self.role != "primary":
            return self.only_primary()
        target = next((n for n in self.cluster if n.name == request["node"]), None)
        if not target:
            return 404, {"error": f"there is no node {request['node']}"}
        self.role, target.role = "replica", "primary"
        return 200, {"primary": target.name, "url": target.url, "epoch": 4, "lsn": 4712, "pause_ms": 12}

    def one_database(self, method, name, what, body):
        if method == "PUT":
            if self.role != "primary":
                return self.only_primary()
            self.imported[name] = body
            return 200, {"name": name, "lsn": 4712, "txid": 1, "checksum": "8000000000000009"}
        db = next((d for d in self.databases if d["name"] == name), None)
        if not db:
            return 404, {"error": f"there is no database {name}"}
        if what == "checksum":
            return 200, {"name": name, "txid": db["txid"], "lsn": self.lsn, "page_size": 4096, "pages": db["pages"], "checksum": db["checksum"],
                         "tracked": db["checksum"], "bad_pages": [], "bad_count": 0, **self.scrubs.get(name, {})}
        if what == "sums":
            sums = b"".join(struct.pack(">Q", s) for s in self.sums[name])
            return 200, sums, [("X-Edgefs-Position", f"{db['txid']:016x}/{db['checksum']}")]
        if what == "image" and name in self.images:
            return 200, self.images[name]
        return 404, {"error": "nothing"}


def screen(raw):
    """What a terminal's last lines hold: escape sequences and overwritten lines removed."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", raw)
    return "\n".join(line.split("\r")[-1] for line in text.replace("\r\n", "\n").split("\n"))


class CtlTest(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.tmp = tempfile.mkdtemp(prefix="edgefs-ctl-test-")
        self.addCleanup(shutil.rmtree, self.tmp)

    def nodes(self, *names):
        """A cluster; the first one is primary."""
        cluster = [Node(n, "replica" if i else "primary") for i, n in enumerate(names)]
        for n in cluster:
            n.cluster = cluster
            self.addCleanup(n.stop)
        return cluster if len(cluster) > 1 else cluster[0]

    def environment(self, **more):
        env = {k: v for k, v in os.environ.items() if not k.startswith("EDGEFS_") and k not in ("NO_COLOR", "http_proxy", "HTTP_PROXY")}
        env["TERM"] = "xterm"
        env.update(more)
        return {k: v for k, v in env.items() if v is not None}

    def run_ctl(self, *args, env=None, cwd=None, **more):
        return subprocess.run([CTL, *map(str, args)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              env=self.environment(**(env or {})), cwd=cwd, timeout=60, check=False, **more)

    def ctl(self, node, *args, rc=OK, **more):
        """Runs it; checks exit status and the form of errors. Returns standard output if rc is 0, otherwise standard error."""
        where = ["--url", node.url] if isinstance(node, Node) else []
        done = self.run_ctl(*where, *args, **more)
        self.assertEqual(done.returncode, rc, f"{args}\n{done.stdout}{done.stderr}")
        if rc in (OK, NO) and not done.stderr:
            return done.stdout
        self.assertRegex(done.stderr, r"\Aedgefs-ctl: [^\n]+\n\Z", "one line, what and what to do")
        return done.stderr

    def json(self, node, *args, rc=OK, **more):
        done = self.run_ctl("--url", node.url, *args, "--json", **more)
        self.assertEqual(done.returncode, rc, done.stdout + done.stderr)
        return json.loads(done.stdout)

    def on_terminal(self, *args, out=True, err=True, columns=120, env=None, until=None, then=None):
        """Runs it on a pty. Returns (exit status, what the terminal got, what went to the stream that is no terminal). until: a regular
        expression; once the terminal has shown it, then(process) is called."""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        p = subprocess.Popen([CTL, *map(str, args)], stdin=subprocess.DEVNULL, stdout=slave if out else subprocess.PIPE,
                             stderr=slave if err else subprocess.PIPE, env=self.environment(**(env or {})), start_new_session=True)
        os.close(slave)
        raw, deadline = b"", time.monotonic() + 60
        try:
            while time.monotonic() < deadline:
                if not select.select([master], [], [], 1)[0]:
                    continue
                try:
                    piece = os.read(master, 65536)
                except OSError:
                    break
                if not piece:
                    break
                raw += piece
                if until and re.search(until, raw):
                    until = None
                    then(p)
            other = (p.stdout or p.stderr).read() if not (out and err) else b""
            return p.wait(10), raw.decode(), other.decode()
        finally:
            if p.poll() is None:
                p.kill()
                p.wait()
            for f in (p.stdout, p.stderr):
                if f:
                    f.close()
            os.close(master)

    def path(self, name):
        return os.path.join(self.tmp, name)

    def write(self, name, data):
        with open(self.path(name), "wb") as f:
            f.write(data)
        return self.path(name)

    def sqlite(self, name, rows=100):
        with contextlib.closing(sqlite3.connect(self.path(name))) as db, db:
            db.execute("CREATE TABLE t (x INTEGER PRIMARY KEY, y)")
            db.executemany("INSERT INTO t VALUES (NULL, ?)", [("x" * 200,)] * rows)
        return self.path(name)

    def read(self, name):
        with open(self.path(name), "rb") as f:
            return f.read()

    def dead_url(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            return f"http://127.0.0.1:{s.getsockname()[1]}"

    def silent_url(self):
        """Accepts connections (the kernel does) and never says a word."""
        s = socket.socket()
        self.addCleanup(s.close)
        s.bind(("127.0.0.1", 0))
        s.listen(8)
        return f"http://127.0.0.1:{s.getsockname()[1]}"

    def rows(self, output):
        """The table at the beginning of output, as lists of cells (split at two blanks or more)."""
        table = output.split("\n\n")[0]
        self.assertNotRegex(table, r"(?m) $", "no blanks at the ends of lines")
        return [re.split(r"  +", line.strip()) for line in table.splitlines()]
