"""Quick wake-ups (fs.cpu-latency-qos): asked for while syncs follow each other, given back afterwards, by edgefs-fs alone."""
import os
import tempfile
import time
import unittest

import harness
from harness import Cluster, EdgeTest, wait_until


def can_be_asked_for():
    try:
        with open("/sys/devices/system/cpu/cpuidle/current_driver") as f:
            return f.read().strip() not in ("", "none") and os.access(harness.CPU_LATENCY_DEVICE, os.W_OK)
    except OSError:
        return False


def sync_until(node, done, timeout=30):
    """Syncs of the mount's directory, as an application's commits send them, but without waiting for a disk (nothing in it has changed). Until done() is true;
    False if it never is."""
    fd = os.open(node.mount, os.O_RDONLY | os.O_DIRECTORY)
    try:
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            for _ in range(100):
                os.fsync(fd)
            if done():
                return True
        return False
    finally:
        os.close(fd)


class QuickWakeups(EdgeTest):
    @unittest.skipUnless(can_be_asked_for(), "this machine has no wake-ups to ask for")
    def test_asked_for_while_syncs_follow_each_other_and_given_back(self):
        with Cluster(1) as cluster:
            (a,) = cluster.nodes
            self.assertEqual(a.holders(), [])
            self.assertTrue(sync_until(a, lambda: a.holders() == ["fs"]), "edgefs-fs asks for quick wake-ups")
            wait_until(lambda: a.holders() == [], 30, "they are given back when nobody syncs any more")
            # A program that ends takes the request with it; the launcher and the successor do not have it.
            self.assertTrue(sync_until(a, lambda: a.holders() == ["fs"]), "and asks again")
            a.kill_and_wait("fs")
            wait_until(lambda: a.holders() == [], 30, "nobody has it after a kill")
            self.assertTrue(sync_until(a, lambda: a.holders() == ["fs"]), "the successor asks, too")

    @unittest.skipUnless(can_be_asked_for(), "this machine has no wake-ups to ask for")
    def test_commits_ask_for_them(self):
        # The data lies in memory: whether a disk is quick enough for it to matter is not the question here.
        with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="efs-") as data, Cluster(1, data=data, extra="log: {segment-size: 1MiB}\n") as cluster:
            (a,) = cluster.nodes
            harness.make_load_db(a)
            with a.db("load.db") as db:
                db.execute("PRAGMA synchronous=FULL")
                db.execute("CREATE TABLE more (x)")

                def commit():
                    for i in range(50):
                        db.execute("INSERT INTO more VALUES (?)", (i,))
                    return a.holders() == ["fs"]

                self.assertTrue(any(commit() for _ in range(400)), "edgefs-fs asks for quick wake-ups")
            wait_until(lambda: a.holders() == [], 30, "they are given back")

    def test_not_asked_for_when_switched_off(self):
        with Cluster(1, cpu_latency_qos=False) as cluster:
            (a,) = cluster.nodes
            seen = []

            def look():
                seen.append(a.holders())
                return len(seen) == 50

            self.assertTrue(sync_until(a, look))
            self.assertEqual(seen, [[]] * 50)
