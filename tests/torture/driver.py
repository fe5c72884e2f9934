#!/usr/bin/env python3
"""The random tester: see README.md beside this file.

  driver.py [--first N] [--count N] [--jobs N] [--mode passthrough|fallback|both]   runs seeds; the last line is "N passed, N failed"
  driver.py --seed N [-v]                  one seed, with its trace
  driver.py --replay FILE [-v] [--times N] the steps of a file
  driver.py --shrink FILE [--seed N]       leaves out steps for as long as what remains still fails; prints what remains

Environment: TORTURE_SEEDS and TORTURE_FIRST are the defaults of --count and --first; EDGEFS_BUILD names another build folder."""
import argparse
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "integration"))
sys.dont_write_bytecode = True
import harness  # noqa: E402

TORTURE = os.path.join(harness.BUILD, "torture")
RUN_SECONDS = 180  # a run that takes longer hangs
SHRINK_SECONDS = float(os.environ.get("TORTURE_SHRINK_SECONDS") or 120)
MODELS = "/dev/shm" if os.path.isdir("/dev/shm") else None  # any ordinary directory will do; this one has no fsync to wait for
DIED = re.compile(r"signal (?:3|4|6|7|8|11)\b|AddressSanitizer|runtime error:|Assertion")


class Outcome:
    def __init__(self, good, text, trace, seconds):
        self.good, self.text, self.trace, self.seconds = good, text, trace, seconds


class Bench:
    """A cluster of two nodes that many runs use at the same time, each in a folder of its own."""

    def __init__(self, passthrough):
        self.passthrough = passthrough
        self.cluster = harness.Cluster(2, passthrough)
        self.count = 0
        self.lock = threading.Lock()
        self.kill_lock = threading.Lock()
        self.kills = 0

    @property
    def mode(self):
        return "passthrough" if self.passthrough else "fallback"

    def close(self):
        """Stops the nodes. Returns what was not as it should be: problems of the end, and deaths that nobody asked for."""
        logs = [node.log() for node in self.cluster.nodes]
        problems = self.cluster.clean()
        for node, log in zip(self.cluster.nodes, logs):
            problems += [f"{node.name}: {line}" for line in log.splitlines() if DIED.search(line)][:5]
        return problems

    def folder(self, seed):
        with self.lock:
            self.count += 1
            return f"r{self.count}-{seed}"

    def kill(self, name, program):
        with self.kill_lock:
            self.kills += 1
            self.cluster.by_name(name).kill_and_wait(program)

    def run(self, seed, steps=None, verbose=False):
        """One run. steps: a file, or None for those of the seed."""
        name = self.folder(seed)
        a, b = self.cluster.nodes
        model = tempfile.mkdtemp(prefix="torture-", dir=MODELS)
        os.mkdir(a.path(name))
        env = dict(os.environ)
        env.pop("TORTURE_STEPS", None)
        if steps:
            env["TORTURE_STEPS"] = steps
        start = time.monotonic()
        trace_file = os.path.join(self.cluster.tmp, name + ".trace")
        with open(trace_file, "wb") as trace:
            p = subprocess.Popen([TORTURE, "run", "-v", a.path(name), b.path(name), model, str(seed)], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, stderr=trace, text=True, env=env)
            timer = threading.Timer(RUN_SECONDS, p.kill)
            timer.start()
            last = "FAIL it hung, or died"
            try:
                for line in p.stdout:
                    if line.startswith("@kill "):
                        _, node, program = line.split()
                        self.kill(node, program)
                        p.stdin.write("done\n")
                        p.stdin.flush()
                    else:
                        last = line.strip()
            except BrokenPipeError:
                pass
            finally:
                p.wait()
                timer.cancel()
                p.stdin.close()
                p.stdout.close()
        text = harness.read(trace_file)
        os.unlink(trace_file)
        good = p.returncode == 0 and last.startswith("OK")
        if p.returncode < 0:
            last += f" (signal {-p.returncode})"
        shutil.rmtree(model, ignore_errors=True)
        if good:  # what failed stays for whoever looks
            shutil.rmtree(a.path(name), ignore_errors=True)
        if "its line says which" in last:
            last += ": " + "; ".join(row for row in text.splitlines() if row.startswith("reader on the replica,"))
        if verbose:
            sys.stderr.write(text)
        return Outcome(good, last, text, time.monotonic() - start)


def steps_of(seed):
    return subprocess.run([TORTURE, "generate", str(seed)], stdout=subprocess.PIPE, text=True, check=True).stdout


