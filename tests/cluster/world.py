"""A cluster as it stands in the world: each node in a network namespace of its own, with its applications, behind its proxy; etcd; and a relay on every way between them."""
import contextlib
import glob
import json
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "integration"))

import harness  # noqa: E402
import store  # noqa: E402
from etcd import Etcd  # noqa: E402
from harness import wait_until  # noqa: E402
from network import Network  # noqa: E402
from relay import PRIORITY, Relay  # noqa: E402

API, WEB, APP = 20202, 8080, 3000
TOKEN = "token-of-the-cluster-tests"
HEAL_SECONDS = 60
SYNC_TIMEOUTS = {"refuse": "2s", "degrade": "500ms"}
DISK_BYTES = 256 << 20  # more than a schedule writes
CLOCK = os.path.join(harness.BUILD, "clock.so")


def waiting(pid):
    """Where in the kernel the threads of a process are: whoever hangs in a call into the mount shows."""
    found = []
    for task in glob.glob(f"/proc/{pid}/task/*"):
        with contextlib.suppress(OSError):
            state = harness.read(os.path.join(task, "stat")).rpartition(")")[2].split()[0]
            calls = [line.split()[-1] for line in harness.read(os.path.join(task, "stack")).splitlines()[:6]]
            found += [f"{os.path.basename(task)} {state} {' '.join(calls)}"]
    return found


class Machine(harness.Node):
    """A node and what else runs on its machine: a station (station.py)."""

    def __init__(self, world, name):
        self.world = world
        self.station, self.killed, self.unplugged = None, None, False
        super().__init__(name, API, "", [], world.cluster.tmp, token=TOKEN)
        self.host = world.network.address(name)
        self.url = f"http://{self.host}:{API}"
        self.prefix = world.network.enter(name)
        self.env = dict(world.environment)
        self.clock = os.path.join(self.tmp, "clock")
        self.set_clock(0)
        if os.path.exists(CLOCK):
            self.env.update(LD_PRELOAD=CLOCK, EDGEFS_TEST_CLOCK=self.clock)
        self.disk = None
        if name in world.small_disks:
            self.small_disk()

    def config_text(self):
        w = self.world
        token = os.path.join(self.tmp, "token")
        with open(token, "w") as f:
            f.write(TOKEN + "\n")
        os.chmod(token, 0o600)
        nodes = "".join(f"  - {{name: {n}, url: 'http://{w.network.host}:{w.api_ports[n]}'}}\n" for n in w.names)
        peers = ", ".join(f"{n}: 'http://{w.network.host}:{w.web_ports[n]}'" for n in w.names)
        address = w.network.address(self.name)
        return (f"node: {self.name}\ndir: {self.mount}\ndata: {self.data}\nhttp: {{listen: '{address}:{API}', "
                f"advertise: 'http://{w.network.host}:{w.api_ports[self.name]}'}}\nauth: {{token-file: {token}}}\n"
                f"fs: {{passthrough: {'auto' if w.passthrough else 'off'}}}\n"
                f"lease: {{type: etcd, endpoints: [{', '.join(w.etcd_urls)}], ttl: {w.ttl}s}}\nnodes:\n{nodes}"
                f"proxy:\n  - {{name: web, listen: '{address}:{WEB}', target: '127.0.0.1:{APP}', peers: {{{peers}}}, failover-wait: 5s, drain-time: 100ms}}\n{w.extra}")

    def set_clock(self, seconds):
        """The wall clock of its programs is off by so much from now on."""
        with open(self.clock, "r+b" if os.path.exists(self.clock) else "wb") as f:
            f.write(struct.pack("=q", int(seconds * 1e9)))

    def small_disk(self):
        """The data directory becomes a file system of its own, that can be filled."""
        self.disk = os.path.join(self.tmp, "disk")
        with open(self.disk, "wb") as f:
            f.truncate(DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", self.disk], check=True, stdin=subprocess.DEVNULL)
        subprocess.run(["mount", "-o", "loop", self.disk, self.data], check=True)

    def fill_disk(self):
        """Until nothing more goes onto it."""
        with open(os.path.join(self.data, "ballast"), "wb") as f:
            at = 0
            for size in (16 << 20, 1 << 20, 1 << 16, 1 << 12):
                with contextlib.suppress(OSError):
                    while True:
                        os.posix_fallocate(f.fileno(), at, size)
                        at += size

    def make_room(self):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.data, "ballast"))

    def destroy(self):
        problem = super().destroy()
        if self.disk:
            subprocess.run(["umount", self.data], check=False)
        return problem

    def crash(self):
        """The machine stops: everything that runs there ends at once. (What the kernel had in its page cache is still there afterwards.)"""
        self.kill_station()
        for pid in self.pids().values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        if self.process is not None:
            self.kill_all()
        self.stop_station()

    def start_station(self):
        w = self.world
        if self.station is None or self.station.poll() is not None:
            self.station = w.start_station(self.name, [*self.prefix], ["--mount", self.mount, "--listen", str(APP), "--direct", "2", "--proxied", "2",
                                                                             *(["--ask", f"{self.host}:{API} {TOKEN}"] if w.policy == "degrade" else [])])

    def kill_station(self):
        """Does not wait for its end: who is in a call into the mount stays there for as long as edgefs-fs is stopped."""
        if self.station is not None:
            self.station.kill()
            self.killed = self.station

    def dying(self):
        """The applications were killed, and have not ended yet."""
        return self.station is not None and self.killed is self.station and self.station.poll() is None

    def stop_station(self, sig=signal.SIGKILL):
        if self.station is not None:
            with contextlib.suppress(ProcessLookupError):
                self.station.send_signal(sig)
                if sig == signal.SIGKILL:
                    self.station.wait(20)


