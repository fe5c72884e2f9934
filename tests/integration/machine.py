"""What every test asks of the machine: waiting for a condition, ports, mount points, processes, files. Python's standard library only."""

import contextlib
import os
import random
import socket
import subprocess
import time


def wait_until(fn, timeout, what):
    """Polls fn until it returns something true, and returns that. AssertionError with `what` after timeout seconds.

    `what` may be a function: it is called for the message."""
    deadline = time.monotonic() + timeout
    pause = 0.002
    while True:
        value = fn()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what() if callable(what) else what}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)


def free_port():
    """A TCP port of 127.0.0.1 that nobody listens on. Below the ephemeral range: a port that stays chosen while its node is
    down for a restart must not be taken by somebody's outgoing connection meanwhile."""
    for _ in range(200):
        port = random.SystemRandom().randrange(10000, 32000)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass
    raise AssertionError("no free port")


def mount_points(folder="/"):
    with open("/proc/self/mountinfo") as f:
        points = [line.split()[4].encode().decode("unicode_escape") for line in f]
    return [p for p in points if p == folder or p.startswith(folder.rstrip("/") + "/")]


def is_mounted(path):
    return path in mount_points(path)


def connection_of(path):
    """Number of the FUSE connection that serves this mount point (the minor number of its device), or None."""
    with open("/proc/self/mountinfo") as f:
        for line in f:
            fields = line.split()
            if fields[4] == path:
                return int(fields[2].split(":")[1])
    return None


def abort_connection(number):
    """The last resort: the kernel answers everything on that connection with an error. Without it a process whose server is gone
    for good can neither be killed nor even looked at."""
    if not os.listdir("/sys/fs/fuse/connections"):
        subprocess.run(["mount", "-t", "fusectl", "none", "/sys/fs/fuse/connections"], check=False)
    with contextlib.suppress(OSError), open(f"/sys/fs/fuse/connections/{number}/abort", "w") as f:
        f.write("1")


def children(pid):
    """{pid: program name} of the processes whose parent is pid."""
    found = {}
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for task in tasks:
        try:
            with open(f"/proc/{pid}/task/{task}/children") as f:
                for child in f.read().split():
                    with open(f"/proc/{child}/cmdline", "rb") as c:
                        found[int(child)] = os.path.basename(c.read().split(b"\0")[0].decode(errors="replace"))
        except OSError:
            pass
    return found


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def start_time(pid):
    """Tells a pid from a later one of the same number. None if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return int(f.read().rsplit(")", 1)[1].split()[19])
    except OSError:
        return None


def read(path):
    try:
        with open(path, errors="replace") as f:
            return f.read()
    except FileNotFoundError:
        return ""


def read_bytes(path):
    with open(path, "rb") as f:
        return f.read()
