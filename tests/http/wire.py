"""Both ends of HTTP/1.1 as raw bytes: a client's connection and an origin server that does what the test says, byte by byte. Python's standard library only.

Everything runs on the test's own thread: the test sends, looks what arrived at the origin, lets it answer, looks what arrived at the client.
Nothing sleeps and hopes; what has to come has a deadline, and what must not come is waited for a short while only (a slow machine can make
such a check miss something, never fail)."""

import contextlib
import select
import socket
import ssl
import struct
import time

CRLF = b"\r\n"


class Differs(Exception):
    """The target does something else than the behaviour says. The text goes into the table: short, in the past tense."""


class Head:
    """Start line and header fields as they were on the wire."""

    def __init__(self, raw):
        self.raw = raw
        lines = raw[:-4].split(CRLF)
        self.start = lines[0].decode("latin-1")
        self.fields = []
        for line in lines[1:]:
            name, _, value = line.decode("latin-1").partition(":")
            self.fields.append((name, value.strip(" \t")))

    def all(self, name):
        return [v for n, v in self.fields if n.lower() == name.lower()]

    def get(self, name, default=None):
        """The value; several lines of one name joined by commas."""
        values = self.all(name)
        return ", ".join(values) if values else default

    def has(self, name):
        return bool(self.all(name))

    def tokens(self, name):
        return [t.strip().lower() for t in (self.get(name) or "").split(",") if t.strip()]

    @property
    def method(self):
        return self.start.split(" ")[0]

    @property
    def target(self):
        return self.start.split(" ")[1]

    @property
    def status(self):
        try:
            return int(self.start.split(" ")[1])
        except (IndexError, ValueError):
            raise Differs(f"sent the status line {self.start[:60]!r}") from None


