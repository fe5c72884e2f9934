"""A file takes the place of a database that is known: cp over it, mv over it, exchange, import. It begins anew on the replica; whoever has the old one open there
never sees pages of both. And an image replaces a copy that cannot be used, whatever is wrong with it."""
import os
import shutil
import sqlite3
import threading

import harness
from harness import Cluster, EdgeTest, Session, both_modes, rounds, wait_until, within


def file_of(cluster, name, mark, rows, mode="delete", vacuum=0, pad=100, page_size=4096):
    """A database in a plain directory. All have the same statements in the same number of transactions, so the same schema cookie and change counter, but
    their tables begin on other pages."""
    path = os.path.join(cluster.tmp, name)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(f"PRAGMA page_size={page_size}")
    db.execute(f"PRAGMA auto_vacuum={vacuum}")
    for i in range(6):
        db.execute(f"CREATE TABLE x{i} (a, b)")
    db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, mark, pad)")
    db.execute("BEGIN")
    db.executemany("INSERT INTO t (mark, pad) VALUES (?, ?)", [(mark, f"{mark}{i}" * (pad // 3)) for i in range(rows)])
    db.execute("COMMIT")
    db.execute(f"PRAGMA journal_mode={mode}")
    db.close()
    return path


def seen(session):
    """(mark, rows) of the one state that a reader has before it, after reading all of it."""
    session.sql("BEGIN")
    try:
        marks = session.sql("SELECT mark, count(*), sum(length(pad)) FROM t GROUP BY mark")
        assert session.sql("PRAGMA integrity_check") == [("ok",)]
        assert [session.sql(f"SELECT count(*) FROM x{i}") for i in range(6)] == [[(0,)]] * 6
    finally:
        session.sql("COMMIT")
    assert len(marks) == 1, marks
    return marks[0][:2]


class Reading(threading.Thread):
    """Readers of a path on the replica: one connection that stays, and one that is made for each look. Each sees one of `states`, whole."""

    def __init__(self, path, states):
        super().__init__()
        self.path, self.states = path, states
        self.stop, self.error, self.fresh = threading.Event(), None, []
        self.start()

    def run(self):
        try:
            with Session(self.path) as stays:
                while not self.stop.is_set():
                    assert seen(stays) in self.states
                    with Session(self.path) as comes:
                        state = seen(comes)
                    assert state in self.states, state
                    if not self.fresh or self.fresh[-1] != state:
                        self.fresh.append(state)
        except BaseException as e:
            self.error = e

    def end(self):
        self.stop.set()
        self.join(60)
        if self.error:
            raise self.error


def records_of(node, name, since):
    return [r for r in node.get(f"/v1/log?from={since + 1}&limit=10000")["records"] if r["name"] == name and r["type"] in ("tx", "state")]


@both_modes
class Anew(EdgeTest):
    def replace(self, cluster, how, source):
        a = cluster.nodes[0]
        target = a.path("x.db")
        if how == "cp":
            shutil.copyfile(source, target)  # truncates it to 0 bytes, and writes
        elif how == "mv":
            shutil.copyfile(source, a.path("x.tmp"))
            os.rename(a.path("x.tmp"), target)  # most likely before x.tmp is captured
        elif how == "import":
            harness.ctl(a, "import", source, "x.db")

    @within(120)
    def test_readers_of_a_database_that_is_replaced(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            for mode in ("delete", "wal"):
                sources = [file_of(cluster, f"{mode}-one", "one", 300, mode), file_of(cluster, f"{mode}-two", "two", 500, mode, vacuum=1),
                           file_of(cluster, f"{mode}-three", "three", 100, mode, page_size=1024), file_of(cluster, f"{mode}-big", "big", 1400, mode, pad=900)]
                states = [("one", 300), ("two", 500), ("three", 100), ("big", 1400)]
                shutil.copyfile(sources[0], a.path("x.db"))
                cluster.sync()
                wait_until(lambda: os.path.exists(b.path("x.db")), 15, "x.db on b")
                reading = Reading(b.path("x.db"), states)
                for i in range(rounds(1)):
                    for how in ("cp", "mv", "import"):
                        for source, state in zip(sources[1:] + sources[:1], states[1:] + states[:1]):
                            since = a.lsn()
                            self.replace(cluster, how, source)
                            cluster.sync()
                            with Session(b.path("x.db")) as s:
                                self.assertEqual(seen(s), state, f"{how}, {mode}")
                            found = records_of(a, "x.db", since)
                            if how != "mv" or found:  # x.tmp may have been captured first; then it is its rename that says so
                                self.assertTrue(found and (found[-1]["type"] == "state" or found[-1]["min_txid"] == 1), found)
                            self.assertIsNone(reading.error, f"{how}, {mode}")
                reading.end()
                self.assertGreater(len(reading.fresh), 1, "it saw them change")
                a.sql("x.db", "INSERT INTO t (mark, pad) VALUES ('one', 'more')")
                cluster.sync()
                with Session(b.path("x.db")) as s:
                    self.assertEqual(seen(s), ("one", 301), "it goes on as before")
                cluster.identical()
                os.unlink(a.path("x.db"))
                cluster.sync()

    def test_a_snapshot_that_was_begun_is_kept(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            for mode in ("delete", "wal"):
                shutil.copyfile(file_of(cluster, f"{mode}-old", "old", 300, mode), a.path("x.db"))
                cluster.sync()
                with Session(b.path("x.db")) as s:
                    s.sql("BEGIN")
                    self.assertEqual(s.sql("SELECT mark, count(*) FROM t GROUP BY mark"), [("old", 300)])
                    shutil.copyfile(file_of(cluster, f"{mode}-new", "new", 700, mode, vacuum=1), a.path("x.db"))
                    cluster.sync()
                    self.assertEqual(b.sql("x.db", "SELECT mark, count(*) FROM t GROUP BY mark"), [("new", 700)], "the next one to open it sees the new one")
                    self.assertEqual(s.sql("SELECT mark, count(*), sum(length(pad)) > 0 FROM t GROUP BY mark"), [("old", 300, 1)])
                    self.assertEqual(s.sql("PRAGMA integrity_check"), [("ok",)])
                cluster.identical()

    @within(90)
    def test_page_size_changed_by_vacuum_under_a_reader_of_the_wal(self):
        """On the primary nobody else may have it open for that. On the replica a reader stays with the file that it has; the next open finds the new one."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            shutil.copyfile(file_of(cluster, "x", "x", 300, "wal"), a.path("x.db"))
            cluster.sync()
            wait_until(lambda: os.path.exists(b.path("x.db")), 15, "x.db on b")
            rows = 300
            for size in (1024, 16384):
                with Session(b.path("x.db")) as stays:
                    stays.sql("BEGIN")
                    self.assertEqual(stays.sql("SELECT count(*) FROM t"), [(rows,)])
                    harness.set_journal_mode(a, "x.db", "DELETE")
                    with a.db("x.db") as db:
                        db.execute(f"PRAGMA page_size={size}")
                        db.execute("VACUUM")
                    harness.set_journal_mode(a, "x.db", "WAL")
                    a.sql("x.db", "INSERT INTO t (mark, pad) VALUES ('x', 'more')")
                    rows += 1
                    cluster.sync()
                    with Session(b.path("x.db")) as s:
                        self.assertEqual(s.sql("PRAGMA page_size"), [(size,)])
                        self.assertEqual(seen(s), ("x", rows))
                    self.assertEqual(stays.sql("SELECT count(*) FROM t"), [(rows - 1,)], "its snapshot")
                    stays.sql("COMMIT")
                    self.assertEqual(seen(stays), ("x", rows - 1), "whole, and as it was")
            cluster.identical()

    def test_nothing_begins_anew_when_the_same_pages_come_back(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            source = file_of(cluster, "one", "one", 50)
            shutil.copyfile(source, a.path("x.db"))
            cluster.sync()
            with Session(b.path("x.db")) as s:
                self.assertEqual(seen(s), ("one", 50))
                before = a.metric("edgefs_databases_compared_total")
                shutil.copyfile(source, a.path("x.db"))
                wait_until(lambda: a.metric("edgefs_databases_compared_total") > before and not a.databases()["x.db"]["open"], 20, "its pages have been compared")
                cluster.sync()
                a.sql("x.db", "INSERT INTO t (mark, pad) VALUES ('one', 'more')")
                cluster.sync()
                self.assertEqual(seen(s), ("one", 51), "whoever had it open sees what follows")
            cluster.identical()

    @within(90)
    def test_replaced_while_the_replicator_was_away(self):
        """The file system remembers that the file was emptied, and the replicator which file it knew."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            one, two = file_of(cluster, "one", "one", 300), file_of(cluster, "two", "two", 500, vacuum=1)
            for how in ("cp", "mv"):
                shutil.copyfile(one, a.path("x.db"))
                cluster.sync()
                reading = Reading(b.path("x.db"), [("one", 300), ("two", 500)])
                wait_until(lambda: reading.fresh or reading.error, 20, "the readers are there")
                since = a.lsn()
                a.kill("replicator")
                self.replace(cluster, how, two)
                wait_until(lambda: b.try_status() and a.try_status() and a.lsn() > since, 30, "the replicator is back and has seen it")
                cluster.sync()
                with Session(b.path("x.db")) as s:
                    self.assertEqual(seen(s), ("two", 500))
                reading.end()
                self.assertEqual(records_of(a, "x.db", since)[-1]["min_txid"], 1)
                cluster.identical()


def damage(path, what):
    size = os.path.getsize(path)
    with open(path, "r+b") as f:
        if what == "header":
            f.write(b"\xff" * 100)
        elif what == "schema":
            f.seek(100)
            f.write(b"\xff" * 200)
        elif what == "page":
            f.seek(size // 2)
            f.write(b"\xa5" * 4096)
        elif what == "short":
            f.truncate(size // 3)
        elif what == "empty":
            f.truncate(0)


@both_modes
class Damaged(EdgeTest):
    KINDS = ("header", "schema", "page", "short", "empty")

    def make(self, cluster):
        a = cluster.nodes[0]
        for kind in self.KINDS:
            for mode in ("delete", "wal"):
                shutil.copyfile(file_of(cluster, f"{kind}-{mode}", kind, 200, mode), a.path(f"{kind}-{mode}.db"))
        cluster.sync()
        cluster.identical()

    def check(self, cluster, names, rows):
        b = cluster.nodes[1]
        for name in names:
            with Session(b.path(name)) as s:
                self.assertEqual(seen(s), (name.split("-")[0], rows), name)

    def names(self):
        return [f"{kind}-{mode}.db" for kind in self.KINDS for mode in ("delete", "wal")]

    @within(90)
    def test_damaged_while_the_node_was_down(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            self.make(cluster)
            b.stop()
            for name in self.names():
                damage(b.backing(name), name.split("-")[0])
            b.start()
            wait_until(lambda: not [d for d in b.databases().values() if d["state"] != "ok"], 30, "all are mended")
            self.check(cluster, self.names(), 200)
            cluster.identical()
            for name in self.names():
                a.sql(name, "INSERT INTO t (mark, pad) SELECT mark, 'more' FROM t LIMIT 1")
            cluster.sync()
            self.check(cluster, self.names(), 201)
            cluster.identical()

    @within(90)
    def test_damaged_behind_the_back_of_a_node_that_runs(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            self.make(cluster)
            wait_until(lambda: not [n for n in self.names() if os.path.exists(b.backing(n + "-wal"))], 30, "idle databases are closed")
            for name in self.names():
                damage(b.backing(name), name.split("-")[0])
            # The next change finds half of them, the next reader the others.
            changed, read = self.names()[::2], self.names()[1::2]
            for name in changed:
                a.sql(name, "INSERT INTO t (mark, pad) SELECT mark, 'more' FROM t LIMIT 1")
            self.check(cluster, read, 200)
            cluster.sync()
            self.check(cluster, changed, 201)
            cluster.identical()

    def test_touched_is_not_damaged(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            shutil.copyfile(file_of(cluster, "one", "one", 50), a.path("x.db"))
            cluster.sync()
            os.utime(b.backing("x.db"))
            with Session(b.path("x.db")) as s:
                self.assertEqual(seen(s), ("one", 50))
            os.utime(b.backing("x.db"))
            b.stop()
            b.start()
            a.sql("x.db", "INSERT INTO t (mark, pad) VALUES ('one', 'more')")
            cluster.sync()
            with Session(b.path("x.db")) as s:
                self.assertEqual(seen(s), ("one", 51))
            self.assertNotIn("somebody else", b.log())
