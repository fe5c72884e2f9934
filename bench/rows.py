"""The rows of `make bench`: each one function of (cluster mode, sources), returning report.Line objects. Python's standard library only.

A row alternates EdgeFS and a plain directory, in changing order, and compares pair by pair. Drivers whose speed matters are the C programs of
this folder; nodes come from the integration tests' harness."""

import contextlib
import os
import shutil
import statistics
import subprocess
import time

import failover_rows
import harness
import resync_row
import scale_rows
import sync_row
from measuring import REPS, compare, copy_in, flush, paired, plain_dir, poll, running, settled_lsn, tool
from report import Line

BIG = 500  # MB of the database that is copied
READ_DB = 100  # MB of the database that is read


# ---- commits ----


def quiet_processors(clusters):
    """Waits until no node asks for quick wake-ups (fs.cpu-latency-qos) any more: the other side's turn does not profit from them."""
    nodes = [n for c in clusters for n in c.nodes]
    poll(lambda: not any(n.holders() for n in nodes), 10, "the request for quick wake-ups is given back")


def commits(sync, target, journal="WAL"):
    """Commits of one row of 100 bytes into a table with one index (random keys), 0.5 s each, each turn on a new database that the replica
    already has. The replica follows all the time; how long it needs after the last commit is noted. Three take turns: a cluster with the default
    configuration, one with fs.cpu-latency-qos: off, and the plain directory. Each begins when no node asks for quick wake-ups."""
    name = f"commits-{sync.lower()}" if journal == "WAL" else f"commits-{journal.lower()}-{sync.lower()}"
    options = ("--sync", sync, "--journal", journal)

    def row(passthrough, _sources):
        title = f"commits/s, {journal}, synchronous={sync}, 1 row of 100 bytes with one index, replica attached"
        line, without = Line(name, title, f"≥ {target:.2f} of plain"), Line(name, "the same with `fs.cpu-latency-qos: off`")
        behind, asked, rates = [], 0, {}
        with harness.Cluster(2, passthrough) as auto, harness.Cluster(2, passthrough, cpu_latency_qos=False) as off, plain_dir() as plain:

            def edgefs_turn(cluster, i):
                nonlocal asked
                a, b = cluster.nodes
                path = a.path(f"c{i}.db")
                tool("commits", path, *options, "--n", 100)
                cluster.sync()
                quiet_processors((auto, off))
                rate = tool("commits", path, *options, "--warm", 200, "--seconds", 0.5)["rate"]
                asked += bool(a.holders())  # it is given back 20 ms after the last commit at the earliest
                start = time.monotonic()
                b.wait_applied(settled_lsn(a))
                if cluster is auto:
                    behind.append((time.monotonic() - start - 0.05) * 1000)
                return rate

            def plain_turn(i):
                path = os.path.join(plain, f"c{i}.db")
                tool("commits", path, *options, "--n", 100)
                quiet_processors((auto, off))
                return tool("commits", path, *options, "--warm", 200, "--seconds", 0.5)["rate"]

            turns = [("auto", lambda i: edgefs_turn(auto, i)), ("off", lambda i: edgefs_turn(off, i)), ("plain", plain_turn)]
            for i in range(REPS):
                for who, turn in turns[i % 3:] + turns[:i % 3]:
                    rates.setdefault(who, []).append(turn(i))
        compare(line, list(zip(rates["auto"], rates["plain"])), "/s", at_least=target)
        compare(without, list(zip(rates["off"], rates["plain"])), "/s").ok = None
        line.notes.append(f"after the last commit the replica had everything within {max(0, statistics.median(behind)):.0f} ms; quick wake-ups were asked for at the end of "
                          f"{asked} of {REPS} turns")
        return [line, without]

    return row


# ---- reads ----


def wal_size(database):
    with contextlib.suppress(FileNotFoundError):
        return os.stat(database + "-wal").st_size
    return 0


