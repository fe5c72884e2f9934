"""Runs test files in a plain directory and inside the mount of a primary with a replica, and keeps what came out.

A result is one line of JSON in RESULTS/results.jsonl, the program's output lies in RESULTS/out/MODE/FILE.txt. What has a result is not
run again, so a run that was interrupted goes on where it stopped."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import copies
import outcome

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "integration"))
sys.dont_write_bytecode = True
import harness  # noqa: E402  (it lies in the folder named above)

PLAIN, PASSTHROUGH, FALLBACK = "plain", "passthrough", "fallback"
COPY_SECONDS = 30  # a replica that has not what its primary has so long after it has come to the end of its log has not got it
BEHIND_SECONDS = 300  # and so long it may be on its way there
NODE_LINES = "log: {retention-bytes: 512MiB}\n"


class Stuck(Exception):
    """A process that not even SIGKILL ends."""


class Results:
    """The results of earlier runs and of this one. Thread-safe."""

    def __init__(self, folder, fresh=False):
        self.folder = folder
        self.lock = threading.Lock()
        self.entries = {}  # (mode, file) → result
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder, exist_ok=True)
        self.path = os.path.join(folder, "results.jsonl")
        with contextlib.suppress(FileNotFoundError), open(self.path) as f:
            for line in f:
                with contextlib.suppress(ValueError):  # the last line of a run that was killed
                    entry = json.loads(line)
                    self.entries[entry["mode"], entry["file"]] = entry

    def add(self, entry):
        with self.lock:
            self.entries[entry["mode"], entry["file"]] = entry
            with open(self.path, "a") as f:
                f.write(json.dumps(entry) + "\n")

    def get(self, mode, file):
        with self.lock:
            return self.entries.get((mode, file))

    def output(self, mode, file):
        folder = os.path.join(self.folder, "out", mode)
        os.makedirs(folder, exist_ok=True)
        return os.path.join(folder, file + ".txt")

    def outcome(self, mode, file):
        with open(self.output(mode, file), errors="replace") as f:
            return outcome.Outcome(f.read(), self.get(mode, file)["end"])


class Runner:
    def __init__(self, suite, results, tmp, timeout, say=print):
        self.suite = suite
        self.results = results
        self.tmp = tmp
        self.timeout = timeout
        self.say = say
        self.processes = set()
        self.lock = threading.Lock()
        self.stopping = False
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("SQLITE", "QUICKTEST", "NOTIFY_SOCKET"))}
        self.env.update({"TERM": "dumb", "HOME": tmp})

    # ---- one program ----

    def execute(self, file, folder, out):
        """Runs one test file with `folder` as its current directory. Returns (end, seconds). What it wrote is in the file `out` if it was not interrupted: the result of an
        earlier run stays with its own output."""
        start = time.monotonic()
        with open(out + ".part", "wb") as f:
            with self.lock:
                if self.stopping:
                    raise KeyboardInterrupt
                process = subprocess.Popen([self.suite.testfixture, self.suite.files[file], "--testdir=" + folder], cwd=self.suite.home,
                                           stdin=subprocess.DEVNULL, stdout=f, stderr=subprocess.STDOUT, env=self.env,
                                           start_new_session=True)
                self.processes.add(process)
        try:
            code = process.wait(self.timeout)
            end = f"exit {code}" if code >= 0 else f"signal {-code}"
        except subprocess.TimeoutExpired:
            end = f"over {self.timeout} s"
        finally:
            self.end(process)
        if self.stopping:
            raise KeyboardInterrupt
        os.replace(out + ".part", out)
        return end, time.monotonic() - start

    def end(self, process):
        """Ends what is left of the test and of the programs that it started (they share its session)."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with self.lock:
            self.processes.discard(process)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            raise Stuck(f"process {process.pid} cannot be killed") from None

    def stop(self):
        """From another thread: no new tests, and those that run are killed."""
        with self.lock:
            self.stopping = True
            running = list(self.processes)
        for process in running:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)

    # ---- one test file ----

    def plain(self, file):
        folder = os.path.join(self.tmp, "plain", file)
        os.makedirs(folder)
        end, seconds = self.execute(file, folder, self.results.output(PLAIN, file))
        remove(folder)
        self.results.add({"mode": PLAIN, "file": file, "end": end, "seconds": round(seconds, 2)})

    def mounted(self, file, mode, cluster):
        """Runs it in a directory of its own inside the primary's mount; then compares what it left behind on both nodes, and takes the
        directory away again."""
        primary, replica = cluster.nodes
        before = [node.pids() for node in cluster.nodes]
        folder = primary.path(file)
        os.mkdir(folder)
        end, seconds = self.execute(file, folder, self.results.output(mode, file))
        databases = compare(primary, replica, file)
        problems = []
        if [node.pids() for node in cluster.nodes] != before:
            problems.append("a program of EdgeFS was restarted meanwhile")
        remove(folder)
        left = still_there(primary, replica, file)
        if left:
            problems.append(f"removed on the primary and still there on the replica: {', '.join(left[:5])}")
        self.results.add({"mode": mode, "file": file, "end": end, "seconds": round(seconds, 2), "databases": databases,
                          "problems": problems})

    def verdict(self, file, mode):
        """What is not as it must be: [text], from the results at hand."""
        entry = self.results.get(mode, file)
        found = [f"{name}: {text}" for name, text in
                 outcome.differences(self.results.outcome(PLAIN, file), self.results.outcome(mode, file))]
        found += [f"{name}: {verdict}: {detail}" for name, verdict, detail in entry["databases"] if verdict == "different"]
        return found + entry["problems"]

    def run_file(self, file, mode, cluster):
        """Plain first, if it was not run yet. What differs is run a second time, in both places: a test that depends on the time of day
        or on a race of its own shows itself. The first difference stays on record."""
        if not self.results.get(PLAIN, file):
            self.plain(file)
        self.mounted(file, mode, cluster)
        first = self.verdict(file, mode)
        if first:
            kept = self.results.get(mode, file)
            shutil.copy(self.results.output(mode, file), self.results.output(mode, file) + ".first")
            self.plain(file)
            self.mounted(file, mode, cluster)
            again = dict(self.results.get(mode, file), first={"databases": kept["databases"], "verdict": first})
            self.results.add(again)
        return first


