"""The rows about size: many databases, a large one, many nodes."""

import contextlib
import os
import statistics
import subprocess
import time

import harness
from measuring import flush, poll, running, settled_lsn, tool
from report import Line

TENANTS = 10000
RESTART_GB = float(os.environ.get("BENCH_RESTART_GB", "2"))  # 10: as the target says; building it takes minutes …
RESTART_DB = os.environ.get("BENCH_RESTART_DB")  # … so it may be made beforehand: build/bench/fill FILE --mb 10000, on the file system that is measured
SCAN_MB = 1000


def tenants_row(passthrough, _sources):
    """10,000 databases of 8 KB, half of them each in a directory of its own, lie in the data directory. Timed: from `edgefs mount` until the first read of one of
    them returns, the first time (nothing is known of them yet) and after a restart. Then an empty replica joins (until it has applied everything). Then a
    connection is opened, one row committed, and the connection closed for each, and every one must be on the replica. Memory: the larger of the
    two replicators' at the end."""
    import test_tenants

    title = f"{TENANTS:,} databases of 8 KB"
    first = Line("tenants", f"{title}: from `edgefs mount` to the first read", "≤ 3 s")
    again = Line("tenants", f"{title}: the same, after a restart", "≤ 3 s")
    join = Line("tenants", f"{title}: an empty replica has them all", "")
    memory_line = Line("tenants", f"{title}: memory of a replicator", "≤ 100 MB")
    each = Line("tenants", f"{title}: one commit in each", "")

    def start(node, i):
        began = time.monotonic()
        node.start(wait=False)
        poll(lambda: harness.is_mounted(node.mount) and os.path.exists(node.path(test_tenants.name_of(i))), 30, "the mount answers")
        if node.sql(test_tenants.name_of(i), "SELECT count(*) FROM t")[0][0] < 1:
            raise AssertionError("a row is missing")
        took = time.monotonic() - began
        node.wait_ready()
        return took

    with harness.Cluster(2, passthrough, start=False) as cluster:
        a, b = cluster.nodes
        test_tenants.populate(a, TENANTS)
        flush()
        took = start(a, 77)
        first.edgefs, first.ok = f"{took:.2f} s", took <= 3
        began = time.monotonic()
        poll(lambda: a.lsn() > TENANTS, 120, "all are captured", 0.05)
        first.notes.append(f"all were captured {time.monotonic() - began:.1f} s later")
        began = time.monotonic()
        b.start()
        b.wait_applied(a.lsn(), 120)
        join.edgefs = f"{time.monotonic() - began:.1f} s"
        began = time.monotonic()
        for i in range(TENANTS):
            with a.db(test_tenants.name_of(i)) as db:
                db.execute("PRAGMA synchronous=OFF")
                db.execute("INSERT INTO t (x) VALUES (1)")
        wrote = time.monotonic() - began
        b.wait_applied(settled_lsn(a), 60)
        behind = time.monotonic() - began - wrote
        sums = [{n: (e["txid"], e["checksum"]) for n, e in node.databases().items()} for node in (a, b)]
        if sums[0] != sums[1] or any(t != 2 for t, _ in sums[0].values()):
            raise AssertionError("not every write is on the replica")
        each.edgefs = f"{wrote:.1f} s"
        each.notes.append(f"the replica had all of them {behind:.1f} s after the last")
        feet = [test_tenants.footprint(n) for n in (a, b)]
        most = max(f["rss_mb"] for f in feet)
        memory_line.edgefs, memory_line.ok = f"{most} MB", most <= 100
        memory_line.notes.append("; ".join(f"{n}: {f}" for n, f in zip(("primary", "replica"), feet)))
        a.stop()
        took = start(a, 4242)
        again.edgefs, again.ok = f"{took:.2f} s", took <= 3
        if a.metric("edgefs_databases_compared_total"):
            raise AssertionError("a restart compared databases")
    return [first, again, join, each, memory_line]