def reads_primary(passthrough, sources):
    """Point reads by primary key at random in a 100 MB database, page cache of 64 pages (cache_size=64), mmap off, each in a read
    transaction of its own, 0.5 s. First on a database that nobody writes, then on one that has a WAL with a frame in it: one connection that wrote stays
    open, as in a running application. It is in a process of its own: whoever opens and closes a database's file, as cluster.sync does, drops
    the locks of the process's connections with it (fcntl), and the reader, which then finds nobody, takes the WAL away."""
    live = Line("reads-primary", "point reads/s, page cache of 64 pages, primary", "≥ 0.90 of plain")
    idle = Line("reads-primary", "the same, a database that nobody has open for writing", "≥ 0.90 of plain")
    source = sources.get(READ_DB)
    with harness.Cluster(2, passthrough) as cluster, plain_dir() as plain:
        a = cluster.nodes[0]
        copy_in(cluster, source, "r.db")
        shutil.copyfile(source, os.path.join(plain, "r.db"))
        paths = a.path("r.db"), os.path.join(plain, "r.db")
        turns = [lambda _, p=p: tool("reads", p, "--seconds", 0.5)["rate"] for p in paths]
        compare(idle, paired(*turns), "/s", at_least=0.9)
        with contextlib.ExitStack() as stack:
            for path in paths:
                stack.enter_context(harness.Session(path)).sql("CREATE TABLE live (x)")
            cluster.sync()
            before = [wal_size(path) for path in paths]
            compare(live, paired(*turns), "/s", at_least=0.9)
            after = [wal_size(path) for path in paths]
        if not all(before) or after != before or len(set(before)) != 1:
            raise AssertionError(f"the sides have not read beside the same WAL all the time: {before} bytes, then {after}")
    return [live, idle]


def reads_replica(passthrough, sources):
    """The same reader on the replica's mount while a process commits 1,000 rows a second on the primary's (synchronous=NORMAL, the same
    database). Plain: the same reader and the same writer on one database in a plain directory."""
    line = Line("reads-replica", "point reads/s, page cache of 64 pages, replica while it applies 1,000 tx/s", "≥ 0.90 of plain")
    source = sources.get(READ_DB)
    rates = []
    with harness.Cluster(2, passthrough) as cluster, plain_dir() as plain:
        a, b = cluster.nodes
        copy_in(cluster, source, "r.db")
        shutil.copyfile(source, os.path.join(plain, "r.db"))

        def turn(write, read):
            with running("commits", write, "--sync", "NORMAL", "--rate", 1000) as writer:
                time.sleep(0.3)
                rate = tool("reads", read, "--seconds", 0.7)["rate"]
            rates.append(writer["rate"])
            return rate

        def edgefs_turn(_):
            rate = turn(a.path("r.db"), b.path("r.db"))
            b.wait_applied(settled_lsn(a), 5)
            return rate

        plain_db = os.path.join(plain, "r.db")
        compare(line, paired(edgefs_turn, lambda _: turn(plain_db, plain_db), 9), "/s", at_least=0.9)
        if b.sql("r.db", "SELECT count(*) FROM t") != a.sql("r.db", "SELECT count(*) FROM t"):
            raise AssertionError("the replica does not have what the primary has")
    line.notes.append(f"the writer reached {min(rates):.0f}–{max(rates):.0f} tx/s")
    return [line]


# ---- lag ----


def lag(name, title, options, p50=None, p99=None, reps=3):
    """From the return of COMMIT on the primary's mount until a process that looks all the time (`SELECT max(id)`, each in a read
    transaction of its own) sees the row on the replica's mount; 2,000 commits each. Plain: writer and reader on one database in a
    plain directory."""

    def row(passthrough, _sources):
        with harness.Cluster(2, passthrough) as cluster, plain_dir() as plain:
            a, b = cluster.nodes

            def edgefs_turn(i):
                result = tool("lag", a.path(f"lag{i}.db"), b.path(f"lag{i}.db"), *options)
                cluster.sync()
                return result

            def plain_turn(i):
                path = os.path.join(plain, f"lag{i}.db")
                return tool("lag", path, path, *options)

            pairs = paired(edgefs_turn, plain_turn, reps)
        lines = []
        for key, limit in (("p50_us", p50), ("p99_us", p99), ("max_us", None)):
            mine, theirs = (statistics.median(pair[side][key] for pair in pairs) for side in (0, 1))
            lines.append(Line(name, f"{title}, {key[:-3]}", f"≤ {limit:,} µs" if limit else "", f"{mine:,.0f} µs", f"{theirs:,.0f} µs",
                              ok=None if limit is None else mine <= limit))
        lines[0].notes.append(f"{pairs[0][0]['rate']:,.0f} commits/s on EdgeFS, {pairs[0][1]['rate']:,.0f} on the plain directory")
        return lines

    return row


