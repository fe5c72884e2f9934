"""What the replicator tells the programs of its node, as it happens."""
import contextlib
import socket
import threading
import time

import harness
from feed import QUIET, Feed
from harness import Cluster, EdgeTest, Session, SessionError, within

NAMES = [f"d{i}.db" for i in range(5)]


class PositionFeed(EdgeTest):
    @within(60)
    def test_a_captured_position_covers_every_commit_before_it(self):
        with Cluster(2) as cluster:
            a, b = cluster.nodes
            with Feed(a) as fa, Feed(b) as fb, contextlib.ExitStack() as stack:
                fa.until(lambda f: f.state and f.state.role == "primary")
                fb.until(lambda f: f.state and f.state.role == "replica" and f.state.primary == a.name and f.state.connected)
                self.assertEqual(fb.state.primary_url, a.url)
                dbs = [stack.enter_context(a.db(f"d{i}.db")) for i in range(3)]
                for db in dbs:
                    db.execute("PRAGMA journal_mode=WAL")
                    db.execute("CREATE TABLE t (x)")
                took = []
                for i in range(60):
                    db = dbs[i % 3]
                    db.execute("INSERT INTO t VALUES (?)", (i,))
                    t = time.monotonic()
                    result, position = fa.capture(i + 1)
                    took.append(time.monotonic() - t)
                    self.assertEqual(result, 0)
                    self.assertEqual(a.status()["lsn"], position[1], "nothing is left to capture, and the position is the log's end")
                    # The replica says that it is there, and a reader sees it.
                    fb.until(lambda f: f.now.applied >= position)
                    with Session(b.path(f"d{i % 3}.db")) as s:
                        self.assertEqual(s.sql("SELECT max(x) FROM t")[0][0], i)
                print(f"capture now: median {sorted(took)[30] * 1e6:.0f} µs, longest {max(took) * 1e6:.0f} µs")
                result, position = fb.capture(7)
                self.assertEqual((result, position), (0, fb.now.last), "a replica has nothing to capture")
                self.assertEqual(fa.capture(999, "no-such.db")[0], -2)
                self.assertEqual(fa.capture(1000, "d1.db")[0], 0)

    @within(60)
    def test_so_does_one_that_is_asked_for_while_the_node_hands_over(self):
        """Databases are fenced one after the other. Until all are, applications commit in the others, and who asks must hear of it."""
        with Cluster(2) as cluster:
            a, b = cluster.nodes
            for name in NAMES:
                a.sql(name, "PRAGMA journal_mode=WAL")
                a.sql(name, "CREATE TABLE t (x)")
            cluster.sync()
            with Feed(a) as f, contextlib.ExitStack() as stack:
                dbs = [stack.enter_context(Session(a.path(name), 0)) for name in NAMES]
                for db in dbs:
                    db.sql("SELECT * FROM t")
                f.until(lambda f: f.state and f.state.role == "primary")
                dbs[len(dbs) // 2].sql("BEGIN IMMEDIATE")  # its fence has to wait: before or after the others
                promoted = threading.Thread(target=cluster.promote, args=(b,))
                promoted.start()
                f.until(lambda f: f.state.role == "handing-over")
                written, number, last = 0, 0, f.capture(1000)[1]
                for i in range(5):
                    for db in dbs:
                        if db is dbs[len(dbs) // 2]:
                            continue
                        try:
                            db.sql("INSERT INTO t VALUES (?)", i)
                        except SessionError as e:
                            self.assertIn("locked", str(e))
                            continue
                        written, number = written + 1, number + 1
                        result, position = f.capture(number)
                        self.assertEqual(result, 0)
                        self.assertGreater(position, last, f"commit {written}, while the node hands over, is not in the log")
                        last = position
                self.assertEqual(f.state.role, "handing-over")
                self.assertGreater(written, 0)
                dbs[len(dbs) // 2].sql("ROLLBACK")
                promoted.join()
                b.wait_role("primary")
                self.assertEqual(sum(b.sql(name, "SELECT count(*) FROM t")[0][0] for name in NAMES), written)

    @within(60)
    def test_rollback_journal_databases_are_captured_too(self):
        with Cluster(1) as cluster:
            (a,) = cluster.nodes
            with a.db("r.db") as db, Feed(a) as f:
                db.execute("PRAGMA journal_mode=DELETE")
                db.execute("CREATE TABLE t (x)")
                f.receive()
                for i in range(20):
                    before = f.capture(1000 + i)[1]
                    db.execute("INSERT INTO t VALUES (?)", (i,))
                    self.assertGreater(f.capture(1 + i)[1], before)

    @within(60)
    def test_a_promotion_is_announced_to_both_and_waits_for_writes_under_way(self):
        with Cluster(2) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            cluster.sync()
            with Feed(a) as fa, Feed(b) as fb:
                fa.until(lambda f: f.state and f.state.role == "primary")
                fb.until(lambda f: f.state and f.state.connected)
                old = fb.state.epochs
                fa.send(QUIET, 0)
                fa.capture(1)  # it was read
                promoted = threading.Thread(target=cluster.promote, args=(b,))
                promoted.start()
                fa.until(lambda f: f.state.holding)
                self.assertEqual(fa.state.role, "primary")
                with Session(a.path("load.db")) as s:  # a request that was under way still writes
                    s.sql("INSERT INTO t (w, s) VALUES (1, 1)")
                hold, roles = fa.state.hold, []
                fa.send(QUIET, hold)
                while not (fa.state.role == "replica" and not fa.state.holding and fa.state.primary == b.name):
                    fa.receive()
                    roles.append(fa.state.role)
                    if fa.state.hold not in (0, hold):  # it took longer than a hold lasts: another one
                        hold = fa.state.hold
                        fa.send(QUIET, hold)
                promoted.join()
                fb.until(lambda f: f.state.role == "primary")
                self.assertIn("handing-over", roles)
                self.assertEqual(fb.state.epochs[:-1], old)
                self.assertEqual(fb.state.epochs[-1][0], old[-1][0] + 1)
                fa.until(lambda f: f.state.epochs == fb.state.epochs and f.state.connected)
                with Session(b.path("load.db")) as s:  # primary means that applications can write
                    s.sql("INSERT INTO t (w, s) VALUES (1, 2)")
                    self.assertEqual(s.sql("SELECT count(*) FROM t")[0][0], 2)

    @within(60)
    def test_a_client_that_stays_silent_keeps_a_promotion_from_happening_unless_it_is_not_to_wait(self):
        with Cluster(2) as cluster:
            a, b = cluster.nodes
            cluster.sync()
            with Feed(a) as f:
                f.receive()
                f.send(QUIET, 0)
                f.capture(1)
                status, answer = a.api("POST", "/v1/promote", {"node": "b", "timeout_ms": 1500})
                self.assertEqual((status, a.status()["role"]), (504, "primary"), answer)
                self.assertIn("under way on a", answer["error"])
                f.until(lambda f: not f.state.holding)
                status, answer = a.api("POST", "/v1/promote", {"node": "b", "timeout_ms": 20000, "now": True})
                self.assertEqual(status, 200, answer)
                b.wait_role("primary")

    @within(60)
    def test_subscribers_hear_which_databases_changed_before_the_position_that_says_so(self):
        with Cluster(2) as cluster:
            a, b = cluster.nodes
            for n in ("one.db", "two.db", "sub.sqlite"):
                a.sql(n, "CREATE TABLE t (x)")
            cluster.sync()
            for node in (a, b):
                with Feed(node) as f:
                    f.receive()
                    f.subscribe("one.db", "*.db", "nothing")
                    self.assertEqual(set(f.touched.values()), {0})
                    for name, who in (("one.db", {0, 1}), ("two.db", {1}), ("sub.sqlite", set()), ("one.db", {0, 1})):
                        before = dict(f.touched)
                        a.sql(name, "INSERT INTO t VALUES (1)")
                        with Feed(a) as asking:
                            position = asking.capture(1)[1]
                        f.until(lambda f: f.now.applied >= position)
                        for i in range(3):
                            self.assertEqual(f.touched[i] > before[i], i in who, (name, i, f.touched, before))
                            self.assertLessEqual(f.touched[i], position[1])

    @within(60)
    def test_a_client_that_does_not_read_gets_one_state_when_it_does(self):
        with Cluster(1) as cluster:
            (a,) = cluster.nodes
            with a.db("d.db") as db, Feed(a) as slow, Feed(a) as asking:
                db.execute("PRAGMA journal_mode=WAL")
                db.execute("CREATE TABLE t (x)")
                slow.receive()
                asking.receive()
                for i in range(1500):
                    db.execute("INSERT INTO t VALUES (1)")
                    if i % 5 == 0:
                        asking.capture(i + 1)
                last = asking.capture(5000)[1]
                received = 0
                while slow.now.applied < last:
                    slow.receive()
                    received += 1
                self.assertLess(received, 300, "what it missed was left out")
                self.assertEqual(slow.capture(1), (0, last))

    @within(60)
    def test_what_is_not_understood_ends_the_connection_and_nothing_else(self):
        with Cluster(1) as cluster:
            (a,) = cluster.nodes
            with Feed(a) as good:
                good.receive()
                for kind, number, tail, version in ((99, 0, b"", 1), (65, 1, b"", 2), (65, 0, b"", 1), (65, 1, b"x\0y", 1), (65, 1, b"n" * 2000, 1),
                                                    (66, 0, b"no end", 1), (66, 0, b"\0", 1), (66, 0, b"a\0" * 300, 1)):
                    with Feed(a) as f:
                        f.receive()
                        f.send(kind, number, tail, version)
                        while f.receive() is not None:
                            pass
                with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
                    s.connect(f"{a.data}/run/position.sock")
                    s.send(b"short")
                    s.settimeout(10)
                    while s.recv(65536):
                        pass
                self.assertEqual(good.capture(1)[0], 0)

    @within(60)
    def test_neighbours_that_cannot_be_reached_are_named(self):
        with Cluster(3) as cluster:
            a, b, c = cluster.nodes
            with Feed(a) as f:
                f.until(lambda f: f.state and f.state.neighbours == {b.name: True, c.name: True})
                c.kill_all()
                f.until(lambda f: f.state.neighbours == {b.name: True, c.name: False})
                f.until(lambda f: f.now.seq > 0)
