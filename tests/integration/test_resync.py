"""Copies that differ: only the pages that do are sent, and nobody who reads notices."""
import contextlib
import os
import shutil
import signal
import sqlite3
import time

import harness
from harness import Cluster, EdgeTest, Session, both_modes, rounds, within, wait_until

SMALL_LOG = "log: {segment-size: 1MiB, retention-bytes: 1MiB, retention-age: 1s}\n"
FETCHED = "edgefs_image_pages_fetched_total"


def fill(node, name, mode, pages=2000):
    """A database of about that many pages of 4 KiB, one row a page."""
    with node.db(name) as db:
        assert db.execute(f"PRAGMA journal_mode={mode}").fetchone() == (mode,)
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v INTEGER, pad BLOB)")
        db.execute("BEGIN")
        db.executemany("INSERT INTO t (v, pad) VALUES (0, randomblob(3700))", [()] * pages)
        db.execute("COMMIT")


def change(node, name, rows):
    with node.db(name) as db:
        db.execute("BEGIN")
        db.executemany("UPDATE t SET v = v + 1 WHERE id = ?", [(r,) for r in rows])
        db.execute("COMMIT")


def expire_log(a, at):
    """Writes until the primary's log no longer has the records after LSN at. Touches two pages, again and again."""
    with a.db("noise.db") as db:
        db.execute("CREATE TABLE IF NOT EXISTS n (id INTEGER PRIMARY KEY, x BLOB)")
        db.execute("INSERT OR REPLACE INTO n VALUES (1, zeroblob(3000))")
        wait_until(lambda: [db.execute("UPDATE n SET x = randomblob(3000)") for _ in range(300)] and a.status()["log"]["first_lsn"] > at + 1, 60,
                   lambda: f"the log is trimmed: {a.status()['log']}")


def flip(path, page, byte=100, page_size=4096):
    with open(path, "r+b") as f:
        f.seek((page - 1) * page_size + byte)
        old = f.read(1)
        f.seek((page - 1) * page_size + byte)
        f.write(bytes([old[0] ^ 0x10]))


