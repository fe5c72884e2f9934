"""Clusters of real nodes for the integration tests (and for scripts/demo): start, break, compare, always clean up.

Python's standard library only. Everything that waits polls with a deadline; nothing sleeps and hopes. Whatever a test
starts lies below one temporary folder and is killed by its pid, unmounted and removed, whatever happens in between."""

import contextlib
import filecmp
import hashlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from machine import (abort_connection, alive, children, connection_of, free_port, is_mounted, mount_points, read, read_bytes, start_time,  # noqa: F401: the tests take them from here
                     wait_until)
from sql_session import Session, SessionError  # noqa: F401

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BUILD = os.environ.get("EDGEFS_BUILD") or os.path.join(ROOT, "build")
EDGEFS = os.path.join(BUILD, "edgefs")
CTL = os.path.join(BUILD, "edgefs-ctl")
LONG = os.environ.get("LONG", "0") not in ("", "0")

PROGRAMS = {"edgefs": "launcher", "edgefs-fs": "fs", "edgefs-replicator": "replicator", "edgefs-proxy": "proxy"}
READY_SECONDS = 20
STOP_SECONDS = 15


def rounds(n):
    """n, or ten times n in a long campaign."""
    return n * 10 if LONG else n


def seed(what=""):
    """A random.Random for this test, and its seed on the output: SEED=… repeats the choices."""
    value = os.environ.get("SEED") or str(random.SystemRandom().randrange(1 << 31))
    print(f"SEED={value} {what}", flush=True)
    return random.Random(f"{value}-{what}")


CPU_LATENCY_DEVICE = "/dev/cpu_dma_latency"


def halt(pid):
    """SIGSTOP, and returns when no thread of the process runs on any more: kill(2) returns before a thread on another processor has stopped. One that waits in the
    kernel (D) stops before it is back."""
    os.kill(pid, signal.SIGSTOP)

    def at_rest():
        states = []
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/stat") as f:
                states.append(f.read().rpartition(")")[2].split()[0])
        return set(states) <= set("TtDZX")

    wait_until(at_rest, 10, f"process {pid} has stopped")