def restart_row(passthrough, sources):
    """A primary with one large database of real pages is stopped in order and started again. Timed: from `edgefs mount` until a read through the mount returns,
    and until a row written then is on the replica. Then the same after a stop without warning (as far as the node can tell: `running` names another boot), while all
    pages are compared."""
    mb = int(RESTART_GB * 1000)
    clean = Line("restart", f"clean restart with a database of {RESTART_GB:g} GB until it is readable", "≤ 1 s")
    written = Line("restart", "… until a row written then is on the replica", "")
    unclean = Line("restart", "after a stop without warning, until it is readable", "≤ 1 s")
    wrote = Line("restart", "… until a row is written, while pages are compared", "")
    checked = Line("restart", "… until all pages have been compared", "")
    source = RESTART_DB or os.path.join(sources.folder, "restart.db")
    if not os.path.exists(source):
        tool("fill", source, "--mb", mb, timeout=1200)

    def up(node):
        began = time.monotonic()
        node.start(wait=False)
        poll(lambda: os.path.exists(node.path("big.db")), 30, "the mount answers", 0.001)
        node.sql("big.db", "SELECT max(id) FROM r")
        took = time.monotonic() - began
        return began, took

    with harness.Cluster(2, passthrough, start=False) as cluster:
        a, b = cluster.nodes
        os.makedirs(a.backing(), exist_ok=True)
        os.rename(source, a.backing("big.db"))
        try:
            cluster.start()
            poll(lambda: (b.databases().get("big.db") or {}).get("state") == "ok", 600, lambda: f"the replica has it: {b.databases()}", 0.1)
            a.stop()
            began, took = up(a)
            clean.edgefs, clean.ok = f"{took:.2f} s", took <= 1
            a.wait_ready()
            a.wait_role("primary")
            a.sql("big.db", "CREATE TABLE IF NOT EXISTS mark (x)")
            poll(lambda: b.sql("big.db", "SELECT count(*) FROM sqlite_schema WHERE name = 'mark'")[0][0] == 1, 120, "the row on the replica")
            written.edgefs = f"{time.monotonic() - began:.2f} s"
            if a.metric("edgefs_databases_compared_total"):
                raise AssertionError("a clean restart compared pages")
            b.stop()
            a.kill_all()
            with open(os.path.join(a.data, "running"), "w") as f:
                f.write("00000000-0000-4000-8000-000000000000")
            began, took = up(a)
            unclean.edgefs, unclean.ok = f"{took:.2f} s", took <= 1
            a.sql("big.db", "INSERT INTO mark VALUES (1)", timeout=60)
            wrote.edgefs = f"{time.monotonic() - began:.2f} s"
            a.wait_ready()
            if a.metric("edgefs_databases_compared_total"):
                raise AssertionError("the pages were compared before anything was written: this says nothing")
            poll(lambda: a.metric("edgefs_databases_compared_total") >= 1, 600, "compared", 0.02)
            checked.edgefs = f"{time.monotonic() - began:.2f} s"
        finally: # the other mode measures with it, too
            if a.running():
                a.stop()
            os.rename(a.backing("big.db"), source)
    return [clean, written, unclean, wrote, checked]


def diff_scan(passthrough, sources):
    """GET /v1/databases/NAME/checksum of a database of 1 GB in the page cache: every page read in one consistent state, its checksum computed and compared (what a
    diff does). Median of 5. Plain: `cksum -a crc` would be far slower; `cat` of the file to /dev/null is noted."""
    line = Line("diff-scan", f"comparing all pages of a database of {SCAN_MB} MB in the page cache", "≥ 1.5 GB/s")
    source = sources.get(SCAN_MB)
    size = os.path.getsize(source)
    with harness.Cluster(1, passthrough) as cluster:
        (a,) = cluster.nodes
        harness.ctl(a, "import", source, "s.db", timeout=60)
        rates = []
        for _ in range(6):
            start = time.monotonic()
            sums = a.get("/v1/databases/s.db/checksum", timeout=60)
            rates.append(size / (time.monotonic() - start) / 1e9)
            if sums["bad_count"] or sums["checksum"] != sums["tracked"]:
                raise AssertionError(f"the pages are not what they should be: {sums}")
        start = time.monotonic()
        subprocess.run(["cat", a.backing("s.db")], stdout=subprocess.DEVNULL, check=True)
        line.plain = f"{size / (time.monotonic() - start) / 1e9:.1f} GB/s (cat)"
    rate = statistics.median(rates[1:])
    line.edgefs, line.ok = f"{rate:.2f} GB/s", rate >= 1.5
    return [line]


# ---- many nodes ----


