"""The hazards of docs/ARCHITECTURE.md that no other file here covers by its own subject."""
import contextlib
import os
import sqlite3
import time

import harness
from harness import LONG, Cluster, EdgeTest, Session, SessionError, both_modes, rounds, within, wait_until


@both_modes
class Hazards(EdgeTest):
    def test_opens_and_closes_race(self):
        """Every close may be the last one (WAL and shm are unlinked) and every open the first (shm is truncated and rebuilt)."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            cluster.sync()
            writers = [cluster.load("writer", "--mounts", a.mount, "--id", i, "--reopen", 1 + i, "--pause", 0.01) for i in range(2)]
            readers = [cluster.load("reader", "--db", n.path("load.db"), "--seed", i, "--reopen", 1 + i, "--pause", 0.01)
                       for n in (a, b) for i in range(2)]
            for w in writers:
                w.wait_acked(rounds(150), 30)
            for load in writers + readers:
                load.finish()
            cluster.identical()
            for n in (a, b):
                harness.check_exactly_once(n, "load.db", writers)

    def test_recovery_on_a_replica_is_not_starved_by_the_fence(self):
        """WAL frames and no valid wal-index: whoever opens first must rebuild it, under a lock that the fence wants, too."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            cluster.sync()
            with Session(b.path("load.db")) as keep:
                # A reader keeps the replica's WAL from being removed; then everything dies at once.
                keep.sql("SELECT count(*) FROM t")
                for i in range(30):
                    a.sql("load.db", "INSERT INTO t (w, s) VALUES (1, ?)", (i,))
                cluster.sync()
                b.kill_all()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(b.backing("load.db-shm"))
            b.start()
            begin = time.monotonic()
            readers = [Session(b.path("load.db"), timeout=2) for _ in range(4)]
            try:
                for r in readers:
                    r.send("SELECT count(*) FROM t")
                for r in readers:
                    self.assertEqual(r.receive(), [(30,)])
                self.assertLess(time.monotonic() - begin, 3)
                with self.assertRaises(SessionError):
                    readers[0].sql("INSERT INTO t (w, s) VALUES (9, 9)")
            finally:
                for r in readers:
                    r.close()
            cluster.identical()

    def test_sizes_and_bytes_through_the_mount(self):
        """What replication writes is what stat, read and a copy through the mount see: growth and shrinking, cached or not."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            cluster.sync()
            fd = os.open(b.path("load.db"), os.O_RDONLY)
            try:
                for i in range(10):
                    with a.db("load.db") as db:
                        if i % 3 == 2:
                            db.execute("DELETE FROM t")
                            db.execute("VACUUM")
                        else:
                            db.executemany("INSERT INTO t (w, s, pad) VALUES (?, ?, ?)", [(i, k, "s" * 3000) for k in range(100)])
                    cluster.sync()
                    wait_until(lambda: harness.backfilled(b, "load.db"), 10, "checkpointed on b")
                    want = open(b.backing("load.db"), "rb").read()
                    self.assertEqual(os.fstat(fd).st_size, len(want))
                    self.assertEqual(os.stat(b.path("load.db")).st_size, len(want))
                    os.lseek(fd, 0, 0)
                    got = b"".join(iter(lambda: os.read(fd, 1 << 20), b""))
                    self.assertEqual(len(got), len(want))
                    self.assertTrue(got == want, f"contents through the mount differ in round {i}")
            finally:
                os.close(fd)
            cluster.identical()

    def test_no_lock_is_lost_by_what_the_replicator_does(self):
        """POSIX locks go when a process closes any descriptor of the file: copies, checksums and images take none away."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            a.sql("load.db", "INSERT INTO t (w, s) VALUES (1, 1)")
            cluster.sync()
            with contextlib.ExitStack() as stack:
                owner, rival, intruder = (stack.enter_context(Session(n.path("load.db"), timeout=0.05)) for n in (a, a, b))
                owner.sql("BEGIN IMMEDIATE")
                owner.sql("INSERT INTO t (w, s) VALUES (1, 2)")
                intruder.sql("SELECT count(*) FROM t")
                for n in (a, b):
                    for what in ("/image", "/image?format=pages", "/checksum", "/sums"):
                        code, _ = n.api("GET", "/v1/databases/load.db" + what)
                        self.assertEqual(code, 200, what)
                        for session in (rival, intruder):
                            with self.assertRaises(SessionError) as e:
                                session.sql("INSERT INTO t (w, s) VALUES (9, 9)")
                            self.assertIn("SQLITE_BUSY", e.exception.name)
                owner.sql("COMMIT")
                rival.sql("INSERT INTO t (w, s) VALUES (1, 3)")
            cluster.identical()

    def test_database_is_locked_does_not_come_from_us(self):
        """Writers with a busy time-out of two seconds while replicas join, copies are taken and checksums are compared."""
        with Cluster(2, self.passthrough, start=False) as cluster:
            a, b = cluster.nodes
            a.start()
            a.wait_role("primary")
            harness.make_load_db(a)
            with a.db("load.db") as db:
                db.execute("CREATE TABLE ballast (x)")
                db.execute("WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 20000) INSERT INTO ballast SELECT randomblob(1000) FROM n")
            writers = [cluster.load("writer", "--mounts", a.mount, "--id", i, "--busy", 2, "--reopen", 20 if i else 0) for i in range(2)]
            reader = cluster.load("reader", "--db", a.path("load.db"), "--busy", 1)
            b.start()
            cluster.sync()
            on_b = cluster.load("reader", "--db", b.path("load.db"), "--busy", 1, "--reopen", 20)
            for i in range(3):
                for n in (a, b):
                    out = os.path.join(cluster.tmp, f"copy{i}{n.name}.db")
                    harness.ctl(n, "export", "load.db", out)
                    os.unlink(out)
                harness.ctl(a, "verify", "--quick")  # pages that are being written all the time cannot be checked
            for load in writers + [reader, on_b]:
                load.check_running()
                result = load.finish()
                self.assertLess(result["longest_s"], 10, result)
            cluster.identical()

    def test_first_open_on_a_replica_is_bounded(self):
        """The first open of each database waits until its fence stands: many at once, none longer than a moment."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            names = [f"d{i}.db" for i in range(20)]
            for name in names:
                harness.make_load_db(a, name)
            cluster.sync()
            for again in range(3):
                for name in names:
                    begin = time.monotonic()
                    with b.db(name, timeout=0.1) as db:
                        self.assertEqual(db.execute("SELECT count(*) FROM t").fetchone(), (again,))
                        self.assertLess(time.monotonic() - begin, 5)
                        with self.assertRaises(sqlite3.OperationalError):
                            db.execute("INSERT INTO t (w) VALUES (1)")
                for name in names:
                    a.sql(name, "INSERT INTO t (w) VALUES (1)")
                cluster.sync()
            cluster.identical()


class Large(EdgeTest):
    @within(120)
    def test_lock_page(self):
        """A database beyond 1 GiB has one page that SQLite never uses: the one with the lock bytes. Sparse on the way in."""
        self.large((1 << 30) + (20 << 20))

    @within(60)
    def test_beyond_4_gib(self):
        if not LONG:
            self.skipTest("LONG=1 only: it moves 4 GiB")
        self.large((4 << 30) + (20 << 20))

    def large(self, size):
        with Cluster(2) as cluster:
            a, b = cluster.nodes
            source = os.path.join(cluster.tmp, "large.db")
            with a.db(None, path=source) as db:
                for pragma in ("page_size=65536", "journal_mode=OFF", "synchronous=OFF", "cache_size=-100000"):
                    db.execute(f"PRAGMA {pragma}").fetchall()
                db.execute("CREATE TABLE ballast (x)")
                for _ in range(0, size, 100 << 20):
                    db.execute("INSERT INTO ballast VALUES (zeroblob(?))", (100 << 20,))
                db.execute("CREATE TABLE t (x INTEGER PRIMARY KEY, y)")
                db.execute("INSERT INTO t VALUES (1, 'first')")
                self.assertGreater(db.execute("PRAGMA page_count").fetchone()[0] * 65536, size)
            harness.ctl(a, "import", source, "large.db", timeout=600)
            os.unlink(source)
            cluster.sync(600)
            with a.db("large.db") as db:
                db.executemany("INSERT INTO t (y) VALUES (?)", [("y" * 1000,) for _ in range(500)])
                db.execute("DELETE FROM ballast WHERE rowid = 10")
                db.execute("INSERT INTO ballast VALUES (randomblob(5000000))")
            cluster.sync(60)
            self.assertEqual(b.sql("large.db", "SELECT count(*), max(length(x)) FROM ballast, (SELECT count(*) FROM t)"),
                             a.sql("large.db", "SELECT count(*), max(length(x)) FROM ballast, (SELECT count(*) FROM t)"))
            harness.ctl(a, "verify", timeout=600)
            sums = [n.api("GET", "/v1/databases/large.db/checksum", timeout=300)[1] for n in (a, b)]
            self.assertEqual([(s["bad_count"], s["checksum"]) for s in sums], [(0, sums[0]["checksum"])] * 2)
