"""Starting, and refusing to start: bad configuration, a data directory in use, files still open through a dead mount."""
import os
import signal
import subprocess
import time

import harness
from harness import Cluster, EdgeTest, Session, wait_until


class Configuration(EdgeTest):
    def run_with(self, text, *more):
        with open(os.path.join(self.tmp, "bad.yaml"), "w") as f:
            f.write(text)
        return subprocess.run([harness.EDGEFS, "mount", "-c", os.path.join(self.tmp, "bad.yaml"), *more], capture_output=True, text=True, timeout=20)

    def test_errors_name_the_line_and_exit_2(self):
        with Cluster(1, start=False) as cluster:
            (a,) = cluster.nodes
            self.tmp = cluster.tmp
            good = f"node: a\ndir: {a.mount}\ndata: {a.data}\n"
            for text, line, words in ((good + "colour: red\n", 4, "colour"), (good + "node: b\n", 4, "node"),
                                      (good + "fs:\n  passthrough: maybe\n", 5, "maybe"), (good + "http: {listen: nowhere}\n", 4, "nowhere"),
                                      (good + "log: {segment-size: 3 bananas}\n", 4, "bananas"), (good + "http: {listen: '127.0.0.1:99999'}\n", 4, "99999"),
                                      (good + "fs: {passthru: off}\n", 4, "passthru"), ("node: [a\n", None, ""), (good + "lease: {type: paxos}\n", 4, "paxos"),
                                      (good + "nodes:\n  - {name: x}\n", None, "url"), (good + "http: {listen: '10.1.2.3:4000'}\n", 4, "token")):
                done = self.run_with(text)
                self.assertEqual(done.returncode, 2, (text, done.stderr))
                where = os.path.join(self.tmp, "bad.yaml")
                self.assertRegex(done.stderr, rf"{where}:{line if line else '[0-9]+'}: ", text)
                self.assertIn(words, done.stderr)
                self.assertFalse(harness.is_mounted(a.mount))
            missing = subprocess.run([harness.EDGEFS, "mount", "-c", "/nowhere/x.yaml"], capture_output=True, text=True)
            self.assertNotEqual(missing.returncode, 0)
            self.assertIn("/nowhere/x.yaml", missing.stderr)
            for argv in (["mount"], ["mount", "--dir", a.mount], ["mount", "--dir"], ["fly"], []):
                done = subprocess.run([harness.EDGEFS, *argv], capture_output=True, text=True, cwd="/")
                self.assertEqual(done.returncode, 2, (argv, done.stderr))
                self.assertTrue(done.stderr)


class SecondInstance(EdgeTest):
    def test_a_data_directory_in_use_is_refused(self):
        with Cluster(1) as cluster:
            (a,) = cluster.nodes
            harness.make_load_db(a)
            other = os.path.join(cluster.tmp, "other")
            os.mkdir(other)
            done = subprocess.run([harness.EDGEFS, "mount", "--dir", other, "--data", a.data], capture_output=True, text=True, timeout=20)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(str(a.process.pid), done.stderr, "it says who")
            self.assertFalse(harness.is_mounted(other))
            a.sql("load.db", "INSERT INTO t (w, s) VALUES (1, 1)")
            self.assertEqual(a.status()["role"], "primary")

    def test_a_mount_point_in_use_is_refused(self):
        with Cluster(1) as cluster:
            (a,) = cluster.nodes
            data = os.path.join(cluster.tmp, "otherdata")
            done = subprocess.run([harness.EDGEFS, "mount", "--dir", a.mount, "--data", data], capture_output=True, text=True, timeout=20)
            self.assertNotEqual(done.returncode, 0, done.stderr)
            harness.make_load_db(a)
            self.assertEqual(len([p for p in harness.mount_points(a.mount)]), 1)


