#!/usr/bin/env python3
"""Random schedules of faults against a real cluster, with clients that write and read all the time; each ends healed, whole and judged (README.md).

  driver.py            CLUSTER_SCHEDULES schedules from seed CLUSTER_FIRST on (LONG=1: from a random one), CLUSTER_JOBS at a time
  driver.py --seed N   one schedule. One that fails leaves its history, and each node's log and data, in /tmp/edgefs-cluster-N.json*
"""
import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True

import world as worlds  # noqa: E402  (finds the integration tests' harness)
import harness  # noqa: E402
import history  # noqa: E402
import nemesis  # noqa: E402
import quarantine  # noqa: E402
import store  # noqa: E402
import watch  # noqa: E402

FAULT_SECONDS = 4.5
LASTS = (0.3, 1, 2.8, 3.5, *((30,) if harness.LONG else ()))  # seconds that a fault may last
SCHEDULE_SECONDS = 150  # for one schedule, everything included


def plan(rng, faults=nemesis.FAULTS):
    """[(second, "begin" or a number, fault)]: one to four faults that may overlap. Some outlast the lease, some do not."""
    return sorted(((round(rng.uniform(0, FAULT_SECONDS * 0.6), 2), round(rng.choice(LASTS), 2), rng.choice(faults))
                   for _ in range(rng.randint(1, 4))), key=lambda p: p[:2])


def run_faults(world, rng, faults, say):
    """Begins and ends them in time; at the end all of them have ended. One that began late ends late."""
    start = time.monotonic()
    ends = []

    def end(item):
        ends.remove(item)
        say(f"{time.monotonic() - start:5.2f} end of {item[1]}")
        item[2]()

    due = list(faults)
    while due or ends:
        now = time.monotonic() - start
        for item in [e for e in ends if e[0] <= now]:
            end(item)
        if due and due[0][0] <= now:
            _, lasts, fault = due.pop(0)
            name, back = fault(world, rng)
            say(f"{time.monotonic() - start:5.2f} {name}")
            if back:
                ends.append((time.monotonic() - start + lasts, name, back))
        time.sleep(0.01)
    while time.monotonic() - start < FAULT_SECONDS:
        time.sleep(0.02)


def heal(world):
    """Nothing is broken any more, and every machine is on. Returns what must not have happened."""
    problems = []
    world.relay.heal()
    for node in world.nodes:
        if not node.running():
            node.crash()
            node.start(wait=False)
            node.wait_ready(60)
        if node.dying():
            node.stop_station()
        ended = node.station.poll()
        # On a full ext4 a store into a mapped page that has no block yet (NAME-shm, not written back so far) is a SIGBUS, with or without EdgeFS.
        if ended not in (None, -signal.SIGKILL, -signal.SIGBUS if node.disk else None):
            problems.append(f"station: the applications of {node.name} ended by themselves: {ended}; {world.stations()}")
        node.start_station()
    return problems


def shape(seed):
    """(nodes, replicas that commits wait for, policy) of a schedule in a series: most have three nodes, and do not wait."""
    replicas = {5: 1, 15: 2, 7: 1, 37: 2}.get(seed % 50 if seed % 10 == 7 else seed % 20, 0)
    nodes = {12: 4, 42: 5}.get(seed % 50) or {65: 4, 75: 5}.get(seed % 100, 3)
    return nodes, replicas, "degrade" if seed % 10 == 7 else "refuse"