@both_modes
class Resync(EdgeTest):
    def test_records_expired_and_only_the_pages_that_differ_come(self):
        with Cluster(2, self.passthrough, extra=SMALL_LOG) as cluster:
            a, b = cluster.nodes
            for name, mode in (("w.db", "wal"), ("j.db", "delete")):
                fill(a, name, mode)
            cluster.sync()
            b.stop()
            change(a, "w.db", range(1, 2000, 100))
            change(a, "j.db", range(1, 2000, 100))
            expire_log(a, a.lsn())
            writer = None
            if self.passthrough:  # what is written while it is compared comes as well
                harness.make_load_db(a)
                writer = cluster.load("writer", "--mounts", a.mount)
                writer.wait_acked(20)
            b.start()
            wait_until(lambda: all(b.databases().get(n, {}).get("state") == "ok" for n in ("w.db", "j.db")), 30, lambda: f"resynced: {b.databases()}")
            if writer:
                writer.finish()
            cluster.sync()
            # 20 pages of each, page 1, and the small databases; not 4,000.
            self.assertLess(b.metric(FETCHED), 300)
            self.assertGreaterEqual(b.metric(FETCHED), 40)
            cluster.identical()

    def test_readers_keep_their_snapshot_while_a_resync_is_applied(self):
        with Cluster(2, self.passthrough, extra=SMALL_LOG) as cluster:
            a, b = cluster.nodes
            fill(a, "w.db", "wal", 500)
            cluster.sync()
            with Session(b.path("w.db")) as old, Session(b.path("w.db")) as new:
                old.sql("BEGIN")
                self.assertEqual(old.sql("SELECT count(*), sum(v) FROM t"), [(500, 0)])
                new.sql("SELECT count(*) FROM t")
                at = b.lsn()
                launcher = b.kill("launcher", signal.SIGSTOP)  # so that the replicator is gone for a while, while applications go on reading
                b.kill("replicator")
                try:
                    change(a, "w.db", range(1, 500))
                    expire_log(a, at + 1)
                finally:
                    os.kill(launcher, signal.SIGCONT)
                wait_until(lambda: b.try_status(), 30, "its successor answers")
                cluster.sync()
                wait_until(lambda: b.databases()["w.db"]["state"] == "ok", 30, "w.db is resynced")
                self.assertGreaterEqual(b.metric("edgefs_images_fetched_total"), 1)
                self.assertEqual(old.sql("SELECT count(*), sum(v) FROM t"), [(500, 0)])
                self.assertEqual(new.sql("SELECT count(*), sum(v) FROM t"), [(500, 499)])
                old.sql("COMMIT")
                self.assertEqual(old.sql("SELECT count(*), sum(v) FROM t"), [(500, 499)])
            cluster.identical()

    def test_files_that_somebody_changed_or_copied_while_the_replica_was_stopped(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            for name in ("flipped.db", "older.db", "rubbish.db", "emptied.db", "gone.db", "same.db"):
                fill(a, name, "wal" if name != "older.db" else "delete", 300)
            cluster.sync()
            older = os.path.join(cluster.tmp, "older")
            b.stop()
            shutil.copy(b.backing("older.db"), older)
            b.start()
            change(a, "older.db", range(1, 300, 30))
            cluster.sync()
            b.stop()
            for page in (1, 2, 77, 200):
                flip(b.backing("flipped.db"), page)
            shutil.copy(older, b.backing("older.db"))
            with open(b.backing("rubbish.db"), "wb") as f:
                f.write(b"no database at all" * 1000)
            os.truncate(b.backing("emptied.db"), 0)
            os.unlink(b.backing("gone.db"))
            change(a, "flipped.db", [5])
            b.start()
            cluster.sync()
            wait_until(lambda: all(d["state"] == "ok" for d in b.databases().values()) and len(b.databases()) == 6, 30, lambda: f"resynced: {b.databases()}")
            # Three that are no longer there, as a whole: three times 300 rows; of the others what differs.
            self.assertLess(b.metric(FETCHED), 1100)
            cluster.identical()

    @within(150)
    def test_an_interrupted_fetch_goes_on_where_it_was(self):
        size = 48 << 20
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            big = os.path.join(cluster.tmp, "big.db")
            with sqlite3.connect(big) as db:
                db.execute("CREATE TABLE t (x)")
                db.executemany("INSERT INTO t VALUES (randomblob(65536))", [()] * (size >> 16))
            db.close()
            interrupted = 0
            for i in range(10):  # the moment cannot be chosen exactly
                sent = a.metric("edgefs_image_sent_bytes_total")
                shutil.copy(big, a.path(f"big{i}.db"))
                here = self.interrupt(b, f"big{i}.db", size)
                cluster.sync()
                wait_until(lambda: b.databases().get(f"big{i}.db", {}).get("state") == "ok", 30, "it has come")
                wait_until(lambda: a.metric("edgefs_image_sent_bytes_total") - sent > 0.5 * size, 30, "it was counted")
                if here:
                    # What was on its way when the replica died is lost, no more: that is what the sockets hold.
                    self.assertLess(a.metric("edgefs_image_sent_bytes_total") - sent, size * 1.01 + (12 << 20))
                    self.assertGreater(here, size // 4)
                    interrupted += 1
                os.unlink(a.path(f"big{i}.db"))
                if interrupted == rounds(1):
                    break
            self.assertEqual(interrupted, rounds(1))
            cluster.sync()
            self.assertEqual([f for f in os.listdir(b.backing()) if f.startswith(".edgefs")], [])
            cluster.identical()

    @staticmethod
    def interrupt(b, name, size):
        """kill -9 of b's replicator when more than a quarter of the database has come. Bytes that were there; 0: it was too late."""

        def part():
            if os.path.exists(b.backing(name)):
                return True
            for f in os.listdir(b.backing()):
                if f.startswith(".edgefs-image-"):
                    try:
                        if os.stat(b.backing(f)).st_blocks * 512 > size // 3:
                            return True
                    except FileNotFoundError:
                        pass
            return False

        pid = b.pid("replicator")
        deadline = time.monotonic() + 60
        while not part():  # without a pause: it takes a tenth of a second in all
            assert time.monotonic() < deadline, "nothing comes"
        os.kill(pid, signal.SIGKILL)
        left = [f for f in os.listdir(b.backing()) if f.startswith(".edgefs-image-")]
        here = os.stat(b.backing(left[0])).st_blocks * 512 if left and not os.path.exists(b.backing(name)) else 0
        wait_until(lambda: b.pids().get("replicator", pid) != pid, 10, "a new replicator")
        return here


class Differences(EdgeTest):
    def test_after_a_divergence_only_the_pages_that_differ_come(self):
        with Cluster(2) as cluster:
            a, b = cluster.nodes
            fill(a, "w.db", "wal", 1000)
            fill(a, "j.db", "delete", 1000)
            cluster.sync()
            b.kill_all()
            change(a, "w.db", range(1, 100, 10))  # nobody else has these
            change(a, "j.db", range(1, 100, 10))
            a.kill_all()
            b.start()
            harness.ctl(b, "promote", "b", "--force", "--yes")
            b.wait_role("primary")
            change(b, "w.db", range(500, 600, 10))
            a.start()
            # By epoch and LSN: what only this node had may end at the very LSN at which the other one stands now.
            wait_until(lambda: a.role() == "replica" and a.status()["applied"] == b.status()["applied"], 30, "a follows b")
            wait_until(lambda: all(d["state"] == "ok" for d in a.databases().values()), 30, lambda: f"resynced: {a.databases()}")
            self.assertGreaterEqual(a.metric(FETCHED), 20)
            self.assertLess(a.metric(FETCHED), 100)
            self.assertIn("w.db", harness.ctl(a, "quarantine", "ls"))
            cluster.identical()

    def test_questions_that_cannot_be_are_refused(self):
        with Cluster(1) as cluster:
            (a,) = cluster.nodes
            fill(a, "w.db", "wal", 10)
            harness.settle(a)

            def post(path, *numbers):
                return a.api("POST", f"/v1/databases/w.db/{path}", b"".join(n.to_bytes(4, "big") for n in numbers))[0]

            self.assertEqual(post("blocks", 0), 200)
            self.assertEqual(post("blocks", 0xffffffff, 7), 200)  # nothing is there
            self.assertEqual(a.api("POST", "/v1/databases/w.db/blocks", b"abc")[0], 400)
            self.assertEqual(post("blocks", *range(1025)), 400)
            self.assertEqual(post("image?format=pages", 1, 2, 5, 1), 200)
            self.assertEqual(post("image?format=pages", 2000, 0xfffff), 200)  # beyond the end: none
            for bad in ((0, 1), (1, 0), (3, 1, 2, 1), (1, 3, 3, 1), (2, 0xffffffff), (1,)):
                self.assertEqual(post("image?format=pages", *bad), 400, bad)
            self.assertEqual(post("image", 1, 1), 400)
            with contextlib.suppress(ConnectionError):  # the answer comes before the end of the body, and may be lost
                self.assertEqual(a.api("POST", "/v1/databases/w.db/image?format=pages", b"x" * (9 << 20))[0], 413)
            for path in ("blocks", "image?format=pages", "repair"):
                self.assertEqual(a.api("POST", f"/v1/databases/none.db/{path}", b"")[0], 404, path)


if __name__ == "__main__":
    harness.unittest.main()
