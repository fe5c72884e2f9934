"""Behaviours under load and ill will: limits in bytes and time, memory for each connection. The targets' configurations give 2 s to a request's head,
to silence in a body, to an idle connection and to an answer (targets.py)."""

import resource
import socket
import threading
import time

from behaviour import Differs, behaviour

SECTION = "Limits"
LIMIT = 2.0
KIB = 1 << 10
MIB = 1 << 20


@behaviour(SECTION, "1 MiB of header fields is refused without being collected", "9110 §5.4")
def head_flood(t):
    before = t.target.memory()
    c = t.ask("GET / HTTP/1.1", *(f"X-{i}: {'y' * 1000}" for i in range(1000)))
    t.origin.nothing()
    refused(t, c)
    t.need(t.target.memory() - before < 4 * MIB, "collected it")


@behaviour(SECTION, "10,000 short header fields are refused", "9110 §5.4")
def many_fields(t):
    c = t.ask("GET / HTTP/1.1", *("a: b" for _ in range(10000)))
    t.origin.nothing()
    refused(t, c)


@behaviour(SECTION, "A target of 1 MiB is refused", "9112 §3")
def long_target(t):
    c = t.ask(f"GET /{'a' * MIB} HTTP/1.1")
    t.origin.nothing()
    refused(t, c)


@behaviour(SECTION, "A trailer section of 1 MiB is refused", "9112 §7.1.2")
def trailer_flood(t):
    c = t.ask("POST / HTTP/1.1", "Transfer-Encoding: chunked", body=b"0\r\n" + b"".join(b"X-%d: %s\r\n" % (i, b"y" * 1000) for i in range(1000)))
    if t.origin.look(0.2):
        x = t.next()
        t.need(x.wire.closed() or c.closed(), "took it")
        t.need(len(x.wire.buffer) < 256 * KIB, "passed it on")


def refused(t, c):
    try:
        t.need(c.head().status in (400, 413, 414, 431), "took it")
    except Differs as e:
        if not c.ended:  # the connection closed (RST under our unread bytes) is a refusal too
            raise Differs(str(e)) from None


@behaviour(SECTION, "Slowloris: a head that comes too slowly is cut off at its limit, however steadily it drips")
def slow_head(t):
    c = t.connect()
    c.send(b"GET / HTTP/1.1\r\nHost: example.test\r\n")
    dripping(t, c, b"X: y\r\n")


@behaviour(SECTION, "… and so is a client that says nothing at all")
def silent_client(t):
    c = t.connect()
    t.need(c.closed(LIMIT * 3 + 2), "kept it")


@behaviour(SECTION, "… and an idle kept connection")
def idle_client(t):
    c = t.ask()
    t.next().reply()
    c.head()
    t.need(c.closed(LIMIT * 3 + 2), "kept it")


def dripping(t, c, piece):
    began = time.monotonic()
    while time.monotonic() - began < LIMIT * 3 + 2:
        if c.closed(0.2):
            return
        c.send(piece)
    raise Differs("kept it")


@behaviour(SECTION, "A body that stops coming is cut off, and the application sees it break off")
def stalled_body(t):
    c = t.ask("POST / HTTP/1.1", "Content-Length: 10", body=b"12345")
    x = t.next()
    x.wire.part(x.head, 5)
    t.need(x.wire.closed(LIMIT * 3 + 2), "left the application waiting")


@behaviour(SECTION, "An application that does not answer: 504")
def no_answer(t):
    c = t.ask("GET /never HTTP/1.1")
    t.next()
    c.deadline = LIMIT * 3 + 3
    t.same(c.head().status, 504, "status")


@behaviour(SECTION, "A stream that is silent for longer than the limit for answers goes on once its head was sent",
           nginx="`proxy_read_timeout` counts for the silence between any two reads", haproxy="`timeout server` counts for any silence; only tunnels have one of "
           "their own")
def silent_stream(t):
    c = t.ask("GET /events HTTP/1.1")
    x = t.next().start("Content-Type: text/event-stream", "Transfer-Encoding: chunked").chunk(b"data: 1\n\n")
    h = c.head()
    c.part(h, 9)
    time.sleep(LIMIT * 1.5)  # the silence is what is tested
    x.chunk(b"data: 2\n\n")
    try:
        t.same(c.part(h, 9), b"data: 2\n\n", "wrong event")
    except Differs:
        raise Differs("ended the stream") from None
    x.wire.close()


@behaviour(SECTION, "A silent WebSocket outlives the limit for answers", nginx="`proxy_read_timeout` counts in a tunnel too",
           haproxy="needs `timeout tunnel`, which this run sets")
def silent_websocket(t):
    from on_bodies import upgraded
    c, x = upgraded(t)
    time.sleep(LIMIT * 1.5)  # the silence is what is tested
    x.send(b"\x81\x01a")
    try:
        t.same(c.exact(3), b"\x81\x01a", "wrong bytes")
    except Differs:
        raise Differs("ended the tunnel") from None


@behaviour(SECTION, "1,000 clients in the middle of a 4 KiB head: at most 16 KiB each, and others are served meanwhile",
           nginx="a connection's pools and a buffer for the large head")
def memory_per_head(t):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    before = t.target.memory()
    for _ in range(1000):
        t.connect().send(b"GET / HTTP/1.1\r\nHost: example.test\r\nX-A: " + b"y" * 4000)
    c = t.ask("GET /other HTTP/1.1")
    t.next().reply()
    t.same(c.head().status, 200, "status of another client")
    each = (t.target.memory() - before) / 1000
    t.need(each <= 16 * KIB, f"{each / KIB:.0f} KiB each")


@behaviour(SECTION, "A client that pipelines without reading is held up")
def pipeline_flood(t):
    c = t.connect(receive_buffer=8192)
    request = b"GET /flood HTTP/1.1\r\nHost: example.test\r\n\r\n"
    served, stop = [0], threading.Event()
    before = t.target.memory()

    def serve():
        while not stop.is_set():
            w = t.origin.look(0.05)
            if w is None:
                continue
            try:
                t.next(0.2).reply(b"x" * 60000)
            except (Differs, OSError):
                continue
            served[0] += 1

    server = threading.Thread(target=serve)
    server.start()
    try:
        c.sock.settimeout(0.5)
        sent = 0
        try:
            while sent < 64 * MIB:
                sent += c.sock.send(request * 1000)
        except socket.timeout:
            pass
        except OSError:
            return  # it was thrown out: fine
    finally:
        stop.set()
        server.join()
    t.need(sent < 32 * MIB, "took 32 MiB of requests")
    grew = t.target.memory() - before
    t.need(grew < 8 * MIB, f"grew by {grew // MIB} MiB")
    t.need(served[0] < 2000, f"worked through {served[0]} requests that nobody read the answers of")