class Schedule:
    def __init__(self, args, faults):
        self.seed, self.synchronous, self.policy, self.faults, self.keep = args.seed, args.synchronous or 0, args.policy or "refuse", faults, args.keep
        self.nodes = args.nodes or 3
        self.lines, self.problems, self.facts, self.folder = [], [], "", None

    def say(self, text):
        self.lines.append(text)

    def run(self):
        """True if nothing happened that must not happen."""
        began = time.monotonic()
        rng = random.Random(f"cluster-{self.seed}")
        settings = {"members": rng.choice((1, 1, 3)), "second_mode": rng.choice(("wal", "wal", "delete")), "passthrough": rng.random() < 0.8,
                    "small_disks": rng.choice(("", "a", "b", "abc"))}
        self.say(f"seed {self.seed}: {self.nodes} nodes, {settings}, sync-replicas {self.synchronous} {self.policy if self.synchronous else ''}")
        try:
            with worlds.World(n=self.nodes, seed=self.seed, synchronous=self.synchronous, policy=self.policy, **settings) as world:
                self.say(f"ready after {time.monotonic() - began:.1f} s")
                self.folder = world.cluster.tmp
                self.watch = watch.Watch(world.nodes)
                world.start_clients()
                with self.watch:
                    self.disturb(world, rng)
                world.wait_whole()
                self.say(f"whole after {time.monotonic() - began:.1f} s")
                self.judge(world)
                if self.problems:
                    world.cluster.report()
        except Exception:
            self.problems.append(traceback.format_exc())
        self.say(f"{time.monotonic() - began:.1f} s: {self.facts}")
        return not self.problems

    def disturb(self, world, rng):
        began = time.monotonic()
        run_faults(world, rng, plan(rng, self.faults), self.say)
        self.problems += heal(world)
        self.say(f"healed {time.monotonic() - began:.1f} s later")
        self.wait_life(world)
        world.stop_clients()

    def wait_life(self, world):
        """The healed cluster works: every session reads, and writes succeed on the mount of the primary and through the proxies."""
        since = time.monotonic()

        readers, writers = set(), set()

        def works():
            for e in world.events():
                if e.get("t0", 0) < since:
                    continue
                if e["e"] == "read" or e["e"] == "write" and e["r"] == "ok":
                    (readers if e["e"] == "read" else writers).add(e["s"].partition("-")[0])
            return len(readers) == 4 * len(world.nodes) + 2 and any(s[1] == "d" for s in writers) and sum(s[1] == "p" for s in writers) >= 4

        world.wait_primary()
        harness.wait_until(works, worlds.HEAL_SECONDS, lambda: f"every session reads again, and enough write: {sorted(readers)}; {sorted(writers)}; {world.stations()}")

    def judge(self, world):
        events = world.events()
        # Applications are gone, so another process may open the files in other ways from here on.
        primary = world.wait_primary()
        final = {n.name: store.dump(n.mount) for n in world.nodes}
        quarantined = set().union(*(quarantine.transactions(n, world.cluster.tmp) for n in world.nodes))
        lost = sum(e["e"] == "write" and e["r"] == "ok" and e["op"] in quarantined for e in events)
        kinds = {r: sum(e["e"] == "write" and e["r"] == r for e in events) for r in ("ok", "fail", "abort", "info")}
        self.facts = (f"{kinds['ok']} writes ({kinds['fail']} refused, {kinds['abort']} rolled back, {kinds['info']} unknown), "
                      f"{sum(e['e'] == 'read' for e in events)} reads, {lost} acknowledged writes in quarantine, epoch {primary.status()['epoch']}")
        if world.policy == "degrade":
            self.facts += f", {sum(e['e'] == 'doubt' for e in events)} may not have waited"
        # README.md says when the order between the databases is promised; otherwise reads that miss it are counted.
        checker = history.Checker(events, final, quarantined, self.policy if self.synchronous else None,
                                  lambda node, t0, t1: world.second_mode == "wal" and (node is None or self.watch.whole(node, t0, t1)))
        self.problems += checker.run()
        self.facts += f", {checker.unordered} reads out of order across databases" if checker.unordered else ""
        with contextlib.suppress(AssertionError):
            harness.wait_until(lambda: harness.ctl(world.wait_primary(), "verify", check=False)[0] == 0, 20, "verify")
        code, out, err = harness.ctl(world.wait_primary(), "verify", check=False)
        if code:
            self.problems.append(f"identical: edgefs-ctl verify: {code} {out}{err}")
        if self.problems or self.keep:
            keep = f"/tmp/edgefs-cluster-{self.seed}.json"
            with open(keep, "w") as f:
                json.dump({"events": events, "final": final, "quarantined": sorted(quarantined)}, f)
            self.say(f"history: {keep}")
            for node in world.nodes:
                shutil.copytree(node.data, f"{keep}.{node.name}", dirs_exist_ok=True, ignore=shutil.ignore_patterns("run", "lost+found", "ballast"))
                shutil.copy(node.log_file, f"{keep}.{node.name}.log")


