"""Behaviours of bodies: streaming, back-pressure, 100-continue, early answers, HEAD, trailers, events, Upgrade."""

import hashlib
import select
import ssl
import threading
import time

from behaviour import Differs, behaviour

STREAMS = "Streaming"
BODIES = "Bodies and interim responses"
UPGRADE = "Upgrade"
MIB = 1 << 20


@behaviour(STREAMS, "A sized request body arrives while it is being sent")
def sized_upload_streams(t):
    c = t.ask("POST /up HTTP/1.1", "Content-Length: 10", body=b"12345")
    x = t.next()
    t.same(x.wire.part(x.head, 5), b"12345", "wrong body")
    c.send(b"67890")
    t.same(x.wire.exact(5), b"67890", "wrong body")
    x.reply()
    t.same(c.head().status, 200, "status")


@behaviour(STREAMS, "A chunked request body arrives chunk by chunk, and ends when the client ends it")
def chunked_upload_streams(t):
    c = t.ask("POST /up HTTP/1.1", "Transfer-Encoding: chunked")
    x = t.next()
    for i in range(3):
        c.send(b"6\r\npart %d\r\n" % i)
        t.same(x.wire.part(x.head, 6), b"part %d" % i, "wrong body")
    x.wire.silent()
    c.send(b"0\r\n\r\n")
    t.same(x.wire.chunk(), b"", "wrong end")
    x.wire.trailers()
    x.reply()
    t.same(c.head().status, 200, "status")


@behaviour(STREAMS, "A sized response arrives while the application is sending it")
def sized_download_streams(t):
    c = t.ask()
    x = t.next().start("Content-Length: 10").send(b"12345")
    c.head()
    t.same(c.exact(5), b"12345", "wrong body")
    x.send(b"67890").done()
    t.same(c.exact(5), b"67890", "wrong body")


@behaviour(STREAMS, "A chunked response arrives chunk by chunk")
def chunked_download_streams(t):
    c = t.ask()
    x = t.next().start("Transfer-Encoding: chunked")
    h = c.head()
    for i in range(3):
        x.chunk(b"part %d" % i)
        t.same(c.part(h, 6), b"part %d" % i, "wrong body")
    x.send(b"0\r\n\r\n").done()
    t.same(c.chunk(), b"", "wrong end")


@behaviour(STREAMS, "Server-sent events arrive one by one, whether the stream is chunked or ends with the connection")
def server_sent_events(t):
    for fields in (("Transfer-Encoding: chunked",), ("Connection: close",)):
        c = t.ask("GET /events HTTP/1.1", "Accept: text/event-stream")
        x = t.next().start("Content-Type: text/event-stream", "Cache-Control: no-cache", *fields)
        h = c.head()
        for i in range(5):
            event = b"id: %d\ndata: x\n\n" % i
            if len(fields[0]) > 20:
                x.chunk(event)
            else:
                x.send(event)
            t.same(c.part(h, len(event)), event, "wrong event")
        x.wire.close()


@behaviour(STREAMS, "Both bodies stream at the same time: the answer to the first part can come before the second is sent")
def duplex(t):
    c = t.ask("POST /echo HTTP/1.1", "Transfer-Encoding: chunked")
    x = t.next()
    x.start("Transfer-Encoding: chunked")
    h = c.head()
    for i in range(4):
        c.send(b"6\r\nping %d\r\n" % i)
        t.same(x.wire.part(x.head, 6), b"ping %d" % i, "wrong body")
        x.chunk(b"pong %d" % i)
        t.same(c.part(h, 6), b"pong %d" % i, "wrong body")
    c.send(b"0\r\n\r\n")
    t.same(x.wire.chunk(), b"", "wrong end")
    x.wire.trailers()
    x.send(b"0\r\n\r\n").done()
    t.same(c.chunk(), b"", "wrong end")


def push(sock, total, digest=None):
    """Sends until nothing was taken for 0.3 s or all is sent. Returns the bytes that were taken."""
    block = bytes(range(256)) * 1024
    sent = 0
    sock.setblocking(False)
    while sent < total:
        if not select.select([], [sock], [], 0.3)[1]:
            break
        try:
            n = sock.send(block[sent % len(block):][: total - sent])
        except (BlockingIOError, ssl.SSLWantWriteError):
            continue
        sent += n
    if digest is not None:
        done = 0
        while done < sent:
            piece = block[done % len(block):][: sent - done]
            digest.update(piece)
            done += len(piece)
    return sent


