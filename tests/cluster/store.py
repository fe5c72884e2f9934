"""What the application of the cluster tests does to its databases: every transaction leaves a trail that tells which transactions it stands on.

one.db
  log       one row a transaction: n (no gaps), its name, the name of the one before, what it did. The last row names the whole history.
  register, counter, list   what the transactions did, so that each can be told from the log
  pad       a few rows of some pages, all changed by each transaction: a part of a transaction does not go unseen
two.db
  note      written after a transaction of one.db was committed, and names it: who reads two.db first and one.db then must find it

A process that opens a database of a mount through SQLite must not open it in any other way: closing a file drops the process's POSIX locks."""
import json
import os
import sqlite3
import time
import zlib

REGISTERS = ("x", "y", "z")
LISTS = ("p", "q")
PADS = 3
COMMIT_SECONDS = 5  # who waits longer may have got on because edgefs-fs heard nothing from its replicator
SCHEMA_ONE = """
CREATE TABLE log (n INTEGER PRIMARY KEY, op TEXT, parent TEXT, kind TEXT, key TEXT);
CREATE TABLE register (key TEXT PRIMARY KEY, op TEXT);
CREATE TABLE counter (key TEXT PRIMARY KEY, value INTEGER);
CREATE TABLE list (key TEXT, at INTEGER, op TEXT, PRIMARY KEY (key, at));
CREATE TABLE pad (k INTEGER PRIMARY KEY, op TEXT, data TEXT);
INSERT INTO log VALUES (0, '', NULL, '', '');
INSERT INTO counter VALUES ('c', 0);
"""
SCHEMA_TWO = "CREATE TABLE note (n INTEGER PRIMARY KEY, op TEXT, ref TEXT); INSERT INTO note VALUES (0, '', '');"


class Refused(Exception):
    """The transaction was not committed, for sure."""


class Unknown(Exception):
    """The transaction was committed, or was not."""


class Trail:
    """The history as this process saw it: a file of JSON lines, each written whole, so that kill -9 loses none that was."""

    def __init__(self, path):
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def note(self, **event):
        os.write(self.fd, (json.dumps(event) + "\n").encode())


def read_trail(path, start=0):
    """(events from byte start on, where to go on): whole lines only."""
    with open(path, "rb") as f:
        f.seek(start)
        data = f.read()
    data = data[: data.rfind(b"\n") + 1]
    return [json.loads(line) for line in data.splitlines()], start + len(data)


def create(folder, second_mode):
    for name, mode, schema in (("one.db", "wal", SCHEMA_ONE), ("two.db", second_mode, SCHEMA_TWO)):
        conn = sqlite3.connect(os.path.join(folder, name), timeout=10, isolation_level=None)
        try:
            conn.execute(f"PRAGMA journal_mode={mode}")
            if not conn.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                conn.executescript(f"BEGIN; {schema} COMMIT;")
        finally:
            conn.close()


