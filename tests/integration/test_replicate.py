"""The main job: what is committed on the primary can be read on the replicas, exactly, and soon."""
import os
import sqlite3
import subprocess

import harness
from harness import Cluster, EdgeTest, Session, SessionError, both_modes, wait_until


def see(node, name, statement, expected, timeout=10):
    """Waits until a query on a node gives these rows. A database that is not there yet is no error."""

    def rows():
        if not os.path.exists(node.path(name)):
            return None
        try:
            return node.sql(name, statement)
        except sqlite3.OperationalError as e:
            if "no such table" in str(e):
                return None
            raise

    wait_until(lambda: rows() == expected, timeout, lambda: f"{expected} on {node.name}; it has {rows()}")


@both_modes
class Replicate(EdgeTest):
    def test_rows_arrive_on_every_replica(self):
        with Cluster(3, self.passthrough) as cluster:
            a, b, c = cluster.nodes
            self.assertEqual(a.status()["passthrough"], self.passthrough)
            with a.db("app.db") as db:
                db.execute("PRAGMA journal_mode=WAL")
                db.execute("CREATE TABLE t (x)")
                for i in range(20):
                    db.execute("INSERT INTO t VALUES (?)", (i,))
                    for n in (b, c):
                        see(n, "app.db", "SELECT count(*), max(x) FROM t", [(i + 1, i)])
                # Bigger: an index, an update of everything, a deletion; each one transaction.
                db.executescript("BEGIN; CREATE INDEX t_x ON t (x);"
                                 "WITH RECURSIVE n (i) AS (VALUES (20) UNION ALL SELECT i + 1 FROM n WHERE i < 20000)"
                                 "INSERT INTO t SELECT i FROM n; COMMIT; UPDATE t SET x = -x; DELETE FROM t WHERE x % 3 = 0")
                for n in (b, c):
                    see(n, "app.db", "SELECT count(*), min(x), max(x) FROM t", db.execute("SELECT count(*), min(x), max(x) FROM t").fetchall())
            cluster.identical(["app.db"])

    def test_the_last_transaction_before_a_pause_arrives(self):
        """The event of a write comes before its publication; with synchronous=FULL by milliseconds."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            with a.db("load.db") as db:
                for sync in ("FULL", "NORMAL", "OFF", "EXTRA"):
                    db.execute(f"PRAGMA synchronous={sync}")
                    for _ in range(15):
                        db.execute("INSERT INTO c (n) VALUES (1)")
                        n = db.execute("SELECT count(*) FROM c").fetchall()
                        see(b, "load.db", "SELECT count(*) FROM c", n, timeout=3)

    def test_open_connection_on_a_replica_sees_new_rows(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            cluster.sync()
            with Session(b.path("load.db")) as reader, a.db("load.db") as db:
                for i in range(50):
                    db.execute("INSERT INTO t (w, s) VALUES (1, ?)", (i,))
                    wait_until(lambda: reader.sql("SELECT count(*) FROM t") == [(i + 1,)], 5, f"row {i}")

    def test_a_rolled_back_transaction_is_never_seen(self):
        """Frames past mxFrame are not ours: a small page cache spills them into the WAL long before the end."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            with a.db("load.db") as db:
                db.execute("PRAGMA cache_size=5")
                for i in range(5):
                    before = os.path.getsize(a.backing("load.db-wal"))
                    db.execute("BEGIN")
                    db.executemany("INSERT INTO t (w, s, pad) VALUES (9, ?, ?)", [(k, "x" * 500) for k in range(2000)])
                    self.assertGreater(os.path.getsize(a.backing("load.db-wal")), before if i else 0)
                    db.execute("ROLLBACK")
                    db.execute("INSERT INTO t (w, s) VALUES (1, ?)", (i,))
                    see(b, "load.db", "SELECT w, count(*) FROM t GROUP BY w", [(1, i + 1)])
            cluster.identical()

    def test_waiting_for_a_cluster_takes_no_locks_from_the_test_that_waits(self):
        """About the harness: it must not close files of the mount in the process whose connections hold POSIX locks on them."""
        with Cluster(2, self.passthrough) as cluster:
            a = cluster.nodes[0]
            harness.make_load_db(a, mode="delete")
            with a.db("load.db") as db, Session(a.path("load.db"), timeout=0.2) as other:
                db.execute("BEGIN IMMEDIATE")
                cluster.sync()
                with self.assertRaises(SessionError) as e:
                    other.sql("INSERT INTO t (w, s) VALUES (2, 2)")
                self.assertEqual(e.exception.name, "SQLITE_BUSY")
                db.execute("INSERT INTO t (w, s) VALUES (1, 1)")
                db.execute("COMMIT")
                other.sql("INSERT INTO t (w, s) VALUES (2, 2)")
            cluster.identical()

    def test_replica_refuses_writes(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            cluster.sync()
            with Session(b.path("load.db"), timeout=0.2) as app:
                app.sql("SELECT count(*) FROM t")
                for _ in range(3):
                    with self.assertRaises(SessionError) as e:
                        app.sql("INSERT INTO t (w, s) VALUES (1, 1)")
                    self.assertIn(e.exception.name, ("SQLITE_BUSY", "SQLITE_BUSY_RECOVERY", "SQLITE_BUSY_SNAPSHOT"))
            self.assertEqual(b.sql("load.db", "SELECT count(*) FROM t"), [(0,)])
            # Files of a replica belong to replication: EROFS for whoever wants to make, rename, cut or remove one.
            path = b.path("load.db")
            for call in (lambda: os.unlink(path), lambda: os.rename(path, path + "2"), lambda: os.truncate(path, 0),
                         lambda: os.open(path, os.O_WRONLY | os.O_TRUNC), lambda: os.open(b.path("new.db"), os.O_CREAT | os.O_RDWR),
                         lambda: os.mkdir(b.path("folder"))):
                with self.assertRaises(OSError) as e:
                    call()
                self.assertEqual(e.exception.errno, 30, "EROFS")
            with self.assertRaises(sqlite3.OperationalError):
                b.sql("other.db", "CREATE TABLE t (x)")
            self.assertFalse(os.path.exists(b.path("other.db")))
            cluster.identical()

    def test_virtual_files(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            a.sql("load.db", "INSERT INTO t (w, s) VALUES (1, 1)")
            cluster.sync()
            self.assertFalse(os.path.exists(a.path(".primary")), "the primary has no .primary")
            self.assertEqual(open(b.path(".primary")).read(), "a\n")
            self.assertEqual(open(a.path(".lag")).read(), "0\n")
            self.assertRegex(open(b.path(".lag")).read(), r"^\d+\n$")
            wait_until(lambda: int(open(b.path(".lag")).read()) < 5000, 10, "the replica's lag is small")
            pos = [open(n.path("load.db-pos")).read() for n in (a, b)]
            self.assertRegex(pos[0], r"^[0-9a-f]{16}/[0-9a-f]{16}\n$")
            self.assertEqual(pos[0], pos[1])
            entry = a.databases()["load.db"]
            self.assertEqual(pos[0], f"{entry['txid']:016x}/{entry['checksum']}\n")
            a.sql("load.db", "INSERT INTO t (w, s) VALUES (1, 2)")
            cluster.sync()
            self.assertNotEqual(open(b.path("load.db-pos")).read(), pos[0], "it is never cached")
            self.assertFalse(os.path.exists(a.path("nothing.db-pos")))
            for name in (".primary", ".lag"):
                with self.assertRaises(OSError):
                    open(b.path(name), "w")
            cluster.promote(b)
            a.wait_role("replica")
            wait_until(lambda: os.path.exists(a.path(".primary")) and not os.path.exists(b.path(".primary")), 5, ".primary moved")
            self.assertEqual(open(a.path(".primary")).read(), "b\n")

    def test_replica_open_readonly(self):
        """replica-open: readonly refuses read-write opens instead; SQLite then says so in its own words."""
        with Cluster(2, self.passthrough, extra="replica-open: readonly\n") as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            cluster.sync()
            with Session(b.path("load.db"), timeout=0.2) as app:
                self.assertEqual(app.sql("SELECT count(*) FROM t"), [(0,)])
                with self.assertRaises(SessionError) as e:
                    app.sql("INSERT INTO t (w, s) VALUES (1, 1)")
                self.assertEqual(e.exception.name.split("_")[1], "READONLY")
                a.sql("load.db", "INSERT INTO t (w, s) VALUES (1, 1)")
                wait_until(lambda: app.sql("SELECT count(*) FROM t") == [(1,)], 5, "the row arrives")

    def test_application_of_the_launcher(self):
        """edgefs mount … -- app: starts when the mount answers, gets signals, and its exit status is the launcher's."""
        with Cluster(1, self.passthrough, start=False) as cluster:
            (a,) = cluster.nodes
            a.start(app=["sh", "-c", f"sqlite3 {a.path('x.db')} 'PRAGMA journal_mode=WAL; CREATE TABLE t (x)' && exit 7"], wait=False)
            self.assertEqual(a.process.wait(30), 7)
            self.assertFalse(harness.is_mounted(a.mount))
            a.start(app=["sh", "-c", f"trap 'exit 9' TERM; echo ok > {a.tmp}/up; while :; do sleep 0.05; done"])
            wait_until(lambda: os.path.exists(a.tmp + "/up"), 10, "the application runs")
            self.assertEqual(a.stop(), 9)
            a.start(app=["sh", "-c", "kill -9 $$"], wait=False)
            self.assertEqual(a.process.wait(30), 128 + 9)

    def test_permissions_and_ownership_are_kept(self):
        with Cluster(1, self.passthrough) as cluster:
            (a,) = cluster.nodes
            os.mkdir(a.path("tenant"), 0o750)
            os.chown(a.path("tenant"), 1234, 1235)
            harness.make_load_db(a, "tenant/x.db")
            os.chmod(a.path("tenant/x.db"), 0o640)
            os.chown(a.path("tenant/x.db"), 1234, 1235)
            for where in (a.path, a.backing):
                s = os.stat(where("tenant/x.db"))
                self.assertEqual((s.st_mode & 0o7777, s.st_uid, s.st_gid), (0o640, 1234, 1235))
            # allow_other is the default of root: the owner can work there, a stranger cannot.
            script = f"sqlite3 {a.path('tenant/x.db')} 'INSERT INTO t (w) VALUES (1); SELECT count(*) FROM t'"
            os.chmod(cluster.tmp, 0o755)
            own = subprocess.run(["setpriv", "--reuid=1234", "--regid=1235", "--clear-groups", "sh", "-c", script], capture_output=True, text=True)
            self.assertEqual((own.returncode, own.stdout), (0, "1\n"), own.stderr)
            other = subprocess.run(["setpriv", "--reuid=4321", "--regid=4321", "--clear-groups", "sh", "-c", script], capture_output=True, text=True)
            self.assertNotEqual(other.returncode, 0)


class OneMachine(EdgeTest):
    def test_no_configuration_file_is_needed(self):
        """edgefs mount --dir DIR --data DIR: one node that works; also the version, and a port that is not the default."""
        with Cluster(1, start=False) as cluster:
            (a,) = cluster.nodes
            with open(a.config_file, "w") as f:
                f.write(f"http: {{listen: 127.0.0.1:{a.port}}}\n")
            a.start(args=["-c", a.config_file, "--dir", a.mount, "--data", a.data])
            harness.make_load_db(a)
            self.assertEqual(a.status()["role"], "primary")
            cluster.verify()
        out = subprocess.run([harness.EDGEFS, "version"], capture_output=True, text=True)
        self.assertEqual(out.returncode, 0)
        self.assertRegex(out.stdout, r"\d+\.\d+\.\d+")