class Node:
    """One node: its configuration, its launcher process, its mount. Not started by the constructor."""

    def __init__(self, name, port, primary, peers, tmp, passthrough=True, extra="", data=None, token=None, log_level="info", lease=None,
                 cpu_latency_qos=True):
        self.name = name
        self.port = port
        self.primary = primary
        self.peers = peers  # [(name, port)], this one included
        self.tmp = os.path.join(tmp, name)
        self.passthrough = passthrough
        self.cpu_latency_qos = cpu_latency_qos
        self.extra = extra  # more lines of YAML
        self.lease = lease or f"{{type: static, primary: {primary}}}"
        self.token = token
        self.log_level = log_level
        self.host = "127.0.0.1"  # where its API is reached
        self.prefix = []  # what the command begins with that starts it
        self.env = {}  # more of its environment
        self.url = f"http://127.0.0.1:{port}"
        self.mount = os.path.join(self.tmp, "mnt")
        self.data = data or os.path.join(self.tmp, "data")
        self.config_file = os.path.join(self.tmp, "edgefs.yaml")
        self.log_file = os.path.join(self.tmp, "log")
        self.process = None
        self.notify = None
        self.seen = {}  # pid → start time of every program of ours, for the clean-up
        os.makedirs(self.mount, exist_ok=True)
        os.makedirs(self.data, exist_ok=True)
        self.write_config()

    def config_text(self):
        lines = [
            f"node: {self.name}",
            f"dir: {self.mount}",
            f"data: {self.data}",
            f"fs: {{passthrough: {'auto' if self.passthrough else 'off'}, cpu-latency-qos: {'auto' if self.cpu_latency_qos else 'off'}}}",
            f"http: {{listen: 127.0.0.1:{self.port}}}",
            f"lease: {self.lease}",
            f"logging: {{level: {self.log_level}}}",
            "nodes:",
        ]
        lines += [f"  - {{name: {n}, url: 'http://127.0.0.1:{p}'}}" for n, p in self.peers]
        if self.token:
            path = os.path.join(self.tmp, "token")
            with open(path, "w") as f:
                f.write(self.token + "\n")
            os.chmod(path, 0o600)
            lines.append(f"auth: {{token-file: {path}}}")
        return "\n".join(lines) + "\n" + self.extra

    def write_config(self):
        with open(self.config_file, "w") as f:
            f.write(self.config_text())

    # ---- life ----

    def start(self, app=(), wait=True, args=None, stdin=subprocess.DEVNULL):
        """Starts `edgefs mount`; returns when it reported READY (sd_notify), unless told not to wait."""
        assert self.process is None or self.process.poll() is not None, f"{self.name} runs already"
        notify = os.path.join(self.tmp, "notify")
        self.close_notify()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(notify)
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self.notify.bind(notify)
        env = dict(os.environ, NOTIFY_SOCKET=notify, **self.env)
        argv = [*self.prefix, EDGEFS, "mount", *(args if args is not None else ["-c", self.config_file])]
        if app:
            argv += ["--", *app]
        with open(self.log_file, "ab") as log:
            log.write(f"---- {' '.join(argv)}\n".encode())
            log.flush()
            # A session of its own: Ctrl-C is for us, who then stop the nodes in order.
            self.process = subprocess.Popen(argv, stdin=stdin, stdout=log, stderr=log, env=env, start_new_session=True)
        self.seen[self.process.pid] = start_time(self.process.pid)
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, timeout=READY_SECONDS):
        deadline = time.monotonic() + timeout
        self.notify.settimeout(0.05)
        while True:
            try:
                if b"READY=1" in self.notify.recv(4096).split(b"\n"):
                    break
            except socket.timeout:
                pass
            if self.process.poll() is not None:
                raise AssertionError(f"edgefs mount of {self.name} ended with {self.process.returncode} before it was ready\n"
                                     + self.log_tail(40))
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name} was not ready within {timeout} s\n" + self.log_tail(40))
        self.close_notify()
        self.pids()
        with open(os.path.join(self.tmp, "connection"), "w") as f:  # scripts/check aborts it when this process is killed
            f.write(str(connection_of(self.mount) or ""))

    def close_notify(self):
        if self.notify is not None:
            self.notify.close()
            self.notify = None

    def pids(self):
        """{"launcher": pid, "fs": pid, "replicator": pid}, those that live right now."""
        if self.process is None or self.process.poll() is not None:
            return {}
        found = {"launcher": self.process.pid}
        for pid, program in children(self.process.pid).items():
            if program in PROGRAMS:
                found[PROGRAMS[program]] = pid
                self.seen.setdefault(pid, start_time(pid))
        return found

    def pid(self, program, timeout=10):
        return wait_until(lambda: self.pids().get(program), timeout, f"a running {program} of {self.name}")

    def kill(self, program, sig=signal.SIGKILL):
        """Sends the signal to a program that is running (waiting for it if it is being restarted). Returns its pid."""
        pid = self.pid(program)
        if sig == signal.SIGSTOP:
            halt(pid)
        else:
            os.kill(pid, sig)
        return pid

    def kill_and_wait(self, program, timeout=20):
        """kill -9, then waits for the successor. Returns the seconds until it was there."""
        old, start = self.kill(program), time.monotonic()
        wait_until(lambda: self.pids().get(program, old) != old, timeout, f"a new {program} of {self.name}")
        return time.monotonic() - start

    def holders(self):
        """Which of its programs ask the kernel for quick wake-ups right now."""
        found = []
        for program, pid in self.pids().items():
            with contextlib.suppress(OSError):
                for fd in os.listdir(f"/proc/{pid}/fd"):
                    with contextlib.suppress(OSError):
                        if os.readlink(f"/proc/{pid}/fd/{fd}") == CPU_LATENCY_DEVICE:
                            found.append(program)
        return found

    def running(self):
        return self.process is not None and self.process.poll() is None

    def stop(self, sig=signal.SIGTERM, timeout=STOP_SECONDS):
        """Orderly stop. Returns the launcher's exit status; AssertionError if it hangs or leaves the mount."""
        self.pids()
        self.process.send_signal(sig)
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not stop within {timeout} s of signal {sig}") from None
        if is_mounted(self.mount):
            raise AssertionError(f"{self.name} stopped and left its mount")
        return code

    def kill_all(self):
        """kill -9 of all three at once, like a power cut to the machine's processes; then takes the dead mount away."""
        self.pids()
        for pid, began in self.seen.items():
            if start_time(pid) == began:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()
        wait_until(lambda: not any(alive(p) and start_time(p) == t for p, t in self.seen.items()), 10,
                   f"the programs of {self.name} are gone")
        if is_mounted(self.mount):
            subprocess.run(["umount", "-l", self.mount], check=True)

    def destroy(self):
        """Whatever state it is in: no process, no mount. Returns a text about what did not go as it should, or None."""
        problem = None
        self.close_notify()
        if self.running():
            try:
                self.stop()
            except (AssertionError, OSError) as e:
                problem = str(e)
        if problem and is_mounted(self.mount):
            abort_connection(connection_of(self.mount))
        if self.process is not None:
            try:
                wait_until(lambda: not any(alive(p) and start_time(p) == t for p, t in self.seen.items()), 2, "")
            except AssertionError:
                left = [p for p, t in self.seen.items() if alive(p) and start_time(p) == t]
                problem = problem or f"processes {left} of {self.name} outlived their launcher"
            for pid, began in self.seen.items():
                if start_time(pid) == began:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                problem = f"{self.name}: the launcher cannot be killed"
                with contextlib.suppress(OSError, ValueError):
                    abort_connection(int(read(os.path.join(self.tmp, "connection"))))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.tmp, "connection"))
        for point in reversed(mount_points(self.mount)):
            problem = problem or f"{self.name} left the mount {point}"
            subprocess.run(["umount", "-l", point], check=False)
        return problem

    # ---- files ----

    def path(self, name=""):
        return os.path.join(self.mount, name)

    def backing(self, name=""):
        return os.path.join(self.data, "db", name)

    @contextlib.contextmanager
    def db(self, name, timeout=10.0, path=None):
        """An SQLite connection in autocommit mode, closed at the end of the block."""
        conn = sqlite3.connect(path or self.path(name), timeout=timeout, isolation_level=None)
        try:
            yield conn
        finally:
            conn.close()

    def sql(self, name, statement, args=(), timeout=10.0):
        """One statement on a connection of its own. Returns all rows."""
        with self.db(name, timeout) as conn:
            return conn.execute(statement, args).fetchall()

    # ---- API ----

    def api(self, method, path, body=None, headers=None, timeout=30, token=True):
        """Returns (status, decoded JSON or bytes). Connection errors pass through as OSError."""
        conn = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            h = dict(headers or {})
            if token and self.token:
                h["Authorization"] = "Bearer " + self.token
            if isinstance(body, (dict, list)):
                body = json.dumps(body).encode()
                h.setdefault("Content-Type", "application/json")
            conn.request(method, path, body, h)
            r = conn.getresponse()
            data = r.read()
            if "json" in (r.getheader("Content-Type") or ""):
                data = json.loads(data)
            return r.status, data
        finally:
            conn.close()

    def get(self, path, timeout=30):
        status, body = self.api("GET", path, timeout=timeout)
        assert status == 200, f"GET {path} of {self.name}: {status} {body}"
        return body

    def status(self):
        return self.get("/v1/status")

    def metric(self, name):
        """Value of one metric of GET /metrics."""
        text = self.get("/metrics")
        text = text.decode() if isinstance(text, bytes) else text
        return float(next(line.split()[1] for line in text.splitlines() if line.startswith(name + " ")))

    def try_status(self):
        """status(), or None while the replicator is away."""
        try:
            return self.status()
        except (OSError, http.client.HTTPException):
            return None

    def databases(self):
        """{name: entry of GET /v1/databases}"""
        return {d["name"]: d for d in self.get("/v1/databases")["databases"]}

    def lsn(self):
        return self.status()["lsn"]

    def role(self):
        s = self.try_status()
        return s and s["role"]

    def wait_role(self, role, timeout=15):
        wait_until(lambda: self.role() == role, timeout, lambda: f"{self.name} is {role}; it says {self.try_status()}")

    def wait_applied(self, lsn, timeout=30):
        """Until this node has applied that LSN; tries again while the replicator is away or restarts."""
        deadline = time.monotonic() + timeout
        last = None
        while time.monotonic() < deadline:
            left = max(0.05, deadline - time.monotonic())
            try:
                code, last = self.api("POST", "/v1/wait", {"lsn": lsn, "timeout_ms": int(min(left, 5) * 1000)}, timeout=left + 5)
                if code == 200:
                    return
                if code != 408:
                    raise AssertionError(f"POST /v1/wait on {self.name}: {code} {last}")
            except (OSError, http.client.HTTPException) as e:
                last = e
                time.sleep(0.02)
        raise AssertionError(f"{self.name} did not apply LSN {lsn} within {timeout} s ({last}); status {self.try_status()}; "
                             f"databases {self.databases() if self.try_status() else None}")

    # ---- log ----

    def log(self):
        with open(self.log_file, errors="replace") as f:
            return f.read()

    def log_tail(self, lines=120):
        try:
            text = self.log()
        except OSError:
            return f"(no log of {self.name})"
        rows = text.splitlines()
        head = f"---- log of {self.name} (the last {min(lines, len(rows))} of {len(rows)} lines)\n"
        return head + "\n".join(rows[-lines:]) + "\n"


