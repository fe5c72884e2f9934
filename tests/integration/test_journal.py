"""Rollback-journal modes on the primary: every way in which SQLite ends a transaction there, captured as it ends."""
import datetime
import fcntl
import os
import signal
import subprocess
import sys
import time

import harness
from harness import Cluster, EdgeTest, both_modes, rounds, wait_until, within

JOURNALS = ("delete", "truncate", "persist")

# Statements in a process of its own that then dies without a word: what it has not committed stays behind in the journal.
DIE = """
import os, sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None)
for s in sys.argv[2:]:
    c.execute(s)
os._exit(0)
"""


def die_after(path, *statements):
    subprocess.run([sys.executable, "-c", DIE, path, *statements], check=True)


def make(node, name, mode="delete", rows=1000, pragmas=()):
    with node.db(name) as db:
        for p in (*pragmas, f"journal_mode={mode}"):
            db.execute(f"PRAGMA {p}")
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, k, v)")
        db.execute("CREATE INDEX t_k ON t (k)")
        db.execute(f"WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {rows})"
                   "INSERT INTO t SELECT i, random(), randomblob(100 + i % 200) FROM n")


def entry(node, name):
    return node.databases()[name]


def captured(cluster, name):
    """(txid, lsn of its last record) once capture is at rest."""
    harness.settle(cluster.nodes[0])
    e = entry(cluster.nodes[0], name)
    return e["txid"], e["lsn"]