class World:
    """A context manager. seed: of the relay and the stations. extra: more lines of every node's configuration."""

    def __init__(self, n=3, members=1, ttl=2, seed=0, synchronous=0, policy="refuse", second_mode="wal", passthrough=True, extra="", environment=None, small_disks=()):
        self.small_disks = small_disks  # names of nodes whose data directory is a small file system
        self.names = [chr(ord("a") + i) for i in range(n)]
        self.members, self.ttl, self.seed, self.second_mode, self.passthrough = members, ttl, seed, second_mode, passthrough
        self.synchronous, self.policy = synchronous, policy if synchronous else None
        self.extra = extra + (f"sync-replicas: {synchronous}\nsync-policy: {policy}\nsync-timeout: {SYNC_TIMEOUTS[policy]}\n" if synchronous else "")
        self.environment = environment or {}
        self.rovers = []
        self.trails = []
        self.read_up_to, self.known_events = {}, []

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        try:
            self.build()
        except BaseException as e:
            if not self.stack.__exit__(type(e), e, e.__traceback__):
                raise
        return self

    def build(self):
        self.etcd = self.stack.enter_context(Etcd(self.members, prefix=("nice", "-n", str(PRIORITY))))  # as if it had machines of its own
        self.network = self.stack.enter_context(Network(self.names))
        host = self.network.host
        self.relay = self.stack.enter_context(Relay(host, {self.network.address(n): n for n in self.names}, self.seed))
        self.api_ports = {n: self.relay.add(n, self.network.address(n), API, checked=True) for n in self.names}
        self.web_ports = {n: self.relay.add(n, self.network.address(n), WEB) for n in self.names}
        self.etcd_urls = [f"http://{host}:{self.relay.add(f'etcd{i}', '127.0.0.1', port)}" for i, (port, _) in enumerate(self.etcd.ports)]
        # The harness's cluster without its nodes: reports and cleans up.
        self.cluster = harness.Cluster(0, start=False)
        with open(os.path.join(self.cluster.tmp, "network"), "w") as f:  # scripts/check removes it when this process is killed
            f.write(self.network.bridge)
        self.stack.push(self.cluster.__exit__)
        self.stack.callback(self.end_stations)
        self.stop_file = os.path.join(self.cluster.tmp, "stop")
        for n in self.names:
            self.cluster.nodes.append(Machine(self, n))
        self.nodes = self.cluster.nodes
        for node in self.nodes:
            node.start(wait=False)
        for node in self.nodes:
            node.wait_ready()
        self.wait_primary()
        wait_until(self.create, HEAL_SECONDS, "the databases are there")
        self.wait_whole()

    def __exit__(self, *e):
        return self.stack.__exit__(*e)

    def create(self):
        """False: it is to be tried again. (On a busy machine the primary may lose its lease at any time.)"""
        with contextlib.suppress(sqlite3.Error):
            store.create(self.wait_primary().mount, self.second_mode)
            return True
        return False

    # ---- clients ----

    def start_station(self, name, prefix, args):
        trail = os.path.join(self.cluster.tmp, f"trail-{len(self.trails)}")
        self.trails.append(trail)
        urls = {n.name: f"{n.host}:{WEB}" for n in self.nodes}
        argv = [*prefix, sys.executable, os.path.join(HERE, "station.py"), "--name", name, "--trail", trail, "--stop", self.stop_file, "--seed", str(self.seed),
                "--urls", json.dumps(urls), *(["--full"] if self.synchronous else []), *args]
        with open(os.path.join(self.cluster.tmp, "stations.log"), "ab") as log:
            return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def start_clients(self):
        for node in self.nodes:
            node.start_station()
        self.rovers.append(self.start_station("r", [], ["--proxied", "2"]))

    def stop_clients(self):
        """Lets every session end what it is doing."""
        open(self.stop_file, "w").close()
        for process in [*(n.station for n in self.nodes), *self.rovers]:
            if process is not None:
                process.wait(40)

    def end_stations(self):
        for node in self.nodes:
            with contextlib.suppress(Exception):
                node.stop_station(signal.SIGCONT)
                node.stop_station()
        for process in self.rovers:
            process.kill()
            process.wait()

    def stations(self):
        """What became of them, for whoever wonders why their sessions say nothing."""
        with open(os.path.join(self.cluster.tmp, "stations.log")) as f:
            log = f.read()
        waits = {n.name: waiting(n.station.pid) for n in self.nodes if n.station is not None}
        return f"{ {n.name: n.station and n.station.poll() for n in self.nodes} } {waits} {log[-2000:]}"

    def events(self):
        """All so far. Asked often: what is known is not read again."""
        for t in self.trails:
            if os.path.exists(t):
                new, self.read_up_to[t] = store.read_trail(t, self.read_up_to.get(t, 0))
                self.known_events += new
        return self.known_events

    # ---- states ----

    def statuses(self):
        result = {}
        for node in self.nodes:
            if node.running() and not node.unplugged:
                with contextlib.suppress(OSError, ValueError, harness.http.client.HTTPException):
                    result[node.name] = node.api("GET", "/v1/status", timeout=2)[1]
        return result

    def primary(self):
        found = [n for n, s in self.statuses().items() if s["role"] == "primary"]
        return self.cluster.by_name(found[0]) if len(found) == 1 else None

    def wait_primary(self, timeout=HEAL_SECONDS):
        return wait_until(self.primary, timeout, lambda: f"one node is primary: {self.statuses()}")

    def wait_whole(self, timeout=HEAL_SECONDS):
        """One primary, and everybody else follows it and has everything. No clients may run."""

        def whole():
            states = self.statuses()
            primary = [n for n, s in states.items() if s["role"] == "primary"]
            if len(states) < len(self.nodes) or len(primary) != 1:
                return False
            return all(s["role"] == "primary" or s["connected"] and s["primary"] == primary[0] for s in states.values())

        deadline = time.monotonic() + timeout
        wait_until(whole, timeout, lambda: f"one primary and everybody follows: {json.dumps(self.statuses())}")
        while True:  # a node may still find out that it has no lease any more
            primary = self.wait_primary()
            try:
                lsn = harness.settle(primary)
                for node in self.nodes:
                    node.wait_applied(lsn, max(1, deadline - time.monotonic()))
                if whole() and self.primary() is primary:
                    return primary
            except (OSError, AssertionError):
                if time.monotonic() > deadline:
                    raise
            if time.monotonic() > deadline:
                raise AssertionError(f"not at rest within {timeout} s: {self.statuses()}")
