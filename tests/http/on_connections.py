"""Behaviours of connections: keep-alive, pools, pipelining, old clients, origins and clients that go away."""

import time

from behaviour import Differs, behaviour

SECTION = "Connections"


@behaviour(SECTION, "A client's connection serves one request after the other", "9112 §9.3")
def client_keep_alive(t):
    c = t.connect()
    for i in range(3):
        t.ask(f"GET /{i} HTTP/1.1", client=c)
        t.next().reply(b"%d" % i)
        t.same(c.body(c.head())[0], b"%d" % i, "wrong answer")


@behaviour(SECTION, "Connections to the application are kept and shared by clients", "9112 §9.3",
           haproxy="its default, `http-reuse safe`, takes a kept connection only for a client's second request: a first one must not fail")
def origin_keep_alive(t):
    for _ in range(2):  # whatever is in the pool already
        c = t.ask("GET /warm HTTP/1.1")
        t.next().reply()
        c.head()
    before = t.origin.accepted
    for _ in range(4):
        c = t.ask("GET /reuse HTTP/1.1")
        t.next().reply()
        c.head()
        c.close()
    t.need(t.origin.accepted - before <= 1, f"opened {t.origin.accepted - before} connections for 4 requests")


@behaviour(SECTION, "Pipelined requests are answered in order", "9112 §9.3.2")
def pipelining(t):
    c = t.connect()
    c.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: example.test\r\n\r\n" % i for i in range(5)))
    for _ in range(5):
        x = t.next()
        x.reply(x.head.target.encode())
    for i in range(5):
        t.same(c.body(c.head())[0], b"/%d" % i, "wrong order")


@behaviour(SECTION, "A request with a body can be followed by a pipelined one", "9112 §9.3.2")
def pipelining_after_body(t):
    c = t.connect()
    c.send(b"POST /a HTTP/1.1\r\nHost: example.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
           b"PUT /b HTTP/1.1\r\nHost: example.test\r\nContent-Length: 5\r\n\r\nworldGET /c HTTP/1.1\r\nHost: example.test\r\n\r\n")
    for want in (b"hello", b"world", b""):
        x = t.next()
        t.same(x.body()[0], want, "wrong body")
        x.reply(x.head.target.encode())
    for want in (b"/a", b"/b", b"/c"):
        t.same(c.body(c.head())[0], want, "wrong order")


@behaviour(SECTION, "`Connection: close` from the client ends its connection after the answer", "9112 §9.6")
def client_close(t):
    c = t.ask("GET / HTTP/1.1", "Connection: close")
    t.next().reply(b"x")
    h = c.head()
    c.body(h)
    c.end()


@behaviour(SECTION, "`Connection: close` from the application does not end the client's connection", "9110 §7.6.1")
def origin_close(t):
    c = t.ask()
    x = t.next().reply(b"x", "Connection: close")
    x.wire.close()
    t.origin.tidy()
    t.same(c.body(c.head())[0], b"x", "wrong body")
    t.ask("GET /again HTTP/1.1", client=c)
    t.next().reply(b"y")
    t.same(c.body(c.head())[0], b"y", "wrong body")


@behaviour(SECTION, "A response that ends with the application's connection arrives whole, and its end is told", "9112 §6.3")
def close_delimited(t):
    c = t.ask()
    x = t.next().start("Connection: close", "Content-Type: text/plain").send(b"a" * 70000)
    x.wire.close()
    body, _ = c.body(c.head())
    t.same(len(body), 70000, "body length")


@behaviour(SECTION, "An HTTP/1.0 client gets no chunks, and the end of its connection", "9112 §7.1",
           haproxy="passes the application's framing on")
def http_1_0(t):
    c = t.ask("GET / HTTP/1.0")
    x = t.next().start("Transfer-Encoding: chunked")
    x.chunk(b"hello ").chunk(b"world").send(b"0\r\n\r\n").done()
    h = c.head()
    t.need(not h.has("Transfer-Encoding"), "sent chunks to an HTTP/1.0 client")
    t.same(c.rest(), b"hello world", "wrong body")


@behaviour(SECTION, "`Connection: keep-alive` keeps an HTTP/1.0 client's connection", "9112 §9.3")
def http_1_0_keep_alive(t):
    c = t.connect()
    for _ in range(2):
        t.ask("GET / HTTP/1.0", "Connection: keep-alive", client=c)
        t.next().reply(b"x")
        h = c.head()
        c.body(h)
        t.same(h.get("Connection", "").lower(), "keep-alive", "Connection field")


@behaviour(SECTION, "An empty line before a request is skipped", "9112 §2.2")
def empty_line_first(t):
    c = t.connect()
    c.send(b"\r\nGET / HTTP/1.1\r\nHost: example.test\r\n\r\n")
    t.next().reply()
    t.same(c.head().status, 200, "status")


@behaviour(SECTION, "A request that arrives byte by byte is the same request")
def byte_by_byte(t):
    c = t.connect()
    for b in b"POST /slow HTTP/1.1\r\nHost: example.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n":
        c.send(bytes([b]))
    x = t.next()
    t.same(x.body()[0], b"abc", "wrong body")
    x.reply()
    t.same(c.head().status, 200, "status")


@behaviour(SECTION, "A response that arrives byte by byte is the same response")
def response_byte_by_byte(t):
    c = t.ask()
    x = t.next()
    for b in b"HTTP/1.1 200 OK\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n":
        x.send(bytes([b]))
    x.done()
    h = c.head()
    t.same(c.body(h)[0], b"abc", "wrong body")