class Cluster:
    """n nodes called a, b, c, …; a is primary first. A context manager; nodes are started unless start=False.

    with Cluster(3, passthrough=True) as cluster:
        a, b, c = cluster.nodes
    """

    def __init__(self, n, passthrough=True, start=True, extra="", prefix="efs-", **node_args):
        self.tmp = tempfile.mkdtemp(prefix=prefix)
        self.passthrough = passthrough
        self.loads = []
        self.nodes = []
        names = [chr(ord("a") + i) for i in range(n)]
        self.peers = [(name, free_port()) for name in names]
        try:
            for name, port in self.peers:
                self.nodes.append(Node(name, port, "a", self.peers, self.tmp, passthrough, extra=extra, **node_args))
            if start:
                self.start()
        except BaseException:
            self.report()
            self.clean()
            raise

    def start(self):
        for node in self.nodes:
            node.start(wait=False)
        for node in self.nodes:
            node.wait_ready()
        self.nodes[0].wait_role("primary")
        for node in self.nodes[1:]:
            wait_until(lambda n=node: (n.try_status() or {}).get("connected"), 15, f"{node.name} is connected to the primary")

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None and not issubclass(kind, unittest.SkipTest):
            self.report()
        problems = self.clean()
        if problems and kind is None:
            raise AssertionError("; ".join(problems))
        return False

    def report(self):
        """What a person wants to see when a test failed."""
        out = ["\n"]
        for load in self.loads:
            out.append(load.report())
        for node in self.nodes:
            with contextlib.suppress(Exception):
                out.append(f"---- status of {node.name}: {json.dumps(node.api('GET', '/v1/status', timeout=2)[1])}\n")
                out.append(f"---- databases of {node.name}: {json.dumps(node.api('GET', '/v1/databases', timeout=2)[1])[:4000]}\n")
            out.append(node.log_tail())
        sys.stderr.write("".join(out))
        sys.stderr.flush()

    def clean(self):
        problems = []
        stuck = [load.name for load in self.loads if not load.kill()]
        if stuck:
            problems.append(f"{', '.join(stuck)} cannot be killed: stuck in a system call")
            for node in self.nodes:
                with contextlib.suppress(OSError, ValueError):
                    abort_connection(int(read(os.path.join(node.tmp, "connection"))))
        stops = [threading.Thread(target=lambda n=n: problems.append(n.destroy())) for n in self.nodes]
        for t in stops:
            t.start()
        for t in stops:
            t.join()
        if not mount_points(self.tmp):
            shutil.rmtree(self.tmp, ignore_errors=True)
        return [p for p in problems if p]

    # ---- the cluster as a whole ----

    def by_name(self, name):
        return next(n for n in self.nodes if n.name == name)

    def primary(self):
        """The primary, perhaps after a moment: its replicator may just be starting again."""
        return wait_until(lambda: next((n for n in self.nodes if n.running() and n.role() == "primary"), None), 10, "a node is primary")

    def sync(self, timeout=60):
        """Waits until every running node has applied all that the primary has now (without writers: all that was ever
        committed). Returns that LSN."""
        writing = any(load.process.poll() is None for load in self.loads if load.name.startswith("writer"))
        lsn = self.primary().lsn() if writing else settle(self.primary())
        for node in self.nodes:
            if node.running():
                node.wait_applied(lsn, timeout)
        return lsn

    def promote(self, node, timeout_ms=10000, via=None):
        code, body = (via or self.primary()).api("POST", "/v1/promote", {"node": node.name, "timeout_ms": timeout_ms},
                                                 timeout=timeout_ms / 1000 + 20)
        assert code == 200, f"promotion of {node.name}: {code} {body}"
        return body

    def verify(self):
        """edgefs-ctl verify: every node at one common position."""
        return ctl(self.primary(), "verify")

    def load(self, program, *args, **kw):
        load = Load(self, program, args, **kw)
        self.loads.append(load)
        return load

    def identical(self, names=None, timeout=60, cmp=True):
        """Every node holds the same databases: `verify` agrees, the files are byte-identical after a checkpoint, they are
        sound, and their contents as an application reads them are equal. No writers may run."""
        self.sync(timeout)
        nodes = [n for n in self.nodes if n.running()]
        primary = self.primary()
        if names is None:
            wait_until(lambda: not mistaken(primary), 10, lambda: f"what is listed as a database is one: {mistaken(primary)}")
            names = list_databases(primary)
        for name in names:
            # SQLite does not wait for another checkpointer, whatever the busy time-out: ask again.
            wait_until(lambda: primary.sql(name, "PRAGMA wal_checkpoint(TRUNCATE)")[0][0] == 0, 10,
                       f"a checkpoint of {name} on {primary.name} with no one there")
        self.sync(timeout)
        self.verify()
        for name in names:
            for node in nodes:
                if node is not primary:
                    wait_until(lambda: backfilled(node, name), 10, f"{name} on {node.name} is checkpointed whole")
                rows = node.sql(name, "PRAGMA integrity_check")
                assert rows == [("ok",)], f"{name} on {node.name}: {rows[:5]}"
            if cmp:
                for node in nodes:
                    if node is not primary and not filecmp.cmp(primary.backing(name), node.backing(name), shallow=False):
                        raise AssertionError(f"{name} differs: {first_difference(primary.backing(name), node.backing(name))} "
                                             f"({primary.name}, {node.name})")
            dumps = {node.name: content_hash(node, name) for node in nodes}
            assert len(set(dumps.values())) == 1, f"contents of {name} differ: {dumps}"


