"""Every other way in which SQLite, or a tool, writes a database: without a journal, exclusively, by copying, with extensions."""
import os
import random
import sqlite3
import subprocess

import harness
from harness import Cluster, EdgeTest, Session, both_modes, rounds, wait_until, within
from test_journal import JOURNALS, captured, die_after, entry, make


def count(node, name, table="t"):
    try:
        return node.sql(name, f"SELECT count(*) FROM {table}")[0][0]
    except sqlite3.OperationalError:
        return None


@both_modes
class Ways(EdgeTest):
    def test_without_a_journal(self):
        """MEMORY and OFF: found by comparing, and said so; never a mixture of before and after."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            for mode in ("memory", "off"):
                name = f"{mode}.db"
                harness.make_load_db(a, name, mode=mode)
                writer = cluster.load("writer", "--mounts", a.mount, "--db", name, "--pragma", f"journal_mode={mode}", "--pause", 0.002, "--large", 30)
                wait_until(lambda: count(b, name) is not None, 20, f"{name} on b")
                reader = cluster.load("reader", "--db", b.path(name))
                writer.wait_acked(rounds(300), 40)
                writer.finish()
                cluster.sync()
                reader.finish()
                harness.check_exactly_once(b, name, [writer])
                with a.db(name) as db:
                    db.execute(f"PRAGMA journal_mode={mode}")
                    for i in range(1, 20):  # the first change may be found by the comparison that the writer's close asked for, which blames nobody
                        db.execute("UPDATE t SET pad = ? WHERE id = 7", ("x" * i,))
                        wait_until(lambda: b.sql(name, "SELECT pad FROM t WHERE id = 7") == [("x" * i,)], 10, "a change while it is open")
                        if i > 1 and "without a journal" in (entry(a, name)["warning"] or ""):
                            break
                    else:
                        self.fail(f"20 changes of {name}, and not said that there is no journal: {entry(a, name)}")
            cluster.identical()

    def test_all_journal_modes_in_turn_while_readers_are_on_the_replica(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            rng = harness.seed("modes")
            harness.make_load_db(a)
            cluster.sync()
            readers = [cluster.load("reader", "--db", b.path("load.db"), "--seed", i, "--reopen", r) for i, r in enumerate((0, 0, 20))]
            n = 0
            with a.db("load.db") as db:
                for i in range(rounds(24)):
                    mode = ("delete", "wal", "truncate", "persist", "memory", "off")[i % 6 if i < 6 else rng.randrange(6)]
                    self.assertEqual(db.execute(f"PRAGMA journal_mode={mode}").fetchone()[0], mode)
                    for _ in range(rng.randrange(1, 8)):
                        db.execute("BEGIN IMMEDIATE")
                        db.execute("INSERT INTO t (w, s, pad) VALUES (1, ?, ?)", (n, f"{n:x}." * 30))
                        db.execute("INSERT INTO c (w, n) VALUES (1, 1) ON CONFLICT (w) DO UPDATE SET n = n + 1")
                        db.execute("COMMIT")
                        n += 1
                    cluster.sync()
                    self.assertEqual(b.sql("load.db", "SELECT count(*) FROM t"), [(n,)], f"after {mode}")
                    for r in readers:
                        r.check_running()
                db.execute("PRAGMA journal_mode=DELETE")
            cluster.sync()
            for r in readers:
                r.finish()
            cluster.identical()
            wait_until(lambda: not os.path.exists(b.path("load.db-wal")), 20, "the replica has left WAL mode, too")
            cluster.identical()

    def test_page_size_changed_while_readers_are_on_the_replica(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a, mode="delete")
            writer = cluster.load("writer", "--mounts", a.mount, "--count", 100)
            writer.join()
            cluster.sync()
            readers = [cluster.load("reader", "--db", b.path("load.db"), "--seed", i) for i in range(2)]
            for size in (512, 16384, 1024):
                with a.db("load.db") as db:
                    db.execute(f"PRAGMA page_size={size}")
                    db.execute("VACUUM")
                wait_until(lambda: entry(b, "load.db")["page_size"] == size and entry(b, "load.db")["state"] == "ok", 20, f"page size {size} on b")
            for r in readers:
                r.finish()
            cluster.identical()

    def test_exclusive_wal_has_no_wal_index(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            with Session(a.path("x.db")) as db:  # a process of its own: settle() opens the file, and would drop our locks with it
                db.sql("PRAGMA locking_mode=EXCLUSIVE")
                self.assertEqual(db.sql("PRAGMA journal_mode=WAL"), [("wal",)])
                db.sql("CREATE TABLE t (x, y)")
                self.assertFalse(os.path.exists(a.path("x.db-shm")))
                for i in range(20):
                    db.sql("INSERT INTO t VALUES (?, randomblob(500))", i)
                wait_until(lambda: count(b, "x.db") == 20, 10, "20 rows on b")
                cluster.sync()
                before = entry(a, "x.db")["txid"]
                # Spilled, pages written twice, rolled back; the same, committed.
                db.sql("PRAGMA cache_size=5")
                for end in ("ROLLBACK", "COMMIT"):
                    db.sql("BEGIN")
                    db.sql("INSERT INTO t SELECT x, randomblob(3000) FROM t")
                    db.sql("UPDATE t SET x = x + 1, y = randomblob(4000)")
                    db.sql("UPDATE t SET x = x + 1")
                    self.assertEqual(count(b, "x.db"), 20)
                    db.sql(end)
                    harness.settle(a)
                    self.assertEqual(entry(a, "x.db")["txid"], before + (end == "COMMIT"), end)
                for i in range(60):
                    db.sql("UPDATE t SET y = randomblob(4000)")
                    if i % 7 == 0:
                        db.sql(f"PRAGMA wal_checkpoint({'PASSIVE' if i % 2 else 'TRUNCATE'})")
                harness.settle(a)
                self.assertEqual(entry(a, "x.db")["txid"], before + 61)
                cluster.sync()
                self.assertEqual(b.sql("x.db", "SELECT count(*), sum(x) FROM t"), db.sql("SELECT count(*), sum(x) FROM t"))
            cluster.identical()
            self.assertNotIn("comparing", a.log())

    def test_a_wal_index_that_somebody_left_is_not_believed(self):
        """An ordinary connection is killed and leaves its wal-index; an exclusive one goes on without it, and ends in either way."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            exclusive = ("PRAGMA locking_mode=EXCLUSIVE", "INSERT INTO t VALUES (2)", "INSERT INTO t VALUES (3)", "PRAGMA wal_checkpoint",
                         "INSERT INTO t VALUES (4)")
            for i, ending in enumerate(("killed", "closed")):
                name = f"{ending}.db"
                die_after(a.path(name), "PRAGMA journal_mode=WAL", "CREATE TABLE t (x)", "INSERT INTO t VALUES (1)")
                self.assertTrue(os.path.exists(a.path(name + "-shm")))
                wait_until(lambda: count(b, name) == 1, 10, "what the killed one committed")
                if ending == "killed":
                    die_after(a.path(name), *exclusive)
                else:
                    with a.db(name) as db:
                        for s in exclusive:
                            db.execute(s).fetchall()
                wait_until(lambda: count(b, name) == 4, 10, "what the exclusive one committed")
                for k in range(3):
                    a.sql(name, "INSERT INTO t VALUES (?)", (5 + k,))
                self.assertEqual(a.sql(name, "SELECT x FROM t ORDER BY x"), [(x,) for x in range(1, 8)])
                cluster.sync()
                self.assertEqual(b.sql(name, "SELECT x FROM t ORDER BY x"), [(x,) for x in range(1, 8)])
            cluster.identical()

    def test_exclusive_with_a_journal(self):
        """One record a transaction; a reader that stays on the replica never gets a mixture, though the change counter stands still."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            for mode in JOURNALS:
                name = f"{mode}.db"
                harness.make_load_db(a, name, mode=mode)
                cluster.sync()
                before = captured(cluster, name)[0]
                reader = cluster.load("reader", "--db", b.path(name))
                with a.db(name) as db:
                    db.execute("PRAGMA locking_mode=EXCLUSIVE")
                    db.execute(f"PRAGMA journal_mode={mode}")
                    for i in range(30):
                        db.execute("BEGIN IMMEDIATE")
                        db.execute("INSERT INTO t (w, s, pad) VALUES (1, ?, ?)", (i, f"{i:x}." * 30))
                        db.execute("INSERT INTO c (w, n) VALUES (1, 1) ON CONFLICT (w) DO UPDATE SET n = n + 1")
                        db.execute("COMMIT")
                        self.assertEqual(entry(a, name)["txid"], before + 1 + i)
                reader.finish()
                wait_until(lambda: count(b, name) == 30, 20, f"all rows of {name} on b once the reader has closed it")
            cluster.identical()

    def test_exclusive_without_a_journal(self):
        """Nobody may read, ever. But SQLite syncs the file at a transaction's end, and then it is captured, also after a commit that makes it shorter."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            for mode in ("memory", "off"):
                name = f"{mode}.db"
                make(a, name, rows=50, pragmas=("auto_vacuum=FULL",))
                cluster.sync()
                with Session(a.path(name)) as db:
                    db.sql("PRAGMA locking_mode=EXCLUSIVE")
                    self.assertEqual(db.sql(f"PRAGMA journal_mode={mode}"), [(mode,)])
                    for i in range(1, 11):
                        db.sql("DELETE FROM t WHERE id = ?", i)
                    wait_until(lambda: count(b, name) == 40, 30, f"{mode}: captured while it is locked: {entry(a, name)}")
                    db.sql("UPDATE t SET v = randomblob(20000)")
                    db.sql("DELETE FROM t WHERE id > 20")
                    wait_until(lambda: count(b, name) == 10, 30, f"{mode}: captured after it has become shorter: {entry(a, name)}")
                    db.sql("PRAGMA synchronous=OFF")
                    db.sql("DELETE FROM t WHERE id > 15")
                wait_until(lambda: count(b, name) == 5, 30, f"{mode}: without an fsync captured once it is closed: {entry(a, name)}")
            cluster.identical()

    def test_exclusive_without_a_journal_and_another_program_syncs_the_file(self):
        """What its fsync finds is the middle of a transaction, as far as the cache has spilled."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            for name in ("x.db", "later.db"):
                make(a, name, rows=50)
            cluster.sync()
            with Session(a.path("x.db")) as db:
                db.sql("PRAGMA locking_mode=EXCLUSIVE")
                db.sql("PRAGMA journal_mode=MEMORY")
                db.sql("PRAGMA cache_size=5")
                db.sql("BEGIN")
                db.sql("UPDATE t SET v = randomblob(5000)")
                size = os.path.getsize(a.path("x.db"))
                self.assertGreater(size, 100000, "the cache has spilled")
                fd = os.open(a.path("x.db"), os.O_RDONLY)
                os.fsync(fd)
                os.close(fd)
                for i in range(4):  # changes of another database that are found in the same way, and later
                    with a.db("later.db") as later:
                        later.execute("PRAGMA journal_mode=MEMORY")
                        later.execute("UPDATE t SET k = ? WHERE id = 1", (i,))
                    wait_until(lambda: b.sql("later.db", "SELECT k FROM t WHERE id = 1") == [(i,)], 30, "a later change on b")
                self.assertEqual(b.sql("x.db", "SELECT max(length(v)) < 5000 FROM t"), [(1,)])
                db.sql("COMMIT")
                wait_until(lambda: b.sql("x.db", "SELECT min(length(v)) FROM t") == [(5000,)], 30, "captured as it is committed")
            cluster.identical()

    @within(90)
    def test_what_sqlite_can_do(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            rng = random.Random(1)
            for mode in ("delete", "persist", "wal"):
                name = f"{mode}.db"
                make(a, name, mode, rows=300)
                with a.db(name) as db:
                    db.execute(f"PRAGMA journal_mode={mode}")
                    db.execute("PRAGMA mmap_size=268435456")
                    db.execute("PRAGMA user_version=42")
                    db.execute("CREATE TABLE w (k TEXT PRIMARY KEY, v) WITHOUT ROWID")
                    db.execute("CREATE VIRTUAL TABLE f USING fts5 (body)")
                    db.execute("CREATE VIRTUAL TABLE r USING rtree (id, x0, x1)")
                    db.execute("ALTER TABLE t ADD COLUMN extra DEFAULT 5")
                    for i in range(60):
                        db.execute("INSERT INTO w VALUES (?, ?)", (f"k{i}", i))
                        db.execute("INSERT INTO f VALUES (?)", (" ".join(rng.choice(("one", "two", "three")) for _ in range(30)),))
                        db.execute("INSERT INTO r VALUES (?, ?, ?)", (i, i, i + rng.random()))
                    db.execute("INSERT INTO f (f) VALUES ('optimize')")
                    db.execute("INSERT INTO t (id, v) VALUES (9999, zeroblob(300000))")
                    with db.blobopen("t", "v", 9999) as blob:
                        for at in range(0, 300000, 50000):
                            blob.seek(at)
                            blob.write(rng.randbytes(1000))
                    db.execute("DROP INDEX t_k")
                    db.execute("CREATE UNIQUE INDEX t_kk ON t (k, id)")
                    # sqlite3_backup out of the mount, and into it: another database, and over this one.
                    with a.db("", path=os.path.join(cluster.tmp, f"{mode}-out.db")) as out:
                        db.backup(out, pages=7)
                        out.execute("DELETE FROM w WHERE v > 30")
                        with a.db(f"{mode}-in.db") as into:
                            out.backup(into, pages=50)
                with a.db(name) as db, a.db("", path=os.path.join(cluster.tmp, f"{mode}-out.db")) as out:
                    out.backup(db)
                self.assertEqual(a.sql(name, "SELECT count(*) FROM w"), [(31,)])
            cluster.identical()
            for name in ("delete.db", "persist-in.db"):
                self.assertEqual(b.sql(name, "PRAGMA user_version"), [(42,)])
                self.assertEqual(b.sql(name, "SELECT count(*) FROM f WHERE f MATCH 'two'"), a.sql(name, "SELECT count(*) FROM f WHERE f MATCH 'two'"))

    def test_the_shell_restores_and_dumps(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            make(a, "x.db", rows=500)
            saved = os.path.join(cluster.tmp, "saved.db")

            def shell(path, *commands):
                done = subprocess.run(["sqlite3", "-bail", path], input="\n".join(commands) + "\n", text=True, capture_output=True, check=False)
                self.assertEqual(done.returncode, 0, done.stderr)
                return done.stdout

            shell(a.path("x.db"), f".backup {saved}", "DELETE FROM t WHERE id > 10;")
            wait_until(lambda: count(b, "x.db") == 10, 10, "the rows are gone on b")
            shell(a.path("x.db"), f".restore {saved}")
            wait_until(lambda: count(b, "x.db") == 500, 10, "restored on b")
            shell(a.path("recovered.db"), shell(a.path("x.db"), ".dump"))  # .recover needs sqlite_dbpage, which Debian leaves out
            wait_until(lambda: count(b, "recovered.db") == 500, 10, "recovered on b")
            cluster.identical()

    def test_tools_that_write_bytes(self):
        """A program without SQLite's locks: pages copied one by one over a database, as rsync --inplace does; truncation; sparse growth."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            make(a, "x.db", rows=3000)
            cluster.sync()
            other = os.path.join(cluster.tmp, "other.db")
            with a.db("", path=other) as db:
                db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
                db.execute("WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 700) INSERT INTO t SELECT i, randomblob(300) FROM n")
            with open(other, "rb") as src, open(a.path("x.db"), "r+b") as dst:
                data = src.read()
                for at in range(0, len(data), 4096):
                    dst.seek(at)
                    if dst.read(4096) != data[at:at + 4096]:
                        dst.seek(at)
                        dst.write(data[at:at + 4096])
                        dst.flush()
                dst.truncate(len(data))
            wait_until(lambda: count(b, "x.db") == 700, 15, "the copied pages on b")
            cluster.identical()
            os.truncate(a.path("x.db"), 0)
            wait_until(lambda: os.path.getsize(b.path("x.db")) == 0, 15, "empty on b")
            with open(a.path("x.db"), "r+b") as f:
                f.write(data)
            wait_until(lambda: count(b, "x.db") == 700, 15, "there again")
            cluster.identical()
