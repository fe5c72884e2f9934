"""A reader on a replica keeps its snapshot for as long as it likes, and holds up nobody."""
import harness
from harness import Cluster, EdgeTest, Session, both_modes


@both_modes
class Snapshot(EdgeTest):
    def test_open_read_transaction_neither_moves_nor_stops_apply(self):
        with Cluster(3, self.passthrough) as cluster:
            a, b, c = cluster.nodes
            harness.make_load_db(a)
            for i in range(100):
                a.sql("load.db", "INSERT INTO t (w, s, pad) VALUES (1, ?, ?)", (i, "first" * 50))
            cluster.sync()
            whole = "SELECT count(*), sum(s), group_concat(DISTINCT substr(pad, 1, 5)) FROM t"
            with Session(b.path("load.db")) as keeper, Session(b.path("load.db")) as other:
                keeper.sql("BEGIN")
                first = keeper.sql(whole)
                self.assertEqual(first, [(100, sum(range(100)), "first")])
                with a.db("load.db") as db:
                    for i in range(300):
                        db.execute("BEGIN IMMEDIATE")
                        db.execute("INSERT INTO t (w, s, pad) VALUES (2, ?, ?)", (i, "later" * 50))
                        db.execute("UPDATE t SET pad = 'later' WHERE id = ?", (i % 100 + 1,))
                        db.execute("COMMIT")
                        if i % 60 == 0:
                            # Everything is applied while the reader stays, and another reader of the same node sees it.
                            cluster.sync(timeout=10)
                            self.assertEqual(other.sql("SELECT count(*) FROM t WHERE w = 2"), [(i + 1,)])
                            self.assertEqual(keeper.sql(whole), first)
                    # The primary may checkpoint and restart its own WAL meanwhile.
                    self.assertEqual(db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0], 0)
                    db.execute("UPDATE t SET pad = 'again'")
                    db.execute("VACUUM")
                cluster.sync(timeout=10)
                self.assertEqual(other.sql(whole)[0][2], "again")
                self.assertEqual(keeper.sql(whole), first)
                self.assertEqual(keeper.sql("PRAGMA integrity_check"), [("ok",)])
                keeper.sql("COMMIT")
                self.assertEqual(keeper.sql(whole), other.sql(whole))
            cluster.identical()

    def test_snapshot_survives_the_death_of_the_replicator(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            a.sql("load.db", "INSERT INTO t (w, s) VALUES (1, 1)")
            cluster.sync()
            with Session(b.path("load.db")) as keeper:
                keeper.sql("BEGIN")
                self.assertEqual(keeper.sql("SELECT count(*) FROM t"), [(1,)])
                for i in range(3):
                    b.kill_and_wait("replicator")
                    for k in range(50):
                        a.sql("load.db", "INSERT INTO t (w, s, pad) VALUES (2, ?, ?)", (k, "x" * 1000))
                    cluster.sync()
                    self.assertEqual(keeper.sql("SELECT count(*) FROM t"), [(1,)])
                keeper.sql("COMMIT")
                self.assertEqual(keeper.sql("SELECT count(*) FROM t"), [(151,)])
            cluster.identical()
