"""Rows of synchronous commit: commits that wait for a replica on the same machine, against those of a cluster that does not wait."""
import json
import os
import statistics
import subprocess

import harness
from report import Line

TOOL = os.path.join(harness.BUILD, "bench", "commits")
WRITERS = 64
SECONDS = 1.5
REPS = 5


def rate_of(node, turn, writers):
    """Commits/s of that many processes, each with a database of its own; synchronous=FULL, one row of 100 bytes."""
    options = ["--sync", "FULL", "--index", "0"]
    paths = [node.path(f"{turn}-{i}.db") for i in range(writers)]
    for path in paths:
        subprocess.run([TOOL, path, *options, "--n", "20"], stdout=subprocess.DEVNULL, check=True, timeout=60)
    load = [subprocess.Popen([TOOL, path, *options, "--seconds", str(SECONDS)], stdout=subprocess.PIPE, text=True) for path in paths]
    rates = []
    for p in load:
        out, _ = p.communicate(timeout=120)
        if p.returncode:
            raise AssertionError(f"bench/commits ended with {p.returncode}")
        rates.append(json.loads(out)["rate"])
    for path in paths:
        os.unlink(path)
    return sum(rates)


def sync_commits(writers):
    def row(passthrough, _sources):
        line = Line(f"sync-{writers}", f"commits/s, synchronous=FULL, {writers} writer{'s' if writers > 1 else ''} with a database each, waiting for one replica "
                    "(plain: the same without waiting)", "≥ 0.50 of asynchronous")
        sync, plain = [], []
        more = "sync-replicas: 1\nsync-timeout: 60s\nsync-policy: refuse\n"
        with harness.Cluster(2, passthrough, extra=more) as waits, harness.Cluster(2, passthrough) as goes_on:
            for turn in range(REPS):
                for rates, cluster in ((sync, waits), (plain, goes_on)) if turn % 2 else ((plain, goes_on), (sync, waits)):
                    rates.append(rate_of(cluster.nodes[0], turn, writers))
                    cluster.sync()
            commits = waits.nodes[0].metric("edgefs_sync_commits_total")
        pairs = sorted(s / p for s, p in zip(sync, plain))
        ratio = statistics.median(pairs)
        line.edgefs = f"{statistics.median(sync):,.0f} /s"
        line.plain = f"{statistics.median(plain):,.0f} /s"
        line.ratio = f"{ratio:.2f} ({pairs[0]:.2f}–{pairs[-1]:.2f})"
        line.ok = ratio >= 0.5
        line.notes.append(f"{commits:,.0f} commits waited, none in vain")
        return [line]

    return row


ROWS = {"sync-64": sync_commits(WRITERS), "sync-1": sync_commits(1)}
