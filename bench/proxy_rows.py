"""The rows of `make bench` about the proxy: edgefs-proxy, HAProxy and nginx as reverse proxies of the same backend (bench/backend.c), in the same run, in turns.
Python's standard library only.

Each proxy has one thread and is pinned to core 0; backend and load generator (wrk) have core 1. edgefs-proxy is that of a replica with its primary on the same
machine; both are idle but for the rows that say otherwise. Kept connections on both sides, no access log, no buffering to disk."""

import contextlib
import json
import os
import resource
import socket
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "tests", "http"))

import harness  # noqa: E402
import targets  # noqa: E402
from report import Line  # noqa: E402
from measuring import TOOLS, tool  # noqa: E402

REPS = 9
SECONDS = 1.0
PROXY_CORE, LOAD_CORE = {0}, {min(1, (os.cpu_count() or 1) - 1)}
IDLE = 10000

NGINX = """\
daemon off; pid {tmp}/nginx.pid; error_log {tmp}/error.log crit; worker_processes 1; worker_rlimit_nofile 20000; {user}
events {{ worker_connections 10500; }}
http {{
  access_log off; keepalive_timeout 600s; keepalive_requests 1000000000;
  client_body_temp_path {tmp}/1; proxy_temp_path {tmp}/2; fastcgi_temp_path {tmp}/3; uwsgi_temp_path {tmp}/4; scgi_temp_path {tmp}/5;
  upstream app {{ server 127.0.0.1:{origin}; keepalive 64; keepalive_requests 1000000000; keepalive_timeout 600s; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_max_temp_file_size 0; proxy_buffers 16 64k; proxy_request_buffering off;
    }}
  }}
}}
"""

HAPROXY = """\
global
  maxconn 10500
  ulimit-n 20000
  no strict-limits
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
frontend f
  bind 127.0.0.1:{port} backlog 4096
  option forwardfor
  default_backend b
backend b
  http-reuse always
  server app 127.0.0.1:{origin} pool-max-conn 64
"""


class Backend:
    """bench/backend on the load's core."""

    def __init__(self):
        self.process = subprocess.Popen([os.path.join(TOOLS, "backend")], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        os.sched_setaffinity(self.process.pid, LOAD_CORE)
        self.port = int(self.process.stdout.readline())

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


class Origin:
    """What targets.Program wants to know of it; the backend is closed once, by whoever started it."""

    def __init__(self, port):
        self.port = port

    def close(self):
        pass


def pin(pid):
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), PROXY_CORE)


class Edgefs:
    """The proxy of a replica of two nodes."""

    def __init__(self, target, passthrough=True):
        self.cluster = harness.Cluster(2, passthrough, start=False, prefix="efs-bench-", log_level="warn")
        try:
            ports = [harness.free_port() for _ in self.cluster.nodes]
            peers = ", ".join(f"{n.name}: 'http://127.0.0.1:{p}'" for n, p in zip(self.cluster.nodes, ports))
            for node, port in zip(self.cluster.nodes, ports):
                node.extra += (f"proxy:\n  - listen: 127.0.0.1:{port}\n    target: 127.0.0.1:{target}\n    peers: {{{peers}}}\n    max-wait: 5s\n"
                               "    limits: {idle-time: 10m}\n")
                node.write_config()
            self.cluster.start()
            self.primary, self.node = self.cluster.nodes
            self.port = ports[1]
            harness.wait_until(lambda: targets.listening(self.port), 10, "the proxy listens")
            pin(self.pid())
        except BaseException:
            self.cluster.report()
            self.close()
            raise

    def pid(self):
        return next(p for p, program in harness.children(self.node.process.pid).items() if program == "edgefs-proxy")

    def close(self):
        problems = self.cluster.clean()
        if problems:
            raise AssertionError("; ".join(problems))


