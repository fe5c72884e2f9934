"""The rows about who is primary: how long nobody can write. Real etcd, nodes from the integration tests' harness. Python's standard library only."""

import contextlib
import sqlite3
import statistics
import threading
import time

import harness
from etcd import Etcd
from report import Line

DATABASE = "load.db"


@contextlib.contextmanager
def etcd_cluster(n, ttl, passthrough):
    """n nodes with a lease in etcd and a database that all have; yields the cluster."""
    with Etcd() as etcd, harness.Cluster(n, passthrough, start=False) as cluster:
        for node in cluster.nodes:
            node.lease = etcd.lease(f"{ttl}s")
            node.write_config()
            node.start(wait=False)
        for node in cluster.nodes:
            node.wait_ready()
        harness.make_load_db(wait_primary(cluster), DATABASE)
        at_rest(cluster)
        yield cluster


def wait_primary(cluster):
    def only_one():
        found = [n for n in cluster.nodes if n.running() and n.role() == "primary"]
        return found[0] if len(found) == 1 else None

    return harness.wait_until(only_one, 30, "a node is primary")


def at_rest(cluster):
    primary = wait_primary(cluster)
    for node in cluster.nodes:
        if node is not primary:
            harness.wait_until(lambda n=node: (s := n.try_status() or {}).get("connected") and s.get("primary") == primary.name, 30, f"{node.name} follows")
    cluster.sync()
    return primary


class Writer(threading.Thread):
    """Commits a row on whichever of the nodes takes it, without pause, until stopped. A write that is refused is tried at once on the next node.
    `acks`: (node, monotonic time) of each commit that was acknowledged."""

    def __init__(self, nodes):
        super().__init__(daemon=True)
        self.nodes = nodes
        self.acks = []
        self.ended = threading.Event()

    def run(self):
        connections, at, count = {}, 0, 0
        while not self.ended.is_set():
            node = self.nodes[at % len(self.nodes)]
            try:
                if node.name not in connections:
                    connections[node.name] = sqlite3.connect(node.path(DATABASE), timeout=0, isolation_level=None)
                connections[node.name].execute("INSERT INTO t (w, s) VALUES (1, ?)", (count,))
                self.acks.append((node, time.monotonic()))
                count += 1
            except sqlite3.Error as e:
                if not getattr(e, "sqlite_errorname", "").startswith("SQLITE_BUSY"):
                    with contextlib.suppress(sqlite3.Error, KeyError):
                        connections.pop(node.name).close()
                at += 1
                time.sleep(0.0005)
        for conn in connections.values():
            with contextlib.suppress(sqlite3.Error):
                conn.close()

    def stop(self):
        self.ended.set()
        self.join(30)


def failover(ttl, times):
    """kill -9 of everything on the primary's node, applications included, while they write: until the first write that another node acknowledges to applications
    of its own, which have tried all the time. The slowest of all counts."""

    def row(passthrough, _sources):
        line = Line(f"failover-{ttl}s", f"kill -9 of the primary's node until the first acknowledged write on another, lease of {ttl} s, slowest of {times}", f"≤ {ttl + 1} s")
        took = []
        with etcd_cluster(3, ttl, passthrough) as cluster:
            for _ in range(times):
                primary = at_rest(cluster)
                others = [n for n in cluster.nodes if n is not primary]
                with harness.Session(primary.path(DATABASE)) as load:  # a process of its own: it dies with the machine
                    for i in range(100):
                        load.sql("INSERT INTO t (w, s) VALUES (2, ?)", i)
                    waiting = Writer(others)
                    waiting.start()
                    load.kill()
                    killed = time.monotonic()
                    primary.kill_all()
                    try:
                        harness.wait_until(lambda: waiting.acks, ttl * 10 + 30, "a write is acknowledged")
                    finally:
                        waiting.stop()
                    took.append(waiting.acks[0][1] - killed)
                primary.start()
        worst = max(took)
        line.edgefs, line.ok = f"{worst:.2f} s", worst <= ttl + 1
        line.notes.append(f"median {statistics.median(took):.2f} s")
        return [line]

    return row


def promotion_pause(passthrough, _sources):
    """Planned promotions there and back while one application writes on whichever node takes it: from the last write that the old primary acknowledged until
    the first one of the new one."""
    times = 100
    line = Line("promotion-pause", f"planned promotion: write pause, p99 of {times}", "≤ 100 ms")
    pauses = []
    with etcd_cluster(2, 5, passthrough) as cluster:
        primary = at_rest(cluster)
        writer = Writer(cluster.nodes)
        writer.start()
        try:
            for _ in range(times):
                target = next(n for n in cluster.nodes if n is not primary)
                harness.wait_until(lambda: any(r["node"] == target.name and r["connected"] for r in primary.status()["replicas"]), 10, "it is connected")
                cluster.promote(target, via=primary)
                primary = target
                known = len(writer.acks)
                harness.wait_until(lambda: len(writer.acks) > known + 20, 30, "it writes on")
        finally:
            writer.stop()
        for (old, t0), (new, t1) in zip(writer.acks, writer.acks[1:]):
            if old is not new:
                pauses.append(t1 - t0)
    if len(pauses) != times:
        raise AssertionError(f"{len(pauses)} pauses of {times} promotions")
    p99 = sorted(pauses)[int(0.99 * (times - 1))]
    line.edgefs, line.ok = f"{p99 * 1000:.1f} ms", p99 <= 0.1
    line.notes.append(f"median {1000 * statistics.median(pauses):.1f} ms, longest {1000 * max(pauses):.1f} ms")
    return [line]


ROWS = {"failover-2s": failover(2, 8), "failover-5s": failover(5, 3), "promotion-pause": promotion_pause}
