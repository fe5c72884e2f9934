"""What bench/run says: the machine, a line for each row, tables, RESULTS.md. Python's standard library only."""

import datetime
import os
import platform
import sqlite3
import subprocess
from dataclasses import dataclass, field

import harness


@dataclass
class Line:
    """One line of a table. ok: None if there is no target."""

    row: str
    title: str
    target: str = ""
    edgefs: str = ""
    plain: str = ""
    nginx: str = ""  # rows about the proxy: plain is HAProxy there
    ratio: str = ""
    ok: bool | None = None
    notes: list = field(default_factory=list)
    failed: str = ""


def command(*argv):
    try:
        return subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def machine(folder):
    """{what: value} of the machine that measures."""
    cpu = memory = ""
    with open("/proc/cpuinfo") as f:
        cpu = next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), "")
    with open("/proc/meminfo") as f:
        memory = f"{int(f.readline().split()[1]) / 1048576:.0f} GiB"
    kind, source = (command("findmnt", "-n", "-o", "FSTYPE,SOURCE", "-T", folder).split() + ["?", "?"])[:2]
    version = command(harness.EDGEFS, "version").splitlines()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "EdgeFS": version[0] if version else "?",
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": f"{os.cpu_count()} ({cpu})",
        "memory": memory,
        "file system": f"{kind} on {source} ({folder})",
        "SQLite": sqlite3.sqlite_version,
        "load before": f"{os.getloadavg()[0]:.2f}",
    }


def head(facts):
    return "\n".join(f"{k + ':':13}{v}" for k, v in facts.items())


def verdict(line):
    if line.failed:
        return "FAILED"
    return "" if line.ok is None else "ok" if line.ok else "**below**"


def plain_text(line):
    if line.failed:
        return f"FAILED: {line.failed}"
    parts = [line.title, f"EdgeFS {line.edgefs}"]
    if line.plain:
        parts.append(f"{'HAProxy' if line.nginx else 'plain'} {line.plain}")
    if line.nginx:
        parts.append(f"nginx {line.nginx}")
    if line.ratio:
        parts.append(f"ratio {line.ratio}")
    if line.target:
        parts.append(f"target {line.target}: {verdict(line).strip('*') or 'reported'}")
    return "; ".join(parts + line.notes)


def table(mode, lines):
    """Markdown. mode: passthrough; fallback, where the targets do not count; proxy."""
    proxy = mode == "proxy"
    out = ["## Proxy", "", "| row | target | edgefs-proxy | HAProxy | nginx | ratio | |", "| --- | --- | --- | --- | --- | --- | --- |"] if proxy else [
        f"## {mode.capitalize()} mode", "", "| row | target | EdgeFS | plain | ratio | |", "| --- | --- | --- | --- | --- | --- |"]
    notes = []
    for line in lines:
        mark = ""
        if line.notes or line.failed:
            notes += [f"{len(notes) + 1}. {'; '.join(([line.failed] if line.failed else []) + line.notes)}"]
            mark = f" ({len(notes)})"
        third = f"{line.nginx or '–'} | " if proxy else ""
        out.append(f"| `{line.row}`: {line.title}{mark} | {line.target or '–'} | {line.edgefs or '–'} | {line.plain or '–'} | {third}"
                   f"{line.ratio or '–'} | {verdict(line) or 'reported'} |")
    return "\n".join(out + ([""] + notes if notes else [])) + "\n"


METHOD = """\
Every number is a median. EdgeFS and the plain directory lie on the same disk and take turns within one run; a ratio is taken pair by pair,
then its median stands here with the least and the greatest in brackets. The load average before and after says whether the machine had other
work meanwhile: with two cores, anything above about 2 widens the brackets and lowers the ratios, because EdgeFS's side has more processes to be kept waiting. All
nodes, the application and the load run on this one machine, so a node's replicator competes with the application for the cores that are listed
above. What each row does exactly is written at its function in `bench/rows.py`, `scale_rows.py` and the other files of rows there, for the proxy in `bench/proxy_rows.py`; the ratio there is to HAProxy, turn by turn.

Nodes have the default configuration. So while commits follow each other edgefs-fs asks the kernel to let idle processors wake up at once (`fs.cpu-latency-qos: auto`, `docs/performance.md`): on a virtual machine they spin meanwhile
instead of halting. What the rows of `commits-*` owe to that stands in the line below each: the same, in the same run, without. The plain directory's turns begin when the request was given back; a program that asked for the same beside a plain
directory would make that quicker, too.
"""


def write(path, facts, tables, took):
    with open(path + ".new", "w") as f:
        f.write("# Results of `make bench`\n\n")
        f.write("".join(f"* {k}: {v}\n" for k, v in facts.items()))
        f.write(f"* load after: {os.getloadavg()[0]:.2f}\n")
        f.write(f"* command: `make bench` (`bench/run`), {took:.0f} s; one row: `bench/run ROW`\n\n")
        f.write(METHOD + "\n")
        f.write("\n".join(table(m, lines) for m, lines in tables.items()))
    os.replace(path + ".new", path)