def socket_buffers(hops=3):
    """The most that the kernel's buffers can hold on the way: both ends of each hop, as large as they may grow."""
    most = 0
    for name in ("tcp_rmem", "tcp_wmem"):
        with open(f"/proc/sys/net/ipv4/{name}") as f:
            most += int(f.read().split()[2])
    return hops * most


BUFFERS = socket_buffers() + 8 * MIB
TOTAL = BUFFERS + 32 * MIB


@behaviour(STREAMS, "An application that does not read holds the upload up; nothing is buffered beyond the sockets")
def upload_back_pressure(t):
    c = t.ask("POST /up HTTP/1.1", f"Content-Length: {TOTAL}")
    x = t.next()
    before = t.target.memory()
    sent = push(c.sock, TOTAL)
    t.need(sent < BUFFERS, f"took {sent // MIB} MiB that nobody read")
    grew = t.target.memory() - before
    t.need(grew < 4 * MIB, f"grew by {grew // MIB} MiB")
    reader = threading.Thread(target=lambda: read_all(x.wire.sock))
    reader.start()
    rest = push(c.sock, TOTAL - sent)
    t.same(sent + rest, TOTAL, "took the upload up to byte")
    c.reset()
    reader.join(t.deadline)


def read_all(sock):
    sock.settimeout(20)
    try:
        while sock.recv(MIB):
            pass
    except OSError:
        pass


@behaviour(STREAMS, "A client that does not read holds the application up; nothing is buffered beyond the sockets")
def download_back_pressure(t):
    c = t.ask()
    x = t.next().start(f"Content-Length: {TOTAL}")
    c.head()
    before = t.target.memory()
    sent = push(x.wire.sock, TOTAL)
    t.need(sent < BUFFERS, f"took {sent // MIB} MiB that nobody read")
    grew = t.target.memory() - before
    t.need(grew < 4 * MIB, f"grew by {grew // MIB} MiB")
    x.wire.close()