def settle(primary, timeout=30):
    """LSN of the primary once nothing more is being captured: every database's last committed transaction is in the log.

    Capture follows COMMIT within milliseconds but after it, so the LSN read right after a commit may be one short. What an
    application committed is told from its WAL: the tracked checksum agrees with a checksum taken of what readers see now."""

    why = ""

    def settled():
        nonlocal why
        lsn = primary.status()["lsn"]
        entries = primary.databases()
        files = database_files(primary)
        missing = [n for n in files if entries.get(n, {}).get("kind") != "database"]
        if missing:
            why = f"{missing} are not listed"
            return None
        for name, entry in entries.items():
            if name not in files or entry["kind"] != "database" or entry["state"] not in ("ok", "unknown"):
                continue
            if not entry["txid"] or not 0 < entry["lsn"] <= lsn:  # known, and not in the log yet
                why = f"{name}: listed as {entry}, at LSN {lsn}"
                return None
            code, sums = primary.api("GET", f"/v1/databases/{quote(name)}/checksum")
            if code != 200 or sums["bad_count"] or sums["checksum"] != sums["tracked"]:
                why = f"{name}: {code} {sums}; listed as {entry}"
                return None
        why = f"LSN {lsn} and moving"
        return lsn if primary.status()["lsn"] == lsn else None

    return wait_until(settled, timeout, lambda: f"capture on {primary.name} is at rest: {why}")


