"""System calls that show when one was carried out twice, or not at all: each must succeed, and leave what it must leave.

mkdir, O_EXCL, rename, unlink and rmdir fail on a second time; appends grow a file once. Works in --dir, which is its own."""
import argparse
import json
import os
import sys
import time

p = argparse.ArgumentParser()
p.add_argument("--stop", required=True)
p.add_argument("--ack", required=True)
p.add_argument("--dir", required=True)
a = p.parse_args()
longest = 0.0
calls = 0


def must(condition, text):
    if not condition:
        sys.exit(f"round {number}: {text}")


def do(fn, *args):
    """One call, timed; an OSError goes up and ends the program with the call's name in the trace."""
    global longest, calls
    begin = time.monotonic()
    result = fn(*args)
    longest = max(longest, time.monotonic() - begin)
    calls += 1
    return result


number = 0
os.makedirs(a.dir, exist_ok=True)
log_path = os.path.join(a.dir, "append.log")
log = os.open(log_path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o644)
log_size = 0
with open(a.ack, "a") as ack:
    while not os.path.exists(a.stop):
        number += 1
        d = os.path.join(a.dir, f"d{number}")
        f, g = os.path.join(d, "f.txt"), os.path.join(d, "g.txt")
        do(os.mkdir, d, 0o755)
        fd = do(os.open, f, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        data = f"{number} ".encode() * 300
        must(do(os.write, fd, data) == len(data), "short write")
        must(do(os.fstat, fd).st_size == len(data), "size after write")
        do(os.ftruncate, fd, 100)
        do(os.fsync, fd)
        must(do(os.pread, fd, 5000, 0) == data[:100], "contents after truncate")
        do(os.rename, f, g)
        must(not os.path.exists(f), "the old name is there after rename")
        must(do(os.listdir, d) == ["g.txt"], "listing after rename")
        do(os.chmod, g, 0o640)
        must(do(os.stat, g).st_mode & 0o777 == 0o640, "mode after chmod")
        do(os.unlink, g)
        must(not os.path.exists(g), "there after unlink")
        # Still open, no name any more: reads and writes go on.
        must(do(os.pwrite, fd, b"orphan", 100) == 6, "write to an unlinked file")
        must(do(os.pread, fd, 100, 100) == b"orphan", "contents of an unlinked file")
        os.close(fd)
        do(os.rmdir, d)
        must(not os.path.exists(d), "there after rmdir")
        line = f"line {number}\n".encode()
        must(do(os.write, log, line) == len(line), "short append")
        log_size += len(line)
        must(do(os.stat, log_path).st_size == log_size, f"size of an appended file, not {log_size}")
        ack.write(f"0 {number}\n")
        ack.flush()
os.close(log)
with open(log_path, "rb") as f:
    must(f.read() == b"".join(f"line {i + 1}\n".encode() for i in range(number)), "contents of the appended file")
os.unlink(log_path)
must(os.listdir(a.dir) == [], f"left in the directory: {os.listdir(a.dir)}")
print(json.dumps({"rounds": number, "calls": calls, "longest_s": round(longest, 4)}))
