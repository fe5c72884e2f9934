"""Requests and responses that two parsers may read differently (request smuggling). Ours must refuse each with 4xx or 5xx, pass nothing on and
end the connection; what the other two do with it is what the table says:

  refused        4xx, 5xx, or the connection closed; the application saw nothing
  mended         passed on in a form that can be read in one way only
  **passed on**  the application got the doubtful bytes as they were
"""

from behaviour import Differs, behaviour

REQUESTS = "Doubtful requests"
RESPONSES = "Doubtful responses"
H = b"Host: example.test\r\n"
SECOND = b"GET /smuggled HTTP/1.1\r\nHost: example.test\r\n\r\n"


def post(fields, body=b""):
    return b"POST /x HTTP/1.1\r\n" + H + fields + b"\r\n" + body


def get(fields=b"", start=b"GET /x HTTP/1.1\r\n"):
    return start + H + fields + b"\r\n"


# (name, what, RFC, bytes to send, the bytes that make it doubtful: passed on if the application got them)
FORMS = [
    ("te_and_cl", "Transfer-Encoding and Content-Length", "9112 §6.1",
     post(b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\nX"), (b"content-length", b"transfer-encoding")),
    ("cl_and_te_last", "the same, in the other order", "9112 §6.1",
     post(b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", b"0\r\n\r\n"), (b"content-length", b"transfer-encoding")),
    ("two_cl", "two Content-Length fields that differ", "9112 §6.3", post(b"Content-Length: 5\r\nContent-Length: 6\r\n", b"hello!"), (b"length: 5", b"length: 6")),
    ("two_cl_equal", "two Content-Length fields that are equal", "9112 §6.3", post(b"Content-Length: 5\r\nContent-Length: 5\r\n", b"hello"), (b"length: 5\r\ncontent-length: 5",)),
    ("cl_list", "`Content-Length: 5, 5`", "9112 §6.3", post(b"Content-Length: 5, 5\r\n", b"hello"), (b"5, 5",)),
    ("cl_plus", "`Content-Length: +5`", "9110 §8.6", post(b"Content-Length: +5\r\n", b"hello"), (b"+5",)),
    ("cl_minus", "`Content-Length: -1`", "9110 §8.6", post(b"Content-Length: -1\r\n", b"hello"), (b"-1",)),
    ("cl_hex", "`Content-Length: 0x5`", "9110 §8.6", post(b"Content-Length: 0x5\r\n", b"hello"), (b"0x5",)),
    ("cl_letters", "`Content-Length: 5a`", "9110 §8.6", post(b"Content-Length: 5a\r\n", b"hello"), (b"5a",)),
    ("cl_space", "`Content-Length: 5 5`", "9110 §8.6", post(b"Content-Length: 5 5\r\n", b"hello"), (b"5 5",)),
    ("cl_empty", "an empty Content-Length", "9110 §8.6", post(b"Content-Length:\r\n", SECOND), (b"content-length:",)),
    ("cl_huge", "a Content-Length of 2^64 + 5", "9110 §8.6", post(b"Content-Length: 18446744073709551621\r\n", b"hello"), (b"18446744073709551621",)),
    ("te_unknown", "`Transfer-Encoding: xchunked`", "9112 §6.1", post(b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n"), (b"xchunked",)),
    ("te_identity", "`Transfer-Encoding: identity`", "9112 §6.1", post(b"Transfer-Encoding: identity\r\nContent-Length: 5\r\n", b"hello"), (b"identity",)),
    ("te_not_last", "`Transfer-Encoding: chunked, gzip`", "9112 §6.3", post(b"Transfer-Encoding: chunked, gzip\r\n", b"0\r\n\r\n"), (b"gzip",)),
    ("te_twice", "`Transfer-Encoding: chunked, chunked`", "9112 §6.1", post(b"Transfer-Encoding: chunked, chunked\r\n", b"0\r\n\r\n"), (b"chunked, chunked",)),
    ("te_two_fields", "two Transfer-Encoding fields", "9112 §6.1", post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", b"0\r\n\r\n"), (b"identity",)),
    ("te_vtab", "`Transfer-Encoding: \\x0bchunked`", "9110 §5.5", post(b"Transfer-Encoding: \x0bchunked\r\n", b"0\r\n\r\n"), (b"\x0bchunked",)),
    ("te_quoted", "`Transfer-Encoding: \"chunked\"`", "9112 §6.1", post(b'Transfer-Encoding: "chunked"\r\n', b"0\r\n\r\n"), (b'"chunked"',)),
    ("te_empty", "an empty Transfer-Encoding", "9112 §6.1", post(b"Transfer-Encoding:\r\nContent-Length: 5\r\n", b"hello"), (b"transfer-encoding:",)),
    ("te_http_1_0", "Transfer-Encoding in an HTTP/1.0 request", "9112 §6.1",
     b"POST /x HTTP/1.0\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", (b"http/1.0", b"transfer-encoding")),
    ("space_before_colon_cl", "`Content-Length : 5`", "9112 §5.1", post(b"Content-Length : 5\r\n", b"hello"), (b"length :",)),
    ("space_before_colon_te", "`Transfer-Encoding : chunked`", "9112 §5.1", post(b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n"), (b"encoding :",)),
    ("tab_before_colon", "a tab before the colon", "9112 §5.1", get(b"X-A\t: 1\r\n"), (b"\t:",)),
    ("obs_fold", "a folded field (obs-fold)", "9112 §5.2", get(b"X-A: 1\r\n 2\r\n"), (b"\r\n 2",)),
    ("obs_fold_te", "`Transfer-Encoding:` with `chunked` on a folded line", "9112 §5.2", post(b"Transfer-Encoding:\r\n chunked\r\n", b"0\r\n\r\n"), (b"\r\n chunked",)),
    ("space_first_line", "white space before the first field", "9112 §2.2", b"GET /x HTTP/1.1\r\n " + H + b"X-A: 1\r\n\r\n", (b"\r\n host",)),
    ("no_colon", "a field line without a colon", "9112 §5", get(b"X-A 1\r\n"), (b"x-a 1",)),
    ("empty_name", "a field without a name", "9112 §5", get(b": 1\r\n"), (b"\r\n: 1",)),
    ("name_space", "a space inside a field's name", "9110 §5.1", get(b"X A: 1\r\n"), (b"x a:",)),
    ("name_bytes", "a field's name with a byte above 127", "9110 §5.1", get(b"X-\xff: 1\r\n"), (b"x-\xff",)),
    ("name_paren", "a field's name with `(`", "9110 §5.1", get(b"X(: 1\r\n"), (b"x(:",)),
    ("bare_cr_value", "a bare CR in a value", "9112 §2.2", get(b"X-A: 1\rX-B: 2\r\n"), (b"1\rx-b",)),
    ("bare_cr_name", "a bare CR before a name", "9112 §2.2", get(b"\rX-A: 1\r\n"), (b"\rx-a",)),
    ("bare_lf_lines", "lines that end with LF alone", "9112 §2.2", b"GET /x HTTP/1.1\nHost: example.test\n\n", (b"/x http/1.1\n",)),
    ("bare_lf_value", "one LF without CR between fields", "9112 §2.2", get(b"X-A: 1\nX-B: 2\r\n"), (b"1\nx-b",)),
    ("bare_lf_end", "a head that ends with LF LF", "9112 §2.2", b"GET /x HTTP/1.1\r\n" + H + b"X-A: 1\n\n", (b"1\n\n",)),
    ("bare_cr_line", "a request line that ends with CR alone", "9112 §2.2", b"GET /x HTTP/1.1\rHost: example.test\r\n\r\n", (b"1.1\rhost",)),
    ("nul_value", "NUL in a value", "9110 §5.5", get(b"X-A: 1\x002\r\n"), (b"1\x002",)),
    ("nul_name", "NUL in a name", "9110 §5.1", get(b"X-\x00A: 1\r\n"), (b"x-\x00a",)),
    ("nul_target", "NUL in the target", "9112 §3.2", b"GET /x\x00y HTTP/1.1\r\n" + H + b"\r\n", (b"/x\x00y",)),
    ("control_value", "another control character in a value", "9110 §5.5", get(b"X-A: 1\x012\r\n"), (b"1\x012",)),
    ("control_target", "a control character in the target", "9112 §3.2", b"GET /x\x01y HTTP/1.1\r\n" + H + b"\r\n", (b"/x\x01y",)),
    ("target_space", "a space in the target", "9112 §3.2", b"GET /x y HTTP/1.1\r\n" + H + b"\r\n", (b"/x y http",)),
    ("target_tab", "tabs in the request line", "9112 §3", b"GET\t/x\tHTTP/1.1\r\n" + H + b"\r\n", (b"get\t",)),
    ("two_spaces", "two spaces in the request line", "9112 §3", b"GET  /x HTTP/1.1\r\n" + H + b"\r\n", (b"get  ",)),
    ("trailing_space", "a space at the end of the request line", "9112 §3", b"GET /x HTTP/1.1 \r\n" + H + b"\r\n", (b"1.1 \r",)),
    ("method_bytes", "a method that is no token", "9110 §9.1", b"G(T /x HTTP/1.1\r\n" + H + b"\r\n", (b"g(t",)),
    ("no_version", "a request line without a version (HTTP/0.9)", "9112 §2.3", b"GET /x\r\n\r\n", (b"get /x\r\n",)),
    ("version_2", "HTTP/2.0 in the request line", "9112 §2.3", b"GET /x HTTP/2.0\r\n" + H + b"\r\n", (b"http/2.0",)),
    ("version_long", "`HTTP/1.10`", "9112 §2.3", b"GET /x HTTP/1.10\r\n" + H + b"\r\n", (b"http/1.10",)),
    ("version_case", "`http/1.1`", "9112 §2.3", b"GET /x http/1.1\r\n" + H + b"\r\n", (b"x http/1.1",)),
    ("h2_preface", "HTTP/2's preface", "9113 §3.4", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (b"PRI *",)),
    ("relative_target", "a target that begins without `/`", "9112 §3.2", b"GET x HTTP/1.1\r\n" + H + b"\r\n", (b"get x ",)),
    ("chunk_0x", "chunk size `0x5`", "9112 §7.1", post(b"Transfer-Encoding: chunked\r\n", b"0x5\r\nhello\r\n0\r\n\r\n"), (b"0x5",)),
    ("chunk_plus", "chunk size `+5`", "9112 §7.1", post(b"Transfer-Encoding: chunked\r\n", b"+5\r\nhello\r\n0\r\n\r\n"), (b"+5",)),
    ("chunk_minus", "chunk size `-5`", "9112 §7.1", post(b"Transfer-Encoding: chunked\r\n", b"-5\r\nhello\r\n0\r\n\r\n"), (b"-5",)),
    ("chunk_empty", "an empty chunk size", "9112 §7.1", post(b"Transfer-Encoding: chunked\r\n", b"\r\nhello\r\n0\r\n\r\n"), (b"\r\n\r\n\r\nhello",)),
    ("chunk_space", "a space before the chunk size", "9112 §7.1", post(b"Transfer-Encoding: chunked\r\n", b" 5\r\nhello\r\n0\r\n\r\n"), (b" 5\r\n",)),
    ("chunk_space_after", "a space behind the chunk size", "9112 §7.1", post(b"Transfer-Encoding: chunked\r\n", b"5 \r\nhello\r\n0\r\n\r\n"), (b"5 \r\n",)),
    ("chunk_huge", "a chunk size of 2^64 + 5", "9112 §7.1", post(b"Transfer-Encoding: chunked\r\n", b"10000000000000005\r\nhello\r\n0\r\n\r\n"), (b"0000005\r\n",)),
    ("chunk_lf", "a chunk size that ends with LF alone", "9112 §7.1", post(b"Transfer-Encoding: chunked\r\n", b"5\nhello\r\n0\r\n\r\n"), (b"5\nhello",)),
    ("chunk_data_lf", "chunk data that ends with LF alone", "9112 §7.1", post(b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\n0\r\n\r\n"), (b"hello\n",)),
    ("chunk_long", "chunk data longer than its size", "9112 §7.1", post(b"Transfer-Encoding: chunked\r\n", b"3\r\nhello\r\n0\r\n\r\n"), (b"hello",)),
    ("chunk_ext_lf", "LF inside a chunk extension", "9112 §7.1.1", post(b"Transfer-Encoding: chunked\r\n", b"5;a\nb\r\nhello\r\n0\r\n\r\n"), (b";a\nb",)),
    ("chunk_ext_cr", "CR inside a chunk extension", "9112 §7.1.1", post(b"Transfer-Encoding: chunked\r\n", b"5;a\rb\r\nhello\r\n0\r\n\r\n"), (b";a\rb",)),
    ("chunk_ext_flood", "a chunk extension of 1 MiB", "9112 §7.1.1", post(b"Transfer-Encoding: chunked\r\n", b"5;" + b"a" * (1 << 20) + b"\r\nhello\r\n0\r\n\r\n"), (b"aaaaa",)),
    ("chunk_end_lf", "a body that ends with LF LF", "9112 §7.1", post(b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\n\n"), (b"0\n\n",)),
    ("trailer_cl", "Content-Length as a trailer field", "9110 §6.5.1", post(b"Transfer-Encoding: chunked\r\n", b"0\r\nContent-Length: 5\r\n\r\n"), (b"content-length: 5",)),
    ("trailer_te", "Transfer-Encoding as a trailer field", "9110 §6.5.1", post(b"Transfer-Encoding: chunked\r\n", b"0\r\nTransfer-Encoding: chunked\r\n\r\n"), (b"0\r\ntransfer-encoding: chunked",)),
    ("trailer_fold", "a folded trailer field", "9112 §5.2", post(b"Transfer-Encoding: chunked\r\n", b"0\r\nX-A: 1\r\n 2\r\n\r\n"), (b"\r\n 2",)),
    ("upgrade_body", "an Upgrade with a body of two lengths", "9112 §6.3",
     b"GET /x HTTP/1.1\r\n" + H + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
     (b"content-length", b"transfer-encoding")),
]

# Ours may mend these too: dropping forbidden trailer fields is what RFC 9110 §6.5.1 asks for.
OURS_MAY_MEND = {"trailer_cl", "trailer_te"}


def judge(t, name, data, marks):
    """Sends it and says what became of it."""
    c = t.connect()
    c.send(data)
    w = t.origin.look(0.0)
    for _ in range(200):  # until somebody says something: the client has an answer or the application has the request
        if w is not None or c.ended or b"\r\n\r\n" in c.buffer:
            break
        w = t.origin.look(0.01)
        try:
            c.fill(0.01)
        except Differs:
            pass
    if w is None:
        w = t.origin.look(0.03)
    if w is None:
        return refusal(t, c)
    x = t.next()
    try:
        while not x.wire.ended and len(x.wire.buffer) < (2 << 20):
            x.wire.fill(0.1)
    except Differs:
        pass
    got = (x.head.raw + x.wire.buffer).lower()
    if name.startswith(("chunk_", "trailer_")) and not complete(x):
        # The head was gone before the doubtful part came; what counts is that the body never ends.
        return "refused" if c.closed(t.deadline) and all(m.lower() not in got for m in marks) else "**passed on**"
    x.reply()
    if all(m.lower() in got for m in marks):
        return "**passed on**"
    return "mended"


def complete(x):
    """Whether the application has a whole request."""
    body = x.wire.buffer
    if "chunked" in x.head.tokens("Transfer-Encoding"):
        return body.endswith(b"\r\n\r\n") and (body.startswith(b"0") or b"\r\n0" in body)
    lengths = x.head.all("Content-Length")
    if lengths and lengths[0].isdigit():
        return len(body) >= int(lengths[0])
    return True


def refusal(t, c):
    if not c.ended and b"\r\n\r\n" not in c.buffer:
        return "waited for more"
    if b"\r\n\r\n" in c.buffer:
        status = c.head().status
        if status < 400:
            return f"answered {status} itself"
        return "refused" if c.closed() else f"answered {status} and kept the connection"
    return "refused"


def smuggling(name, text, rfc, data, marks):
    def script(t):
        said = judge(t, name, data, marks)
        if said == "refused" or (said == "mended" and name in OURS_MAY_MEND):
            return "yes" if said == "refused" else "yes: mended"
        return said

    script.__name__ = name
    script.__doc__ = text
    return behaviour(REQUESTS, text, rfc)(script)


for form in FORMS:
    smuggling(*form)


@behaviour(REQUESTS, "What follows a refused request (NUL in a value) on its connection is not looked at", "9112 §9.6", haproxy="takes the NUL (above): there is no refusal")
def after_refusal(t):
    c = t.connect()
    c.send(get(b"X-A: 1\x002\r\n") + SECOND)
    t.need(c.head().status >= 400, "took a NUL")
    t.origin.nothing()
    t.need(c.closed(), "kept the connection")


# ---- responses ----

ANSWERS = [
    ("resp_te_and_cl", "Transfer-Encoding and Content-Length", "9112 §6.3",
     b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
    ("resp_two_cl", "two Content-Length fields that differ", "9112 §6.3", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 3\r\n\r\nhello"),
    ("resp_cl_letters", "`Content-Length: 5a`", "9112 §6.3", b"HTTP/1.1 200 OK\r\nContent-Length: 5a\r\n\r\nhello"),
    ("resp_obs_fold", "a folded field", "9112 §5.2", b"HTTP/1.1 200 OK\r\nX-A: 1\r\n 2\r\nContent-Length: 5\r\n\r\nhello"),
    ("resp_bare_cr", "a bare CR in a value", "9112 §2.2", b"HTTP/1.1 200 OK\r\nX-A: 1\rSet-Cookie: evil=1\r\nContent-Length: 5\r\n\r\nhello"),
    ("resp_nul", "NUL in a value", "9110 §5.5", b"HTTP/1.1 200 OK\r\nX-A: 1\x002\r\nContent-Length: 5\r\n\r\nhello"),
    ("resp_space_colon", "a space before a colon", "9112 §5.1", b"HTTP/1.1 200 OK\r\nContent-Length : 3\r\nContent-Length: 5\r\n\r\nhello"),
    ("resp_version", "HTTP/2.0 in the status line", "9112 §4", b"HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
    ("resp_status", "a status of four digits", "9112 §4", b"HTTP/1.1 2000 OK\r\nContent-Length: 5\r\n\r\nhello"),
    ("resp_garbage", "something that is no HTTP", "9112 §4", b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
]


def answering(name, text, rfc, data):
    def script(t):
        c = t.ask()
        x = t.next()
        x.send(data)
        x.wire.busy = True
        try:
            h = c.head()
            h.status  # noqa: B018: raises
        except Differs:
            return "**passed on**" if not c.ended or c.buffer else "yes"
        if h.status in (502, 500):
            return "yes"
        got = h.raw + c.buffer
        if h.has("Content-Length") and h.has("Transfer-Encoding") or len(set(h.all("Content-Length"))) > 1 or b"\x00" in got or b"1\rSet" in got \
                or b"\r\n 2" in got or b"Length :" in got:
            return "**passed on**"
        return "mended"

    script.__name__ = name
    return behaviour(RESPONSES, text, rfc)(script)


for answer in ANSWERS:
    answering(*answer)


@behaviour(RESPONSES, "a bad chunk size", "9112 §7.1")
def resp_chunk_bad(t):
    c = t.ask()
    t.next().start("Transfer-Encoding: chunked").send(b"5\r\nhello\r\nzz\r\n")
    h = c.head()
    if h.status in (502, 500):
        return
    t.need(c.closed(), "kept the client waiting")
    t.need(not c.buffer.endswith(b"0\r\n\r\n"), "ended the body as if it were whole")


@behaviour(RESPONSES, "1 MiB of header fields", "9110 §5.4")
def resp_head_flood(t):
    c = t.ask()
    t.next().send(b"HTTP/1.1 200 OK\r\n" + b"X-A: " + b"y" * (1 << 20) + b"\r\nContent-Length: 0\r\n\r\n")
    t.need(c.head().status in (502, 500), "took it")


@behaviour(RESPONSES, "20,000 interim responses before the final one: passed on or given up, not collected", "9110 §15.2")
def resp_interim_flood(t):
    c = t.ask()
    x = t.next()
    for _ in range(20000):
        x.send(b"HTTP/1.1 102 Processing\r\nX-A: " + b"y" * 50 + b"\r\n\r\n")
    x.wire.busy = True
    t.need(t.target.memory() < 100 << 20, "collected them")
    x.reply(b"x")
    t.same(c.head().status in (200, 502), True, "status")
