"""Files as people and programs handle them: cp, mv, rm, truncate, links, directories, sparse and huge files, files that are no databases."""
import contextlib
import errno
import os
import shutil
import sqlite3
import struct
import subprocess

import harness
from harness import Cluster, EdgeTest, Session, both_modes, rounds, within, wait_until
from test_catchup import SMALL_LOG, small_disk


def images_fetched(node):
    return node.metric("edgefs_images_fetched_total")


def records(node, since):
    return node.get(f"/v1/log?from={since + 1}&limit=10000")["records"]


def count(node, name):
    """Rows of t, or None while there is no such database (or it is just being put in place)."""
    try:
        if not os.path.exists(node.path(name)):
            return None
        return node.sql(name, "SELECT count(*) FROM t")[0][0]
    except sqlite3.OperationalError:
        return None


def make(node, name, mb=0, rows=10):
    os.makedirs(os.path.dirname(node.path(name)), exist_ok=True)
    with node.db(name) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x)")
        db.execute("BEGIN")
        db.executemany("INSERT INTO t (x) VALUES (randomblob(50))", [()] * rows)
        if mb:
            db.execute("CREATE TABLE big (b)")
            db.executemany("INSERT INTO big VALUES (randomblob(1000000))", [()] * mb)
        db.execute("COMMIT")


