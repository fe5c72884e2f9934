"""What an application that died leaves beside its databases (a hot journal, a WAL, a wal-index) is the next application's to use: the
primary replicates the state that it stands for, locks nothing and changes no file."""

import os
import shutil
import time

import harness
from harness import Cluster, EdgeTest, Session, both_modes, quote, wait_until, within


def contents(folder):
    return {name: harness.read_bytes(os.path.join(folder, name)) for name in sorted(os.listdir(folder))}


def look(node, name):
    """Has the node read the whole database, now; it must find what it tracks."""
    wait_until(lambda: node.databases().get(name, {}).get("txid"), 20, f"{name} was captured")
    sums = wait_until(lambda: (lambda code, body: code == 200 and body)(*node.api("GET", f"/v1/databases/{quote(name)}/checksum")), 20,
                      f"{node.name} can read {name}")
    assert sums["bad_count"] == 0 and sums["checksum"] == sums["tracked"], sums
    return sums


def rows(path):
    """count and sum of table t, read from a copy of the file alone."""
    with harness.sqlite3.connect(f"file:{path}?immutable=1", uri=True) as db:
        return db.execute("SELECT count(*), sum(x) FROM t").fetchone()


def die_in_a_transaction(path, before, spill):
    """A process that is killed with a transaction of which a part is in the database already, and all of it in the journal."""
    with Session(path) as s:
        for statement in before:
            s.sql(statement)
        s.sql("PRAGMA cache_size = 5")
        s.sql("BEGIN")
        for statement in spill:
            s.sql(statement)
        s.kill()


