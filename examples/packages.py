#!/usr/bin/env python3
"""The package database of a Debian machine in SQLite: an ordinary program that knows nothing about replication.

  packages.py load DB [STATUS]    reads /var/lib/dpkg/status (and lists of files beside it) into DB, one transaction a package
  packages.py search DB WORDS     full-text search in names and descriptions
  packages.py needs DB PACKAGE    what would break without it: reverse dependencies, all the way up
  packages.py stats DB            how much is in it
"""
import glob
import os
import re
import sqlite3
import sys

SCHEMA = """
CREATE TABLE IF NOT EXISTS package (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, version TEXT NOT NULL, section TEXT, installed_kib INTEGER,
    summary TEXT, description TEXT);
CREATE TABLE IF NOT EXISTS dependency (package INTEGER NOT NULL REFERENCES package (id), needs TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS dependency_needs ON dependency (needs);
CREATE TABLE IF NOT EXISTS file (path TEXT NOT NULL, package INTEGER NOT NULL REFERENCES package (id));
CREATE INDEX IF NOT EXISTS file_path ON file (path);
CREATE VIRTUAL TABLE IF NOT EXISTS fulltext USING fts5 (name, summary, description, content = package, content_rowid = id);
CREATE TRIGGER IF NOT EXISTS package_insert AFTER INSERT ON package BEGIN
    INSERT INTO fulltext (rowid, name, summary, description) VALUES (new.id, new.name, new.summary, new.description);
END;
"""


def connect(path):
    db = sqlite3.connect(path, timeout=10, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    return db


def stanzas(path):
    """Each paragraph of a Debian control file as a dictionary."""
    fields, last = {}, None
    with open(path, encoding="utf-8", errors="replace") as f:
        for line in f:
            line = line.rstrip("\n")
            if not line:
                if fields:
                    yield fields
                fields, last = {}, None
            elif line[0] in " \t":
                if last:
                    fields[last] += "\n" + line[1:]
            else:
                last, _, value = line.partition(":")
                fields[last] = value.strip()
    if fields:
        yield fields


def files_of(package, folder):
    for path in glob.glob(os.path.join(folder, "info", glob.escape(package) + ".list")) + glob.glob(
            os.path.join(folder, "info", glob.escape(package) + ":*.list")):
        with open(path, encoding="utf-8", errors="replace") as f:
            return [line.rstrip("\n") for line in f]
    return []


def load(path, status="/var/lib/dpkg/status"):
    db = connect(path)
    db.executescript(SCHEMA)
    count = 0
    for p in stanzas(status):
        if "installed" not in p.get("Status", "installed").split():
            continue
        summary, _, description = p.get("Description", "").partition("\n")
        needs = {re.match(r"[^\s:(]+", one.strip()).group()
                 for field in ("Depends", "Pre-Depends") for group in p.get(field, "").split(",") if group.strip()
                 for one in group.split("|")}
        db.execute("BEGIN IMMEDIATE")
        if db.execute("SELECT 1 FROM package WHERE name = ?", (p["Package"],)).fetchone():
            db.execute("COMMIT")
            continue
        row = db.execute("INSERT INTO package (name, version, section, installed_kib, summary, description) VALUES (?, ?, ?, ?, ?, ?)",
                         (p["Package"], p.get("Version", ""), p.get("Section"), int(p.get("Installed-Size", 0)), summary, description))
        db.executemany("INSERT INTO dependency VALUES (?, ?)", [(row.lastrowid, n) for n in sorted(needs)])
        db.executemany("INSERT INTO file VALUES (?, ?)", [(f, row.lastrowid) for f in files_of(p["Package"], os.path.dirname(status))])
        db.execute("COMMIT")
        count += 1
    db.execute("INSERT INTO fulltext (fulltext) VALUES ('optimize')")
    print(f"{count} packages loaded")
    db.close()


def search(path, words):
    with sqlite3.connect(path, timeout=10) as db:
        for name, summary in db.execute(
                "SELECT p.name, p.summary FROM fulltext JOIN package p ON p.id = fulltext.rowid WHERE fulltext MATCH ? "
                "ORDER BY bm25(fulltext, 10, 5, 1), p.name LIMIT 5", (words,)):
            print(f"{name:28} {summary}")


def needs(path, package):
    with sqlite3.connect(path, timeout=10) as db:
        for name, depth in db.execute(
                "WITH RECURSIVE up (name, depth) AS (VALUES (?, 0) UNION SELECT p.name, depth + 1 FROM up "
                "JOIN dependency d ON d.needs = up.name JOIN package p ON p.id = d.package WHERE depth < 10) "
                "SELECT name, min(depth) AS depth FROM up WHERE depth > 0 GROUP BY name ORDER BY depth, name", (package,)):
            print(f"{'  ' * (depth - 1)}{name}")


def stats(path):
    with sqlite3.connect(path, timeout=10) as db:
        print("{} packages, {} dependencies, {} files".format(*db.execute(
            "SELECT (SELECT count(*) FROM package), (SELECT count(*) FROM dependency), (SELECT count(*) FROM file)").fetchone()))


COMMANDS = {"load": (load, 1, 2), "search": (search, 2, 2), "needs": (needs, 2, 2), "stats": (stats, 1, 1)}

if __name__ == "__main__":
    command, least, most = COMMANDS.get(sys.argv[1] if len(sys.argv) > 1 else "", (None, 0, 0))
    if command is None or not least <= len(sys.argv) - 2 <= most:
        sys.exit(__doc__.strip())
    command(*sys.argv[2:])