# ---- whole databases ----


def copy_seconds(source, target):
    """cp of a file that is in the page cache, to a new file on the same disk, without sync."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(target)
    flush()
    start = time.monotonic()
    subprocess.run(["cp", source, target], check=True)
    took = time.monotonic() - start
    os.unlink(target)
    return took


def has(node, name, want):
    """Whether the node holds that state of the database, whole."""
    code, body = node.api("GET", "/v1/databases")
    entry = next((d for d in body["databases"] if d["name"] == name), None) if code == 200 else None
    return entry is not None and entry["state"] == "ok" and entry["checksum"] == want["checksum"] and entry["txid"] == want["txid"]


def connected(node):
    status = node.try_status()
    return status and status["role"] == "replica" and status["connected"]


def wipe(node):
    """The node, stopped, forgets everything."""
    shutil.rmtree(node.data)
    os.makedirs(node.data)


def new_replica(passthrough, sources):
    """A replica starts with an empty data directory while the primary has a 500 MB database. Timed: from the last look (every 2 ms) at
    which its stream was not yet connected until its status of the database is `ok` with the primary's checksum, readable on its mount.
    The time since `edgefs mount` was called is noted. Plain: `cp` of the same file, in the page cache, no sync."""
    line = Line("new-replica", f"a new replica gets a {BIG} MB database", "≤ 2.5 × `cp`")
    source = sources.get(BIG)
    whole = []
    with harness.Cluster(2, passthrough, start=False) as cluster, plain_dir() as plain:
        a, b = cluster.nodes
        a.start()
        a.wait_role("primary")
        want = copy_in(cluster, source, "big.db")

        def edgefs_turn(_):
            wipe(b)
            flush()
            start = time.monotonic()
            b.start(wait=False)
            _, began = poll(lambda: connected(b), 20, "the new replica is connected")
            poll(lambda: has(b, "big.db", want), 60, lambda: f"the replica has the database: {b.databases()}", 0.005)
            end = time.monotonic()
            whole.append(end - start)
            if b.sql("big.db", "SELECT count(*) FROM r") != a.sql("big.db", "SELECT count(*) FROM r"):
                raise AssertionError("the replica's database is not the primary's")
            b.stop()
            return end - began

        compare(line, paired(edgefs_turn, lambda _: copy_seconds(source, os.path.join(plain, "big.db")), 3), "s", at_most=2.5, digits=2)
    line.notes.append(f"from `edgefs mount` on: {statistics.median(whole):.2f} s")
    return [line]


def import_row(passthrough, sources):
    """`edgefs-ctl import` of a 500 MB file: from its start until the replica's status of the database is `ok` with the primary's
    checksum. Plain: `cp` of the same file, in the page cache, no sync."""
    line = Line("import", f"import of {BIG} MB until a replica has it", "≤ 4 × `cp`")
    source = sources.get(BIG)
    primary_has = []
    with harness.Cluster(2, passthrough) as cluster, plain_dir() as plain:
        a, b = cluster.nodes

        def edgefs_turn(i):
            name = f"big{i}.db"
            flush()
            start = time.monotonic()
            harness.ctl(a, "import", source, name)
            primary_has.append(time.monotonic() - start)
            want = a.databases()[name]
            poll(lambda: has(b, name, want), 60, lambda: f"the replica has the database: {b.databases()}", 0.005)
            took = time.monotonic() - start
            os.unlink(a.path(name))
            cluster.sync()
            return took

        compare(line, paired(edgefs_turn, lambda _: copy_seconds(source, os.path.join(plain, "big.db")), 3), "s", at_most=4, digits=2)
    line.notes.append(f"`edgefs-ctl import` returned after {statistics.median(primary_has):.2f} s")
    return [line]


def catch_up(passthrough, _sources):
    """The replica is stopped; the primary commits 100,000 rows of 100 bytes one by one (synchronous=NORMAL, full speed); the replica is
    started. Timed: from the last look (every 2 ms) at which its stream was not yet connected until it has applied the last LSN. First into
    a table without a further index (a transaction changes the table's last page), then with one of random keys (each transaction
    changes another page too, so that several times the bytes have to be moved). Plain: the rate at which an application commits the
    same rows in a plain directory."""
    n = 100000
    title = f"a replica that was away catches up with {n:,} small transactions"
    lines = [Line("catch-up", title, "≥ 200,000 tx/s"), Line("catch-up", "the same, into a table with an index of random keys")]
    with harness.Cluster(2, passthrough) as cluster, plain_dir() as plain:
        for line, index, reps in zip(lines, (0, 1), (3, 1)):
            rates, notes = [], []
            name = f"c{index}.db"
            options = ("--sync", "NORMAL", "--index", index)
            tool("commits", cluster.nodes[0].path(name), *options, "--n", 100)
            cluster.sync()
            for _ in range(reps):
                rate, megabytes, whole = catch_up_once(cluster, name, options, n)
                rates.append(rate)
                notes.append((megabytes, whole))
            committing = tool("commits", os.path.join(plain, name), *options, "--n", n)["rate"]
            rate = statistics.median(rates)
            line.edgefs, line.plain = f"{rate:,.0f} tx/s", f"{committing:,.0f} tx/s (committing)"
            line.ok = rate >= 200000 if line.target else None
            line.notes.append("{:.0f} MB of log; {:.2f} s from `edgefs mount` on".format(*map(statistics.median, zip(*notes))))
    return lines


def catch_up_once(cluster, name, options, n):
    """(transactions per second, MB of log that the replica had to get, seconds since `edgefs mount`)."""
    a, b = cluster.nodes
    b.stop()
    before = a.status()["log"]["bytes"]
    tool("commits", a.path(name), *options, "--n", n)
    lsn = harness.settle(a)
    megabytes = (a.status()["log"]["bytes"] - before) / 1e6
    flush()
    start = time.monotonic()
    b.start(wait=False)
    _, began = poll(lambda: connected(b), 20, "the replica is connected")
    b.wait_applied(lsn)
    end = time.monotonic()
    want = a.databases()[name]
    if not has(b, name, want):
        raise AssertionError(f"the replica is not where the primary is: {b.databases()}")
    return n / (end - began), megabytes, end - start


def catch_up_cost(passthrough, _sources):
    """What a replica that catches up costs the primary's applications. The primary has one replica that is up to date, and 150,000 transactions (several hundred MB of log) of another
    database behind it. Commits (as in commits-full and commits-normal, 0.5 s) while a second replica gets that log from its beginning, and without (plain), in turn. That replica is
    a client of the stream which takes 125 MB a second, what a network of 1 Gbit/s carries, and throws it away (bench/streams --discard): a real one would write, apply and
    sync on the same two processors and the same disk, and be measured with it, which on a machine of its own it would not be. It is far from the end of the log when a turn ends."""
    lines = []
    n, rate, reps = 150000, 125, 9
    with harness.Cluster(2, passthrough, extra="log: {retention-bytes: 8GiB}\n") as cluster:
        a, b = cluster.nodes
        tool("commits", a.path("before.db"), "--sync", "NORMAL", "--n", 100)
        cluster.sync()
        begin, size = a.status(), a.status()["log"]["bytes"]
        tool("commits", a.path("before.db"), "--sync", "NORMAL", "--n", n)
        b.wait_applied(settled_lsn(a), 60)
        size = a.status()["log"]["bytes"] - size
        for sync in ("FULL", "NORMAL"):
            sent = []

            def turn(i, behind, sync=sync, sent=sent):
                path = a.path(f"{sync.lower()}-{i}-{behind}.db")
                tool("commits", path, "--sync", sync, "--n", 100)
                cluster.sync()
                quiet_processors((cluster,))
                with contextlib.ExitStack() as stack:
                    if behind:
                        result = stack.enter_context(running("streams", "127.0.0.1", a.port, "--n", 1, "--epoch", begin["epoch"], "--lsn", begin["lsn"],
                                                             "--discard", rate))
                        before = a.metric("edgefs_stream_sent_bytes_total")
                        poll(lambda: a.metric("edgefs_stream_sent_bytes_total") > before + 1e6, 10, "it catches up")
                    got = tool("commits", path, "--sync", sync, "--warm", 200, "--seconds", 0.5)["rate"]
                if behind:
                    sent.append(result["bytes"])
                b.wait_applied(settled_lsn(a))
                return got

            line = Line("catch-up-cost", f"commits/s of the primary, WAL, synchronous={sync}, while a second replica catches up (plain: without)", "≥ 0.95 of without")
            compare(line, paired(lambda i, t=turn: t(i, True), lambda i, t=turn: t(i, False), reps), "/s", at_least=0.95)
            if max(sent) >= size or min(sent) < 10e6:
                raise AssertionError(f"it was not catching up all the time: {min(sent)} to {max(sent)} of {size} bytes")
            line.notes.append(f"it had got {min(sent) / 1e6:.0f} to {max(sent) / 1e6:.0f} MB of {size / 1e6:.0f} MB of log when a turn ended")
            lines.append(line)
    return lines


# ---- memory ----


def memory(pid):
    """{"Rss": …, "Pss_Anon": …, "peak": …} of a process in MB (10^6)."""
    found = {}
    with open(f"/proc/{pid}/smaps_rollup") as f:
        for text in f:
            words = text.split()
            if words[0] in ("Rss:", "Pss_Anon:"):
                found[words[0][:-1]] = int(words[1]) * 1024 / 1e6
    with open(f"/proc/{pid}/status") as f:
        found["peak"] = next(int(t.split()[1]) for t in f if t.startswith("VmHWM:")) * 1024 / 1e6
    return found


def memory_row(passthrough, sources):
    """Memory of edgefs-replicator: Rss of /proc/PID/smaps_rollup (anonymous and file pages; Pss_Anon is noted). First with one
    database of 1 MB that was imported and has been written to (1,000 tx/s for 2 s), then with one of 1 GB in addition and the same done to it;
    by difference, per GB, the larger of primary and replica. Then the greatest Rss of the primary's while 10 more clients read its stream and 2,000 tx/s are committed."""
    per_gb = Line("memory", "memory of the replicator per GB of database", "≤ 4 MB")
    ten = Line("memory", "memory of the replicator with 10 replicas attached (and the 1 GB database)", "≤ 64 MB")
    source = sources.get(1000)
    gb = os.path.getsize(source) / 1e9
    with harness.Cluster(2, passthrough) as cluster:
        a, b = cluster.nodes

        def measure_with(file, name):
            copy_in(cluster, file, name)
            with running("commits", a.path(name), "--sync", "NORMAL", "--rate", 1000):
                time.sleep(2)
            b.wait_applied(settled_lsn(a))
            return {n.name: memory(n.pid("replicator")) for n in cluster.nodes}

        empty = measure_with(sources.get(1), "small.db")
        full = measure_with(source, "big.db")
        grew = {name: {k: (full[name][k] - empty[name][k]) / gb for k in full[name]} for name in full}
        worst = max(grew, key=lambda name: grew[name]["Rss"])
        per_gb.edgefs, per_gb.ok = f"{grew[worst]['Rss']:.1f} MB", grew[worst]["Rss"] <= 4
        per_gb.notes.append("; ".join(f"{'primary' if n == 'a' else 'replica'}: {empty[n]['Rss']:.1f} MB with 1 MB, {full[n]['Rss']:.1f} MB with "
                                      f"{gb:.2f} GB, Pss_Anon {empty[n]['Pss_Anon']:.1f} and {full[n]['Pss_Anon']:.1f} MB, "
                                      f"peak {full[n]['peak']:.1f} MB" for n in full))
        most = ten_replicas(a)
        ten.edgefs, ten.ok = f"{most['Rss']:.1f} MB", most["Rss"] <= 64
        ten.notes.append(f"Pss_Anon {most['Pss_Anon']:.1f} MB; one real replica and 10 stream clients, which received "
                         f"{most['bytes'] / 1e6:.0f} MB")
    return [per_gb, ten]