def slowly(source, target):
    """A copy in pieces: what has been written so far is never a hot journal of the whole."""
    data = harness.read_bytes(source)
    with open(target, "wb", buffering=0) as f:
        for at in range(0, len(data), len(data) // 8 + 1):
            f.write(data[at:at + len(data) // 8 + 1])
            time.sleep(0.05)


def as_it_lies(a, b, name):
    """The replica has the pages that the header counts; what a transaction that did not end has written behind them is nobody's."""
    mine, theirs = (harness.read_bytes(n.backing(name)) for n in (a, b))
    return len(theirs) == 1024 * int.from_bytes(mine[28:32], "big") and mine.startswith(theirs)


SETUP = ["PRAGMA page_size = 1024", "CREATE TABLE t (x INTEGER PRIMARY KEY, y)",
         "WITH RECURSIVE c(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM c WHERE i < 300) INSERT INTO t SELECT i, randomblob(400) FROM c"]
CHANGES = ["UPDATE t SET y = zeroblob(500)", "DELETE FROM t WHERE x % 3 = 0",
           "WITH RECURSIVE c(i) AS (VALUES(1000) UNION ALL SELECT i + 1 FROM c WHERE i < 1500) INSERT INTO t SELECT i, randomblob(400) FROM c"]
BEFORE = (300, 45150)


@both_modes
class LeftBehind(EdgeTest):
    def test_hot_journal_stays_and_the_replica_keeps_the_state_before_the_transaction(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            os.mkdir(a.path("d"))
            die_in_a_transaction(a.path("d/h.db"), SETUP, CHANGES)
            left = contents(a.backing("d"))
            self.assertEqual(sorted(left), ["h.db", "h.db-journal"])
            look(a, "d/h.db")
            cluster.sync()
            self.assertEqual(rows(b.backing("d/h.db")), BEFORE)
            self.assertEqual(contents(a.backing("d")), left, "files of the application were changed")
            # Its own recovery, without a busy time-out: nobody is in its way.
            self.assertEqual(a.sql("d/h.db", "SELECT count(*), sum(x) FROM t", timeout=0), [BEFORE])
            cluster.identical()

    def test_database_that_comes_with_a_hot_journal_is_replicated_as_it_will_be_rolled_back(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            outside = os.path.join(cluster.tmp, "outside")
            os.mkdir(outside)
            die_in_a_transaction(os.path.join(outside, "h.db"), SETUP, CHANGES)
            left = contents(outside)
            self.assertEqual(sorted(left), ["h.db", "h.db-journal"])
            os.mkdir(a.path("d"))
            for name in ("h.db-journal", "h.db"):
                shutil.copy(os.path.join(outside, name), a.path("d/" + name))
            look(a, "d/h.db")
            cluster.sync()
            self.assertEqual(rows(b.backing("d/h.db")), BEFORE)
            self.assertEqual(contents(a.backing("d")), left, "files of the application were changed")
            self.assertEqual(a.sql("d/h.db", "SELECT count(*), sum(x) FROM t", timeout=0), [BEFORE])
            cluster.identical()

    @within(90)
    def test_hot_journal_that_comes_after_its_database_was_captured(self):
        """cp of the database, some time later cp of its journal; and the same over a database that is known and was left by nobody."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            outside = os.path.join(cluster.tmp, "outside")
            os.mkdir(outside)
            die_in_a_transaction(os.path.join(outside, "h.db"), SETUP, CHANGES)
            journal = os.path.join(outside, "h.db-journal")
            ways = {"cp": lambda to: shutil.copy(journal, to), "mv": lambda to: (shutil.copy(journal, to + ".tmp"), os.rename(to + ".tmp", to)),
                    "slowly": lambda to: slowly(journal, to)}
            for way, put in ways.items():
                name = f"{way}.db"
                shutil.copy(os.path.join(outside, "h.db"), a.path(name))
                sums = look(a, name)
                cluster.sync()
                self.assertTrue(as_it_lies(a, b, name))
                put(a.path(name + "-journal"))
                wait_until(lambda: a.databases()[name]["checksum"] != sums["checksum"], 20, f"{way}: the journal was seen")
                look(a, name)
                cluster.sync()
                self.assertEqual(rows(b.backing(name)), BEFORE, way)
                self.assertTrue(os.path.exists(a.backing(name + "-journal")), "it is the application's to use")
                self.assertEqual(a.sql(name, "SELECT count(*), sum(x) FROM t", timeout=0), [BEFORE])
            cluster.identical()
            # Without its journal the file counts as it lies.
            shutil.copy(os.path.join(outside, "h.db"), a.path("rm.db"))
            shutil.copy(journal, a.path("rm.db-journal"))
            wait_until(lambda: b.databases().get("rm.db", {}).get("txid") and rows(b.backing("rm.db")) == BEFORE, 20, "rolled back on b")
            os.unlink(a.path("rm.db-journal"))
            wait_until(lambda: as_it_lies(a, b, "rm.db"), 20, "as it lies, on b")

    def test_journal_whose_super_journal_is_gone_belongs_to_a_committed_transaction(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            outside = os.path.join(cluster.tmp, "outside")
            os.mkdir(outside)
            die_in_a_transaction(os.path.join(outside, "h.db"), SETUP, ["UPDATE t SET y = zeroblob(400)"])  # any mixture of old and new pages is sound
            name = a.path("d/h.db-mj0123ABCD9").encode()
            with open(os.path.join(outside, "h.db-journal"), "r+b") as journal:
                journal.seek(0, os.SEEK_END)
                # pager.c, writeSuperJournal: lock page's number, name, its length, the sum of its bytes, the magic.
                journal.write((0x40000000 // 1024 + 1).to_bytes(4, "big") + name + len(name).to_bytes(4, "big")
                              + sum(name).to_bytes(4, "big") + bytes.fromhex("d9d505f920a163d7"))
            os.mkdir(a.path("d"))
            for file in ("h.db-journal", "h.db"):
                shutil.copy(os.path.join(outside, file), a.path("d/" + file))
            look(a, "d/h.db")
            cluster.sync()
            self.assertTrue(os.path.exists(a.backing("d/h.db-journal")))
            self.assertEqual(harness.read_bytes(b.backing("d/h.db")), harness.read_bytes(a.backing("d/h.db")))
            self.assertEqual(a.sql("d/h.db", "SELECT count(*), sum(x) FROM t", timeout=0), [BEFORE])
            self.assertFalse(os.path.exists(a.path("d/h.db-journal")), "SQLite itself takes it for committed")
            cluster.identical()

    def test_wal_index_that_nobody_has_open_is_not_believed(self):
        with Cluster(2, self.passthrough) as cluster:
            a, _ = cluster.nodes
            os.mkdir(a.path("d"))
            with Session(a.path("d/w.db")) as s:
                s.sql("PRAGMA journal_mode = WAL")
                s.sql("PRAGMA wal_autocheckpoint = 0")
                s.sql("CREATE TABLE t (x)")
                old = harness.read_bytes(a.backing("d/w.db-shm"))
                for i in range(50):
                    s.sql("INSERT INTO t VALUES (?)", i)
                cluster.sync()
                s.kill()
            # Only while the replicator does not hold it can the wal-index be one that nobody has open.
            a.stop()
            with open(a.backing("d/w.db-shm"), "wb") as shm:
                shm.write(old)
            wal = harness.read_bytes(a.backing("d/w.db-wal"))
            a.start()
            look(a, "d/w.db")
            self.assertEqual(harness.read_bytes(a.backing("d/w.db-wal")), wal, "the WAL was changed")
            cluster.sync()
            self.assertEqual(a.sql("d/w.db", "SELECT count(*), sum(x) FROM t", timeout=0), [(50, 1225)])
            cluster.identical()


if __name__ == "__main__":
    harness.unittest.main()