def database_files(node):
    """Names, relative to the mount, of the files in it that begin as SQLite databases do. The names come from the mount, the bytes from the data directory: who closes a file in
    the mount, by whatever descriptor, ends all POSIX locks that its process has there, those of a test's own connections, too (fcntl(2))."""
    names = []
    for where, _, files in os.walk(node.mount):
        for file in files:
            name = os.path.relpath(os.path.join(where, file), node.mount)
            if not file.endswith(("-wal", "-shm", "-journal")):
                with contextlib.suppress(FileNotFoundError), open(node.backing(name), "rb") as f:
                    head = f.read(100)
                    if head.startswith(b"SQLite format 3\0") and len(head) == 100:
                        names.append(name)
    return names


def list_databases(node):
    return [d for d, e in node.databases().items() if e["kind"] == "database"]


def mistaken(node):
    """Names of files that are listed as databases and begin otherwise: they have just been renamed, and not been looked at yet."""
    files = database_files(node)
    return [d for d in list_databases(node) if d not in files and os.path.exists(node.backing(d)) and os.path.getsize(node.backing(d))]


def quote(name):
    return "".join(c if c.isalnum() or c in "._-" else "".join(f"%{b:02X}" for b in c.encode()) for c in name)


def backfilled(node, name):
    """A passive checkpoint through the mount carried every frame into the database file."""
    busy, frames, done = node.sql(name, "PRAGMA wal_checkpoint(PASSIVE)")[0]
    return busy == 0 and frames == done


