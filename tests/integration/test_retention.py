"""Store and forward: replicas that are away, logs that are kept for them, disks that fill up."""
import contextlib
import os
import subprocess

import harness
from harness import Cluster, EdgeTest, Load, wait_until, within

LOG = "log: {segment-size: 1MiB, retention-bytes: %s, retention-age: 24h}\n"


@contextlib.contextmanager
def small_disk(folder, mb):
    """A file system of that size, mounted on folder."""
    image = folder + ".img"
    os.makedirs(folder)
    with open(image, "wb") as f:
        f.truncate(mb << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", image], check=True, timeout=30)
    subprocess.run(["mount", "-o", "loop", image, folder], check=True, timeout=30)
    try:
        yield folder
    finally:
        try:
            wait_until(lambda: subprocess.run(["umount", folder], stderr=subprocess.DEVNULL, timeout=30, check=False).returncode == 0, 10, "unmounted")
        except AssertionError:
            subprocess.run(["umount", "-l", folder], timeout=30, check=False)
        os.unlink(image)


@contextlib.contextmanager
def on_small_disk(which, mb):
    """A cluster of two whose node `which` (0, 1) has its data directory on a small file system; not started."""
    with Cluster(2, start=False, extra=LOG % "1GiB") as cluster:
        node = cluster.nodes[which]
        node.data = os.path.join(node.tmp, "small")
        node.write_config()
        with small_disk(node.data, mb):
            try:
                cluster.start()
                yield cluster
            except BaseException:
                cluster.report()
                raise
            finally:
                if node.running():
                    node.stop()


def write(node, megabytes, w=1):
    """Transactions of about 1 MB of incompressible bytes each; the database stays as small as that."""
    with contextlib.closing(harness.sqlite3.connect(node.path("load.db"), isolation_level=None, timeout=20)) as conn:
        conn.execute("PRAGMA synchronous=NORMAL")
        for i in range(megabytes):
            conn.execute("INSERT OR REPLACE INTO t (id, w, s, pad) VALUES (1, ?, ?, ?)", (w, i, os.urandom(500000).hex()))
            conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def known(node, name):
    return next((r for r in node.status()["replicas"] if r["node"] == name), None)


class Retention(EdgeTest):
    @within(60)
    def test_a_replica_that_was_away_goes_on_where_it_was_also_after_a_restart_of_the_primary(self):
        with Cluster(2, extra=LOG % "1GiB") as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            cluster.sync()
            images = b.metric("edgefs_images_fetched_total")
            wait_until(lambda: known(a, "b")["durable_lsn"] == a.lsn(), 20, "b has all, durably")
            b.stop()
            last = known(a, "b")["durable_lsn"]
            write(a, 4)
            a.stop()
            a.start()
            self.assertEqual((known(a, "b") or {}).get("durable_lsn"), last, a.status()["replicas"])
            self.assertFalse(known(a, "b")["connected"])
            write(a, 2)
            b.start()
            cluster.sync()
            self.assertEqual(b.metric("edgefs_images_fetched_total"), 0, images)
            self.assertNotIn("starting anew", b.log())
            cluster.identical()

    @within(90)
    def test_a_replica_that_was_away_too_long_is_told_of_and_catches_up_otherwise(self):
        with Cluster(2, extra=LOG % "2MiB") as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            cluster.sync()
            wait_until(lambda: known(a, "b")["durable_lsn"] == a.lsn(), 20, "b has all, durably")
            b.stop()
            write(a, 12)
            wait_until(lambda: a.status()["log"]["bytes"] < 4 << 20, 30, lambda: f"the log is trimmed: {a.status()['log']}")
            wait_until(lambda: "cannot go on from there" in a.log(), 20, "it is said")
            b.start()
            cluster.sync()
            cluster.identical()


class FullDisk(EdgeTest):
    @within(120)
    def test_a_primary_whose_disk_fills_gives_its_log_up_and_never_stops_writing(self):
        with on_small_disk(0, 48) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            cluster.sync()
            b.stop()
            write(a, 80)  # more than the disk holds
            self.assertGreater(a.metric("edgefs_log_trimmed_for_room_total"), 0)
            self.assertNotIn("not captured", a.log(), "the log makes room before it takes it: what it met with a full disk an application would meet, too")
            self.assertEqual(a.metric("edgefs_disk_full"), 0)
            b.start()
            cluster.sync()
            cluster.identical()

    @within(120)
    def test_a_replica_whose_disk_is_full_pauses_serves_reads_and_resumes_by_itself(self):
        with on_small_disk(1, 48) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            write(a, 1)
            cluster.sync()
            ballast = os.path.join(b.data, "ballast")
            with open(ballast, "wb") as f:
                with contextlib.suppress(OSError):
                    while True:
                        f.write(bytes(1 << 16))
                        f.flush()
            write(a, 8, w=2)
            reads = b.sql("load.db", "SELECT w FROM t WHERE id = 1")
            self.assertIn(reads, ([(1,)], [(2,)]))
            wait_until(lambda: b.status()["warnings"], 30, "b says so")
            self.assertTrue(any("full" in w or "room" in w for w in b.status()["warnings"]), b.status()["warnings"])
            self.assertLess(b.status()["applied"]["lsn"], a.lsn())
            load = Load(cluster, "writer", ["--mounts", a.mount, "--id", 7])  # the primary does not care
            load.wait_acked(50)
            self.assertEqual(b.sql("load.db", "SELECT count(*) FROM t WHERE id = 1"), [(1,)])
            load.finish()
            os.unlink(ballast)
            cluster.sync()
            wait_until(lambda: not b.status()["warnings"], 30, lambda: f"no warning any more: {b.status()['warnings']}")
            cluster.identical()


if __name__ == "__main__":
    harness.unittest.main()