class Proxies:
    """All three in front of one backend. A context manager; ports by name."""

    def __enter__(self):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 1 << 20), hard))  # for the idle connections, of all three and of ours
        with contextlib.ExitStack() as stack:
            self.backend = Backend()
            stack.callback(self.backend.close)
            origin, self.all = Origin(self.backend.port), {}
            for name, start in (
                ("edgefs", lambda: Edgefs(origin.port)),
                ("haproxy", lambda: targets.Program("haproxy", HAPROXY, ["/usr/sbin/haproxy", "-db", "-f", "{config}"], origin)),
                ("nginx", lambda: targets.Program("nginx", NGINX, ["/usr/sbin/nginx", "-c", "{config}", "-e", "stderr"], origin)),
            ):
                self.all[name] = start()
                stack.callback(self.all[name].close)
                pin(self.all[name].pid())
            self.edgefs = self.all["edgefs"]
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *args):
        return self.stack.__exit__(*args)

    def port(self, name):
        return self.backend.port if name == "direct" else self.all[name].port


def wrk(port, path="/", connections=32, seconds=SECONDS, fields=()):
    """One turn of load. Returns what load.lua reports; an error is no result."""
    argv = ["taskset", "-c", ",".join(map(str, LOAD_CORE)), "wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "10s", "-s",
            os.path.join(HERE, "load.lua"), f"http://127.0.0.1:{port}{path}", "--", *fields]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False)
    result = next((json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")), None)
    if done.returncode != 0 or result is None or result["errors"] or not result["requests"]:
        raise AssertionError(f"wrk: {done.stdout.strip()[-300:]}")
    return result


def turns(sides, reps=REPS):
    """{name: fn} run in turns, the order rotating. Returns {name: [value of each turn]}."""
    values = {name: [] for name in sides}
    names = list(sides)
    for i in range(reps):
        for name in names[i % len(names):] + names[: i % len(names)]:
            values[name].append(sides[name]())
    return values


def fill(line, values, unit, at_least=None, at_most=None, scale=1.0, digits=0, against="haproxy"):
    """Numbers of a line from turns(); the ratio is edgefs to `against`, turn by turn."""
    def shown(name):
        return f"{statistics.median(values[name]) / scale:,.{digits}f} {unit}" if name in values else ""

    ratios = [e / h for e, h in zip(values["edgefs"], values[against])]
    ratio = statistics.median(ratios)
    line.edgefs, line.plain, line.nginx = shown("edgefs"), shown(against), shown("nginx")
    line.ratio = f"{ratio:.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
    line.ok = (at_least is None or ratio >= at_least) and (at_most is None or ratio <= at_most)
    return line


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---- rows ----


def requests(proxies):
    """Requests/s with 32 kept connections, 100 bytes of body. How busy the proxy's core was is noted: below about 0.9 something else was the limit (the load
    generator, other work on the machine). What the proxy itself costs is the second line: requests by the seconds of processor time that it used."""
    line = Line("proxy-requests", "requests/s, 32 kept connections, 100 bytes", "≥ 1.00 × HAProxy")
    by_cpu = Line("proxy-requests", "the same, by processor time of the proxy")
    return beside(proxies, line, by_cpu, "requests", "/s")


def beside(proxies, line, by_cpu, what, unit, scale=1.0, **load):
    """Fills both lines with `what` of the load's result, by time and by the proxies' processor time."""
    busy, each = {}, {}

    def side(name):
        def turn():
            pid = proxies.all[name].pid()
            before = cpu_seconds(pid)
            r = wrk(proxies.port(name), **load)
            used = max(cpu_seconds(pid) - before, 0.01)
            busy.setdefault(name, []).append(used / r["seconds"])
            each.setdefault(name, []).append(r[what] / used)
            return r[what] / r["seconds"]
        return turn

    fill(line, turns({n: side(n) for n in proxies.all}), unit, at_least=1.0, scale=scale)
    line.notes.append("the proxy's core was busy: " + ", ".join(f"{n} {statistics.median(b):.2f}" for n, b in busy.items()))
    fill(by_cpu, each, unit, scale=scale).ok = None
    return [line, by_cpu]


def latency(proxies):
    """p50 of one kept connection, less that of the backend without a proxy in the same turn."""
    line = Line("proxy-latency", "added latency, p50, one connection", "≤ HAProxy's")
    values = turns({n: (lambda n=n: wrk(proxies.port(n), connections=1)["p50_us"]) for n in ("direct", *proxies.all)}, 11)
    added = {n: [max(v - d, 0.5) for v, d in zip(values[n], values["direct"])] for n in proxies.all}
    fill(line, added, "µs", at_most=1.0, digits=1)
    line.notes.append(f"the backend alone: {statistics.median(values['direct']):.0f} µs")
    return [line]


def cookies(proxies):
    """Requests/s as above, with a position cookie that the replica has reached, and without one."""
    line = Line("proxy-cookie", "requests/s with a position cookie (reached), plain: without", "≥ 0.95 of without")
    lsn = proxies.edgefs.cluster.sync()
    field = f"Cookie: session=abcdef; __edge_write_pos={proxies.edgefs.node.status()['epoch']}-{lsn}"
    sides = {"edgefs": [field], "plain": []}
    values = turns({n: (lambda f=f: rate(wrk(proxies.port("edgefs"), fields=f))) for n, f in sides.items()}, 15)
    return [fill(line, values, "/s", at_least=0.95, against="plain")]


def rate(r):
    return r["requests"] / r["seconds"]


def large(proxies):
    """Bytes/s of responses of 1 MiB over 4 kept connections."""
    line = Line("proxy-large", "1 MiB responses, 4 connections", "≥ 1.00 × HAProxy")
    by_cpu = Line("proxy-large", "the same, by processor time of the proxy")
    return beside(proxies, line, by_cpu, "bytes", "MB/s", scale=1e6, path="/big", connections=4)


def memory(pid):
    """Rss in bytes, file pages included."""
    with open(f"/proc/{pid}/smaps_rollup") as f:
        return next(int(text.split()[1]) * 1024 for text in f if text.startswith("Rss:"))


def idle(proxies):
    """Memory (Rss) with 10,000 connections that each had one answer and wait for their next request."""
    line = Line("proxy-idle", f"memory with {IDLE:,} idle connections", "≤ 100 MB")
    grew = {}
    for name in proxies.all:
        pid = proxies.all[name].pid()
        before = memory(pid)
        socks = []
        try:
            for _ in range(IDLE):
                s = socket.create_connection(("127.0.0.1", proxies.port(name)), 10)
                socks.append(s)
                s.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")
                got = s.recv(4096)
                if not got.startswith(b"HTTP/1.1 200"):
                    raise AssertionError(f"{name}: answer {len(socks)}: {got[:60]}")
            grew[name] = (memory(pid), before)
        finally:
            for s in socks:
                s.close()
    line.edgefs, line.plain, line.nginx = (f"{grew[n][0] / 1e6:.1f} MB" for n in ("edgefs", "haproxy", "nginx"))
    line.ok = grew["edgefs"][0] <= 100e6
    line.notes.append("before: " + ", ".join(f"{n} {b / 1e6:.1f} MB" for n, (_, b) in grew.items()))
    return [line]


def waiting(_):
    """A replica's proxy holds a read until its position is there (bench/waits.c): from the replicator's word that it is applied, as a second subscriber of
    the position feed gets it, until the request arrives at the application. (Both subscribers are told at once: below 0, the request was there before the
    second subscriber had read its message.)"""
    line = Line("proxy-wait", "a read that waits for its position goes on after it arrived, p50", "≤ 100 µs")
    port = harness.free_port()
    edgefs = Edgefs(port)
    try:
        runs = [tool("waits", edgefs.port, port, os.path.join(edgefs.node.data, "run/position.sock"), edgefs.primary.path("w.db"), "--n", 500)
                for _ in range(3)]
    finally:
        edgefs.close()
    p50 = statistics.median(r["p50_us"] for r in runs)
    line.edgefs, line.ok = f"{p50:.0f} µs", p50 <= 100
    line.notes.append(f"p99 {statistics.median(r['p99_us'] for r in runs):.0f} µs; from the return of COMMIT on the primary to the arrival: "
                      f"{statistics.median(r['commit_p50_us'] for r in runs):.0f} µs (p50)")
    return [line]


ROWS = {"proxy-requests": requests, "proxy-latency": latency, "proxy-cookie": cookies, "proxy-large": large, "proxy-idle": idle, "proxy-wait": waiting}


def measure(name, proxies):
    """The lines of one row. A row that cannot be measured is one line that says why."""
    try:
        return ROWS[name](proxies)
    except (AssertionError, OSError, KeyError, ValueError, subprocess.SubprocessError, harness.sqlite3.Error) as e:
        return [Line(name, name, failed=" ".join(str(e).split())[:300] or repr(e))]
