"""A database for each tenant: thousands in one mount, of which few are in use at a time. Idle ones cost no descriptor, no watch, no mapping, no thread."""
import os

import harness
from harness import LONG, Cluster, EdgeTest, both_modes, within, wait_until

N = 10000 if LONG else 2000


def name_of(i):
    """Half of them each in a directory of its own, the others all in one."""
    return f"own/{i % 50:02}/{i:05}/data.db" if i % 2 else f"flat/{i:05}.db"


def populate(node, n):
    """Copies of one small database, put into the backing directory of a node that does not run."""
    template = os.path.join(node.tmp, "template.db")
    with node.db(None, path=template) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x)")
        db.execute("INSERT INTO t (x) VALUES ('first')")
    with open(template, "rb") as f:
        data = f.read()
    for i in range(n):
        path = node.backing(name_of(i))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as f:
            f.write(data)


def footprint(node):
    pid = node.pid("replicator")
    watches = 0
    for fd in os.listdir(f"/proc/{pid}/fdinfo"):
        watches += harness.read(f"/proc/{pid}/fdinfo/{fd}").count("inotify wd")
    with open(f"/proc/{pid}/status") as f:
        rss = next(int(line.split()[1]) // 1024 for line in f if line.startswith("VmRSS"))
    return {"rss_mb": rss, "fds": len(os.listdir(f"/proc/{pid}/fd")), "watches": watches, "threads": len(os.listdir(f"/proc/{pid}/task")),
            "maps": harness.read(f"/proc/{pid}/maps").count("\n")}


@both_modes
class Tenants(EdgeTest):
    def small(self, node):
        """What the replicator of a node holds does not depend on how many idle databases there are."""
        f = footprint(node)
        self.assertLessEqual(f["rss_mb"], 100, f)
        self.assertLess(f["fds"], 500, f)
        self.assertLess(f["watches"], 100, f)
        self.assertLess(f["maps"], 800, f)
        self.assertLess(f["threads"], 25, f)
        return f

    @within(120)
    def test_thousands_of_databases(self):
        with Cluster(2, self.passthrough, start=False) as cluster:
            a, b = cluster.nodes
            populate(a, N)
            a.start()
            self.assertEqual(a.sql(name_of(N - 1), "SELECT x FROM t"), [("first",)])
            wait_until(lambda: a.lsn() > N, 60, lambda: f"all are captured: {a.lsn()}")
            b.start()
            b.wait_applied(a.lsn(), 60)
            self.assertEqual(b.status()["databases"]["count"], N)
            for node in (a, b):
                self.small(node)
            # One write to each.
            for i in range(N):
                with a.db(name_of(i)) as db:
                    db.execute("PRAGMA synchronous=OFF")
                    db.execute("INSERT INTO t (x) VALUES (?)", (i,))
            wait_until(lambda: a.lsn() > 2 * N, 60, lambda: f"every one of the writes is captured: {a.lsn()}")
            b.wait_applied(a.lsn(), 60)
            mine, theirs = ({n: (e["txid"], e["checksum"]) for n, e in node.databases().items()} for node in (a, b))
            # One transaction each, whatever noticed it first: frames of what a comparison has found already are no change.
            self.assertEqual([n for n, (t, _) in mine.items() if t != 2], [])
            self.assertEqual(mine, theirs)
            for i in range(0, N, N // 20):
                self.assertEqual(b.sql(name_of(i), "SELECT x FROM t ORDER BY id"), [("first",), (i,)])
            said = [self.small(node) for node in (a, b)]
            # A restart looks at none of them: their files are those that are known.
            lsn = a.lsn()
            for node in (a, b):
                node.stop()
            for node in (a, b):
                node.start()
            wait_until(lambda: {e["state"] for e in a.databases().values()} == {"ok"}, 20, "all were looked at")
            self.assertEqual(a.metric("edgefs_databases_compared_total"), 0)
            a.sql(name_of(7), "INSERT INTO t (x) VALUES ('last')")
            wait_until(lambda: b.sql(name_of(7), "SELECT max(id) FROM t") == [(3,)], 20, "replication goes on")
            self.assertEqual(b.metric("edgefs_images_fetched_total"), 0)
            self.assertLessEqual(a.lsn(), lsn + 2)
            print(f"{N} databases, {said}; after the restart {[self.small(node) for node in (a, b)]}")

    @within(120)
    def test_many_open_at_a_time(self):
        """The application keeps a connection to each of some hundred: each one's commits arrive, and a promotion moves them all."""
        n = 300
        with Cluster(2, self.passthrough, start=False) as cluster:
            a, b = cluster.nodes
            populate(a, n)
            cluster.start()
            wait_until(lambda: a.lsn() > n, 30, "all are captured")
            b.wait_applied(a.lsn())
            conns = []
            for i in range(n):
                conns.append(harness.sqlite3.connect(a.path(name_of(i)), timeout=10, isolation_level=None))
                conns[i].execute("PRAGMA synchronous=OFF")
            try:
                for k in range(3):
                    for i, c in enumerate(conns):
                        c.execute("INSERT INTO t (x) VALUES (?)", (i * 10 + k,))
                cluster.sync()
                for i in range(0, n, 37):
                    self.assertEqual(b.sql(name_of(i), "SELECT count(*), max(x) FROM t WHERE x <> 'first'"), [(3, i * 10 + 2)])
                cluster.promote(b)
                b.wait_role("primary")
                for i in range(0, n, 37):
                    b.sql(name_of(i), "INSERT INTO t (x) VALUES ('b')")
                cluster.sync()
                for i in range(0, n, 37):
                    self.assertEqual(conns[i].execute("SELECT count(*) FROM t WHERE x = 'b'").fetchall(), [(1,)])
            finally:
                for c in conns:
                    c.close()