@behaviour(SECTION, "The application closed a kept connection: the next request does not fail", "9112 §9.3.1")
def idle_connection_closed(t):
    for _ in range(3):
        c = t.ask()
        x = t.next().reply()
        c.head()
        x.wire.close()
        t.origin.tidy()
    c = t.ask()
    t.next().reply(b"fine")
    t.same(c.head().status, 200, "status")


@behaviour(SECTION, "The application closes a kept connection as a GET arrives on it: tried again on another", "9110 §9.2.2")
def retry_get(t):
    c = t.ask("GET /first HTTP/1.1")
    t.next().reply()
    c.head()
    t.ask("GET /second HTTP/1.1", client=c)
    x = t.next()
    x.wire.close()
    t.next().reply(b"second try")
    t.same(c.body(c.head())[0], b"second try", "wrong body")


@behaviour(SECTION, "… as a POST arrives on it: not sent twice", "9110 §9.2.2")
def no_retry_post(t):
    c = t.ask("GET /first HTTP/1.1")
    t.next().reply()
    c.head()
    t.ask("POST /second HTTP/1.1", "Content-Length: 2", body=b"hi", client=c)
    x = t.next()
    x.body()
    x.wire.close()
    if not t.origin.look(0.2):
        if not c.buffer and not c.fill():
            return None  # closed: allowed on a kept connection
        t.need(c.head().status in (502, 503), "answered with success")
        return None
    raise Differs("sent it twice")


@behaviour(SECTION, "The application does not listen: 502 or 503, and the next request works once it does")
def origin_down(t):
    t.origin.stop_listening()
    for w in t.origin.wires:
        w.close()
    t.origin.wires.clear()
    try:
        c = t.ask("GET /down HTTP/1.1")
        t.need(c.head().status in (502, 503), "answered with success")
    finally:
        t.origin.listen(t.origin.port)
    c = t.ask("GET /up HTTP/1.1")
    t.next().reply()
    t.same(c.head().status, 200, "status after it is up again")


@behaviour(SECTION, "A client that is lost (RST) while its request is being worked on: the application's connection ends",
           haproxy="only with `option abortonclose` (off by default, and off in this run)")
def client_reset(t):
    c = t.ask("GET /long HTTP/1.1")
    x = t.next()
    c.reset()
    t.need(x.wire.closed(1.5), "left the application working")


@behaviour(SECTION, "A client that is lost in the middle of its upload: the application sees the upload break off, not end", "9112 §8")
def client_reset_upload(t):
    c = t.ask("POST /up HTTP/1.1", "Transfer-Encoding: chunked", body=b"5\r\nhello\r\n")
    x = t.next()
    t.same(x.wire.part(x.head, 5), b"hello", "wrong body")
    c.reset()
    t.need(x.wire.closed(), "left the application waiting")
    t.need(b"0\r\n" not in x.wire.buffer, "ended the body as if it were whole")


@behaviour(SECTION, "A client that closes while it receives a stream: the application's connection ends with the next events at the latest")
def client_closes_stream(t):
    c = t.ask("GET /events HTTP/1.1")
    x = t.next().start("Content-Type: text/event-stream", "Transfer-Encoding: chunked").chunk(b"data: 1\n\n")
    h = c.head()
    c.part(h, 9)
    c.close()
    until = time.monotonic() + t.deadline
    while not x.wire.closed(0.02):
        x.chunk(b"data: 2\n\n")
        t.need(time.monotonic() < until, "left the application sending")


@behaviour(SECTION, "A client that has sent its request and closes its sending side still gets the application's answer", "9112 §9.6",
           nginx="takes the client's FIN for its going away (499) unless `proxy_ignore_client_abort` is on",
           tls=False)
def half_closed_client(t):
    c = t.ask("GET /half HTTP/1.1")
    c.finish_sending()
    x = t.next()  # which may be told of the end, as it would be without a proxy
    x.reply(b"for you")
    t.same(c.body(c.head())[0], b"for you", "wrong body")


@behaviour(SECTION, "The application breaks off a sized response: the client sees that it is not whole", "9112 §8")
def broken_sized_response(t):
    c = t.ask()
    t.next().start("Content-Length: 10").send(b"12345").wire.close()
    h = c.head()
    if h.status == 502:
        return
    t.need(c.rest() == b"12345", "sent a different body")


@behaviour(SECTION, "The application breaks off a chunked response: the client sees no last chunk", "9112 §8")
def broken_chunked_response(t):
    c = t.ask()
    t.next().start("Transfer-Encoding: chunked").chunk(b"12345").wire.close()
    h = c.head()
    if h.status == 502:
        return
    t.need(not c.rest().endswith(b"0\r\n\r\n"), "ended the body as if it were whole")


@behaviour(SECTION, "Bytes that the application sends after its response reach nobody", "9112 §9.2")
def response_poison(t):
    c = t.ask("GET /a HTTP/1.1")
    t.next().reply(b"a").send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    t.same(c.body(c.head())[0], b"a", "wrong body")
    for _ in range(3):
        d = t.ask("GET /b HTTP/1.1")
        x = t.origin.look(t.deadline)
        if x is None:
            raise Differs("passed the next request on to nobody")
        t.next().reply(b"b")
        t.same(d.body(d.head())[0], b"b", "gave the next client")