def content_hash(node, name):
    digest = hashlib.sha256()
    with node.db(name) as conn:
        conn.execute("BEGIN")
        for (table,) in conn.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").fetchall():
            digest.update(table.encode() + b"\0")
            try:
                rows = conn.execute(f'SELECT rowid, * FROM "{table}"')
            except sqlite3.OperationalError:  # WITHOUT ROWID
                rows = conn.execute(f'SELECT * FROM "{table}"')
            for row in rows:
                digest.update(repr(row).encode())
        conn.execute("COMMIT")
    return digest.hexdigest()


def first_difference(one, two):
    with open(one, "rb") as f, open(two, "rb") as g:
        offset = 0
        while True:
            x, y = f.read(65536), g.read(65536)
            if x != y:
                at = next((i for i, (p, q) in enumerate(zip(x, y)) if p != q), min(len(x), len(y)))
                return f"first at byte {offset + at}; sizes {os.path.getsize(one)} and {os.path.getsize(two)}"
            if not x:
                return "nowhere"
            offset += len(x)


def ctl_args(node):
    args = ["--url", node.url]
    if node.token:
        args += ["--token-file", os.path.join(node.tmp, "token")]
    return args


def ctl(node, *args, check=True, timeout=60):
    """edgefs-ctl against one node. Returns its output; with check=False (exit status, output, errors)."""
    done = subprocess.run([CTL, *ctl_args(node), *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, timeout=timeout, check=False)
    if not check:
        return done.returncode, done.stdout, done.stderr
    assert done.returncode == 0, f"edgefs-ctl {' '.join(args)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


# ---- load ----


class Load:
    """A program of tests/integration/load/ as a process of its own. It ends by itself, or soon after stop(); its last line on
    standard output is a JSON object; exit status 0 means that it met nothing that an application must not meet."""

    count = 0

    def __init__(self, cluster, program, args, stdin=subprocess.DEVNULL):
        Load.count += 1
        self.name = f"{program}-{Load.count}"
        folder = os.path.join(cluster.tmp, "load")
        os.makedirs(folder, exist_ok=True)
        self.stop_file = os.path.join(folder, self.name + ".stop")
        self.ack_file = os.path.join(folder, self.name + ".ack")
        self.out_file = os.path.join(folder, self.name + ".out")
        self.err_file = os.path.join(folder, self.name + ".err")
        argv = [sys.executable, os.path.join(HERE, "load", program + ".py"), "--stop", self.stop_file]
        if program in ("writer", "syscalls"):
            argv += ["--ack", self.ack_file]
        with open(self.out_file, "wb") as out, open(self.err_file, "wb") as err:
            self.process = subprocess.Popen(argv + [str(a) for a in args], stdin=stdin, stdout=out, stderr=err)

    def stop(self):
        open(self.stop_file, "w").close()

    def kill(self):
        """kill -9; True once it is gone, False if it is not within a while."""
        if self.process.poll() is None:
            self.process.kill()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            return False
        return True

    def finish(self, timeout=60):
        """Waits for its end and returns what it reported. AssertionError if it met an error."""
        self.stop()
        return self.join(timeout)

    def join(self, timeout=60):
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} hangs (more than {timeout} s)") from None
        assert code == 0, f"{self.name} ended with {code}: {read(self.err_file)[-3000:]}"
        return json.loads(read(self.out_file).splitlines()[-1])

    def check_running(self):
        """It is still at work and met no error so far."""
        if self.process.poll() is not None:
            self.join(0)

    def acked(self):
        """What it recorded as acknowledged, one tuple of integers a line; a torn last line is not there."""
        text = read(self.ack_file)
        return [tuple(map(int, line.split())) for line in text[: text.rfind("\n") + 1].splitlines()]

    def wait_acked(self, n, timeout=20):
        wait_until(lambda: self.check_running() or read(self.ack_file).count("\n") >= n, timeout,
                   lambda: f"{self.name} got {n} acknowledged; it has {len(self.acked())}")

    def report(self):
        text = read(self.err_file).strip()
        return f"---- {self.name}: exit status {self.process.poll()}, {len(self.acked())} acknowledged\n" + (text + "\n" if text else "")