def shrink(seed, steps, passthrough, seconds=SHRINK_SECONDS, times=3):
    """Leaves out pieces, first large ones, then single steps, as long as the rest still fails at least once in `times` runs.
    Failures may be a matter of timing, so a piece that was kept may be one that could go."""
    deadline = time.monotonic() + seconds
    lines = [line for line in steps.splitlines() if line.strip()]
    work = tempfile.mkdtemp(prefix="torture-shrink-")
    benches = []
    why = None

    def fails(candidate):
        nonlocal why
        path = os.path.join(work, "steps")
        with open(path, "w") as f:
            f.write("\n".join(candidate) + "\n")
        for _ in range(times):
            if time.monotonic() > deadline:
                return False
            if not benches:
                benches.append(Bench(passthrough))
            outcome = benches[0].run(seed, path)
            if not outcome.good:
                why = outcome.text
                # A cluster that something went wrong in is no witness for the next candidate.
                benches.pop().close()
                return True
        return False

    try:
        piece = max(1, len(lines) // 2)
        while time.monotonic() < deadline:
            at, less = 0, False
            while at < len(lines) and time.monotonic() < deadline:
                candidate = lines[:at] + lines[at + piece:]
                if candidate and fails(candidate):
                    step = re.match(r"FAIL step (\d+)", why)
                    lines, less = candidate[:int(step.group(1))] if step else candidate, True  # behind it nothing was done
                else:
                    at += piece
            if piece == 1 and not less:
                break
            piece = max(1, piece // 2)
    finally:
        for bench in benches:
            bench.close()
        shutil.rmtree(work, ignore_errors=True)
    return lines, why


def report(seed, bench_mode, outcome, steps):
    print(f"FAIL seed {seed} ({bench_mode}): {outcome.text}")
    print(f"     again: tests/torture/driver.py --mode {bench_mode} --seed {seed}")
    print("     the last of its trace:\n" + "\n".join("       " + row for row in outcome.trace.splitlines()[-25:]))
    sys.stdout.flush()
    lines, why = shrink(seed, steps, bench_mode == "passthrough")
    if why is None:
        print("     it did not fail again alone: a matter of timing, or of what ran beside it")
    else:
        print(f"     shrunk to {len(lines)} steps ({why}):\n" + "\n".join("       " + line for line in lines))
    sys.stdout.flush()


def run_seeds(first, count, jobs, modes):
    benches = [Bench(mode == "passthrough") for mode in modes]
    todo = queue.SimpleQueue()
    for i in range(count):
        todo.put((first + i, benches[i % len(benches)]))
    failed, done, lock = [], [], threading.Lock()

    def worker():
        while True:
            try:
                seed, bench = todo.get_nowait()
            except queue.Empty:
                return
            try:
                outcome = bench.run(seed)
            except Exception as e:  # the harness found the cluster in a state that must not be
                outcome = Outcome(False, f"FAIL {type(e).__name__}: {e}", "", 0)
            with lock:
                done.append(outcome)
                if not outcome.good:
                    failed.append((seed, bench.mode, outcome))
                    print(f"seed {seed} ({bench.mode}): {outcome.text}", flush=True)

    start = time.monotonic()
    threads = [threading.Thread(target=worker) for _ in range(jobs)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    seconds = time.monotonic() - start
    numbers = [int(n) for o in done if o.good for n in re.findall(r"\d+", o.text)]
    print(f"seeds {first} to {first + count - 1}: {sum(numbers[0::3])} steps, {sum(numbers[1::3])} checks, {sum(numbers[2::3])} times asked again, "
          f"{sum(b.kills for b in benches)} kills, {seconds:.0f} s")
    if failed:
        for bench in benches:
            bench.cluster.report()
    problems = [f"{b.mode}: {p}" for b in benches for p in b.close()]
    for problem in problems:
        print(f"FAIL {problem}")
    for seed, mode, outcome in failed[:3]:
        report(seed, mode, outcome, steps_of(seed))
    bad = len(failed) + len(problems)
    print(f"{count - len(failed)} passed, {bad} failed")
    return 1 if bad else 0


def run_one(seed, steps, mode, verbose, times):
    bench = Bench(mode == "passthrough")
    code = 0
    try:
        for _ in range(times):
            outcome = bench.run(seed, steps, verbose)
            print(outcome.text, f"({outcome.seconds:.1f} s)", flush=True)
            if not outcome.good:
                code = 1
                bench.cluster.report()
                break
    finally:
        for problem in bench.close():
            print(problem)
            code = 1
    return code


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--first", type=int, default=int(os.environ.get("TORTURE_FIRST") or 1))
    parser.add_argument("--count", type=int, default=int(os.environ.get("TORTURE_SEEDS") or 200))
    parser.add_argument("--jobs", type=int, default=int(os.environ.get("TORTURE_JOBS") or 6))
    parser.add_argument("--mode", choices=("passthrough", "fallback", "both"), default="both")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--replay")
    parser.add_argument("--shrink")
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("-v", dest="verbose", action="store_true")
    args = parser.parse_args()
    mode = "passthrough" if args.mode == "both" else args.mode
    if args.shrink:
        lines, why = shrink(args.seed or 1, harness.read(args.shrink), mode == "passthrough", SHRINK_SECONDS, max(args.times, 3))
        print(f"# {why}\n" + "\n".join(lines))
        return 0
    if args.replay or args.seed is not None:
        return run_one(args.seed or 1, args.replay, mode, args.verbose, args.times)
    return run_seeds(args.first, args.count, args.jobs, ["passthrough", "fallback"] if args.mode == "both" else [args.mode])


if __name__ == "__main__":
    sys.exit(main())
