"""What a behaviour is: a script of both ends, run against each target. Python's standard library only."""

import socket

from wire import Differs, Origin, Wire

BEHAVIOURS = []


class Behaviour:
    def __init__(self, script, section, text, rfc, nginx, haproxy, only, tls):
        self.script = script
        self.name = script.__name__
        self.section = section
        self.text = text
        self.rfc = rfc
        self.explain = {"nginx": nginx, "haproxy": haproxy}
        self.tls = tls
        self.only = only  # None, or "edgefs" where the others have no such job

    def run(self, target, deadline):
        """What the table says of this target: "yes", "–" (not its job), or what it did instead."""
        if self.only and not target.name.startswith(self.only) or target.tls and not self.tls:
            return "–"
        with Test(target, deadline) as t:
            try:
                return self.script(t) or "yes"
            except Differs as e:
                return str(e)
            except (ValueError, IndexError, OSError) as e:  # bytes that are no HTTP at all
                return f"{type(e).__name__}: {e}"


def behaviour(section, text, rfc="", nginx="", haproxy="", only=None, tls=True):
    """Decorator. text: what must hold, in the present tense, as it stands in the table. nginx, haproxy: why they do otherwise. tls: whether TLS
    has such a thing (it knows no half-closed connections)."""

    def mark(script):
        BEHAVIOURS.append(Behaviour(script, section, text, rfc, nginx, haproxy, only, tls))
        return script

    return mark


class Test:
    """What a script gets: its target's port and its origin."""

    def __init__(self, target, deadline):
        self.target = target
        self.origin = target.origin
        self.deadline = deadline
        self.clients = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for c in self.clients:
            if c.sock.fileno() >= 0:
                c.reset()
        self.origin.tidy()

    def connect(self, receive_buffer=None, source=None):
        sock = socket.socket()
        if source:
            sock.bind((source, 0))
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(self.deadline)
        sock.connect(("127.0.0.1", self.target.port))
        if self.target.tls:
            sock = self.target.tls.wrap_socket(sock, server_hostname="127.0.0.1")
        wire = Wire(sock, "the client", self.deadline)
        self.clients.append(wire)
        return wire

    def ask(self, start="GET / HTTP/1.1", *fields, body=b"", client=None, host=True):
        """Sends a request on a new connection (or the given one). Returns the client's end."""
        client = client or self.connect()
        lines = [start] + (["Host: example.test"] if host else []) + list(fields)
        return client.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)

    def next(self, timeout=None):
        return self.origin.next(timeout)

    def same(self, got, want, what):
        if got != want:
            raise Differs(f"{what}: {str(got)[:70]}" + ("" if len(str(want)) > 40 else f" instead of {want}"))

    def need(self, condition, what):
        if not condition:
            raise Differs(what)


__all__ = ["BEHAVIOURS", "Behaviour", "Differs", "Origin", "Test", "behaviour"]