class Store:
    """Both databases on one mount. One thread. Connections stay until something goes wrong with them."""

    def __init__(self, folder, node, trail, synchronous="NORMAL", timeout=0.3, unwaited=None):
        """unwaited() is asked before and after each commit: the same answer means that all commits in between waited for replicas; None: not known."""
        self.folder, self.node, self.trail, self.unwaited = folder, node, trail, unwaited
        self.synchronous, self.timeout = synchronous, timeout
        self.connections = {}

    def close(self):
        for conn in self.connections.values():
            try:
                conn.close()
            except sqlite3.Error:
                pass
        self.connections = {}

    def connection(self, name):
        conn = self.connections.get(name)
        if conn is None:
            # mode=rw: a database that is missing is an error, not an empty one.
            conn = sqlite3.connect(f"file:{self.folder}/{name}?mode=rw", uri=True, timeout=self.timeout, isolation_level=None, check_same_thread=False)
            conn.execute(f"PRAGMA synchronous={self.synchronous}")
            self.connections[name] = conn
        return conn

    def transaction(self, name, op, body, rollback=False):
        """Runs body(conn) → what the trail needs, and commits. Refused or Unknown."""
        committing = False
        try:
            conn = self.connection(name)
            conn.execute("BEGIN IMMEDIATE")
            facts = body(conn)
            if rollback:
                conn.execute("ROLLBACK")
                return facts
            self.trail.note(e="try", db=name, op=op, node=self.node, t=time.monotonic(), **facts)
            committing = True
            before, began = self.unwaited and self.unwaited(), time.monotonic()
            conn.execute("COMMIT")
            if self.unwaited and (before is None or before != self.unwaited() or time.monotonic() - began > COMMIT_SECONDS):
                self.trail.note(e="doubt", op=op)  # before anybody is told that it is committed
            return facts
        except sqlite3.Error as e:
            busy = getattr(e, "sqlite_errorname", "").startswith("SQLITE_BUSY")
            if committing and busy:
                # A rollback journal's COMMIT waits for readers, and may be given up.
                try:
                    conn.execute("ROLLBACK")
                except sqlite3.Error:
                    self.close()
                    raise Unknown(f"{name}: {e}") from None
                raise Refused(f"{name}: {e}") from None
            self.close()
            raise (Unknown if committing else Refused)(f"{name}: {getattr(e, 'sqlite_errorname', '')} {e}") from None

    def write(self, op, kind, key, rollback=False):
        """kind: set (a register), add (to the counter), append (to a list). Returns {"n", "parent"}."""

        def body(conn):
            n, parent = conn.execute("SELECT n, op FROM log ORDER BY n DESC LIMIT 1").fetchone()
            conn.execute("INSERT INTO log VALUES (?, ?, ?, ?, ?)", (n + 1, op, parent, kind, key))
            if kind == "set":
                conn.execute("INSERT OR REPLACE INTO register VALUES (?, ?)", (key, op))
            elif kind == "add":
                conn.execute("UPDATE counter SET value = value + 1 WHERE key = 'c'")
            else:
                at = conn.execute("SELECT coalesce(max(at), 0) FROM list WHERE key = ?", (key,)).fetchone()[0]
                conn.execute("INSERT INTO list VALUES (?, ?, ?)", (key, at + 1, op))
            for k in range(PADS):
                conn.execute("INSERT OR REPLACE INTO pad VALUES (?, ?, ?)", (k, op, op * (zlib.crc32(f"{op}{k}".encode()) % 700)))
            return {"n": n + 1, "parent": parent, "kind": kind, "key": key}

        return self.transaction("one.db", op, body, rollback)

    def write_note(self, op, ref):
        def body(conn):
            n, parent = conn.execute("SELECT n, op FROM note ORDER BY n DESC LIMIT 1").fetchone()
            conn.execute("INSERT INTO note VALUES (?, ?, ?)", (n + 1, op, ref))
            return {"n": n + 1, "parent": parent, "ref": ref}

        return self.transaction("two.db", op, body)

    def read(self):
        """What both databases say: first two.db, then one.db, each in one transaction. Raises Refused."""
        try:
            two = self.connection("two.db").execute("SELECT n, op, ref FROM note ORDER BY n DESC LIMIT 1").fetchone()
            conn = self.connection("one.db")
            conn.execute("BEGIN")
            one = observe(conn)
            conn.execute("COMMIT")
            return {"two": list(two), "one": one}
        except sqlite3.Error as e:
            self.close()
            if getattr(e, "sqlite_errorname", "").startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
                return {"broken": f"{e.sqlite_errorname} {e}"}
            raise Refused(f"read: {getattr(e, 'sqlite_errorname', '')} {e}") from None


def observe(conn):
    """What one.db says of itself, within a transaction of conn."""
    n, op, parent = conn.execute("SELECT n, op, parent FROM log ORDER BY n DESC LIMIT 1").fetchone()
    lists = {}
    for key in LISTS:
        ops = [row[0] for row in conn.execute("SELECT op FROM list WHERE key = ? ORDER BY at", (key,))]
        lists[key] = [len(ops), zlib.crc32("".join(o + "," for o in ops).encode())]
    whole = all(data == o * (zlib.crc32(f"{o}{k}".encode()) % 700) for k, o, data in conn.execute("SELECT k, op, data FROM pad"))
    return {"n": n, "op": op, "parent": parent, "rows": conn.execute("SELECT count(*) FROM log").fetchone()[0],
            "counter": conn.execute("SELECT value FROM counter WHERE key = 'c'").fetchone()[0],
            "registers": dict(conn.execute("SELECT key, op FROM register").fetchall()), "lists": lists,
            "pads": [row[0] for row in conn.execute("SELECT op FROM pad ORDER BY k")], "whole": whole}


def dump(folder):
    """The whole truth of a mount, at the end."""
    result = {}
    for name, statement in (("one.db", "SELECT n, op, parent, kind, key FROM log ORDER BY n"), ("two.db", "SELECT n, op, ref FROM note ORDER BY n")):
        conn = sqlite3.connect(f"file:{folder}/{name}?mode=rw", uri=True, timeout=10, isolation_level=None)
        try:
            conn.execute("BEGIN")
            result[name] = [list(row) for row in conn.execute(statement)]
            if name == "one.db":
                result["state"] = observe(conn)
            result["check " + name] = conn.execute("PRAGMA integrity_check").fetchone()[0]
            conn.execute("COMMIT")
        finally:
            conn.close()
    return result
