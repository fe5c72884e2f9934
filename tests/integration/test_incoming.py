"""Imports that replicas fetch while they are still being uploaded (replicator/image/import_feed.h, incoming.h)."""
import glob
import http.client
import os
import signal

import harness
from harness import Cluster, EdgeTest, both_modes, wait_until, within

MB = 20  # more than what is announced to replicas (INCOMING_MIN)


def make(node, name, mark, mb=MB):
    """An SQLite file of that size outside of the mount, its bytes."""
    path = os.path.join(node.tmp, name)
    if os.path.exists(path):
        os.unlink(path)
    with node.db(None, path=path) as db:
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, mark TEXT, pad BLOB)")
        db.execute("BEGIN")
        db.executemany("INSERT INTO t (mark, pad) VALUES (?, randomblob(100000))", [(mark,)] * (mb * 10))
        db.execute("COMMIT")
    return path, harness.read_bytes(path)


def private_files(node):
    return glob.glob(node.backing("**/.edgefs-*"), recursive=True)


class Upload:
    """A PUT that stops where the test wants it to."""

    def __init__(self, node, name, data):
        self.data, self.sent = data, 0
        self.conn = http.client.HTTPConnection("127.0.0.1", node.port, timeout=30)
        self.conn.putrequest("PUT", f"/v1/databases/{name}")
        self.conn.putheader("Content-Length", str(len(data)))
        self.conn.endheaders()

    def send(self, until):
        self.conn.send(self.data[self.sent:until])
        self.sent = until

    def finish(self):
        self.send(len(self.data))
        return self.conn.getresponse().status


@both_modes
class Incoming(EdgeTest):
    def import_seen(self, a, replicas, name, data):
        """An import that the replicas are fetching before its last byte is sent: a small one is over before they can ask."""
        up = Upload(a, name, data)
        up.send(len(data) // 2)
        for n in replicas:
            wait_until(lambda n=n: any(os.path.getsize(f) > 4 << 20 for f in private_files(n)), 30, f"{n.name} fetches it")
        self.assertEqual(up.finish(), 200)
        up.conn.close()

    def came_in(self, node):
        return node.metric("edgefs_imports_taken_total"), node.metric("edgefs_images_fetched_total")

    def wait_came_in(self, node, want):
        """(imports taken, images fetched); counted a moment after the database is in place."""
        wait_until(lambda: self.came_in(node) == want, 30, lambda: f"{node.name}: {self.came_in(node)}, not {want}")

    @within(60)
    def test_a_replica_has_an_import_without_an_image(self):
        with Cluster(3, self.passthrough) as cluster:
            a, *replicas = cluster.nodes
            _, data = make(a, "one.db", "one")
            self.import_seen(a, replicas, "sub%2Fdir%2Fx.db", data)
            cluster.sync()
            cluster.identical()
            for n in replicas:
                self.wait_came_in(n, (1, 0))
                self.assertEqual(n.sql("sub/dir/x.db", "SELECT count(*), min(mark) FROM t"), [(MB * 10, "one")])
                self.assertEqual(private_files(n), [])
            a.sql("sub/dir/x.db", "INSERT INTO t (mark) VALUES ('more')")
            cluster.sync()
            self.assertEqual(replicas[0].sql("sub/dir/x.db", "SELECT count(*) FROM t"), [(MB * 10 + 1,)])

    @within(60)
    def test_one_that_replaces_a_database(self):
        """The database begins anew, so its pages do not go into the log; who reads the old one on the replica goes on."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a, "x.db")
            cluster.sync()
            _, data = make(a, "new.db", "new")
            with harness.Session(b.path("x.db")) as reader:
                reader.sql("BEGIN")
                self.assertEqual(reader.sql("SELECT count(*) FROM c"), [(0,)])
                self.import_seen(a, [b], "x.db", data)
                cluster.sync()
                self.wait_came_in(b, (1, 0))
                self.assertEqual(reader.sql("SELECT count(*) FROM c"), [(0,)])
            self.assertEqual(b.sql("x.db", "SELECT count(*), max(mark) FROM t"), [(MB * 10, "new")])
            cluster.identical()

    @within(90)
    def test_an_upload_that_stands_still_or_breaks_off_holds_up_nothing(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            path, data = make(a, "one.db", "one")
            up = Upload(a, "x.db", data)
            up.send(len(data) // 2)
            wait_until(lambda: any(os.path.getsize(f) > 4 << 20 for f in private_files(b)), 30, "the replica fetches it")
            # Meanwhile another one: this replica fetches one at a time, so it comes as an image, and so does what has the same name.
            harness.ctl(a, "import", path, "other.db")
            cluster.sync()
            self.wait_came_in(b, (0, 1))
            up.conn.close()
            wait_until(lambda: not private_files(b) and not private_files(a), 30, lambda: f"both have removed it: {private_files(a)} {private_files(b)}")
            self.assertNotIn("x.db", b.databases())
            self.import_seen(a, [b], "x.db", data)
            cluster.sync()
            self.wait_came_in(b, (1, 1))
            cluster.identical()

    @within(90)
    def test_killed_in_its_middle(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            path, data = make(a, "one.db", "one")
            for victim, name in ((b, "x.db"), (a, "y.db")):
                up = Upload(a, name, data)
                up.send(len(data) // 2)
                wait_until(lambda: any(os.path.getsize(f) > 4 << 20 for f in private_files(b)), 30, "the replica fetches it")
                victim.kill("replicator", signal.SIGKILL)
                if victim is a:
                    up.conn.close()
                    wait_until(lambda: not private_files(b) and not private_files(a), 30, "what was left is removed")
                    harness.ctl(a, "import", path, name)
                else:
                    wait_until(lambda: b.try_status() and b.status()["connected"], 30, "it is back")
                    self.assertEqual(up.finish(), 200)
                cluster.sync()
                self.assertEqual(b.sql(name, "SELECT count(*) FROM t"), [(MB * 10,)])
                wait_until(lambda: not private_files(b), 30, lambda: f"nothing is left over: {private_files(b)}")
            cluster.identical()

    @within(60)
    def test_what_is_no_database_is_thrown_away(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            path, data = make(a, "one.db", "one")
            for bad in (b"x" * len(data), data[:16] + b"\0" * (len(data) - 16), data[:100] + b"\xff" * (len(data) - 100)):
                self.assertEqual(Upload(a, "x.db", bad).finish(), 400)
            harness.ctl(a, "import", path, "x.db")
            cluster.sync()
            self.assertEqual(b.sql("x.db", "SELECT count(*) FROM t"), [(MB * 10,)])
            wait_until(lambda: not private_files(b), 90, lambda: f"nothing is left over: {private_files(b)}")
            cluster.identical()