def remove(folder):
    """Removes a directory with all that is in it; tests leave files and directories without permissions."""
    shutil.rmtree(folder, onerror=None)


class Patience:
    """Ends COPY_SECONDS after it began, or after the replica was last seen on its way to the primary's end of the log: files that remove and make their databases
    dozens of times a second leave it behind on a busy machine."""

    def __init__(self, primary, replica, seconds=COPY_SECONDS):
        self.nodes, self.seconds = (primary, replica), seconds
        self.began = time.monotonic()
        self.until = self.began + seconds
        self.seen = None

    def over(self):
        now = time.monotonic()
        with contextlib.suppress(OSError, AssertionError, ValueError, KeyError):
            end, applied = (node.status()["applied"]["lsn"] for node in self.nodes)
            if applied < end and applied != self.seen:
                self.seen = applied
                self.until = min(now + self.seconds, self.began + BEHIND_SECONDS)
        return now > self.until


def still_there(primary, replica, sub):
    patience = Patience(primary, replica)
    while True:
        left = copies.files_below(os.path.join(replica.data, "db"), sub)
        if not left or patience.over():
            return left
        time.sleep(0.02)


def compare(primary, replica, sub):
    """[[name, verdict, detail]] for every file below `sub` on either node. Verdicts: "same" (a database, the same bytes on the
    replica), "local" (the primary lists it as not replicated, and the replica has none), "different"."""
    here, there = (os.path.join(node.data, "db") for node in (primary, replica))
    size = sum(os.path.getsize(os.path.join(here, n)) for n in copies.files_below(here, sub))
    patience = Patience(primary, replica, COPY_SECONDS + size / 20e6)
    agreed = {}
    while True:
        names = sorted(set(copies.files_below(here, sub)) | set(copies.files_below(there, sub)))
        if not names:
            return []
        lists = [listed(node) for node in (primary, replica)]
        found = {n: agreed.get(n) or compare_one(n, here, there, lists[0].get(n), lists[1].get(n)) for n in names}
        agreed = {n: v for n, v in found.items() if v[0] == "same"}
        if all(v[0] != "different" for v in found.values()) or patience.over():
            return [[n, *v] for n, v in found.items()]
        time.sleep(0.05)


def listed(node):
    try:
        return node.databases()
    except (OSError, AssertionError, ValueError):
        return {}


def compare_one(name, here, there, entry, other):
    sizes = [copies.large(folder, name) for folder in (here, there)]
    if all(sizes) and not (entry and entry["kind"] == "other"):
        found = f"{sizes[0]} and {sizes[1]} bytes" if sizes[0] != sizes[1] else \
            copies.first_difference_of_large(os.path.join(here, name), os.path.join(there, name), sizes[0])
        return ("different", found) if found else ("same", f"{sizes[0]} bytes")
    mine, theirs = copies.content(here, name), copies.content(there, name)
    said = f"primary says {brief(entry)}, replica says {brief(other)}"
    if mine is None:
        return "different", f"only on the replica; {said}"
    if entry and entry["kind"] == "other":
        return ("local", f"{len(mine)} bytes") if theirs is None else ("different", f"not replicated, and the replica has one; {said}")
    if theirs is None:
        # An empty file is an empty database; there is nothing to replicate in it, and the primary has it listed or not.
        return ("local", "empty") if not mine else ("different", f"not on the replica; {said}")
    if mine != theirs:
        return "different", f"{copies.first_difference(mine, theirs)}; {said}"
    return "same", f"{len(mine)} bytes"


def brief(entry):
    if not entry:
        return "nothing"
    warning = f" ({entry['warning']})" if entry.get("warning") else ""
    return f"{entry['kind']} {entry['mode']} {entry['state']} txid {entry['txid']} pages {entry['pages']}{warning}"


@contextlib.contextmanager
def cluster(mode):
    """A primary and a replica. Their logs are shown only if they did not start: what differs is in the results."""
    nodes =  harness.Cluster(2, passthrough=mode == PASSTHROUGH, extra=NODE_LINES, prefix="efs-suite-")
    try:
        yield nodes
    finally:
        for problem in nodes.clean():
            print(f"      {mode}: {problem}", flush=True)
