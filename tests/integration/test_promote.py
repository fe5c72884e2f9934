"""The primary moves; applications see a pause, and nothing is lost or done twice."""
import concurrent.futures
import contextlib
import http.client
import os
import signal
import time

import harness
from harness import Cluster, EdgeTest, Session, SessionError, both_modes, rounds, within, wait_until


@both_modes
class Promote(EdgeTest):
    @within(150)
    def test_back_and_forth_50_times_under_writers(self):
        with Cluster(3, self.passthrough) as cluster:
            a, b, c = cluster.nodes
            rng = harness.seed("promote")
            harness.make_load_db(a)
            cluster.sync()
            mounts = [n.mount for n in cluster.nodes]
            writers = [cluster.load("writer", "--mounts", *mounts, "--id", i, "--busy", 2, "--sync", ("NORMAL", "FULL")[i % 2],
                                    "--reopen", 0 if i else 37) for i in range(4)]
            readers = [cluster.load("reader", "--db", n.path("load.db"), "--seed", i) for i, n in enumerate(cluster.nodes)]
            primary, pauses, epoch = a, [], a.status()["epoch"]
            for i in range(rounds(50)):
                target = rng.choice([n for n in cluster.nodes if n is not primary])
                # Each promotion meets writes: at least one was acknowledged since the one before.
                done = sum(len(w.acked()) for w in writers)
                wait_until(lambda: sum(len(w.acked()) for w in writers) >= done + 3, 20,
                           lambda: f"writes go on before promotion {i}: {[w.report() for w in writers]}")
                # Who was third the last time may still be on its way to the new primary.
                wait_until(lambda: any(r["node"] == target.name and r["connected"] for r in primary.status()["replicas"]), 10,
                           lambda: f"{target.name} follows {primary.name}: {primary.status()}")
                answer = cluster.promote(target, via=primary)
                self.assertEqual(answer["primary"], target.name)
                self.assertGreater(answer["epoch"], epoch)
                epoch = answer["epoch"]
                pauses.append(answer["pause_ms"])
                primary = target
                for load in writers + readers:
                    load.check_running()
            results = [w.finish() for w in writers]
            for r in readers:
                r.finish()
            print(f"pauses: median {sorted(pauses)[len(pauses) // 2]} ms, longest {max(pauses)} ms; writers: {results}")
            for n in cluster.nodes:
                n.wait_role("primary" if n is primary else "replica")
            cluster.identical()
            for n in cluster.nodes:
                harness.check_exactly_once(n, "load.db", writers)

    def test_connection_opened_before_the_promotion_writes_after_it(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            cluster.sync()
            with Session(a.path("load.db"), timeout=0.3) as on_a, Session(b.path("load.db"), timeout=0.3) as on_b:
                on_a.sql("INSERT INTO t (w, s) VALUES (1, 1)")
                for i in range(3):
                    with self.assertRaises(SessionError):
                        on_b.sql("INSERT INTO t (w, s) VALUES (2, 0)")
                    harness.ctl(a, "promote", "b")
                    on_b.sql("INSERT INTO t (w, s) VALUES (2, ?)", i)
                    with self.assertRaises(SessionError) as e:
                        on_a.sql("INSERT INTO t (w, s) VALUES (1, 0)")
                    self.assertEqual(e.exception.name.split("_")[1], "BUSY")
                    wait_until(lambda: on_a.sql("SELECT count(*) FROM t WHERE w = 2") == [(i + 1,)], 5, "a follows b")
                    harness.ctl(b, "promote", "a")
                    on_a.sql("INSERT INTO t (w, s) VALUES (1, ?)", i + 2)
                    wait_until(lambda: on_b.sql("SELECT count(*) FROM t WHERE w = 1") == [(i + 2,)], 5, "b follows a")
            cluster.identical()

    def test_a_write_without_busy_timeout_succeeds_as_soon_as_promote_has_returned(self):
        """On a connection that was open before, and on a new one: whatever the new primary does first takes no lock that a writer meets."""
        with Cluster(2, self.passthrough) as cluster:
            harness.make_load_db(cluster.nodes[0])
            cluster.sync()
            primary, target = cluster.nodes
            with Session(primary.path("load.db"), timeout=0) as on_a, Session(target.path("load.db"), timeout=0) as on_b:
                sessions = {primary.name: on_a, target.name: on_b}
                for session in sessions.values():
                    session.sql("SELECT count(*) FROM t")
                for i in range(rounds(10)):
                    harness.ctl(primary, "promote", target.name)
                    if i % 3 == 0:
                        with target.db("load.db", timeout=0) as db:
                            db.execute("INSERT INTO t (w, s) VALUES (1, ?)", (i,))
                    else:
                        sessions[target.name].sql("INSERT INTO t (w, s) VALUES (1, ?)", i)
                    primary, target = target, primary
                cluster.sync()
                self.assertEqual(on_a.sql("SELECT count(*) FROM t"), [(rounds(10),)])
            cluster.identical()

    def test_a_write_that_waits_for_the_handover_is_done_on_return(self):
        """An application with a busy time-out whose transaction is open while promotion begins: promotion waits for it (or is
        undone), and what it committed is on the new primary."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            cluster.sync()
            with Session(a.path("load.db")) as app, concurrent.futures.ThreadPoolExecutor() as pool:
                app.sql("BEGIN IMMEDIATE")
                app.sql("INSERT INTO t (w, s) VALUES (1, 1)")
                future = pool.submit(a.api, "POST", "/v1/promote", {"node": "b", "timeout_ms": 8000})
                wait_until(lambda: future.done() or a.status()["promotion"] is not None, 5, "the promotion is under way")
                self.assertFalse(future.done(), future.done() and future.result())
                app.sql("COMMIT")
                code, body = future.result(20)
                self.assertEqual(code, 200, body)
            self.assertEqual(b.sql("load.db", "SELECT w, s FROM t"), [(1, 1)])
            b.sql("load.db", "INSERT INTO t (w, s) VALUES (1, 2)")
            cluster.identical()

    def test_undone_when_the_target_does_not_catch_up(self):
        with Cluster(3, self.passthrough) as cluster:
            a, b, c = cluster.nodes
            harness.make_load_db(a)
            cluster.sync()
            with Session(a.path("load.db")) as app:
                stopped = b.kill("replicator", signal.SIGSTOP)
                try:
                    for i in range(20):
                        app.sql("INSERT INTO t (w, s) VALUES (1, ?)", i)
                    begin = time.monotonic()
                    code, body = a.api("POST", "/v1/promote", {"node": "b", "timeout_ms": 1000})
                    self.assertIn(code, (409, 504), body)
                    self.assertLess(time.monotonic() - begin, 5)
                    # The old primary goes on, at once, on the connection that was there.
                    app.sql("INSERT INTO t (w, s) VALUES (2, 1)")
                    self.assertEqual(a.role(), "primary")
                    self.assertFalse(os.path.exists(a.path(".primary")))
                finally:
                    os.kill(stopped, signal.SIGCONT)
                wait_until(lambda: (b.try_status() or {}).get("connected"), 20, "b is back")
                cluster.sync()
                self.assertEqual(b.role(), "replica")
                # And later it works.
                code, body = a.api("POST", "/v1/promote", {"node": "b", "timeout_ms": 10000})
                self.assertEqual(code, 200, body)
                b.sql("load.db", "INSERT INTO t (w, s) VALUES (3, 1)")
            cluster.identical()

    @within(90)
    def test_replicators_killed_while_the_primary_moves(self):
        """At any moment of a promotion: afterwards one node is primary, the other follows it, and no row is lost or there twice."""
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            rng = harness.seed("kill while promoting")
            harness.make_load_db(a)
            cluster.sync()
            mounts = [n.mount for n in cluster.nodes]
            writers = [cluster.load("writer", "--mounts", *mounts, "--id", i, "--busy", 1) for i in range(2)]
            reader = cluster.load("reader", "--db", b.path("load.db"))
            for i in range(rounds(8)):
                primary = cluster.primary()
                target = b if primary is a else a
                with concurrent.futures.ThreadPoolExecutor() as pool:

                    def ask():
                        with contextlib.suppress(OSError, http.client.HTTPException):
                            primary.api("POST", "/v1/promote", {"node": target.name, "timeout_ms": 3000})

                    future = pool.submit(ask)
                    time.sleep(rng.random() * 0.03)  # the random moment
                    rng.choice([primary, target]).kill_and_wait("replicator")
                    future.result(30)

                def settled():
                    roles = sorted(str(n.role()) for n in cluster.nodes)
                    return roles == ["primary", "replica"] and all(s and s["connected"] for s in (n.try_status() for n in cluster.nodes))

                wait_until(settled, 20, lambda: f"one primary, one replica after kill {i}: {[n.try_status() for n in cluster.nodes]}")
                done = [len(w.acked()) for w in writers]
                wait_until(lambda: all(w.check_running() or len(w.acked()) > k for w, k in zip(writers, done)), 15, f"writes go on after kill {i}")
            for load in writers + [reader]:
                load.finish()
            cluster.identical()
            for n in cluster.nodes:
                harness.check_exactly_once(n, "load.db", writers)

    def test_who_is_primary_survives_a_restart_of_all(self):
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            cluster.promote(b)
            b.sql("load.db", "INSERT INTO t (w, s) VALUES (1, 1)")
            cluster.sync()
            for n in cluster.nodes:
                self.assertEqual(n.stop(), 0)
            for n in cluster.nodes:
                n.start(wait=False)
            for n in cluster.nodes:
                n.wait_ready()
            b.wait_role("primary")
            a.wait_role("replica")
            with Session(a.path("load.db"), timeout=0.2) as s, self.assertRaises(SessionError):
                s.sql("INSERT INTO t (w, s) VALUES (9, 9)")
            b.sql("load.db", "INSERT INTO t (w, s) VALUES (1, 2)")
            cluster.identical()


class Force(EdgeTest):
    def test_a_replica_takes_over_without_a_dead_primary_when_forced(self):
        with Cluster(3) as cluster:
            a, b, c = cluster.nodes
            harness.make_load_db(a)
            cluster.sync()
            code, _, said = harness.ctl(b, "promote", "b", "--force", "--yes", check=False)
            self.assertEqual(code, 4)
            self.assertIn("a is primary and answers", said)
            for n in (b, c):
                n.kill_all()
            a.sql("load.db", "INSERT INTO t (w, s, pad) VALUES (1, 1, 'only on a')")
            a.kill_all()
            for n in (b, c):
                n.start()
            code, _, said = harness.ctl(c, "promote", "b", "--force", check=False)
            self.assertEqual(code, 4, said)
            self.assertIn("--yes", said)
            self.assertEqual(b.status()["role"], "replica")
            harness.ctl(c, "promote", "b", "--force", "--yes")
            b.wait_role("primary")
            b.sql("load.db", "INSERT INTO t (w, s, pad) VALUES (2, 1, 'the new history')")
            wait_until(lambda: c.sql("load.db", "SELECT pad FROM t") == [("the new history",)], 20, "c follows b")
            a.start()
            wait_until(lambda: a.status()["role"] == "replica" and a.sql("load.db", "SELECT pad FROM t") == [("the new history",)], 20, "a follows b")
            self.assertIn("load.db", harness.ctl(a, "quarantine", "ls"))
            cluster.sync()
            cluster.identical()


class PromoteAnswers(EdgeTest):
    def test_answers_of_the_api(self):
        with Cluster(2) as cluster:
            a, b = cluster.nodes
            code, body = b.api("POST", "/v1/promote", {"node": "a"})
            self.assertEqual((code, body["primary"], body["primary_url"]), (421, "a", a.url))
            self.assertEqual(a.api("POST", "/v1/promote", {"node": "nobody"})[0], 404)
            epoch = a.status()["epoch"]
            self.assertEqual(a.api("POST", "/v1/promote", {"node": "a"})[0], 200)
            self.assertEqual(a.status()["epoch"], epoch, "nothing was done")
            for bad in ({}, {"node": 5}, {"node": "b", "timeout_ms": -1}, {"node": "b", "timeout_ms": "x"}, []):
                self.assertEqual(a.api("POST", "/v1/promote", bad)[0], 400, bad)
            self.assertEqual(b.stop(), 0)
            wait_until(lambda: not any(r["connected"] for r in a.status()["replicas"]), 10, "a knows that b is gone")
            code, body = a.api("POST", "/v1/promote", {"node": "b", "timeout_ms": 500})
            self.assertIn(code, (409, 504), body)
            rc, _, err = harness.ctl(a, "promote", "b", "--timeout", "1s", check=False)
            self.assertIn(rc, (1, 3, 4), err)
            self.assertTrue(err.startswith("edgefs-ctl: "), err)
            self.assertEqual(a.role(), "primary")