@both_modes
class Journal(EdgeTest):
    def test_each_commit_is_a_record_of_its_own(self):
        """Captured before COMMIT returns: the very next status has it. Nothing is compared, nothing is merged."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            for mode in JOURNALS:
                for sync in ("OFF", "NORMAL", "FULL", "EXTRA"):
                    name = f"{mode}-{sync}.db"
                    make(a, name, mode)
                    with a.db(name) as db:
                        db.execute(f"PRAGMA journal_mode={mode}")
                        db.execute(f"PRAGMA synchronous={sync}")
                        if mode == "persist" and sync == "OFF":
                            self.stop_syncing(a, db, name)
                        before = entry(a, name)
                        for i in range(20):
                            db.execute("UPDATE t SET v = randomblob(150) WHERE id = ?", (37 * i + 1,))
                            if i % 5 == 0:
                                db.execute("INSERT INTO t (k, v) VALUES (?, zeroblob(9000))", (i,))
                            txid = before["txid"] + i + 1 + i // 5 + 1
                            self.assertEqual(entry(a, name)["txid"], txid, f"{mode}, {sync}, commit {i}")
                    self.assertIsNone(entry(a, name)["warning"])
                    self.assertEqual(entry(a, name)["state"], "ok")
            cluster.identical()
            self.assertEqual([line for line in a.log().splitlines() if "comparing" in line and "persist-OFF" not in line], [])

    @staticmethod
    def stop_syncing(node, db, name):
        """A transaction that zeroes its journal and, unlike those before it, does not sync it: with passthrough nothing tells of its end. It is found by
        comparing; from then on edgefs-fs looks at each write of the journal."""
        before = entry(node, name)
        db.execute("UPDATE t SET v = randomblob(150) WHERE id = 5")
        harness.settle(node)
        harness.wait_until(lambda: entry(node, name)["txid"] == before["txid"] + 1, 30, lambda: f"{before}, now {entry(node, name)}")

    def test_exclusive_locking_zeroes_the_header_and_each_commit_is_a_record_of_its_own(self):
        """Two sessions: the first syncs its journal, so that of the second is passed through, and the fsync after the zeros is its end. With and without a limit
        to which the journal is cut after that; rolled back in between; the journal stays open all the time."""
        with Cluster(2, self.passthrough) as cluster:
            a, _ = cluster.nodes
            for mode in ("delete", "persist"):
                for sync, limit in (("NORMAL", -1), ("FULL", 1000)):
                    name = f"x-{mode}-{sync}.db"
                    make(a, name, mode)
                    for session in range(2):
                        with a.db(name) as db:
                            for pragma in (f"journal_mode={mode}", f"synchronous={sync}", f"journal_size_limit={limit}", "locking_mode=EXCLUSIVE"):
                                db.execute(f"PRAGMA {pragma}")
                            db.execute("UPDATE t SET k = 0 WHERE id = 1")
                            before = entry(a, name)["txid"]
                            for i in range(12):
                                db.execute("UPDATE t SET v = randomblob(?) WHERE id = ?", (100 + i, 41 * i + 2))
                                self.assertEqual(entry(a, name)["txid"], before + i + 1, f"{mode}, {sync}, session {session}, commit {i}")
                                db.execute("BEGIN")
                                db.execute("UPDATE t SET v = randomblob(90) WHERE id < 50")
                                db.execute("ROLLBACK")
                        harness.settle(a)
                        self.assertEqual(entry(a, name)["txid"], before + 12, f"{mode}, {sync}: the comparison at the close found something")
            cluster.identical()

    def test_a_copy_over_a_database_is_captured_with_the_first_commit_to_it(self):
        """From then on each commit is a record, and an application that has no busy time-out and never pauses is never told that the database is locked."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            for mode in JOURNALS:
                name = f"{mode}.db"
                make(a, name, mode, rows=50)
                make(a, "other.db", mode, rows=200)
                cluster.sync()
                with open(a.path("other.db"), "rb") as source:
                    contents = source.read()
                with open(a.path(name), "wb") as copy:  # who copies has it open for a while
                    copy.write(contents)
                    copy.flush()
                    with a.db(name, timeout=0) as db:
                        db.execute(f"PRAGMA journal_mode={mode}")
                        db.execute("UPDATE t SET k = -1 WHERE id = 1")
                        before = entry(a, name)["txid"]
                        for i in range(300):
                            db.execute("UPDATE t SET k = ?, v = randomblob(150) WHERE id = ?", (i, 2 + i % 190))
                        self.assertEqual(entry(a, name)["txid"], before + 300, mode)
                wait_until(lambda: b.sql(name, "SELECT (SELECT count(*) FROM t), k FROM t WHERE id = 1") == [(200, -1)], 30, f"the copy on b, {mode}")
                os.unlink(a.path("other.db"))
            cluster.identical()

    def test_what_its_journal_did_not_prove_is_compared_after_a_kill(self):
        """In EXCLUSIVE only the first transaction has page 1 in its journal. One without a journal comes in between, which nothing tells of; then the replicator is
        killed, before the last close could compare."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            make(a, "x.db", "persist")
            with a.db("x.db") as db:
                db.execute("PRAGMA journal_mode=persist")
                db.execute("PRAGMA locking_mode=EXCLUSIVE")
                db.execute("UPDATE t SET k = 1 WHERE id = 1")
                db.execute("PRAGMA journal_mode=MEMORY")
                db.execute("PRAGMA synchronous=OFF")  # an fsync would tell
                db.execute("UPDATE t SET k = 4711 WHERE id = 100")
                db.execute("PRAGMA journal_mode=persist")
                db.execute("PRAGMA synchronous=FULL")
                before = entry(a, "x.db")["txid"]
                db.execute("UPDATE t SET k = 3 WHERE id = 200")
                self.assertEqual(entry(a, "x.db")["txid"], before + 1)
                a.kill_and_wait("replicator")
                a.wait_role("primary")
            cluster.identical()
            self.assertEqual(b.sql("x.db", "SELECT k FROM t WHERE id = 100"), [(4711,)])

    def test_a_transaction_that_writes_a_large_database_anew_is_captured_as_it_ends(self):
        """Its first one, and a VACUUM that changes the page size: not left to a comparison, whose lock an application without a time-out would meet."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            with a.db("t.db", timeout=0) as db:
                db.execute("PRAGMA page_size=4096")
                db.execute("BEGIN")
                db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
                for i in range(20):
                    db.execute("INSERT INTO t (v) VALUES (zeroblob(1000000))")
                db.execute("COMMIT")
                self.assertEqual(entry(a, "t.db")["txid"], 1)
                db.execute("PRAGMA page_size=8192")
                db.execute("VACUUM")
                now = entry(a, "t.db")
                self.assertEqual((now["txid"], now["page_size"]), (2, 8192))
            cluster.identical()

    def test_persist_while_edgefs_fs_is_killed(self):
        """What edgefs-fs noted of a journal's header dies with it: such a transaction is found by comparing. None is lost, none is refused."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            make(a, "t.db", "persist")
            with a.db("t.db") as db:
                db.execute("PRAGMA journal_mode=persist")
                done = 0
                for i in range(harness.rounds(4)):
                    harness.wait_until(lambda: a.pids().get("fs"), 10, "edgefs-fs")
                    a.kill("fs")
                    for _ in range(25):
                        db.execute("UPDATE t SET k = ?, v = randomblob(150) WHERE id = ?", (done, 7 + 31 * (done % 20)))
                        done += 1
            cluster.identical()
            self.assertEqual(b.sql("t.db", "SELECT max(k) FROM t WHERE id = ?", (7 + 31 * ((done - 1) % 20),)), [(done - 1,)])

    def test_rolled_back_captures_nothing(self):
        with Cluster(2, self.passthrough) as cluster:
            a, _ = cluster.nodes
            for mode in JOURNALS:
                name = f"{mode}.db"
                make(a, name, mode)
                with a.db(name) as db:
                    db.execute(f"PRAGMA journal_mode={mode}")
                    db.execute("PRAGMA cache_size=5")
                    before = captured(cluster, name)
                    for sql in ("UPDATE t SET v = 1 WHERE id = 5", "UPDATE t SET v = randomblob(200)", "DELETE FROM t", "DROP TABLE t",
                                "INSERT INTO t (v) SELECT randomblob(400) FROM t"):
                        db.execute("BEGIN")
                        db.execute(sql)
                        db.execute("ROLLBACK")
                    self.assertEqual(captured(cluster, name), before, mode)
                    # Savepoints: what is released counts, what was rolled back to does not.
                    db.execute("BEGIN")
                    db.execute("UPDATE t SET k = 1 WHERE id < 20")
                    db.execute("SAVEPOINT one")
                    db.execute("UPDATE t SET v = randomblob(300)")
                    db.execute("ROLLBACK TO one")
                    db.execute("UPDATE t SET k = 2 WHERE id = 7")
                    db.execute("RELEASE one")
                    db.execute("COMMIT")
                    self.assertEqual(captured(cluster, name)[0], before[0] + 1)
            cluster.identical()
            for n in cluster.nodes:
                self.assertEqual(n.sql("delete.db", "SELECT count(*) FROM t WHERE k = 1"), [(18,)])

    def test_killed_in_the_middle_of_a_transaction(self):
        """The next opener rolls back: nothing is captured. If nobody opens it, we have it rolled back."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            for mode in JOURNALS:
                name = f"{mode}.db"
                make(a, name, mode, rows=3000)
                before = captured(cluster, name)
                want = a.sql(name, "SELECT count(*), sum(k % 1000) FROM t")
                statements = (f"PRAGMA journal_mode={mode}", "PRAGMA cache_size=5", "BEGIN", "UPDATE t SET k = k + 1, v = randomblob(250)",
                              "DELETE FROM t WHERE id > 2500", "INSERT INTO t (k, v) SELECT 1, randomblob(500) FROM t LIMIT 800")
                die_after(a.path(name), *statements)
                self.assertGreater(os.path.getsize(a.path(name + "-journal")), 100000)
                if mode == "delete":
                    self.assertEqual(a.sql(name, "SELECT count(*), sum(k % 1000) FROM t"), want)
                    self.assertFalse(os.path.exists(a.path(name + "-journal")))
                self.assertEqual(captured(cluster, name), before, mode)
                self.assertEqual(a.sql(name, "SELECT count(*), sum(k % 1000) FROM t"), want)
                # The same, committed by the time of its death.
                die_after(a.path(name), *statements, "COMMIT")
                self.assertEqual(captured(cluster, name)[0], before[0] + 1)
            cluster.identical()
            self.assertEqual(b.sql("delete.db", "SELECT count(*) FROM t"), [(3300,)])

    def test_one_transaction_over_three_databases(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            for mode in JOURNALS:
                names = [f"{mode}{i}.db" for i in range(3)]
                for name in names:
                    make(a, name, mode, rows=50)
                before = [captured(cluster, name)[0] for name in names]
                with a.db(names[0]) as db:
                    for i in (1, 2):
                        db.execute(f"ATTACH ? AS d{i}", (a.path(names[i]),))
                    for schema in ("main", "d1", "d2"):
                        db.execute(f"PRAGMA {schema}.journal_mode={mode}")
                    for i in range(20):
                        db.execute("BEGIN")
                        for schema in ("main", "d1", "d2"):
                            db.execute(f"INSERT INTO {schema}.t (k, v) VALUES ('all', ?)", (i,))
                        db.execute("ROLLBACK" if i % 4 == 3 else "COMMIT")
                self.assertEqual([captured(cluster, name)[0] for name in names], [n + 15 for n in before])
                self.assertEqual([f for f in os.listdir(a.mount) if "-mj" in f], [])
            cluster.identical()
            for name in ("delete0.db", "truncate1.db", "persist2.db"):
                self.assertEqual(b.sql(name, "SELECT count(*) FROM t WHERE k = 'all'"), [(15,)])

    def test_pages_that_come_and_go(self):
        """Free pages that are used again are written without having been journaled; auto_vacuum moves pages and shrinks."""
        with Cluster(2, self.passthrough) as cluster:
            a, _ = cluster.nodes
            rng = harness.seed("come and go")
            for vacuum in ("NONE", "FULL", "INCREMENTAL"):
                name = f"{vacuum}.db"
                make(a, name, rng.choice(JOURNALS), rows=500, pragmas=(f"page_size={rng.choice((512, 1024, 4096))}", f"auto_vacuum={vacuum}"))
                with a.db(name) as db:
                    db.execute(f"PRAGMA journal_mode={rng.choice(JOURNALS)}")
                    db.execute(f"PRAGMA cache_size={rng.choice((2, 20, 2000))}")
                    db.execute(f"PRAGMA secure_delete={rng.choice((0, 1))}")
                    for i in range(rounds(60)):
                        n, at = rng.randrange(1, 400), rng.randrange(1, 3000)
                        db.execute("BEGIN")
                        for _ in range(rng.randrange(1, 4)):
                            what = rng.randrange(5)
                            if what == 0:
                                db.execute("DELETE FROM t WHERE id BETWEEN ? AND ?", (at, at + n))
                            elif what == 1:
                                db.execute("INSERT INTO t (k, v) VALUES (?, randomblob(?))", (i, n * 300))
                            elif what == 2:
                                db.execute(f"CREATE TABLE x{i}_{at}_{rng.randrange(10**9)} AS SELECT * FROM t WHERE id < ?", (n,))
                            elif what == 3:
                                for (table,) in db.execute("SELECT name FROM sqlite_schema WHERE name LIKE 'x%' LIMIT 1").fetchall():
                                    db.execute(f"DROP TABLE {table}")
                            elif vacuum == "INCREMENTAL":
                                db.execute(f"PRAGMA incremental_vacuum({rng.randrange(1, 50)})").fetchall()
                            else:
                                db.execute("UPDATE t SET v = randomblob(?) WHERE id % 17 = ?", (n, at % 17))
                        db.execute("ROLLBACK" if rng.randrange(6) == 0 else "COMMIT")
                        e, sums = entry(a, name), a.get(f"/v1/databases/{name}/checksum")
                        self.assertEqual((sums["bad_count"], sums["checksum"]), (0, e["checksum"]), f"{name}, step {i}")
            self.assertNotIn("comparing", a.log())
            cluster.identical()

    @within(120)
    def test_vacuum_and_page_size(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            for mode in JOURNALS:
                name = f"{mode}.db"
                make(a, name, mode, rows=4000)
                with a.db(name) as db:
                    db.execute(f"PRAGMA journal_mode={mode}")
                    db.execute("DELETE FROM t WHERE id > 300")
                    pages = db.execute("PRAGMA page_count").fetchone()[0]
                    db.execute("VACUUM")
                    self.assertLess(db.execute("PRAGMA page_count").fetchone()[0], pages / 2)
                    db.execute("INSERT INTO t (k, v) VALUES (1, 1)")
                    for size in (512, 65536, 8192):
                        db.execute(f"PRAGMA page_size={size}")
                        db.execute("VACUUM")
                        db.execute("INSERT INTO t (k, v) VALUES (?, 1)", (size,))
                        wait_until(lambda: entry(a, name)["page_size"] == size, 10, f"page size {size} is captured")
                        db.execute("VACUUM INTO ?", (a.path(f"{mode}-{size}-copy.db"),))
            cluster.identical()
            self.assertEqual({e["page_size"] for n, e in b.databases().items() if "-" not in n}, {8192})
            self.assertEqual(b.sql("persist-512-copy.db", "SELECT count(*) FROM t"), [(302,)])

    def test_larger_than_the_cache(self):
        """One transaction of many times the page cache: it spills, the journal has many segments."""
        with Cluster(2, self.passthrough) as cluster:
            a, _ = cluster.nodes
            for mode in JOURNALS:
                name = f"{mode}.db"
                make(a, name, mode, rows=6000)
                before = captured(cluster, name)[0]
                with a.db(name) as db:
                    db.execute(f"PRAGMA journal_mode={mode}")
                    db.execute("PRAGMA cache_size=20")
                    db.execute("BEGIN")
                    db.execute("UPDATE t SET v = randomblob(250), k = random()")
                    db.execute("DELETE FROM t WHERE id % 3 = 0")
                    db.execute("INSERT INTO t (k, v) SELECT random(), randomblob(700) FROM t LIMIT 2000")
                    db.execute("COMMIT")
                    db.execute("PRAGMA cache_spill=OFF")
                    db.execute("UPDATE t SET v = randomblob(300) WHERE id % 2 = 0")
                self.assertEqual(captured(cluster, name)[0], before + 2)
            cluster.identical()

    def test_written_while_no_replicator_was_there(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            modes = {f"{m}.db": m for m in JOURNALS}
            for name, mode in modes.items():
                harness.make_load_db(a, name, mode=mode)
            cluster.sync()
            writers = [cluster.load("writer", "--mounts", a.mount, "--db", n, "--id", i, "--pragma", f"journal_mode={m}")
                       for i, (n, m) in enumerate(modes.items())]
            for _ in range(rounds(3)):
                for w in writers:
                    w.wait_acked(len(w.acked()) + 30)
                a.kill_and_wait("replicator")
            for w in writers:
                w.wait_acked(len(w.acked()) + 30)
                w.finish()
            cluster.identical()
            for (name, _), w in zip(modes.items(), writers):
                harness.check_exactly_once(b, name, [w])


class Patience(EdgeTest):
    """A database that is never at rest is read under the SHARED lock in the end, which an application may meet. It takes more than a second of tries to come to that."""

    FOR = 1.2  # seconds; capture_diff.c: six tries, 20 ms to 640 ms apart

    @staticmethod
    def times(node, text):
        return [datetime.datetime.fromisoformat(line.split()[0][:-1]) for line in node.log().splitlines() if line.endswith(text)]

    @staticmethod
    def make_locked(node, name, contents):
        """A file that somebody keeps locked as who writes a database does."""
        fd = os.open(node.path(name), os.O_RDWR | os.O_CREAT | os.O_EXCL)
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 512, 0x40000000)
        os.write(fd, contents)
        return fd

    def test_it_begins_anew_with_another_file_of_the_name(self):
        """Removed and made again while nobody looks: what the first file has used up of it is not the second one's."""
        with Cluster(1, log_level="debug") as cluster:
            a = cluster.nodes[0]
            make(a, "other.db", rows=50)
            cluster.sync()
            with open(a.backing("other.db"), "rb") as f:
                contents = f.read()
            locking, replaced = "x.db: never at rest, read under the SHARED lock now", "x.db: another file has the name"
            fds = [self.make_locked(a, "x.db", contents)]
            wait_until(lambda: self.times(a, locking), 20, "patience is at its end")
            time.sleep(0.4)  # that try has 200 ms for the lock, and the next one comes 640 ms after it: between the two, unless the machine is slow, when this test says less
            pid = a.kill("replicator", signal.SIGSTOP)
            os.unlink(a.path("x.db"))
            fds.append(self.make_locked(a, "x.db", contents))
            os.kill(pid, signal.SIGCONT)
            changed = wait_until(lambda: self.times(a, replaced), 20, "the replicator has noticed the other file")[0]
            again = wait_until(lambda: [t for t in self.times(a, locking) if t > changed], 20, "patience is at its end again")[0]
            self.assertGreaterEqual((again - changed).total_seconds(), self.FOR)
            for fd in fds:
                os.close(fd)
            wait_until(lambda: entry(a, "x.db")["txid"], 20, "x.db is captured once nobody holds it up")
