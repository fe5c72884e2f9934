"""What the rows have in common: the drivers of this folder, database files to copy, and runs of both sides in turn."""

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time

import harness

TOOLS = os.path.join(harness.BUILD, "bench")
REPS = 15  # turns of each side: many short ones, because the machine's other load comes and goes


def tool(name, *args, timeout=60):
    """Runs a driver of this folder. Returns what it reported (a dict)."""
    done = subprocess.run([os.path.join(TOOLS, name), *map(str, args)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=timeout, check=False)
    if done.returncode != 0:
        raise AssertionError(f"bench/{name} {' '.join(map(str, args))}: {done.stderr.strip()}")
    return json.loads(done.stdout)


@contextlib.contextmanager
def running(name, *args):
    """A driver in the background; SIGTERM at the end of the block. Yields a dict that has its report afterwards."""
    process = subprocess.Popen([os.path.join(TOOLS, name), *map(str, args)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    result = {}
    try:
        yield result
        ended = process.poll()
        process.terminate()
        out, err = process.communicate(timeout=30)
        if ended is not None or process.returncode != 0:
            raise AssertionError(f"bench/{name} ended ({process.returncode}): {err.strip()}")
        result.update(json.loads(out))
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


class Sources:
    """Database files that rows copy or import, made once a run, by size in MB. A context manager."""

    def __enter__(self):
        self.folder = tempfile.mkdtemp(prefix="efs-bench-")
        self.made = {}
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.folder, ignore_errors=True)

    def get(self, mb):
        if mb not in self.made:
            path = os.path.join(self.folder, f"{mb}.db")
            tool("fill", path, "--mb", mb, timeout=120)
            self.made[mb] = path
        return self.made[mb]


@contextlib.contextmanager
def plain_dir():
    folder = tempfile.mkdtemp(prefix="efs-plain-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def paired(edgefs, plain, reps=REPS):
    """Runs both alternately, the first one changing. Returns [(edgefs, plain), …] of what they returned."""
    pairs = []
    for i in range(reps):
        if i % 2:
            p, e = plain(i), edgefs(i)
        else:
            e, p = edgefs(i), plain(i)
        pairs.append((e, p))
    return pairs


def compare(line, pairs, unit, at_least=None, at_most=None, digits=0):
    """Fills in the numbers of a line from [(edgefs, plain), …] and judges the median ratio."""
    ratios = [e / p for e, p in pairs]
    ratio = statistics.median(ratios)
    line.edgefs = f"{statistics.median(e for e, _ in pairs):,.{digits}f} {unit}"
    line.plain = f"{statistics.median(p for _, p in pairs):,.{digits}f} {unit}"
    line.ratio = f"{ratio:.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
    line.ok = (at_least is None or ratio >= at_least) and (at_most is None or ratio <= at_most)
    return line


def copy_in(cluster, source, name, timeout=60):
    """Imports a database and waits until every running node has it. Returns the primary's entry."""
    harness.ctl(cluster.nodes[0], "import", source, name, timeout=timeout)
    cluster.sync()
    return cluster.nodes[0].databases()[name]


def flush():
    """Nothing dirty is left over from before: what is timed next does not pay for it."""
    os.sync()


def settled_lsn(node, timeout=30):
    """LSN of the primary once it has not moved for 50 ms: capture follows COMMIT within a millisecond or so. (harness.settle, which
    compares checksums, reads every page: too slow between two measurements of a big database.)"""
    last, since = node.lsn(), time.monotonic()
    deadline = since + timeout
    while time.monotonic() < since + 0.05:
        time.sleep(0.005)
        now = node.lsn()
        if now != last:
            last, since = now, time.monotonic()
        if since > deadline:
            raise AssertionError("the primary's LSN never comes to rest")
    return last


def poll(fn, timeout, what, pause=0.002):
    """Calls fn until it is true. Returns (value, time of the last call that was not, before it was made)."""
    before = time.monotonic()
    deadline = before + timeout
    while True:
        at = time.monotonic()
        value = fn()
        if value:
            return value, before
        before = at
        if at > deadline:
            raise AssertionError(f"not within {timeout} s: {what() if callable(what) else what}")
        time.sleep(pause)