def packages():
    """Rows of the machine's own package database: what real rows look like."""
    rows, fields, key = [], {}, None
    with open("/var/lib/dpkg/status", encoding="utf-8", errors="replace") as f:
        for text in f:
            if text == "\n":
                rows.append(tuple(fields.get(k, "") for k in ("Package", "Version", "Section", "Depends", "Maintainer", "Description")))
                fields, key = {}, None
            elif text[0] in " \t":
                fields[key] = fields.get(key, "") + text
            else:
                key, _, value = text.partition(":")
                fields[key] = value.strip()
    return rows


def fan_out(passthrough, _sources):
    """One primary, five relays that are real nodes, and 20 stream clients behind each (bench/streams: they take records apart and forget them): 105 receivers. The primary inserts the rows
    of the machine's package database, one a transaction, with a full-text index of its description, 200 a second for 5 s. What the primary sends (edgefs_stream_sent_bytes_total) next to what
    its log grew by; time from the record's stamp on the primary until it had arrived at a leaf, all leaves; pages of the records next to their bytes in the log."""
    egress = Line("fan-out", "bytes that the primary sends to 5 relays, with 100 nodes behind them", "5 × the log")
    lag = Line("fan-out", "capture on the primary → the record is whole at a leaf, p99 of the worst relay's 20 leaves")
    packed = Line("fan-out", "pages of the transactions : their bytes in the log (package database, full-text index)")
    with harness.Cluster(6, passthrough) as cluster, contextlib.ExitStack() as stack:
        a, relays = cluster.nodes[0], cluster.nodes[1:]
        with a.db("packages.db") as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            db.executescript("CREATE TABLE p (name TEXT PRIMARY KEY, version, section, depends, maintainer, description); CREATE VIRTUAL TABLE f USING fts5 (name, description)")
            cluster.sync()
            start = a.status()
            leaves = [stack.enter_context(running("streams", "127.0.0.1", r.port, "--n", 20, "--epoch", start["epoch"], "--lsn", start["lsn"])) for r in relays]
            time.sleep(0.5)
            sent, size, lsn = a.metric("edgefs_stream_sent_bytes_total"), start["log"]["bytes"], start["lsn"]
            rows, began, n = packages(), time.monotonic(), 0
            while time.monotonic() < began + 5:
                row = rows[n % len(rows)]
                with db:
                    db.execute("INSERT INTO p VALUES (?, ?, ?, ?, ?, ?)", (f"{row[0]}-{n // len(rows)}", *row[1:]))
                    db.execute("INSERT INTO f VALUES (?, ?)", (row[0], row[5]))
                n += 1
                time.sleep(max(0, began + n / 200 - time.monotonic()))
            end = settled_lsn(a)
            for r in relays:
                r.wait_applied(end)
            time.sleep(0.3)
            sent, size = a.metric("edgefs_stream_sent_bytes_total") - sent, a.status()["log"]["bytes"] - size
            records = [r for r in a.get(f"/v1/log?from={lsn + 1}&limit=10000")["records"] if r["type"] == "tx" and r["pages"]]
        stack.close()
    egress.edgefs, egress.plain, egress.ratio = f"{sent / 1e6:.2f} MB", f"{size / 1e6:.2f} MB (log)", f"{sent / size:.3f}"
    egress.ok = 4.9 <= sent / size <= 5.1
    worst = max(leaves, key=lambda x: x["p99_us"])
    lag.edgefs = f"{worst['p99_us']:,} µs"
    lag.notes.append(f"{n / 5:.0f} transactions/s; p50 {statistics.median(x['p50_us'] for x in leaves):,.0f} µs, max {max(x['max_us'] for x in leaves):,} µs, "
                     f"{sum(x['records'] for x in leaves):,} records received by 100 leaves; 6 nodes and 100 receivers on 2 processors")
    pages, stored = sum(r["pages"] * r["page_size"] for r in records), sum(r["payload"] for r in records)
    packed.edgefs, packed.plain, packed.ratio = f"{stored / 1e6:.2f} MB", f"{pages / 1e6:.2f} MB (pages)", f"{pages / stored:.1f} : 1"
    if min(x["records"] for x in leaves) < 20 * len(records):
        raise AssertionError(f"not every leaf got every record: {leaves}, {len(records)} in the log")
    return [egress, lag, packed]


ROWS = {"tenants": tenants_row, "restart": restart_row, "diff-scan": diff_scan, "fan-out": fan_out}
