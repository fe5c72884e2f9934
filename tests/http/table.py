"""docs/proxy-conformance.md: the table of behaviours, made from what a run saw. Python's standard library only."""

import os
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PAGE = os.path.join(ROOT, "docs", "proxy-conformance.md")
TITLES = {"edgefs": "edgefs-proxy", "nginx": "nginx", "haproxy": "HAProxy"}

INTRO = """\
# Conformance of the proxy

Each line is a script in [`tests/http/`](../tests/http/) that holds both ends of the proxy as raw bytes: a client, and an origin server that answers as the
script says. The same script runs against edgefs-proxy, nginx and HAProxy (Debian's packages: {versions}). edgefs-proxy must do what the line says, on a primary and,
for what concerns connections and bodies, on a replica, where writes take a second hop through the primary's proxy, without TLS and with it; `make check` fails if it does not. For nginx and
HAProxy the table records what they did, with configurations that make them do the same job ([`targets.py`](../tests/http/targets.py)); a difference is no verdict: they have
options and reasons of their own, and the notes name them.

This page is written by `tests/http/run --write`, and `make check` fails if it lacks a behaviour or calls one of ours otherwise than it was seen.

"yes": as the line says. "–": not that program's job. Doubtful messages are those that two parsers may read differently, from which requests can be smuggled. There
"yes" means refused: 4xx or 502, the connection closed, nothing of it passed on. "mended": passed on in a form that can be read in one way only. "**passed on**": the other side
got the doubtful bytes as they were. RFC 9112 allows to mend many of them. edgefs-proxy does not: what it passes on may go through a second proxy and then to an application whose
parser nobody knows, and a client that sends such a thing is no browser.
"""


def version(argv, prefix):
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    except OSError:
        return prefix
    word = next((w for w in done.stdout.replace("/", " ").split() if w[:1].isdigit()), "")
    return f"{prefix} {word}"


def cell(results, name, b):
    return (results.get(name, {}).get(b.name) or "?").replace("|", "\\|").replace("\n", " ")


def text(behaviours, results):
    names = [n for n in TITLES if n in results]
    out, notes = [], []
    for section in dict.fromkeys(b.section for b in behaviours):
        out += ["", f"## {section}", "", "| behaviour | RFC | " + " | ".join(TITLES[n] for n in names) + " |",
                "| --- | --- |" + " --- |" * len(names)]
        for b in (b for b in behaviours if b.section == section):
            cells = []
            for n in names:
                said = cell(results, n, b)
                why = b.explain.get(n)
                if why and said != "yes":
                    notes.append(f"{len(notes) + 1}. {b.name}, {TITLES[n]}: {why}.")
                    said += f" ({len(notes)})"
                cells.append(said)
            out.append(f"| {b.text} <!-- {b.name} --> | {b.rfc or '–'} | " + " | ".join(cells) + " |")
    if notes:
        out += ["", "## Notes", ""] + notes
    return "\n".join(out) + "\n"


def write(behaviours, results):
    versions = ", ".join((version(["/usr/sbin/nginx", "-v"], "nginx"), version(["/usr/sbin/haproxy", "-v"], "HAProxy")))
    with open(PAGE + ".new", "w") as f:
        f.write(INTRO.format(versions=versions) + text(behaviours, results))
    os.replace(PAGE + ".new", PAGE)


def compare(behaviours, results):
    """What the page says of ours that this run did not see, as texts."""
    try:
        with open(PAGE) as f:
            lines = f.read().splitlines()
    except OSError as e:
        return [str(e)]
    rows = {line.split("<!-- ")[1].split(" -->")[0]: [c.strip() for c in line.split("|")] for line in lines if "<!-- " in line}
    problems = [f"{b.name} is missing: run tests/http/run --write" for b in behaviours if b.name not in rows]
    problems += [f"{name} is no behaviour any more" for name in rows if name not in {b.name for b in behaviours}]
    for b in behaviours:
        said = cell(results, "edgefs", b)
        if b.name in rows and rows[b.name][3] != said:
            problems.append(f"{b.name}: the page says {rows[b.name][3]}, this run saw {said}")
    return problems