class Wire:
    """One TCP connection and what was read from it beyond what was asked for."""

    def __init__(self, sock, who, deadline):
        self.sock = sock
        self.who = who
        self.deadline = deadline
        self.buffer = b""
        self.ended = False  # the other side's FIN or RST was seen
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, data):
        """All of it; a connection that the target closed meanwhile is not an error here: what it answered is still to be read."""
        self.sock.settimeout(self.deadline)
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            pass
        except socket.timeout:
            raise Differs(f"took no more bytes from {self.who}") from None
        return self

    def fill(self, timeout=None):
        """Waits for more bytes. False at the end of the stream; Differs when nothing comes."""
        if self.ended:
            return False
        self.sock.settimeout(self.deadline if timeout is None else timeout)
        try:
            data = self.sock.recv(262144)
        except socket.timeout:
            raise Differs(f"sent nothing to {self.who}") from None
        except (ConnectionResetError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
            data = b""
        if not data:
            self.ended = True
            return False
        self.buffer += data
        return True

    def head(self, interim=False):
        """The next message's head. 1xx responses are left out unless interim is set."""
        while True:
            while b"\r\n\r\n" not in self.buffer:
                if not self.fill():
                    raise Differs(f"closed {self.who}'s connection" + (f" after {self.buffer[:60]!r}" if self.buffer else ""))
            end = self.buffer.index(b"\r\n\r\n") + 4
            head, self.buffer = Head(self.buffer[:end]), self.buffer[end:]
            if interim or not head.start.startswith("HTTP/1.1 1") or head.status == 101:
                return head

    def line(self):
        while CRLF not in self.buffer:
            if not self.fill():
                raise Differs(f"ended the stream to {self.who} early")
        line, _, self.buffer = self.buffer.partition(CRLF)
        return line

    def exact(self, n):
        while len(self.buffer) < n:
            if not self.fill():
                raise Differs(f"ended the stream to {self.who} after {len(self.buffer)} of {n} bytes")
        data, self.buffer = self.buffer[:n], self.buffer[n:]
        return data

    def chunk(self):
        """Data of the next chunk; b"" for the last one, whose trailer section is left to trailers()."""
        size = int(self.line().split(b";")[0], 16)
        data = self.exact(size)
        if size and self.line() != b"":
            raise Differs("sent a chunk that is longer than its size")
        return data

    def trailers(self):
        fields = []
        while line := self.line():
            name, _, value = line.decode("latin-1").partition(":")
            fields.append((name.lower(), value.strip()))
        return fields

    def body(self, head, limit=1 << 26):
        """The whole body that the head announces, however it is delimited. Returns (bytes, trailer fields)."""
        if "chunked" in head.tokens("Transfer-Encoding"):
            data = b""
            while part := self.chunk():
                data += part
                if len(data) > limit:
                    raise Differs("sent a body without end")
            return data, self.trailers()
        if head.has("Content-Length"):
            return self.exact(int(head.get("Content-Length"))), []
        if head.start.startswith("HTTP/"):
            return self.rest(), []
        return b"", []

    def part(self, head, n):
        """The next n bytes of a body that is still being sent, whatever its framing; chunk borders may lie anywhere."""
        if "chunked" not in head.tokens("Transfer-Encoding"):
            return self.exact(n)
        data = b""
        while len(data) < n:
            piece = self.chunk()
            if not piece:
                raise Differs(f"ended the body after {len(data)} of {n} bytes")
            data += piece
        return data

    def rest(self):
        while self.fill():
            pass
        data, self.buffer = self.buffer, b""
        return data

    def end(self):
        """Nothing but the end of the stream may come."""
        if self.buffer or self.fill():
            raise Differs(f"sent {self.who} {self.buffer[:40]!r} where the end was due")

    def closed(self, timeout=None):
        """Whether the target ends the connection in time, whatever it sends before."""
        until = time.monotonic() + (self.deadline if timeout is None else timeout)
        while not self.ended:
            left = until - time.monotonic()
            if left <= 0:
                return False
            try:
                self.fill(left)
            except Differs:
                return False
        return True

    def silent(self, seconds=0.06):
        """Nothing comes for a short while."""
        try:
            more = self.fill(seconds)
        except Differs:
            return
        raise Differs(f"sent {self.who} {self.buffer[:40]!r} too early" if more else f"closed {self.who}'s connection")

    def finish_sending(self):
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def reset(self):
        """Closes with RST: what a killed program or a lost client looks like."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()
        self.ended = True

    def close(self):
        self.sock.close()
        self.ended = True


class Exchange:
    """One request as it arrived at the origin, and the connection on which to answer it."""

    def __init__(self, wire, head):
        self.wire = wire
        self.head = head
        wire.busy = True

    def body(self):
        return self.wire.body(self.head)

    def send(self, data):
        self.wire.send(data)
        return self

    def start(self, *fields, status="200 OK"):
        """Sends a response's head; the body is the test's to send."""
        return self.send(f"HTTP/1.1 {status}\r\n".encode() + b"".join(f.encode("latin-1") + CRLF for f in fields) + CRLF)

    def reply(self, body=b"", *fields, status="200 OK"):
        """A whole response of a known size. The connection may be used again."""
        self.start(f"Content-Length: {len(body)}", *fields, status=status).send(body)
        return self.done()

    def done(self):
        self.wire.busy = False
        return self

    def chunk(self, data):
        return self.send(b"%x\r\n%s\r\n" % (len(data), data))


class Origin:
    """The server behind the target. Accepts nothing by itself: next() hands over whatever request comes first on any connection."""

    def __init__(self, deadline):
        self.deadline = deadline
        self.wires = []
        self.accepted = 0
        self.listen()

    def listen(self, port=0):
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", port))
        self.listener.listen(1024)
        self.port = self.listener.getsockname()[1]

    def stop_listening(self):
        self.listener.close()

    def look(self, timeout):
        """The first connection with bytes on it or at its end, accepting new ones meanwhile. None if there is none in time."""
        until = time.monotonic() + timeout
        while True:
            self.wires = [w for w in self.wires if w.sock.fileno() >= 0]  # those that the test closed
            for w in self.wires:
                if w.buffer and not w.busy:
                    return w
            ready = select.select([self.listener] + [w.sock for w in self.wires if not w.busy], [], [], max(0, until - time.monotonic()))[0]
            if not ready:
                return None
            if self.listener in ready:
                sock = self.listener.accept()[0]
                wire = Wire(sock, "the origin", self.deadline)
                wire.busy = False
                self.wires.append(wire)
                self.accepted += 1
            for w in list(self.wires):
                if w.sock in ready and not w.busy and not w.fill():
                    w.close()
                    self.wires.remove(w)

    def next(self, timeout=None):
        """The next request. Differs if none comes."""
        wire = self.look(self.deadline if timeout is None else timeout)
        if wire is None:
            raise Differs("passed no request on")
        return Exchange(wire, wire.head())

    def nothing(self, seconds=0.06):
        """No request arrives."""
        wire = self.look(seconds)
        if wire is not None:
            raise Differs(f"passed {wire.buffer[:40]!r} on")

    def tidy(self):
        """Between behaviours: connections in the middle of an exchange are given up, and requests that come again because of that with
        them; clean ones stay in the target's pool."""
        self.look(0)
        broken = [w for w in self.wires if w.busy or w.buffer]
        while broken:
            for w in broken:
                w.close()
                self.wires.remove(w)
            late = self.look(0.02)
            broken = [late] if late else []

    def close(self):
        self.listener.close()
        for w in self.wires:
            w.close()