def one(args):
    faults = tuple(getattr(nemesis, name) for name in args.faults.split(",")) if args.faults else nemesis.FAULTS
    schedule = Schedule(args, faults)
    good = schedule.run()
    print("\n".join(schedule.lines + schedule.problems[:20]), flush=True)
    print("ok" if good else f"FAIL seed {args.seed}", flush=True)
    return 0 if good else 1


def many(args):
    """Each schedule is a process of its own: its end takes everything with it that it started."""
    first, count, jobs = args.first, args.schedules, args.jobs
    lock, todo, result = threading.Lock(), list(range(first, first + count)), {True: 0, False: 0}
    print(f"seeds {first} to {first + count - 1}, {jobs} at a time", flush=True)

    def worker():
        while True:
            with lock:
                if not todo:
                    return
                seed = todo.pop(0)
            nodes, replicas, policy = shape(seed)
            argv = [sys.executable, os.path.abspath(__file__), "--seed", str(seed), "--faults", args.faults, "--nodes", str(args.nodes or nodes), "--policy",
                    args.policy or policy, "--synchronous", str(replicas if args.synchronous is None else args.synchronous)]
            with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as p:
                try:
                    out = p.communicate(timeout=SCHEDULE_SECONDS)[0]
                except subprocess.TimeoutExpired:
                    p.send_signal(2)
                    out = p.communicate()[0] + f"\nstill running after {SCHEDULE_SECONDS} s"
            with lock:
                result[p.returncode == 0] += 1
                last = [line for line in out.splitlines() if " writes (" in line]
                print(f"{'ok  ' if p.returncode == 0 else 'FAIL'} seed {seed}: {last[-1] if last else ''}", flush=True)
                if p.returncode:
                    print(out, flush=True)

    threads = [threading.Thread(target=worker) for _ in range(jobs)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    print(f"{result[True]} passed, {result[False]} failed")
    return 0 if not result[False] else 1


def main():
    env = os.environ.get
    p = argparse.ArgumentParser(description="Random schedules of faults against a real cluster.")
    p.add_argument("--seed", type=int)
    long = env("LONG", "0") not in ("", "0")
    p.add_argument("--first", type=int, default=int(env("CLUSTER_FIRST") or (random.SystemRandom().randrange(1 << 30) if long else 1)))
    p.add_argument("--schedules", type=int, default=int(env("CLUSTER_SCHEDULES", "50")))
    p.add_argument("--jobs", type=int, default=int(env("CLUSTER_JOBS", "4")))
    p.add_argument("--synchronous", type=int, default=int(env("CLUSTER_SYNCHRONOUS")) if env("CLUSTER_SYNCHRONOUS") else None,
                   help="sync-replicas; without it as shape() says")
    p.add_argument("--policy", choices=("refuse", "degrade"), default=env("CLUSTER_POLICY") or None, help="sync-policy; without it as shape() says")
    p.add_argument("--nodes", type=int, default=int(env("CLUSTER_NODES", "0")), help="without it as shape() says")
    p.add_argument("--faults", default="", help="only these functions of nemesis.py, separated by commas")
    p.add_argument("--keep", action="store_true", help="with --seed: history, logs and data stay in any case")
    args = p.parse_args()
    if os.geteuid() != 0:
        sys.exit("driver.py: mounts and namespaces need root")
    return one(args) if args.seed is not None else many(args)


if __name__ == "__main__":
    sys.exit(main())
