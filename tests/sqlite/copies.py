"""The databases that a test left behind, as they lie on the primary and on the replica: read without any of the product's code."""

import contextlib
import os
import shutil
import sqlite3
import struct
import tempfile

COMPANIONS = ("-wal", "-shm", "-journal")
MAGIC = b"SQLite format 3\0"
LARGE, CHUNK = 256 << 20, 16 << 20  # bytes


def files_below(folder, sub):
    """Names relative to `folder` of the files below folder/sub, without companions (-wal, -shm, -journal) and EdgeFS's own."""
    found = []
    for where, _, files in os.walk(os.path.join(folder, sub)):
        for file in files:
            companion = file.endswith(COMPANIONS)
            if not companion and not file.startswith((".edgefs-", ".fuse_hidden")):
                found.append(os.path.relpath(os.path.join(where, file), folder))
    return sorted(found)


def read(path):
    try:
        with open(path, "rb") as f:
            return f.read()
    except (FileNotFoundError, IsADirectoryError):  # misc7.test makes a directory that is called like a journal
        return None


def checksum(data, order, s0, s1):
    """SQLite's cumulative WAL checksum (file format, section 4.2)."""
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for i in range(0, len(words), 2):
        s0 = (s0 + words[i] + s1) & 0xFFFFFFFF
        s1 = (s1 + words[i + 1] + s0) & 0xFFFFFFFF
    return s0, s1


def wal_pages(wal):
    """(page size, {page number: content}, database size in pages) of the committed frames of a WAL file, or None."""
    if wal is None or len(wal) < 32:
        return None
    magic, _, size = struct.unpack(">3I", wal[:12])
    if magic not in (0x377F0682, 0x377F0683) or size < 512 or size > 65536 or size & (size - 1):
        return None
    order = ">" if magic & 1 else "<"
    s = checksum(wal[:24], order, 0, 0)
    if s != struct.unpack(">2I", wal[24:32]):
        return None
    salts, at, pending, pages, commit = wal[16:24], 32, {}, {}, None
    while at + 24 + size <= len(wal):
        head, content = wal[at:at + 24], wal[at + 24:at + 24 + size]
        number, after = struct.unpack(">2I", head[:8])
        s = checksum(content, order, *checksum(head[:8], order, *s))
        if head[8:16] != salts or s != struct.unpack(">2I", head[16:24]) or number == 0:
            break
        pending[number] = content
        if after:
            pages.update(pending)
            pending, commit = {}, after
        at += 24 + size
    return (size, pages, commit) if commit else None


def page_size(data):
    """What the header of a database says, or 0."""
    if len(data) < 100 or not data.startswith(MAGIC):
        return 0
    size = struct.unpack(">H", data[16:18])[0]
    size = 65536 if size == 1 else size
    return size if size >= 512 and size & (size - 1) == 0 else 0


def read_size(head, length):
    """How many bytes of a database file of this length, which begins so, SQLite reads. One that ends in the middle of a page (a backup of an empty database over one with larger
    pages leaves such a file) counts as if zeros followed (pager.c, readDbPage); what lies beyond the size that its header gives, if that is valid, is no part of it (btree.c,
    lockBtree; file format 1.3.7)."""
    size = page_size(head)
    if not size:
        return length
    pages, counter, valid_for = (struct.unpack(">I", head[at:at + 4])[0] for at in (28, 24, 92))
    whole = -(-length // size)
    return (pages if counter == valid_for and 0 < pages < whole else whole) * size


def as_read(data):
    """The file as SQLite reads it."""
    size = read_size(data[:100], len(data))
    return data.ljust(size, b"\0")[:size]


def large(folder, name):
    """What SQLite reads of a file that is too large to be held in memory, in bytes, if it is all in the file itself; None: not large, or a WAL or a journal has a say."""
    path = os.path.join(folder, name)
    with contextlib.suppress(FileNotFoundError, IsADirectoryError), open(path, "rb") as f:
        length = os.fstat(f.fileno()).st_size
        wal = os.path.getsize(path + "-wal") if os.path.exists(path + "-wal") else 0
        if length >= LARGE and not wal and not hot_journal(folder, name):
            return read_size(f.read(100), length)
    return None


def first_difference_of_large(one, two, size):
    """As first_difference, of the first `size` bytes of two files; None: they are the same."""
    with open(one, "rb") as f, open(two, "rb") as g:
        for at in range(0, size, CHUNK):
            n = min(CHUNK, size - at)
            x, y = (h.read(n).ljust(n, b"\0") for h in (f, g))
            if x != y:
                return f"first at byte {at + next(i for i, (a, b) in enumerate(zip(x, y)) if a != b)} of {size}"
    return None


def content(folder, name):
    """What a reader sees: the bytes of the database file with the committed frames of its WAL laid over it. None: no such file."""
    path = os.path.join(folder, name)
    data = read(path)
    if data is None:
        return None
    if hot_journal(folder, name):
        return rolled_back(path, data)
    wal = wal_pages(read(path + "-wal"))
    if not wal:
        return as_read(data)
    size, pages, commit = wal
    out = bytearray(data[:commit * size].ljust(commit * size, b"\0"))
    for number, page in pages.items():
        if number <= commit:
            out[(number - 1) * size:number * size] = page
    return bytes(out)


def hot_journal(folder, name):
    """Whether a rollback journal with a valid header lies beside the database: until somebody recovers it, it is not the state."""
    journal = read(os.path.join(folder, name + "-journal"))
    return bool(journal) and journal.startswith(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7")


def rolled_back(path, data):
    """What SQLite makes of a copy of the database and its hot journal. (A super-journal is named by its full path in it.)"""
    with tempfile.TemporaryDirectory(prefix="efs-rollback-") as folder:
        copy = os.path.join(folder, "db")
        for suffix in ("", "-journal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copy(path + suffix, copy + suffix)
        conn = sqlite3.connect(copy)
        try:
            conn.execute("PRAGMA schema_version").fetchall()
        except sqlite3.DatabaseError:
            pass  # damaged before the transaction, too: the rollback is done all the same
        finally:
            conn.close()
        return as_read(read(copy) or b"")


def first_difference(one, two):
    if len(one) != len(two):
        return f"{len(one)} and {len(two)} bytes"
    at = next(i for i, (a, b) in enumerate(zip(one, two)) if a != b)
    return f"first at byte {at} of {len(one)}, {sum(1 for a, b in zip(one, two) if a != b)} bytes"