def ten_replicas(a):
    status = a.status()
    most = {"Rss": 0.0}
    with running("streams", "127.0.0.1", a.port, "--n", 10, "--epoch", status["epoch"], "--lsn", status["lsn"]) as streams:
        with running("commits", a.path("big.db"), "--sync", "NORMAL", "--rate", 2000):
            end = time.monotonic() + 3
            while time.monotonic() < end:
                now = memory(a.pid("replicator"))
                most = max(most, now, key=lambda m: m["Rss"])
                time.sleep(0.1)
        time.sleep(0.2)
    if streams["least"] < 1000:
        raise AssertionError(f"the stream clients received nothing: {streams}")
    return dict(most, bytes=streams["bytes"])


def supervise(passthrough, _sources):
    """kill -9 of edgefs-fs and of edgefs-replicator, in turn, on the primary and on the replica, 20 times each, while an application commits 500 rows a second:
    from the kill until the successor is at work (the launcher says so: `ready`). Greatest of all."""
    lines = []
    with harness.Cluster(2, passthrough) as cluster:
        a, b = cluster.nodes
        harness.make_load_db(a, "s.db")
        cluster.sync()
        with running("commits", a.path("c.db"), "--sync", "NORMAL", "--rate", 500):
            for program in ("fs", "replicator"):
                times = []
                for i in range(20):
                    times.append((a, b)[i % 2].kill_and_wait(program))
                    harness.wait_until(lambda: a.try_status() and b.try_status(), 10, "both answer")
                    b.wait_applied(a.lsn(), 10)
                line = Line("supervise", f"edgefs-{program} is back after kill -9, the slowest of {len(times)}", "≤ 1 s")
                line.edgefs, line.ok = f"{max(times):.2f} s", max(times) <= 1
                line.notes.append(f"median {1000 * statistics.median(times):.0f} ms")
                lines.append(line)
    return lines