def make_load_db(node, name="load.db", pragmas=(), mode="wal"):
    """What load/writer.py and load/reader.py work on. Ids have no gaps and c counts the rows of each writer, so that every
    snapshot can be checked on its own."""
    os.makedirs(os.path.dirname(node.path(name)), exist_ok=True)
    with node.db(name) as conn:
        for p in pragmas:
            conn.execute(f"PRAGMA {p}")
        assert conn.execute(f"PRAGMA journal_mode={mode}").fetchone() == (mode,)
        conn.executescript("CREATE TABLE t (id INTEGER PRIMARY KEY, w INTEGER, s INTEGER, pad TEXT);"
                           "CREATE INDEX t_ws ON t (w, s); CREATE TABLE c (w INTEGER PRIMARY KEY, n INTEGER)")


def set_journal_mode(node, name, mode):
    """SQLite leaves WAL mode only while nobody else has the database open, and does not wait for that: the replicator may just be
    looking at it. Asks again, for a bounded time."""

    def done():
        try:
            return node.sql(name, f"PRAGMA journal_mode={mode}") == [(mode.lower(),)]
        except sqlite3.OperationalError as e:
            if not e.sqlite_errorname.startswith("SQLITE_BUSY"):
                raise
            return False

    wait_until(done, 5, f"journal_mode={mode} of {name} on {node.name}")


def check_exactly_once(node, name, writers, died=False):
    """Every acknowledged (writer, number) is in the database once, and nothing else is. died: each writer that was killed
    may have one more row, committed and never acknowledged."""
    acked = [row for w in writers for row in w.acked()]
    assert len(acked) == len(set(acked)), "a writer acknowledged something twice: the test is wrong"
    rows = node.sql(name, "SELECT w, s, count(*) FROM t GROUP BY w, s")
    twice = [r for r in rows if r[2] != 1]
    assert not twice, f"{name} on {node.name}: there more than once: {twice[:10]}"
    have = {(w, s) for w, s, _ in rows}
    lost = sorted(set(acked) - have)
    assert not lost, f"{name} on {node.name}: {len(lost)} of {len(acked)} acknowledged rows are lost: {lost[:10]}"
    more = have - set(acked)
    assert len(more) <= (len(writers) if died else 0), f"{name} on {node.name}: never acknowledged: {sorted(more)[:10]}"
    return len(acked)


# ---- unittest ----


class EdgeTest(unittest.TestCase):
    """Base of the tests. `timeout` (of the class or of a method): seconds that scripts/check allows, everything included."""

    passthrough = True
    timeout = 60
    longMessage = True
    maxDiff = None

    def assertIsMounted(self, node):
        self.assertTrue(is_mounted(node.mount), f"{node.name} is mounted")


def both_modes(cls):
    """Class decorator: the tests of the class run with passthrough and in fallback mode."""
    module = sys.modules[cls.__module__]
    for suffix, value in (("passthrough", True), ("fallback", False)):
        name = f"{cls.__name__}_{suffix}"
        setattr(module, name, type(name, (cls,), {"passthrough": value, "__module__": cls.__module__}))
    return None


def within(seconds):
    """Decorator of a test method: the seconds that scripts/check gives it."""

    def mark(method):
        method.timeout = seconds
        return method

    return mark
