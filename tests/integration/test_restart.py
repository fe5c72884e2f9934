"""What a node knows of its databases survives a restart, and is believed only where it fits."""
import contextlib
import os
import signal
import sqlite3

import harness
import test_files
from harness import Cluster, EdgeTest, Session, both_modes, within, wait_until

OTHER_BOOT = "00000000-0000-4000-8000-000000000000"


def compared(node):
    return node.metric("edgefs_databases_compared_total")


def rows(node):
    try:
        return node.sql("load.db", "SELECT w, s FROM t ORDER BY w")
    except sqlite3.OperationalError as e:
        return str(e)


@both_modes
class Restart(EdgeTest):
    @within(60)
    def test_a_journal_that_had_been_answered_and_was_not_removed_any_more(self):
        """Its transaction is in the log, and on the replica, which is primary by now; but whoever opens the database on the old primary rolls it back."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a, mode="delete")
            a.sql("load.db", "INSERT INTO t (w, s) VALUES (1, 1)")
            journal = os.path.join(a.data, "db", "load.db-journal")
            with contextlib.closing(sqlite3.connect(a.path("load.db"), isolation_level=None)) as conn:
                conn.execute("PRAGMA synchronous=OFF")  # then the journal's header counts all that is in it
                conn.execute("BEGIN IMMEDIATE")
                conn.execute("UPDATE t SET s = 2")
                with open(journal, "rb") as f:
                    hot = f.read()
                conn.execute("COMMIT")
            self.assertGreater(len(hot), 4096)
            cluster.sync()
            a.kill_all()
            with open(journal, "wb") as f:
                f.write(hot)
            harness.ctl(b, "promote", "b", "--force", "--yes")
            b.wait_role("primary")
            a.start()
            wait_until(lambda: a.status()["connected"] and a.status()["role"] == "replica", 30, "a follows")
            cluster.sync()
            wait_until(lambda: rows(a) == [(1, 2)], 30, lambda: f"a has what b has; it has {rows(a)}")
            cluster.identical()

    def test_a_clean_restart_compares_nothing(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            for mode in ("WAL", "DELETE"):
                test_files.make(a, f"{mode}.db", mb=8)
                harness.set_journal_mode(a, f"{mode}.db", mode)
            cluster.sync()
            lsn, images = a.lsn(), test_files.images_fetched(b)
            a.stop()
            a.start()
            wait_until(lambda: {e["state"] for e in a.databases().values()} == {"ok"}, 15, "both were looked at")
            self.assertEqual(compared(a), 0)
            a.sql("WAL.db", "INSERT INTO t (x) VALUES (1)")
            wait_until(lambda: test_files.count(b, "WAL.db") == 11, 15, "replication goes on")
            self.assertEqual(test_files.images_fetched(b), images)
            self.assertEqual([r["type"] for r in test_files.records(a, lsn) if r["name"] == "DELETE.db"], [])
            cluster.identical()

    def without_replicator(self, node):
        """Nobody is told anything by edgefs-fs until the launcher goes on (SIGCONT)."""
        pid = node.pid("replicator")
        node.kill("launcher", signal.SIGSTOP)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not harness.alive(pid), 30, "it is dead")

    def read(self, node, names):
        for name in names:
            self.assertEqual(node.sql(name, "SELECT count(*) FROM t"), [(10,)])

    @within(90)
    def test_who_only_reads_while_no_replicator_is_there_costs_no_comparison(self):
        """For one read SQLite makes a WAL and takes it away, and nobody sees that. What was written meanwhile is found, however little."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            names = [f"{mode}{i}.db" for i in range(3) for mode in ("WAL", "DELETE")]
            changed = names[2:4]
            for name in names:
                test_files.make(a, name)
                harness.set_journal_mode(a, name, name.rstrip("012.db"))
            cluster.sync()
            lsn = a.lsn()
            self.without_replicator(a)
            self.read(a, names)
            a.kill("launcher", signal.SIGCONT)
            wait_until(lambda: a.try_status() and {e["state"] for e in a.databases().values()} == {"ok"}, 30, "all were looked at")
            self.read(a, names)
            a.sql(names[-1], "UPDATE t SET x = 'seen' WHERE id = 5")
            cluster.sync()
            cluster.verify()  # waits for whatever is still to be captured
            self.assertEqual(compared(a), 0)
            self.without_replicator(a)
            for name in changed:
                a.sql(name, "UPDATE t SET x = 'unseen' WHERE id = 5")
            self.read(a, names)
            a.kill("launcher", signal.SIGCONT)
            for name in changed:
                wait_until(lambda n=name: b.sql(n, "SELECT x FROM t WHERE id = 5") == [("unseen",)], 30, name + " on b")
            wait_until(lambda: compared(a) >= 2, 30, "two were compared")  # or three times: what is told of one meanwhile may have it compared once more
            self.assertEqual({r["name"] for r in test_files.records(a, lsn) if r["type"] != "noop"}, {*changed, names[-1]})  # a no-op ends what belongs together after a start
            cluster.sync()
            cluster.identical()

    @within(90)
    def test_who_only_reads_while_the_replicator_starts_costs_no_comparison(self):
        with Cluster(2, self.passthrough) as cluster:
            a, _ = cluster.nodes
            names = [f"d{i}.db" for i in range(5)]
            for name in names:
                test_files.make(a, name)
            cluster.sync()
            for _ in range(harness.rounds(5)):
                a.stop()
                a.start(wait=False)
                wait_until(lambda: os.path.exists(a.path("d3.db")), 30, "the mount")
                with a.db("d3.db") as db:
                    self.assertEqual(db.execute("SELECT count(*) FROM t").fetchall(), [(10,)])
                a.wait_ready(30)
                wait_until(lambda: {e["state"] for e in a.databases().values()} == {"ok"}, 30, "all were looked at")
                a.sql("d1.db", "INSERT INTO t (x) VALUES (1)")
                cluster.sync()
                cluster.verify()  # waits for whatever is still to be captured
                self.assertEqual(compared(a), 0)

    def test_what_changed_while_the_node_was_down_is_found(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            for name in ("x.db", "y.db", "same.db", "gone.db", "old.db"):
                test_files.make(a, name)
            cluster.sync()
            lsn = a.lsn()
            a.stop()
            with a.db(None, path=a.backing("x.db")) as db:
                db.execute("INSERT INTO t (x) VALUES ('while it was down')")
            # Size and modification time as before: the change time tells.
            st = os.stat(a.backing("y.db"))
            with open(a.backing("y.db"), "r+b") as f:
                f.seek(st.st_size - 3)
                last = f.read(1)
                f.seek(st.st_size - 3)
                f.write(bytes([last[0] ^ 1]))
            os.utime(a.backing("y.db"), ns=(st.st_atime_ns, st.st_mtime_ns))
            os.unlink(a.backing("gone.db"))
            os.rename(a.backing("old.db"), a.backing("new.db"))
            a.start()
            wait_until(lambda: set(b.databases()) == {"x.db", "y.db", "same.db", "new.db"}, 15, lambda: f"names on b: {sorted(b.databases())}")
            wait_until(lambda: test_files.count(b, "x.db") == 11, 15, "x.db on b")
            kinds = {(r["type"], r["name"]) for r in test_files.records(a, lsn)}
            self.assertIn(("tx", "y.db"), kinds)
            self.assertIn(("drop", "gone.db"), kinds)
            self.assertIn(("rename", "old.db"), kinds)
            self.assertNotIn("same.db", {name for _, name in kinds})
            self.assertEqual(compared(a), 2)
            cluster.identical()

    def test_a_wal_that_a_killed_application_left_is_followed(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            test_files.make(a, "x.db", mb=5)
            cluster.sync()
            with Session(a.path("x.db")) as app:
                app.sql("INSERT INTO t (x) VALUES (1)")
                cluster.sync()
                app.kill()
            a.stop()
            self.assertTrue(os.path.exists(a.backing("x.db-wal")))
            a.start()
            a.sql("x.db", "INSERT INTO t (x) VALUES (2)")
            wait_until(lambda: test_files.count(b, "x.db") == 12, 15, "both rows on b")
            cluster.identical()

    @within(90)
    def test_after_an_unclean_stop_applications_work_while_pages_are_compared(self):
        """`running` names another boot: the machine has stopped without warning, as far as the node can tell. Nothing that was not read is believed."""
        with Cluster(1, self.passthrough) as cluster:
            (a,) = cluster.nodes
            source = os.path.join(cluster.tmp, "huge.db")
            test_files.sparse_database(source, 4096, (1 << 30) // 4096 + 30000)
            a.stop()
            os.rename(source, a.backing("huge.db"))
            a.start()
            wait_until(lambda: compared(a) == 1 and a.databases()["huge.db"]["state"] == "ok", 60, "known")
            harness.set_journal_mode(a, "huge.db", "WAL")
            harness.settle(a, 60)
            epoch = a.status()["epoch"]
            a.kill_all()
            with open(os.path.join(a.data, "running"), "w") as f:
                f.write(OTHER_BOOT)
            a.start()
            with a.db("huge.db") as db:
                during = 0
                while compared(a) == 0:
                    db.execute("INSERT INTO t (x) VALUES (?)", (during,))
                    self.assertEqual(db.execute("SELECT count(*) FROM t").fetchone(), (11 + during,))
                    during += 1
                db.execute("INSERT INTO t (x) VALUES ('after')")
            self.assertGreater(during, 0, "the application worked while pages were compared")
            self.assertGreater(a.status()["epoch"], epoch, "the log may have lost a tail that others have")
            harness.settle(a, 60)

    def test_a_checksum_file_that_does_not_fit_is_not_believed(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            for name in ("cut.db", "junk.db", "missing.db"):
                test_files.make(a, name)
            cluster.sync()
            a.stop()
            sums = os.path.join(a.data, "sums")
            for i, file in enumerate(sorted(os.listdir(sums))):
                path = os.path.join(sums, file)
                if i == 0:
                    os.truncate(path, 1000)
                elif i == 1:
                    with open(path, "r+b") as f:
                        f.write(os.urandom(4096))
                else:
                    os.unlink(path)
            a.start()
            for name in ("cut.db", "junk.db", "missing.db"):
                a.sql(name, "INSERT INTO t (x) VALUES (1)")
                wait_until(lambda name=name: test_files.count(b, name) == 11, 20, f"{name} on b: {b.databases()}")
            cluster.identical()

    @within(150)
    def test_killed_in_the_middle_of_renames(self):
        """kill -9 of either replicator while files are renamed back and forth: no name is lost, none comes back."""
        rng = harness.seed("renames")
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            names = [f"n{i}.db" for i in range(6)]
            for name in names:
                test_files.make(a, name, rows=5)
            cluster.sync()
            for round in range(harness.rounds(4)):
                victim = a if round % 2 else b
                for i in range(12):
                    name = rng.choice(names)
                    to = f"r{rng.randrange(1000)}.db"
                    if os.path.exists(a.path(to)):
                        continue
                    os.rename(a.path(name), a.path(to))
                    names[names.index(name)] = to
                    if i == 6:
                        victim.kill("replicator", signal.SIGKILL)
                a.sql(names[0], "INSERT INTO t (x) VALUES (1)")
            wait_until(lambda: a.try_status() and set(a.databases()) == set(names), 20, lambda: f"{sorted(names)}: a has {sorted(a.databases())}")
            cluster.sync()
            wait_until(lambda: set(b.databases()) == set(names), 20, lambda: f"{sorted(names)}: b has {sorted(b.databases())}")
            cluster.identical()

    @within(120)
    def test_killed_at_each_step_of_a_rename_on_a_replica(self):
        """The files move one after another, and with them go the fence, its place at the launcher, and what is known of the pages. Wherever that is cut off: the database
        is there under its new name, whole, without an image, for whoever has it open and whoever opens it now; and nobody here can write to it."""
        with Cluster(2, self.passthrough, start=False) as cluster:
            a, b = cluster.nodes
            switch = os.path.join(b.tmp, "kill")
            b.env = {"LD_PRELOAD": os.path.join(harness.BUILD, "killed.so"), "EDGEFS_TEST_KILL": switch}
            cluster.start()
            # Before the WAL moves, the wal-index, the database, its checksums; and after the last.
            for step, when in ((1, ""), (2, ""), (3, ""), (4, ""), (4, "after")):
                old, new = f"old{step}{when}.db", f"moved{step}{when}.db"
                test_files.make(a, old)
                test_files.make(a, new, rows=3)  # is renamed over
                cluster.sync()
                with self.subTest(step=step, when=when), Session(b.path(old)) as reader, Session(b.path(new)) as other:
                    self.assertEqual(reader.sql("SELECT count(*) FROM t"), [(10,)])
                    reader.sql("BEGIN")
                    self.assertEqual(reader.sql("SELECT count(*) FROM t"), [(10,)])
                    self.assertEqual(other.sql("SELECT count(*) FROM t"), [(3,)])
                    a.sql(old, "INSERT INTO t (x) VALUES ('only in the WAL')")
                    cluster.sync()
                    pid = b.pid("replicator")
                    with open(switch + ".new", "w") as f:
                        f.write(f"{step} {new}-wal,{new}-shm,{new},.sums {when}")
                    os.rename(switch + ".new", switch)
                    os.rename(a.path(old), a.path(new))
                    wait_until(lambda: not os.path.exists(switch), 30, "it is killed")
                    wait_until(lambda: b.pids().get("replicator", pid) != pid and b.try_status(), 30, "its successor")
                    self.assertEqual(reader.sql("SELECT count(*) FROM t"), [(10,)], "the snapshot stays")
                    reader.sql("COMMIT")
                    self.assertEqual(reader.sql("SELECT count(*) FROM t"), [(11,)])
                    cluster.sync()
                    self.assertEqual(test_files.count(b, new), 11)
                    with Session(b.path(new)) as third:
                        for connection in (reader, third):
                            connection.sql("PRAGMA busy_timeout=0")
                            with self.assertRaises(harness.SessionError):
                                connection.sql("INSERT INTO t (x) VALUES ('on a replica')")
                            connection.sql("PRAGMA busy_timeout=5000")
                    a.sql(new, "INSERT INTO t (x) VALUES ('goes on')")
                    cluster.sync()
                    self.assertEqual(reader.sql("SELECT count(*) FROM t"), [(12,)])
                    self.assertEqual(test_files.images_fetched(b), 0)
                    self.assertEqual(other.sql("SELECT count(*) FROM t"), [(3,)], "a file without a name")
            cluster.identical()
            self.assertEqual([n for n in os.listdir(b.path("")) if n.startswith("old")], [])

    def test_a_wal_that_was_made_and_never_written_to(self):
        """Left by an application that was killed in between: to a node that was primary, and is not any more, it must not look as if something was about to come."""
        for left in (b"", b"no header of a WAL" * 5):
            with self.subTest(left=len(left)), Cluster(2, self.passthrough) as cluster:
                a, b = cluster.nodes
                test_files.make(a, "w.db", rows=5)
                a.sql("w.db", "PRAGMA journal_mode=WAL")
                cluster.sync()
                a.kill_all()
                with open(a.backing("w.db-wal"), "wb") as f:
                    f.write(left)
                harness.ctl(b, "promote", "b", "--force", "--yes")
                b.sql("w.db", "INSERT INTO t (x) VALUES (7)")
                a.start()
                wait_until(lambda: a.role() == "replica" and a.status()["applied"] == b.status()["applied"], 30, "the old primary follows")
                cluster.identical()

    def test_names_that_move_while_the_primary_looks_at_all_of_them(self):
        """After a start the replicator walks through the directory. A file that is renamed meanwhile may never come up in that walk; it is looked at all the same."""
        rng = harness.seed("walk")
        with Cluster(2, self.passthrough) as cluster:
            a, _ = cluster.nodes
            names = [f"n{i}.db" for i in range(100)]
            for name in names:
                test_files.make(a, name, rows=1)
            cluster.sync()
            for _ in range(harness.rounds(2)):
                for i in range(300):
                    name = rng.choice(names)
                    to = f"r{rng.randrange(10000)}.db"
                    if os.path.exists(a.path(to)):
                        continue
                    os.rename(a.path(name), a.path(to))
                    names[names.index(name)] = to
                    if i == 6:
                        a.kill("replicator", signal.SIGKILL)
                wait_until(lambda: a.try_status() and set(a.databases()) == set(names), 30, "the names of the primary")
                wait_until(lambda: all(d["state"] == "ok" for d in a.databases().values()), 30,
                           lambda: f"never looked at: {[n for n, d in a.databases().items() if d['state'] != 'ok']}")
            cluster.sync()
            cluster.identical()