def transfer(t, total, chunked):
    """An upload and a download of that size at full speed, both checked. Returns bytes by which the target grew."""
    t.target.forget_peak()
    before = t.target.memory()
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {total}"
    c = t.ask("POST /big HTTP/1.1", framing)
    x = t.next()
    digests = {}
    block = bytes(range(256)) * 1024
    want = hashlib.sha256()
    for _ in range(total // len(block)):
        want.update(block)

    def send(name, wire, _):
        data = b"%x\r\n%s\r\n" % (len(block), block) if chunked else block
        for _ in range(total // len(block)):
            wire.send(data)
        if chunked:
            wire.send(b"0\r\n\r\n")

    def receive(name, wire, head):
        digest, left = hashlib.sha256(), total
        while left:
            part = wire.chunk() if chunked and "chunked" in head.tokens("Transfer-Encoding") else take(wire, left)
            digest.update(part)
            left -= len(part)
        digests[name] = digest.digest()

    both(send, receive, c, x.wire, x.head, "upload")
    x.start(framing)
    both(send, receive, x.wire, c, c.head(), "download")
    t.same(digests.get("upload"), want.digest(), "uploaded other bytes")
    t.same(digests.get("download"), want.digest(), "downloaded other bytes")
    return t.target.memory(peak=True) - before


def take(wire, most):
    if not wire.buffer and not wire.fill():
        raise Differs("ended a body early")
    data, wire.buffer = wire.buffer[:most], wire.buffer[most:]
    return data


def both(send, receive, source, sink, head, name):
    sender = threading.Thread(target=send, args=(name, source, None))
    sender.start()
    receive(name, sink, head)
    sender.join()


@behaviour(STREAMS, "A body of 64 MiB passes unchanged both ways without growing the process by 8 MiB, sized")
def big_sized(t):
    grew = transfer(t, 64 * MIB, False)
    t.need(grew < 8 * MIB, f"grew by {grew // MIB} MiB")


@behaviour(STREAMS, "… and chunked")
def big_chunked(t):
    grew = transfer(t, 64 * MIB, True)
    t.need(grew < 8 * MIB, f"grew by {grew // MIB} MiB")


# ---- 100-continue, early answers, HEAD, trailers ----


@behaviour(BODIES, "`Expect: 100-continue`: the client is told to go on, and its body arrives", "9110 §10.1.1")
def expect_continue(t):
    c = t.ask("POST /up HTTP/1.1", "Content-Length: 5", "Expect: 100-continue")
    x = t.next()
    if x.head.has("Expect"):
        x.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    h = c.head(interim=True)
    t.same(h.status, 100, "status")
    c.send(b"hello")
    t.same(x.wire.exact(5), b"hello", "wrong body")
    x.reply(b"ok")
    t.same(c.head().status, 200, "status")


@behaviour(BODIES, "… and it is the application that decides: the expectation is passed on, no 100 comes before its", "9110 §10.1.1",
           nginx="answers 100 itself and takes the expectation out of the request")
def expect_continue_end_to_end(t):
    c = t.ask("POST /up HTTP/1.1", "Content-Length: 5", "Expect: 100-continue")
    x = t.next()
    t.same((x.head.get("Expect") or "").lower(), "100-continue", "passed on the expectation")
    c.silent()
    x.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    t.same(c.head(interim=True).status, 100, "status")
    c.send(b"hello")
    t.same(x.wire.exact(5), b"hello", "wrong body")
    x.reply()
    t.same(c.head().status, 200, "status")


@behaviour(BODIES, "… and a refusal arrives without the body having been asked for", "9110 §10.1.1",
           nginx="has told the client to go on by then")
def expect_refused(t):
    c = t.ask("POST /up HTTP/1.1", "Content-Length: 5", "Expect: 100-continue")
    t.next().reply(b"no", "Connection: close", status="401 Unauthorized").wire.close()
    t.same(c.head(interim=True).status, 401, "status")


@behaviour(BODIES, "An unknown expectation is refused or passed on, not swallowed", "9110 §10.1.1",
           nginx="takes it out of the request")
def expect_unknown(t):
    c = t.ask("POST /up HTTP/1.1", "Content-Length: 5", "Expect: magic", body=b"hello")
    w = t.origin.look(0.3)
    if w is None:
        t.same(c.head().status, 417, "status")
        return
    x = t.next()
    t.same(x.head.get("Expect"), "magic", "passed on the expectation")
    x.body()
    x.reply()


@behaviour(BODIES, "An answer that comes before the request's end reaches the client at once", "9112 §9.5")
def early_response(t):
    c = t.ask("POST /up HTTP/1.1", "Content-Length: 1000000", body=b"x" * 1000)
    x = t.next()
    x.reply(b"too large", "Connection: close", status="413 Content Too Large")
    h = c.head()
    t.same(h.status, 413, "status")
    t.same(c.body(h)[0], b"too large", "wrong body")


@behaviour(BODIES, "… also when the application closes its connection with bytes of the request unread (RST)", "9112 §9.6")
def early_response_reset(t):
    c = t.ask("POST /up HTTP/1.1", f"Content-Length: {8 * MIB}", body=b"x" * 4096)
    x = t.next()
    x.reply(b"too large", "Connection: close", status="413 Content Too Large")
    x.wire.close()  # 4096 bytes lie unread in its socket: the kernel sends RST
    h = c.head()
    t.same(h.status, 413, "status")
    t.same(c.body(h)[0], b"too large", "wrong body")


@behaviour(BODIES, "After an early answer the rest of the upload is not taken for a request", "9112 §9.5")
def early_response_framing(t):
    c = t.ask("POST /up HTTP/1.1", "Content-Length: 59", body=b"x")
    x = t.next()
    x.reply(b"no", status="403 Forbidden")
    t.same(c.head().status, 403, "status")
    c.send(b"GET /smuggled HTTP/1.1\r\nHost: evil.test\r\nX-Filling: abcdef\r\n\r\n")
    x.wire.busy = True  # what comes on that connection is body
    w = t.origin.look(0.15)
    t.need(w is None or b"/smuggled" not in w.buffer, "took the body for a request")


@behaviour(BODIES, "HEAD: the length without the body, and the connection goes on", "9110 §9.3.2")
def head_request(t):
    c = t.ask("HEAD /x HTTP/1.1")
    t.next().start("Content-Length: 1234").done()
    h = c.head()
    t.same(h.get("Content-Length"), "1234", "Content-Length")
    t.ask("GET /y HTTP/1.1", client=c)
    t.next().reply(b"y")
    t.same(c.body(c.head())[0], b"y", "wrong body")


@behaviour(BODIES, "HEAD with `Transfer-Encoding: chunked` has no body either", "9112 §6.3")
def head_chunked(t):
    c = t.ask("HEAD /x HTTP/1.1")
    t.next().start("Transfer-Encoding: chunked").done()
    c.head()
    t.ask("GET /y HTTP/1.1", client=c)
    t.next().reply(b"y")
    t.same(c.body(c.head())[0], b"y", "wrong body")


@behaviour(BODIES, "204 and 304 have no body, whatever their fields say", "9112 §6.3")
def no_body_statuses(t):
    c = t.connect()
    for status, fields in (("204 No Content", ()), ("304 Not Modified", ("Content-Length: 99", 'ETag: "x"'))):
        t.ask("GET /x HTTP/1.1", client=c)
        t.next().start(*fields, status=status).done()
        t.same(c.head().status, int(status[:3]), "status")
    t.ask("GET /y HTTP/1.1", client=c)
    t.next().reply(b"y")
    t.same(c.body(c.head())[0], b"y", "wrong body")


@behaviour(BODIES, "Trailer fields of a request arrive at the application", "9110 §6.5", nginx="drops trailers of requests")
def request_trailers(t):
    c = t.ask("POST /up HTTP/1.1", "Transfer-Encoding: chunked", "TE: trailers", "Trailer: X-Sum", body=b"5\r\nhello\r\n0\r\nX-Sum: 42\r\n\r\n")
    x = t.next()
    body, trailers = x.body()
    x.reply()
    c.head()
    t.same(body, b"hello", "wrong body")
    t.need(("x-sum", "42") in trailers, "dropped the trailer")


@behaviour(BODIES, "Trailer fields of a response arrive at the client", "9110 §6.5", nginx="drops trailers of HTTP/1 responses")
def response_trailers(t):
    c = t.ask("GET / HTTP/1.1", "TE: trailers")
    x = t.next().start("Transfer-Encoding: chunked", "Trailer: X-Sum").chunk(b"hello")
    x.send(b"0\r\nX-Sum: 42\r\n\r\n").done()
    _, trailers = c.body(c.head())
    t.need(("x-sum", "42") in trailers, "dropped the trailer")


@behaviour(BODIES, "`103 Early Hints` reaches the client before the answer", "8297", nginx="1.22 takes a 103 for the final response and what follows for its body")
def early_hints(t):
    c = t.ask()
    x = t.next().send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n")
    h = c.head(interim=True)
    t.same(h.status, 103, "status")
    t.need(h.has("Link"), "dropped its field")
    x.reply(b"x")
    t.same(c.body(c.head())[0], b"x", "wrong body")
    t.ask("GET /next HTTP/1.1", client=c)
    t.next().reply(b"y")
    t.same(c.body(c.head())[0], b"y", "after that the connection")


@behaviour(BODIES, "Chunk extensions are dropped or passed on, their chunks read right", "9112 §7.1.1")
def chunk_extensions(t):
    c = t.ask("POST /up HTTP/1.1", "Transfer-Encoding: chunked", body=b'5;a=b;c="d"\r\nhello\r\n0;x\r\n\r\n')
    x = t.next()
    t.same(x.body()[0], b"hello", "wrong body")
    x.reply()
    t.same(c.head().status, 200, "status")


@behaviour(BODIES, "A GET may have a body", "9110 §9.3.1")
def get_with_body(t):
    c = t.ask("GET /search HTTP/1.1", "Content-Length: 5", body=b"hello")
    x = t.next()
    t.same(x.body()[0], b"hello", "wrong body")
    x.reply()
    t.same(c.head().status, 200, "status")


# ---- Upgrade ----

WEBSOCKET = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")


def upgraded(t, first=b""):
    c = t.ask("GET /chat HTTP/1.1", *WEBSOCKET)
    x = t.next()
    t.same((x.head.get("Upgrade") or "").lower(), "websocket", "passed on Upgrade")
    t.need("upgrade" in x.head.tokens("Connection"), "did not pass on Connection: upgrade")
    x.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
           b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n" + first)
    h = c.head(interim=True)
    t.same(h.status, 101, "status")
    t.same((h.get("Upgrade") or "").lower(), "websocket", "passed back Upgrade")
    t.need("upgrade" in h.tokens("Connection"), "did not pass back Connection: upgrade")
    return c, x


@behaviour(UPGRADE, "WebSocket: after 101 bytes pass both ways as they come", "9110 §7.8")
def websocket(t):
    c, x = upgraded(t)
    for i in range(3):
        c.send(b"\x81\x05ping%d" % i)
        t.same(x.wire.exact(7), b"\x81\x05ping%d" % i, "wrong bytes")
        x.send(b"\x81\x05pong%d" % i)
        t.same(c.exact(7), b"\x81\x05pong%d" % i, "wrong bytes")


@behaviour(UPGRADE, "… also those that the application sends with the 101")
def websocket_first_bytes(t):
    c, _ = upgraded(t, b"\x81\x05hello")
    t.same(c.exact(7), b"\x81\x05hello", "wrong bytes")


@behaviour(UPGRADE, "… 8 MiB each way unchanged")
def websocket_bulk(t):
    c, x = upgraded(t)
    data = bytes(range(256)) * 4096
    for source, sink in ((c, x.wire), (x.wire, c)):
        sender = threading.Thread(target=lambda s=source: [s.send(data) for _ in range(8)])
        sender.start()
        for _ in range(8):
            t.need(sink.exact(len(data)) == data, "other bytes")
        sender.join()


@behaviour(UPGRADE, "… one side's end is passed on, and the other side may go on sending",
           nginx="ends both directions when one side ends", tls=False)
def websocket_half_close(t):
    c, x = upgraded(t)
    c.finish_sending()
    t.need(x.wire.closed(), "did not pass the end on")
    x.send(b"goodbye")
    t.same(c.rest() if not x.wire.close() else b"", b"goodbye", "after that the client got")


@behaviour(UPGRADE, "… and a client that is lost is passed on")
def websocket_reset(t):
    c, x = upgraded(t)
    c.reset()
    t.need(x.wire.closed(), "left the application's connection open")


@behaviour(UPGRADE, "An application that does not upgrade answers as usual, and the connection goes on", "9110 §7.8")
def upgrade_refused(t):
    c = t.ask("GET /chat HTTP/1.1", *WEBSOCKET)
    t.next().reply(b"no", status="400 Bad Request")
    h = c.head()
    t.same(h.status, 400, "status")
    c.body(h)
    if "close" in h.tokens("Connection"):
        return
    t.ask("GET /y HTTP/1.1", client=c)
    t.next().reply(b"y")
    t.same(c.body(c.head())[0], b"y", "wrong body")


@behaviour(UPGRADE, "`Upgrade: h2c` is not tunnelled: rules for paths would not see what follows", "9113 §3.1 (obsoleted)",
           nginx="passes on whatever `Upgrade` names when configured as its own documentation says",
           haproxy="passes on any upgrade")
def no_h2c(t):
    c = t.ask("GET / HTTP/1.1", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
    w = t.origin.look(0.5)
    if w is None:
        t.need(c.head().status >= 400, "answered with success")
        return
    x = t.next()
    t.need(not x.head.has("Upgrade"), "passed Upgrade: h2c on")
    x.reply()


@behaviour(UPGRADE, "CONNECT is refused", "9110 §9.3.6", haproxy="leaves methods to rules")
def connect_refused(t):
    c = t.connect()
    c.send(b"CONNECT example.test:443 HTTP/1.1\r\nHost: example.test:443\r\n\r\n")
    w = t.origin.look(0.3)
    t.need(w is None, "passed it on")
    t.need(c.head().status >= 400, "answered with success")


@behaviour(UPGRADE, "A 101 that nobody asked for is not passed on as one", "9110 §15.2.2",
           nginx="passes any 101 back", haproxy="goes on waiting")
def unasked_101(t):
    c = t.ask()
    x = t.next().send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    x.wire.busy = True
    c.deadline = 1.5
    h = c.head(interim=True)
    t.need(h.status != 101, "passed the 101 on")
    t.need(h.status >= 500, f"answered {h.status}")
