"""The order between databases: who sees a transaction finds, in every other database, what had returned before that one was begun. On replicas while they follow, and after a failover."""
import os
import random
import sqlite3
import subprocess
import sys
import time

from harness import Cluster, EdgeTest, both_modes, rounds, within, wait_until

SCHEMA = "CREATE TABLE v (id INTEGER PRIMARY KEY, n INT, pad TEXT); INSERT INTO v VALUES (1, 0, '');"


def names_of(chain, count):
    return [f"{chain}{i}.db" for i in range(count)]


def create(node, names, mode="wal"):
    for name in names:
        with node.db(name) as db:
            db.execute(f"PRAGMA journal_mode={mode}")
            db.executescript(SCHEMA)


def connect(folder, name, synchronous="NORMAL"):
    db = sqlite3.connect(f"file:{folder}/{name}?mode=rw", uri=True, timeout=10, isolation_level=None)
    db.execute(f"PRAGMA synchronous={synchronous}")
    return db


def write(folder, names, synchronous, stop, pause):
    """Writes n to each of them, one after the other, then n + 1: each transaction is begun after the one before has returned."""
    dbs = [connect(folder, name, synchronous) for name in names]
    n = 0
    print("ready", flush=True)
    while not os.path.exists(stop) or n < 100:
        n += 1
        for db in dbs:
            db.execute("UPDATE v SET n = ?, pad = ? WHERE id = 1", (n, "x" * (n % 300)))
        if pause:
            time.sleep(random.random() * pause)


def missing(seen, order):
    """Of values that were read one after the other, in this order of databases (places in the chain): what must not be, or None."""
    for k, later in enumerate(order):
        for earlier in order[:k]:  # read before
            least = seen[earlier] if later < earlier else seen[earlier] - 1
            if seen[later] < least:
                return f"database {earlier} had {seen[earlier]}, and then database {later} had {seen[later]}"
    return None


def read(folder, names, stop):
    """Reads them in ever changing order; prints how often, and each time that something was missing."""
    dbs = [connect(folder, name) for name in names]
    order, count, wrong, values = list(range(len(names))), 0, 0, set()
    print("ready", flush=True)
    while not os.path.exists(stop):
        random.shuffle(order)
        seen = {}
        for i in order:
            seen[i] = dbs[i].execute("SELECT n FROM v").fetchone()[0]
        count += 1
        values.add(seen[0])
        why = missing(seen, order)
        if why:
            wrong += 1
            if wrong < 10:
                print(why)
    print(f"{count} {len(values)} {wrong}")


def start(*args):
    return subprocess.Popen([sys.executable, os.path.abspath(__file__), *(str(a) for a in args)], stdout=subprocess.PIPE, text=True)


@both_modes
class Order(EdgeTest):
    def follow(self, cluster, chains, synchronous, seconds, pause=0.0, readers=1, meanwhile=None):
        """Writers on the primary, a writer a chain, and readers on every replica."""
        a = cluster.nodes[0]
        stop = os.path.join(cluster.tmp, "stop")
        stop_reading = os.path.join(cluster.tmp, "stop-reading")
        for names in chains:
            create(a, names)
        cluster.sync()
        writing = [start("write", a.mount, ",".join(names), synchronous, stop, pause) for names in chains]
        reading = [start("read", n.mount, ",".join(names), stop_reading) for n in cluster.nodes[1:] for names in chains for _ in range(readers)]
        out = []
        try:
            for p in reading + writing:
                self.assertEqual(p.stdout.readline(), "ready\n")
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                if meanwhile:
                    meanwhile()
                time.sleep(0.2)
                self.assertTrue(all(p.poll() is None for p in writing + reading))
        finally:
            for name, group in ((stop, writing), (stop_reading, reading)):
                with open(name, "w"):
                    pass
                out.append([p.communicate(timeout=30)[0] for p in group])
                os.unlink(name)
        for text in out[1]:
            count, values, wrong = (int(v) for v in text.splitlines()[-1].split())
            self.assertGreater(values, 5, "the reader saw it change")
            self.assertEqual(wrong, 0, f"of {count} rounds of reads: {text}")
        cluster.identical([name for names in chains for name in names])

    def test_two_databases_at_full_speed(self):
        with Cluster(2, self.passthrough) as cluster:
            for synchronous in ("NORMAL", "FULL"):
                self.follow(cluster, [names_of(synchronous.lower(), 2)], synchronous, rounds(4))

    def test_several_writers_each_with_databases_of_its_own(self):
        with Cluster(2, self.passthrough) as cluster:
            self.follow(cluster, [names_of("p", 2), names_of("q", 4)], "NORMAL", rounds(5))

    def test_with_pauses(self):
        """Commits that come singly, and in short bursts."""
        with Cluster(2, self.passthrough) as cluster:
            self.follow(cluster, [names_of("s", 3)], "NORMAL", rounds(4), pause=0.004)

    def test_over_a_relay(self):
        with Cluster(3, self.passthrough) as cluster:
            self.follow(cluster, [names_of("r", 2)], "NORMAL", rounds(4))

    @within(90)
    def test_replicators_are_killed(self):
        """What a replica's log has when it is started again is shown at once; what a primary's look had not finished is gone on with."""
        with Cluster(2, self.passthrough) as cluster:
            rng = random.Random(1)

            def kill():
                cluster.nodes[rng.randrange(2)].kill_and_wait("replicator")
                a, b = ((n.try_status() or {}).get("lsn", 0) for n in cluster.nodes)
                wait_until(lambda: (cluster.nodes[1].try_status() or {}).get("applied", {}).get("lsn", 0) > max(a, b), 20, "the replica goes on")

            self.follow(cluster, [names_of("k", 2)], "NORMAL", rounds(6), meanwhile=kill)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2], sys.argv[3].split(","), sys.argv[4], sys.argv[5], float(sys.argv[6]))
    else:
        read(sys.argv[2], sys.argv[3].split(","), sys.argv[4])
