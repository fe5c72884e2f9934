"""Databases of every kind and in every number."""
import hashlib
import os
import random
import shutil
import sqlite3

import harness
from harness import Cluster, EdgeTest, both_modes, rounds, within, wait_until


def fill(node, name, rows=200, pragmas=(), sync="NORMAL"):
    harness.make_load_db(node, name, pragmas)
    with node.db(name) as db:
        db.execute(f"PRAGMA synchronous={sync}")
        db.execute("BEGIN")
        db.executemany("INSERT INTO t (w, s, pad) VALUES (1, ?, ?)", [(i, "p" * (i % 300)) for i in range(rows)])
        db.execute("COMMIT")
        for i in range(10):
            db.execute("UPDATE t SET pad = pad || 'q' WHERE s % 10 = ?", (i,))


@both_modes
class Databases(EdgeTest):
    def test_changes_in_directories_made_a_moment_before_are_noticed(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            opened = []
            try:
                for i in range(100):
                    os.mkdir(a.path(f"d{i}"))
                    opened.append(sqlite3.connect(a.path(f"d{i}/x.db"), isolation_level=None))
                    opened[i].execute("PRAGMA journal_mode = WAL")
                    opened[i].execute("CREATE TABLE t (x)")
                cluster.sync()
                for db in opened:  # open files and mapped wal-indexes: nothing but the write itself tells of this
                    db.execute("INSERT INTO t VALUES (1)")
                cluster.sync()
                self.assertEqual([b.sql(f"d{i}/x.db", "SELECT x FROM t") for i in range(100)], [[(1,)]] * 100)
            finally:
                for db in opened:
                    db.close()

    def test_created_and_deleted_while_replicating(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            writer = cluster.load("writer", "--mounts", a.mount)
            rng = harness.seed("create and delete")
            alive = set()
            for i in range(rounds(60)):
                name = f"n{rng.randrange(8)}.db"
                if name in alive:
                    os.unlink(a.path(name))
                    for suffix in ("-wal", "-shm"):
                        if os.path.exists(a.path(name + suffix)):
                            os.unlink(a.path(name + suffix))
                    alive.discard(name)
                else:
                    # The same names come back with other contents: nothing of the old one may shine through.
                    fill(a, name, rows=rng.randrange(1, 50))
                    alive.add(name)
                writer.check_running()
            writer.finish()
            cluster.sync()
            expected = alive | {"load.db"}
            wait_until(lambda: set(b.databases()) == expected, 10, lambda: f"{sorted(expected)} on b; it has {sorted(b.databases())}")
            self.assertEqual(set(a.databases()), expected)
            files = {f for f in os.listdir(b.mount) if f.endswith(".db")}
            self.assertEqual(files, expected)
            cluster.identical()

    @within(200)
    def test_database_that_is_removed_while_its_image_is_on_its_way_is_gone_on_the_replica(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            big = os.path.join(cluster.tmp, "big.db")
            with sqlite3.connect(big) as db:  # more than the log takes of a new database: the replica fetches an image
                db.execute("CREATE TABLE t (x)")
                db.executemany("INSERT INTO t VALUES (randomblob(65536))", [()] * 160)
            db.close()
            for i in range(rounds(25)):
                os.mkdir(a.path("d"))
                shutil.copy(big, a.path("d/big.db"))
                wait_until(lambda: a.databases().get("d/big.db", {}).get("txid"), 20, "captured")
                if i % 3 == 0:  # when its image has arrived, or is being put in place, or has hardly begun
                    wait_until(lambda: os.listdir(b.backing("d")) if os.path.isdir(b.backing("d")) else None, 45, "it comes to b")
                os.unlink(a.path("d/big.db"))
                os.rmdir(a.path("d"))
            with a.db("last.db") as db:
                db.execute("CREATE TABLE t (x)")
            cluster.sync(45)
            wait_until(lambda: set(b.databases()) == {"last.db"} and not any(files for _, _, files in os.walk(b.backing("d"))), 20,
                       lambda: f"only last.db on b: {b.databases()}")

    def test_a_deleted_database_stays_readable_where_it_is_open(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            fill(a, "x.db")
            cluster.sync()
            with b.db("x.db") as reader:
                reader.execute("BEGIN")
                self.assertEqual(reader.execute("SELECT count(*) FROM t").fetchone(), (200,))
                os.unlink(a.path("x.db"))
                wait_until(lambda: not os.path.exists(b.path("x.db")), 10, "x.db is gone on b")
                self.assertEqual(reader.execute("SELECT count(*), sum(s) FROM t").fetchone(), (200, sum(range(200))))
                # A new one of that name is another database.
                fill(a, "x.db", rows=3)
                wait_until(lambda: os.path.exists(b.path("x.db")) and self.rows(b, "x.db") == 3, 10, "the new x.db on b")
                self.assertEqual(reader.execute("SELECT count(*), sum(s) FROM t").fetchone(), (200, sum(range(200))))
            cluster.identical()

    @staticmethod
    def rows(node, name):
        try:
            return node.sql(name, "SELECT count(*) FROM t")[0][0]
        except sqlite3.OperationalError:
            return None

    @within(120)
    def test_200_databases_in_subdirectories(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            names = [f"tenants/{i % 10}/{i:03}/data.db" for i in range(200)]
            for name in names:
                harness.make_load_db(a, name)
            cluster.sync()
            self.assertEqual(sorted(b.databases()), sorted(names))
            for i, name in enumerate(names):
                a.sql(name, "INSERT INTO t (w, s) VALUES (?, ?)", (i, i))
            cluster.sync()
            for i, name in enumerate(names):
                self.assertEqual(b.sql(name, "SELECT w, s FROM t"), [(i, i)])
            a_sums = {n: (e["txid"], e["checksum"]) for n, e in a.databases().items()}
            b_sums = {n: (e["txid"], e["checksum"]) for n, e in b.databases().items()}
            self.assertEqual(a_sums, b_sums)
            cluster.verify()
            # A directory goes with all that is in it.
            shutil.rmtree(a.path("tenants/3"))
            kept = sorted(n for n in names if not n.startswith("tenants/3/"))
            wait_until(lambda: sorted(b.databases()) == kept, 15, "the databases of tenant 3 are gone on b")
            cluster.identical(kept[::20])

    def test_a_new_directory_is_watched_whatever_the_kernel_knew_of_its_name(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            for i in range(rounds(15)):
                self.assertFalse(os.path.exists(a.path(f"d{i}")))  # the kernel now remembers that there is no such name
                os.mkdir(a.path(f"d{i}"))
                with a.db(f"d{i}/x.db") as db:
                    db.execute("PRAGMA journal_mode=WAL")
                    db.execute("CREATE TABLE t (x)")
                    cluster.sync()
                    for k in range(2):  # no call but writes from here on: only the watch tells of them
                        db.execute("INSERT INTO t VALUES (?)", (k,))
                        wait_until(lambda: os.path.exists(b.path(f"d{i}/x.db")) and self.rows(b, f"d{i}/x.db") == k + 1, 5,
                                   f"row {k} of d{i}/x.db on b")

    def test_synchronous_levels(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            for sync in ("OFF", "NORMAL", "FULL", "EXTRA"):
                fill(a, f"{sync}.db", sync=sync)
            writers = [cluster.load("writer", "--mounts", a.mount, "--db", f"{sync}.db", "--sync", sync, "--id", 5)
                       for sync in ("OFF", "NORMAL", "FULL", "EXTRA")]
            for w in writers:
                w.wait_acked(100)
            for w in writers:
                w.finish()
            cluster.identical()
            for w, sync in zip(writers, ("OFF", "NORMAL", "FULL", "EXTRA")):
                self.assertEqual(b.sql(f"{sync}.db", "SELECT count(*) FROM t WHERE w = 5"), [(len(w.acked()),)])

    def test_page_sizes(self):
        sizes = [512 << i for i in range(8)]
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            for size in sizes:
                fill(a, f"p{size}.db", rows=500, pragmas=[f"page_size={size}"])
                self.assertEqual(a.sql(f"p{size}.db", "PRAGMA page_size"), [(size,)])
            cluster.sync()
            self.assertEqual({e["name"]: e["page_size"] for e in b.databases().values()}, {f"p{s}.db": s for s in sizes})
            for size in sizes:
                with a.db(f"p{size}.db") as db:
                    db.execute("DELETE FROM t WHERE s % 2")
                    db.execute("VACUUM")
                    db.execute("INSERT INTO t (w, s) VALUES (2, 2)")
            cluster.identical()

    def test_vacuum_and_auto_vacuum(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            for mode in ("NONE", "FULL", "INCREMENTAL"):
                name = f"{mode}.db"
                fill(a, name, rows=3000, pragmas=[f"auto_vacuum={mode}"])
                with a.db(name) as db:
                    before = db.execute("PRAGMA page_count").fetchone()[0]
                    db.execute("DELETE FROM t WHERE s > 100")
                    if mode == "INCREMENTAL":
                        # Frees a page a step: executescript steps to the end.
                        db.executescript("PRAGMA incremental_vacuum(20); PRAGMA incremental_vacuum")
                    if mode == "NONE":
                        db.execute("VACUUM")
                    self.assertLess(db.execute("PRAGMA page_count").fetchone()[0], before / 2)
                    db.execute("INSERT INTO t (w, s) VALUES (2, 2)")
            cluster.identical()
            for mode in ("NONE", "FULL", "INCREMENTAL"):
                self.assertEqual(os.path.getsize(a.path(f"{mode}.db")), os.path.getsize(b.path(f"{mode}.db")))

    def test_page_size_changed_by_vacuum(self):
        """That takes the database out of WAL mode and back; with nobody else in it."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            fill(a, "x.db", rows=300)
            cluster.sync()
            for size in (1024, 16384):
                harness.set_journal_mode(a, "x.db", "DELETE")
                with a.db("x.db") as db:
                    db.execute(f"PRAGMA page_size={size}")
                    db.execute("VACUUM")
                harness.set_journal_mode(a, "x.db", "WAL")
                a.sql("x.db", "INSERT INTO t (w, s) VALUES (2, ?)", (size,))
                wait_until(lambda: b.databases().get("x.db", {}).get("page_size") == size, 15, f"page size {size} on b")
                cluster.sync()
            cluster.identical()

    def test_a_backup_changes_page_size_and_journal_mode_under_a_reader(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            source = os.path.join(cluster.tmp, "source.db")
            with a.db(None, path=source) as src:
                src.execute("PRAGMA page_size=1024")
                src.execute("PRAGMA journal_mode=WAL")
                src.execute("CREATE TABLE t (x)")
                src.executemany("INSERT INTO t VALUES (?)", [("r" * 300,)] * 200)
                for i in range(rounds(6)):
                    with a.db(f"x{i}.db") as db:
                        db.execute("PRAGMA page_size=16384")
                        db.execute("CREATE TABLE t (x)")
                    cluster.sync()
                    with b.db(f"x{i}.db") as reader, a.db(f"x{i}.db") as db:
                        self.assertEqual(reader.execute("SELECT count(*) FROM t").fetchone(), (0,))
                        src.backup(db)
                        # No error on the way, and then the new rows.
                        wait_until(lambda: reader.execute("SELECT count(*) FROM t").fetchone() == (200,), 10, f"the backup in x{i}.db on b")
                        self.assertEqual(self.rows(b, f"x{i}.db"), 200)
            cluster.identical()

    def test_empty_and_foreign_files(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            open(a.path("empty.db"), "w").close()
            junk = random.Random(1).randbytes(50000)
            for name, data in (("notes.txt", b"hello\n"), ("junk.db", junk), ("short.db", b"SQLite format 3\0" + b"\0" * 20)):
                with open(a.path(name), "wb") as f:
                    f.write(data)
            fill(a, "good.db")
            cluster.sync()
            self.assertEqual(b.sql("good.db", "SELECT count(*) FROM t"), [(200,)])
            kinds = {n: e["kind"] for n, e in a.databases().items()}
            self.assertEqual(kinds["good.db"], "database")
            for name in ("notes.txt", "junk.db", "short.db"):
                self.assertEqual(kinds.get(name, "other"), "other", name)
                self.assertFalse(os.path.exists(b.path(name)), f"{name} is not a database and stays where it is")
            self.assertEqual(open(a.path("junk.db"), "rb").read(), junk)
            # A name that is not UTF-8 (and so no JSON string) does not make the others disappear.
            strange = os.path.join(os.fsencode(a.mount), b"caf\xe9.db")
            shutil.copyfile(a.path("good.db"), strange)
            wait_until(lambda: a.status()["databases"]["count"] and "good.db" in a.databases(), 5, "the list of databases")
            os.unlink(strange)
            # An empty file becomes a database later.
            fill(a, "empty.db", rows=5)
            wait_until(lambda: os.path.exists(b.path("empty.db")) and self.rows(b, "empty.db") == 5, 10, "empty.db arrives")
            cluster.identical(["good.db", "empty.db"])

    def test_copied_and_renamed_into_place(self):
        """cp into the mount, and the write-aside-then-rename of a backup tool."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            source = os.path.join(cluster.tmp, "source.db")
            with a.db(None, path=source) as db:
                db.execute("PRAGMA journal_mode=WAL")
                db.execute("CREATE TABLE t (x)")
                db.executemany("INSERT INTO t VALUES (?)", [(i,) for i in range(5000)])
            shutil.copyfile(source, a.path("copied.db"))
            shutil.copyfile(source, a.path("x.tmp"))
            os.rename(a.path("x.tmp"), a.path("renamed.db"))
            for name in ("copied.db", "renamed.db"):
                wait_until(lambda: os.path.exists(b.path(name)) and self.rows(b, name) == 5000, 15, f"{name} on b")
            os.rename(a.path("renamed.db"), a.path("again.db"))
            wait_until(lambda: os.path.exists(b.path("again.db")) and not os.path.exists(b.path("renamed.db")), 10, "renamed on b")
            a.sql("again.db", "INSERT INTO t VALUES (-1)")
            wait_until(lambda: self.rows(b, "again.db") == 5001, 10, "it goes on under its new name")
            self.assertNotIn("x.tmp", b.databases())
            cluster.identical(["copied.db", "again.db"])

    def test_transaction_over_two_databases(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            fill(a, "one.db", 10)
            fill(a, "two.db", 10)
            with a.db("one.db") as db:
                db.execute("ATTACH ? AS two", (a.path("two.db"),))
                for i in range(30):
                    db.execute("BEGIN")
                    db.execute("INSERT INTO main.t (w, s) VALUES (2, ?)", (i,))
                    db.execute("INSERT INTO two.t (w, s) VALUES (2, ?)", (i,))
                    db.execute("COMMIT")
            cluster.identical()
            self.assertEqual(b.sql("two.db", "SELECT count(*) FROM t WHERE w = 2"), [(30,)])

    def test_a_transaction_of_many_pages(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            with a.db("load.db") as db:
                db.execute("WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 100000)"
                           "INSERT INTO t (w, s, pad) SELECT 1, i, hex(randomblob(200)) FROM n")
                cluster.sync()
                db.execute("UPDATE t SET pad = hex(randomblob(200))")
            cluster.identical()


class ImportExport(EdgeTest):
    def test_import_and_export(self):
        with Cluster(2) as cluster:
            a, b = cluster.nodes
            source = os.path.join(cluster.tmp, "source.db")
            with a.db(None, path=source) as db:
                db.execute("CREATE TABLE t (x INTEGER PRIMARY KEY, y)")
                db.execute("WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 50000)"
                           "INSERT INTO t SELECT i, hex(randomblob(100)) FROM n")
                want = hashlib.sha256(repr(db.execute("SELECT * FROM t").fetchall()).encode()).hexdigest()
            harness.ctl(a, "import", source, "shop/imported.db")
            cluster.sync()
            for n in (a, b):
                rows = n.sql("shop/imported.db", "SELECT * FROM t")
                self.assertEqual(hashlib.sha256(repr(rows).encode()).hexdigest(), want)
            # It lives: write, then take a copy of it from the replica while a writer is at work.
            harness.set_journal_mode(a, "shop/imported.db", "WAL")
            harness.make_load_db(a, "live.db")
            writer = cluster.load("writer", "--mounts", a.mount, "--db", "live.db")
            writer.wait_acked(50)
            a.sql("shop/imported.db", "INSERT INTO t VALUES (0, 'new')")
            cluster.sync()
            for node in (a, b):
                out = os.path.join(cluster.tmp, f"out-{node.name}.db")
                harness.ctl(node, "export", "live.db", out)
                with node.db(None, path=out) as db:
                    self.assertEqual(db.execute("PRAGMA integrity_check").fetchall(), [("ok",)])
                    rows, counted = db.execute("SELECT (SELECT count(*) FROM t), (SELECT sum(n) FROM c)").fetchone()
                    self.assertEqual(rows, counted, "one consistent state")
                    self.assertGreaterEqual(rows, 50)
            writer.finish()
            # Over an existing one: as one step for everybody; refused while somebody has it open.
            with a.db("shop/imported.db") as db:
                db.execute("SELECT count(*) FROM t").fetchone()
                rc, _, err = harness.ctl(a, "import", source, "shop/imported.db", check=False)
                self.assertEqual(rc, 4, err)
            def replaced():
                rc, _, err = harness.ctl(a, "import", source, "shop/imported.db", check=False)
                self.assertIn(rc, (0, 4), err)
                return rc == 0
            wait_until(replaced, 5, "replaced once it is closed")
            cluster.sync()
            for n in (a, b):
                self.assertEqual(n.sql("shop/imported.db", "SELECT min(x), count(*) FROM t"), [(1, 50000)])
            bad = os.path.join(cluster.tmp, "bad")
            with open(bad, "wb") as f:
                f.write(b"no database" * 1000)
            rc, _, err = harness.ctl(a, "import", bad, "bad.db", check=False)
            self.assertNotEqual(rc, 0, err)
            self.assertFalse(os.path.exists(a.path("bad.db")))
            cluster.identical()

    def test_log_export_is_ltx(self):
        with Cluster(1) as cluster:
            (a,) = cluster.nodes
            harness.make_load_db(a)
            for i in range(5):
                a.sql("load.db", "INSERT INTO t (w, s) VALUES (1, ?)", (i,))
                cluster.sync()  # so that each is a record of its own
            out = os.path.join(cluster.tmp, "ltx")
            os.mkdir(out)
            harness.ctl(a, "log", "export", out)
            files = [os.path.join(d, f) for d, _, fs in os.walk(out) for f in fs]
            self.assertGreater(len(files), 3, files)
            for f in files:
                self.assertTrue(f.endswith(".ltx"), f)
                with open(f, "rb") as g:
                    self.assertEqual(g.read(4), b"LTX1")
            self.assertIn("load.db", harness.ctl(a, "log", "ls"))
