"""An SQLite connection in a process of its own. Python's standard library only."""

import contextlib
import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


class Session:
    """An SQLite connection in a process of its own, one statement at a time: what an application with a long-lived
    connection looks like. A context manager."""

    def __init__(self, path, timeout=5.0):
        self.process = subprocess.Popen([sys.executable, os.path.join(HERE, "load", "session.py"), path, str(timeout)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.process.poll() is None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()

    def send(self, statement, args=()):
        self.process.stdin.write(json.dumps([statement, list(args)]) + "\n")
        self.process.stdin.flush()

    def receive(self):
        line = self.process.stdout.readline()
        assert line, "the session's process died"
        answer = json.loads(line)
        if "error" in answer:
            raise SessionError(answer["error"], answer["name"])
        return [tuple(row) for row in answer["rows"]]

    def sql(self, statement, *args):
        """Rows of one statement. SessionError (with .name, such as SQLITE_BUSY) if SQLite refuses it."""
        self.send(statement, args)
        return self.receive()

    def kill(self):
        self.process.kill()
        self.process.wait()


class SessionError(Exception):
    def __init__(self, text, name):
        super().__init__(f"{name}: {text}")
        self.name = name