class DeadMount(EdgeTest):
    def test_files_open_through_a_dead_mount_are_named_and_waited_for(self):
        """All programs dead, the mount taken away lazily, an application still there: with passthrough it goes on writing to the
        backing file under locks that nobody else sees. A new mount beside it would be the end of the database."""
        with Cluster(1) as cluster:
            (a,) = cluster.nodes
            if not a.status()["passthrough"]:
                self.skipTest("no passthrough here")
            harness.make_load_db(a)
            with Session(a.path("load.db")) as app:
                app.sql("INSERT INTO t (w, s) VALUES (1, 1)")
                a.kill_all()
                log = len(a.log())
                a.start(wait=False)
                wait_until(lambda: str(app.process.pid) in a.log()[log:], 15, lambda: "the process is named: " + a.log()[log:])
                self.assertFalse(harness.is_mounted(a.mount))
                if a.running():
                    try:
                        a.process.wait(10)
                    except subprocess.TimeoutExpired:
                        self.fail("it neither gave up nor is done")
                self.assertNotEqual(a.process.returncode, 0)
            a.start()
            self.assertEqual(a.sql("load.db", "SELECT count(*) FROM t"), [(1,)])

    def test_launcher_killed_while_an_application_is_at_work(self):
        """edgefs-fs goes on; a new launcher does not start beside it, says who is there, and starts once they are gone."""
        with Cluster(1) as cluster:
            (a,) = cluster.nodes
            harness.make_load_db(a)
            with Session(a.path("load.db")) as app:
                app.sql("INSERT INTO t (w, s) VALUES (1, 1)")
                a.kill("launcher")
                a.process.wait()
                app.sql("INSERT INTO t (w, s) VALUES (1, 2)")
                log = len(a.log())
                a.start(wait=False)
                wait_until(lambda: str(app.process.pid) in a.log()[log:], 15, lambda: "the process is named: " + a.log()[log:])
                self.assertNotEqual(a.process.wait(10), 0)
                self.assertEqual(app.sql("SELECT count(*) FROM t"), [(2,)])
            a.start()
            self.assertEqual(a.sql("load.db", "SELECT count(*) FROM t"), [(2,)])
            self.assertEqual(harness.ctl(a, "verify", check=False)[0], 0)


class Stop(EdgeTest):
    def test_stop_is_orderly(self):
        with Cluster(2) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            cluster.sync()
            for sig in (signal.SIGTERM, signal.SIGINT):
                a.sql("load.db", "INSERT INTO t (w, s) VALUES (1, ?)", (int(sig),))
                pids = a.pids()
                begin = time.monotonic()
                self.assertEqual(a.stop(sig), 0)
                self.assertLess(time.monotonic() - begin, 5)
                self.assertFalse(any(harness.alive(p) for p in pids.values()))
                a.start()
                a.wait_role("primary")
            # Everything is still there and goes on.
            wait_until(lambda: (b.try_status() or {}).get("connected"), 15, "b follows again")
            a.sql("load.db", "INSERT INTO t (w, s) VALUES (2, 2)")
            cluster.identical()

    def test_restart_without_changes_sends_no_image(self):
        """A restart of every node in turn: the log continues where it was."""
        with Cluster(2) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            a.sql("load.db", "INSERT INTO t (w, s) VALUES (1, 1)")
            cluster.sync()
            txid = b.databases()["load.db"]["txid"]
            for n in (b, a, b):
                n.stop()
                n.start()
            wait_until(lambda: (b.try_status() or {}).get("connected"), 15, "b follows again")
            a.sql("load.db", "INSERT INTO t (w, s) VALUES (1, 2)")
            cluster.sync()
            self.assertEqual(b.databases()["load.db"]["txid"], txid + 1)
            states = [r for r in a.get("/v1/log")["records"] if r["type"] == "state"]
            self.assertLessEqual(len(states), 1, states)
            cluster.identical()


class Upgrade(EdgeTest):
    timeout = 90

    def test_under_load(self):
        with Cluster(2) as cluster:
            a, b = cluster.nodes
            harness.make_load_db(a)
            cluster.sync()
            writers = [cluster.load("writer", "--mounts", a.mount, "--id", i, "--sync", ("NORMAL", "FULL")[i]) for i in range(2)]
            calls = cluster.load("syscalls", "--dir", a.path("calls"))
            readers = [cluster.load("reader", "--db", n.path("load.db")) for n in (a, b)]
            loads = writers + readers + [calls]
            for i in range(harness.rounds(6)):
                for n in (a, b):
                    before = n.pids()
                    done = subprocess.run([harness.EDGEFS, "upgrade", "-c", n.config_file], capture_output=True, text=True, timeout=30)
                    self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
                    after = {p: n.pid(p) for p in ("fs", "replicator")}
                    for program in after:
                        self.assertNotEqual(before[program], after[program], f"{program} of {n.name} was replaced")
                    self.assertTrue(n.running())
                    for load in loads:
                        load.check_running()
                    acked = [len(w.acked()) for w in writers]
                    wait_until(lambda: all(len(w.acked()) > k for w, k in zip(writers, acked)), 10, "writers get on")
            for load in loads:
                load.finish()
            cluster.identical(["load.db"])
            for n in (a, b):
                harness.check_exactly_once(n, "load.db", writers)

    def test_without_a_node(self):
        with Cluster(1, start=False) as cluster:
            (a,) = cluster.nodes
            done = subprocess.run([harness.EDGEFS, "upgrade", "-c", a.config_file], capture_output=True, text=True, timeout=30)
            self.assertNotEqual(done.returncode, 0)
            self.assertTrue(done.stderr)