# ---- all ----

LAG_TITLE = "return of COMMIT → row visible on the replica's mount"
ROWS = {
    "commits-full": commits("FULL", 0.9),
    "commits-normal": commits("NORMAL", 0.7),
    **{f"commits-{j.lower()}-{s.lower()}": commits(s, 0.8, j) for j in ("DELETE", "TRUNCATE", "PERSIST") for s in ("FULL", "NORMAL")},
    "reads-primary": reads_primary,
    "reads-replica": reads_replica,
    "lag": lag("lag", f"{LAG_TITLE}, 1 writer, a commit every 2 ms", ("--n", 2000), 250, 1000),
    "lag-full": lag("lag-full", f"{LAG_TITLE}, synchronous=FULL", ("--n", 1000, "--sync", "FULL"), reps=2),
    "lag-burst": lag("lag-burst", f"{LAG_TITLE}, commits without pause", ("--n", 20000, "--pause-us", 0), reps=2),
    "new-replica": new_replica,
    "catch-up": catch_up,
    "catch-up-cost": catch_up_cost,
    "import": import_row,
    "memory": memory_row,
    "supervise": supervise,
    "resync": resync_row.resync,
    **scale_rows.ROWS,
    **failover_rows.ROWS,
    **sync_row.ROWS,
}


def measure(name, passthrough, sources):
    """The lines of one row. A row that cannot be measured is one line that says why; interrupts pass through."""
    try:
        lines = ROWS[name](passthrough, sources)
    except (AssertionError, OSError, KeyError, ValueError, subprocess.SubprocessError, harness.sqlite3.Error) as e:
        lines = [Line(name, name, failed=" ".join(str(e).split())[:300] or repr(e))]
    for line in lines:
        if not passthrough:
            line.ok = None
    return lines