@both_modes
class Renames(EdgeTest):
    @within(90)
    def test_a_rename_moves_no_pages(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            make(a, "old.db", mb=12)
            cluster.sync()
            with Session(b.path("old.db")) as reader:
                reader.sql("BEGIN")
                self.assertEqual(reader.sql("SELECT count(*) FROM t"), [(10,)])
                a.sql("old.db", "INSERT INTO t (x) VALUES (1)")
                cluster.sync()
                before, images = a.lsn(), images_fetched(b)
                os.rename(a.path("old.db"), a.path("new.db"))
                wait_until(lambda: count(b, "new.db") == 11 and not os.path.exists(b.path("old.db")), 15, "renamed on b")
                self.assertEqual(images_fetched(b), images, "no image was needed")
                new = records(a, before)
                self.assertEqual([(r["type"], r["name"], r["to"]) for r in new if r["type"] == "rename"], [("rename", "old.db", "new.db")])
                self.assertLess(sum(r["payload"] for r in new), 100000, new)
                a.sql("new.db", "INSERT INTO t (x) VALUES (2)")
                wait_until(lambda: count(b, "new.db") == 12, 10, "it goes on under its new name")
                # The reader on the old name keeps its snapshot, and goes on with the same database afterwards.
                self.assertEqual(reader.sql("SELECT count(*) FROM t"), [(10,)])
                reader.sql("COMMIT")
                self.assertEqual(reader.sql("SELECT count(*) FROM t"), [(12,)])
            self.assertEqual(set(b.databases()), {"new.db"})
            cluster.identical()

    def test_renamed_over_a_live_database(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            make(a, "live.db", rows=100)
            make(a, "next.db", mb=6, rows=7)
            cluster.sync()
            with Session(b.path("live.db")) as reader:
                reader.sql("BEGIN")
                self.assertEqual(reader.sql("SELECT count(*) FROM t"), [(100,)])
                images = images_fetched(b)
                os.rename(a.path("next.db"), a.path("live.db"))
                wait_until(lambda: count(b, "live.db") == 7 and not os.path.exists(b.path("next.db")), 15, "replaced on b")
                self.assertEqual(images_fetched(b), images)
                self.assertEqual(reader.sql("SELECT count(*) FROM t"), [(100,)])
                a.sql("live.db", "INSERT INTO t (x) VALUES (1)")
                wait_until(lambda: count(b, "live.db") == 8, 10, "it goes on")
                self.assertEqual(reader.sql("SELECT count(*) FROM t"), [(100,)], "the old one's snapshot")
            self.assertEqual(set(b.databases()), {"live.db"})
            cluster.identical()

    def test_a_directory_with_many_databases(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            names = [f"{i % 3}/n{i}.db" for i in range(60)]
            for name in names:
                make(a, "tenants/" + name)
            cluster.sync()
            with Session(b.path("tenants/0/n0.db")) as reader:
                reader.sql("BEGIN")
                self.assertEqual(reader.sql("SELECT count(*) FROM t"), [(10,)])
                before, images = a.lsn(), images_fetched(b)
                os.rename(a.path("tenants"), a.path("customers"))
                a.sql("customers/0/n0.db", "INSERT INTO t (x) VALUES (1)")
                wait_until(lambda: set(b.databases()) == {"customers/" + n for n in names} and count(b, "customers/0/n0.db") == 11, 20,
                           lambda: f"all under their new names: {sorted(b.databases())}")
                self.assertEqual(reader.sql("SELECT count(*) FROM t"), [(10,)])
            self.assertEqual(images_fetched(b), images)
            kinds = [r["type"] for r in records(a, before)]
            self.assertEqual(kinds.count("rename"), 60)
            self.assertEqual(kinds.count("drop"), 0)
            self.assertFalse(os.path.exists(b.path("tenants")), "nothing is in it any more")
            cluster.identical(["customers/0/n0.db", "customers/1/n1.db", "customers/2/n59.db"])

    def test_renamed_while_nobody_was_there_to_be_told(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            make(a, "old.db", mb=6)
            make(a, "other.db")
            cluster.sync()
            before, images = a.lsn(), images_fetched(b)
            a.kill("replicator")
            os.rename(a.path("old.db"), a.path("new.db"))
            wait_until(lambda: count(b, "new.db") == 10 and not os.path.exists(b.path("old.db")), 20, "renamed on b")
            kinds = {r["type"] for r in records(a, before)}
            self.assertIn("rename", kinds)
            self.assertEqual(images_fetched(b), images)
            cluster.identical()

    def test_a_replica_that_was_away_follows_a_chain_of_renames(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            for name in ("x.db", "y.db", "z.db"):
                make(a, name)
            cluster.sync()
            images = images_fetched(b)
            b.stop()
            for i in range(4):  # a ring: each passes through every name
                for old, new in (("x.db", "t.db"), ("y.db", "x.db"), ("z.db", "y.db"), ("t.db", "z.db")):
                    os.rename(a.path(old), a.path(new))
                    a.sql(new, "INSERT INTO t (x) VALUES (?)", (i,))
            make(a, "t.db", rows=3)
            b.start()
            cluster.sync()
            self.assertEqual(set(b.databases()), {"x.db", "y.db", "z.db", "t.db"})
            self.assertEqual(images_fetched(b) if images == 0 else 0, 0, "all of it is in the log")
            cluster.identical()

    @within(120)
    def test_random_names(self):
        """Writes, creations, copies, renames (over each other, too), exchanges of contents and removals on a few names, some of them in directories that
        move. Whatever came last is what every node has."""
        rng = harness.seed("names")
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            names = ["p.db", "q.db", "d/r.db", "d/s.db", "e/u.db"]
            for d in ("d", "e"):
                os.mkdir(a.path(d))

            def there():
                return [n for n in names if os.path.exists(a.path(n))]

            steps = []
            for i in range(rounds(120)):
                what = rng.choice(["write", "write", "write", "create", "rename", "rename", "remove", "copy", "directory"])
                have = there()
                one, two = rng.choice(have) if have else None, rng.choice(names)
                if what == "create" or not have:
                    if two not in have:
                        make(a, two, rows=rng.randrange(1, 50))
                elif what == "write":
                    a.sql(one, "INSERT INTO t (x) VALUES (?)", (i,))
                elif what == "rename" and one != two:
                    os.rename(a.path(one), a.path(two))
                elif what == "remove":
                    os.unlink(a.path(one))
                elif what == "copy" and one != two:
                    shutil.copyfile(a.path(one), a.path(two))
                elif what == "directory":
                    os.rename(a.path("d"), a.path("tmp"))
                    os.rename(a.path("e"), a.path("d"))
                    os.rename(a.path("tmp"), a.path("e"))
                    for n in ("r.db", "s.db", "u.db"):
                        if f"e/{n}" not in names:
                            names.append(f"e/{n}")
                        if f"d/{n}" not in names:
                            names.append(f"d/{n}")
                steps.append((what, one, two))
                if rng.random() < 0.1:
                    cluster.sync()
            wait_until(lambda: {n for n, e in a.databases().items() if e["kind"] == "database"} == set(there()), 20,
                       lambda: f"{sorted(there())}; a lists {sorted(a.databases())}; {steps}")
            cluster.sync()
            wait_until(lambda: set(b.databases()) == set(there()), 20, lambda: f"{sorted(there())} on b; it has {sorted(b.databases())}; {steps}")
            cluster.identical()


def umask():
    now = os.umask(0o022)
    os.umask(now)
    return now


@both_modes
class Names(EdgeTest):
    def test_files_never_have_set_user_id_bits(self):
        with Cluster(1, self.passthrough) as cluster:
            a = cluster.nodes[0]
            path, folder = a.path("f"), a.path("d")
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o6755))
            self.assertEqual(os.stat(path).st_mode & 0o7777, 0o755 & ~umask())
            os.chmod(path, 0o7751)
            for where in (path, a.backing("f")):
                self.assertEqual(os.stat(where).st_mode & 0o7777, 0o1751)
            os.mkdir(folder)
            os.chmod(folder, 0o2775)
            self.assertEqual(os.stat(folder).st_mode & 0o7777, 0o2775)

    def test_links_are_refused(self):
        with Cluster(1, self.passthrough) as cluster:
            (a,) = cluster.nodes
            make(a, "x.db")
            for _ in range(3):
                for fn in (os.symlink, os.link):
                    with self.assertRaises(PermissionError) as caught:
                        fn(a.path("x.db"), a.path("y.db"))
                    self.assertEqual(caught.exception.errno, errno.EPERM)
            self.assertFalse(os.path.lexists(a.path("y.db")))
            for word in ("symbolic link", "hard link"):
                lines = [line for line in a.log().splitlines() if word in line and "y.db" in line]
                self.assertEqual(len(lines), 1, f"said once: {lines}")
            done = os.system(f"ln {a.path('x.db')} {a.path('y.db')} 2>/dev/null")
            self.assertNotEqual(done, 0)
            self.assertEqual(count(a, "x.db"), 10)

    def test_what_is_no_database_is_listed_as_such(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            make(a, "x.db")
            os.mkdir(a.path("notes"))
            for name in ("notes/readme.txt", "empty"):
                with open(a.path(name), "w") as f:
                    f.write("hello\n" if name != "empty" else "")
            cluster.sync()
            wait_until(lambda: {n for n, e in a.databases().items() if e["kind"] == "other"} == {"notes/readme.txt", "empty"}, 10,
                       lambda: f"listed as other: {a.databases()}")
            self.assertEqual(a.status()["databases"]["others"], 2)
            self.assertEqual(a.status()["databases"]["count"], 1)
            self.assertIn("not replicated", harness.ctl(a, "status"))
            self.assertRegex(harness.ctl(a, "databases"), r"notes/readme\.txt .*not replicated")
            self.assertEqual(set(b.databases()), {"x.db"})
            self.assertFalse(os.path.exists(b.path("notes")), "a directory is on a replica if it holds a database")
            os.rename(a.path("notes/readme.txt"), a.path("notes/moved.txt"))
            make(a, "notes/n.db")
            wait_until(lambda: count(b, "notes/n.db") == 10, 10, "the directory came with it")
            self.assertFalse(os.path.exists(b.path("notes/moved.txt")))
            cluster.identical()

    def test_a_file_that_is_no_database_and_takes_the_place_of_one_ends_it(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            names = {"renamed.db", "written.db", "removed.db", "emptied.db"}
            for name in [*names, "damaged.db"]:
                make(a, name)
            cluster.sync()
            for name in names:
                wait_until(lambda name=name: count(b, name) == 10, 30, name)
            with open(a.path("note"), "w") as f:
                f.write("hello\n")
            os.rename(a.path("note"), a.path("renamed.db"))
            with open(a.path("written.db"), "w") as f:
                f.write("hello\n")
            os.unlink(a.path("removed.db"))
            with open(a.path("removed.db"), "w") as f:
                f.write("hello\n")
            os.truncate(a.path("emptied.db"), 0)
            wait_until(lambda: b.databases()["emptied.db"]["pages"] == 0, 30, "an empty database")
            os.truncate(a.path("emptied.db"), 64)
            with open(a.path("damaged.db"), "r+b") as f:
                f.write(bytes(16))
            wait_until(lambda: {n for n, e in a.databases().items() if e["kind"] == "other"} == names | {"damaged.db"}, 30,
                       lambda: f"listed as other: {a.databases()}")
            wait_until(lambda: set(b.databases()) == {"damaged.db"} and not names & set(os.listdir(b.mount)), 30,
                       lambda: f"on the replica: {b.databases()}, {os.listdir(b.mount)}")
            self.assertEqual(count(b, "damaged.db"), 10, "nobody takes a good copy of a damaged database away")
            wait_until(lambda: "the replicas keep what it was" in (a.databases()["damaged.db"].get("warning") or ""), 30, "said of the damaged one")
            for name in names:
                os.unlink(a.path(name))
                make(a, name, rows=3)
            for name in names:
                wait_until(lambda name=name: count(b, name) == 3, 30, f"{name} is a database again")

    def test_directories_come_and_go(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            make(a, "deep/er/x.db")
            cluster.sync()
            self.assertEqual(count(b, "deep/er/x.db"), 10)
            with self.assertRaises(OSError) as caught:
                os.rmdir(a.path("deep/er"))
            self.assertEqual(caught.exception.errno, errno.ENOTEMPTY)
            shutil.rmtree(a.path("deep"))
            wait_until(lambda: not os.path.exists(b.path("deep")), 10, "the directory went with its last database")
            make(a, "deep")  # a database of that name, now
            wait_until(lambda: count(b, "deep") == 10, 10, "a database where a directory was")
            os.unlink(a.path("deep"))
            make(a, "deep/again.db")
            wait_until(lambda: count(b, "deep/again.db") == 10, 10, "and a directory where a database was")
            cluster.identical()

    def test_removed_truncated_and_made_again(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            for i in range(rounds(5)):
                make(a, "x.db", rows=20 + i)
                wait_until(lambda i=i: count(b, "x.db") == 20 + i, 10, f"x.db number {i} on b")
                os.unlink(a.path("x.db"))
                if i % 2:
                    wait_until(lambda: not os.path.exists(b.path("x.db")), 10, "gone on b")
            make(a, "x.db", rows=33)
            wait_until(lambda: count(b, "x.db") == 33, 10, "the last one on b")
            os.truncate(a.path("x.db"), 0)
            wait_until(lambda: os.path.getsize(b.path("x.db")) == 0, 10, "empty on b")
            make(a, "x.db", rows=5)
            wait_until(lambda: count(b, "x.db") == 5, 10, "filled again")
            cluster.identical()


def sparse_database(path, page_size, pages):
    """A sound database of that many pages, nearly all of which are free and holes: its free list is written here (SQLite file format §1.5)."""
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA page_size={page_size}")
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x)")
        db.executemany("INSERT INTO t (x) VALUES (?)", [(i,) for i in range(10)])
    db.close()
    used = os.path.getsize(path) // page_size
    lock = (1 << 30) // page_size + 1
    free = [p for p in range(used + 1, pages + 1) if p != lock]
    per_trunk = page_size // 4 - 8
    trunks = [free[i:i + per_trunk + 1] for i in range(0, len(free), per_trunk + 1)]
    with open(path, "r+b") as f:
        f.truncate(pages * page_size)
        for i, trunk in enumerate(trunks):
            f.seek((trunk[0] - 1) * page_size)
            f.write(struct.pack(f">{len(trunk) + 1}I", trunks[i + 1][0] if i + 1 < len(trunks) else 0, len(trunk) - 1, *trunk[1:]))
        f.seek(24)
        change = struct.unpack(">I", f.read(4))[0] + 1
        f.seek(24)
        f.write(struct.pack(">4I", change, pages, trunks[0][0], len(free)))
        f.seek(92)
        f.write(struct.pack(">I", change))


@both_modes
class Huge(EdgeTest):
    @within(120)
    def test_around_the_lock_page_and_beyond_4_gib(self):
        """Holes but for its free list: the page at 1 GiB is never used; with passthrough it is longer than 4 GiB, so that offsets need more than 32 bits. On the
        replica it is as sparse."""
        page = 65536
        pages = ((4 << 30) if self.passthrough or harness.LONG else (1 << 30)) // page + 40
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            source = os.path.join(cluster.tmp, "huge.db")
            sparse_database(source, page, pages)
            with a.db(None, path=source) as db:
                self.assertEqual(db.execute("PRAGMA freelist_count").fetchone()[0], pages - 3)
            subprocess.run(["cp", "--sparse=always", source, a.path("huge.db")], check=True)
            wait_until(lambda: (b.databases().get("huge.db") or {}).get("state") == "ok", 60, lambda: f"huge.db on b: {b.databases()}")
            self.assertEqual(os.path.getsize(b.path("huge.db")), pages * page)
            self.assertLess(os.stat(b.backing("huge.db")).st_blocks * 512, 200 << 20, "holes stay holes")
            with a.db("huge.db") as db:
                db.execute("PRAGMA journal_mode=WAL")
                db.executemany("INSERT INTO t (x) VALUES (randomblob(60000))", [()] * 30)
                last = db.execute("SELECT max(id) FROM t").fetchone()
            wait_until(lambda: count(b, "huge.db") == 40, 30, lambda: f"the rows on b: {b.databases()}")
            self.assertEqual(b.sql("huge.db", "SELECT max(id) FROM t"), [last])
            mine, theirs = a.databases()["huge.db"], b.databases()["huge.db"]
            self.assertEqual((mine["txid"], mine["checksum"], mine["pages"]), (theirs["txid"], theirs["checksum"], theirs["pages"]))
            self.assertEqual(b.sql("huge.db", "PRAGMA integrity_check"), [("ok",)])


def fill_disk(folder):
    """A file that takes all the room that is left. Its path."""
    path = os.path.join(folder, "junk")
    with open(path, "wb", buffering=0) as f:
        for size in (1 << 20, 4096):
            with contextlib.suppress(OSError):
                while f.write(b"\0" * size) == size:
                    pass
    return path


@both_modes
class DiskFull(EdgeTest):
    @within(90)
    def test_names_and_idle_databases(self):
        """No room on the replica, then none on the primary, while databases that nobody has open grow, move and come: nothing is torn, and it goes on by itself."""
        with Cluster(2, self.passthrough, start=False, extra=SMALL_LOG) as cluster:
            a, b = cluster.nodes
            with small_disk(a.data, "60m"), small_disk(b.data, "60m"):
                try:
                    cluster.start()
                    for name in ("x.db", "y.db", "z.db"):
                        make(a, name, rows=500)
                    cluster.sync()
                    reader = Session(b.path("y.db"))
                    self.assertEqual(reader.sql("SELECT count(*) FROM t"), [(500,)])
                    junk = fill_disk(b.data)
                    a.sql("x.db", "INSERT INTO t (x) VALUES (zeroblob(3000000))")
                    os.mkdir(a.path("d"))
                    os.rename(a.path("y.db"), a.path("d/y.db"))
                    os.rename(a.path("z.db"), a.path("x.db"))
                    a.sql("d/y.db", "INSERT INTO t (x) VALUES (zeroblob(3000000))")
                    wait_until(lambda: any(d["state"] == "waiting" for d in b.databases().values()) or b.status()["warnings"], 20,
                               lambda: f"b says that it cannot go on: {b.status()} {b.databases()}")
                    self.assertEqual(reader.sql("PRAGMA integrity_check"), [("ok",)])
                    self.assertEqual(reader.sql("SELECT count(*) FROM t"), [(500,)])
                    reader.close()
                    os.unlink(junk)
                    wait_until(lambda: set(b.databases()) == {"x.db", "d/y.db"} and count(b, "d/y.db") == 501, 30,
                               lambda: f"it goes on when there is room: {b.databases()}")
                    self.assertEqual(count(b, "x.db"), 500)
                    junk = fill_disk(a.data)
                    os.rename(a.path("d"), a.path("e"))
                    with self.assertRaises((OSError, sqlite3.Error)):
                        make(a, "new.db", mb=5)
                    os.unlink(junk)
                    for name in ("new.db", "new.db-wal", "new.db-shm", "new.db-journal"):
                        with contextlib.suppress(FileNotFoundError):
                            os.unlink(a.path(name))
                    a.sql("e/y.db", "INSERT INTO t (x) VALUES (1)")
                    wait_until(lambda: set(b.databases()) == {"x.db", "e/y.db"} and count(b, "e/y.db") == 502, 30, lambda: f"on b: {b.databases()}")
                    cluster.identical()
                finally:
                    a.destroy()
                    b.destroy()
