"""Behaviours of header fields and targets: what is passed on as it is, what is taken out, what is added."""

from behaviour import behaviour

SECTION = "Header fields and targets"


@behaviour(SECTION, "The request target is passed on byte by byte: no decoding, no dot segments removed", "9110 §7.7",
           nginx="refuses targets whose percent signs do not decode")
def target_unchanged(t):
    for target in ("/a%2Fb/../c/./d?x=%00&y=a+b", "//double//slash", "/?", "/~user/;p=1", "/%zz"):
        c = t.ask(f"GET {target} HTTP/1.1")
        t.need(t.origin.look(1.5), f"refused {target}")
        x = t.next()
        t.same(x.head.target, target, "passed on the target")
        x.reply()
        c.head()


@behaviour(SECTION, "A target in absolute form works, and its host counts", "9112 §3.2.2")
def absolute_form(t):
    c = t.ask("GET http://example.test/path?q=1 HTTP/1.1")
    x = t.next()
    t.need(x.head.target in ("/path?q=1", "http://example.test/path?q=1"), f"passed on {x.head.target}")
    t.same(x.head.get("Host"), "example.test", "passed on Host")
    x.reply()
    t.same(c.head().status, 200, "status")


@behaviour(SECTION, "`OPTIONS *` is passed on", "9112 §3.2.4", nginx="refuses `*` with 400")
def options_asterisk(t):
    c = t.ask("OPTIONS * HTTP/1.1")
    w = t.origin.look(0.5)
    if w is None:
        t.same(c.head().status, 200, "status")
        return
    x = t.next()
    t.same(x.head.target, "*", "passed on the target")
    x.reply()


@behaviour(SECTION, "Any method is passed on", "9110 §9.1")
def any_method(t):
    for method in ("PATCH", "DELETE", "PROPFIND", "X-OWN"):
        c = t.ask(f"{method} /x HTTP/1.1", "Content-Length: 0")
        x = t.next()
        t.same(x.head.method, method, "passed on the method")
        x.reply()
        t.same(c.head().status, 200, "status")


@behaviour(SECTION, "The client's Host is passed on", "9110 §7.2")
def host(t):
    c = t.ask("GET / HTTP/1.1", "Host: shop.example.test:8443", host=False)
    x = t.next()
    t.same(x.head.get("Host"), "shop.example.test:8443", "passed on Host")
    x.reply()
    c.head()


@behaviour(SECTION, "Repeated fields stay, in their order; Set-Cookie stays on lines of its own", "9110 §5.3")
def repeated_fields(t):
    c = t.ask("GET / HTTP/1.1", "X-Many: one", "X-Many: two", "Cookie: a=1; b=2")
    x = t.next()
    t.same(x.head.get("X-Many"), "one, two", "passed on")
    t.same(x.head.get("Cookie"), "a=1; b=2", "passed on Cookie")
    x.reply(b"", "Set-Cookie: s=1; Path=/", "Set-Cookie: t=2; Expires=Wed, 21 Oct 2037 07:28:00 GMT")
    h = c.head()
    cookies = [v for v in h.all("Set-Cookie") if not v.startswith("__edge")]
    t.same(cookies, ["s=1; Path=/", "t=2; Expires=Wed, 21 Oct 2037 07:28:00 GMT"], "passed back Set-Cookie")


@behaviour(SECTION, "Values keep their bytes, UTF-8 and Latin-1 too", "9110 §5.5")
def field_bytes(t):
    value = "caf\xe9 \xc3\xa9 \"quoted\" \ttab"
    c = t.ask("GET / HTTP/1.1", "X-Text: " + value)
    x = t.next()
    t.same(x.head.get("X-Text"), value, "passed on")
    x.reply(b"", "X-Text: " + value)
    t.same(c.head().get("X-Text"), value, "passed back")


@behaviour(SECTION, "Fields with `_` and other unusual token characters are passed on", "9110 §5.6.2",
           nginx="drops names with `_` unless `underscores_in_headers` is on, and names with characters beyond letters, digits, `-`")
def unusual_names(t):
    c = t.ask("GET / HTTP/1.1", "X_Under: 1", "X.Dot: 2", "X!Bang'~: 3")
    x = t.next()
    for name in ("X_Under", "X.Dot", "X!Bang'~"):
        t.need(x.head.has(name), f"dropped {name}")
    x.reply()
    c.head()


@behaviour(SECTION, "Hop-by-hop fields of a request stay on their hop, and what `Connection` names with them", "9110 §7.6.1",
           nginx="knows no fields by `Connection`; drops Keep-Alive, TE and the like only if told to",
           haproxy="2.6 knows no fields by `Connection`")
def hop_by_hop_request(t):
    c = t.ask("GET / HTTP/1.1", "Connection: keep-alive, X-Hop", "X-Hop: 1", "Keep-Alive: timeout=5", "Proxy-Connection: keep-alive", "TE: gzip",
              "X-End: 2")
    x = t.next()
    x.reply()
    c.head()
    left = [n for n in ("X-Hop", "Keep-Alive", "Proxy-Connection") if x.head.has(n)]
    left += ["TE"] if "gzip" in x.head.tokens("TE") else []
    t.need(x.head.has("X-End"), "dropped an end-to-end field")
    t.need(not left, "passed on " + ", ".join(left))


@behaviour(SECTION, "… of a response, too", "9110 §7.6.1", nginx="passes back fields that `Connection` names",
           haproxy="2.6 passes back fields that `Connection` names")
def hop_by_hop_response(t):
    c = t.ask()
    t.next().reply(b"", "Connection: keep-alive, X-Hop", "X-Hop: 1", "Keep-Alive: timeout=77", "X-End: 2")
    h = c.head()
    left = [n for n in ("X-Hop",) if h.has(n)] + (["Keep-Alive"] if "77" in (h.get("Keep-Alive") or "") else [])
    t.need(h.has("X-End"), "dropped an end-to-end field")
    t.need(not left, "passed back " + ", ".join(left))


@behaviour(SECTION, "`Connection` cannot take out fields that the proxy sets or that say where a message ends", "9110 §7.6.1",)
def connection_abuse(t):
    c = t.ask("POST / HTTP/1.1", "Connection: keep-alive, X-Forwarded-For, Content-Length, Host, Cookie", "Content-Length: 5", "Cookie: a=1", body=b"hello")
    x = t.next()
    t.same(x.head.get("Host"), "example.test", "passed on Host")
    t.need("127.0.0.1" in (x.head.get("X-Forwarded-For") or ""), "dropped X-Forwarded-For")
    t.same(x.body()[0], b"hello", "wrong body")
    x.reply()
    c.head()


@behaviour(SECTION, "X-Forwarded-For gets the client's address behind what was there; X-Forwarded-Proto and -Host are set")
def x_forwarded(t):
    c = t.ask("GET / HTTP/1.1", "X-Forwarded-For: 203.0.113.9")
    x = t.next()
    x.reply()
    c.head()
    t.same((x.head.get("X-Forwarded-For") or "").replace(" ", ""), "203.0.113.9,127.0.0.1", "X-Forwarded-For")
    t.same(x.head.get("X-Forwarded-Proto"), "http", "X-Forwarded-Proto")
    t.same(x.head.get("X-Forwarded-Host"), "example.test", "X-Forwarded-Host")


@behaviour(SECTION, "A stranger's X-Forwarded-For, Forwarded and X-Real-IP are not believed (strangers: who is not named in `trust`)",
           nginx="appends to whatever came; whom to believe is for other directives", haproxy="appends to whatever came; whom to believe is for rules")
def forwarded_by_strangers(t):
    c = t.ask("GET / HTTP/1.1", "X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https", "X-Real-IP: 203.0.113.9", "Forwarded: for=203.0.113.9",
              client=t.connect(source="127.0.0.9"))
    x = t.next()
    x.reply()
    c.head()
    for name in ("X-Forwarded-For", "Forwarded", "X-Real-IP"):
        t.need("203.0.113.9" not in (x.head.get(name) or ""), f"passed on {name}")
    t.same(x.head.get("X-Forwarded-For"), "127.0.0.9", "X-Forwarded-For")
    t.same(x.head.get("X-Forwarded-Proto"), "http", "X-Forwarded-Proto")


@behaviour(SECTION, "Forwarded gets the client's address, the host and the protocol", "7239 §4", nginx="has no directive that makes a valid one",
           haproxy="only `option forwarded` of 2.8 and later")
def forwarded(t):
    c = t.ask("GET / HTTP/1.1", "Forwarded: for=203.0.113.9")
    x = t.next()
    x.reply()
    c.head()
    value = (x.head.get("Forwarded") or "").lower().replace('"', "")
    t.need("for=203.0.113.9" in value, "dropped what was there")
    for part in ("for=127.0.0.1", "proto=http", "host=example.test"):
        t.need(part in value, f"set no {part}")


@behaviour(SECTION, "Via is added in both directions, with the version received", "9110 §7.6.3", nginx="adds no Via",
           haproxy="adds no Via")
def via(t):
    c = t.ask("GET / HTTP/1.1", "Via: 1.0 first")
    x = t.next()
    x.reply(b"", "Via: 1.1 inner")
    h = c.head()
    sent, back = x.head.get("Via") or "", h.get("Via") or ""
    t.need(sent.startswith("1.0 first, 1.1 "), f"passed on Via: {sent}" if sent != "1.0 first" else "added no Via to the request")
    t.need(back.startswith("1.1 inner, 1.1 "), f"passed back Via: {back}" if back != "1.1 inner" else "added no Via to the response")


@behaviour(SECTION, "The status line's reason and unknown status codes are passed back", "9110 §15")
def unusual_status(t):
    for status in ("299 Own Thing", "418 I'm a teapot", "599 Late"):
        c = t.ask()
        t.next().reply(b"", status=status)
        t.same(c.head().start.split(" ", 1)[1], status, "passed back")


@behaviour(SECTION, "Server, Date and Content-Type of the application stay", "9110 §7.7",
           nginx="puts its own Server and Date in their place unless told to pass them")
def response_fields_stay(t):
    c = t.ask()
    date = "Sun, 06 Nov 1994 08:49:37 GMT"
    t.next().reply(b"x", "Server: app/1", f"Date: {date}", "Content-Type: text/x-own; charset=latin1", 'ETag: "abc"', "Last-Modified: " + date)
    h = c.head()
    t.same(h.get("Server"), "app/1", "passed back Server")
    t.same(h.get("Date"), date, "passed back Date")
    t.same(h.get("ETag"), '"abc"', "passed back ETag")


@behaviour(SECTION, "Range requests and their 206 pass", "9110 §14")
def ranges(t):
    c = t.ask("GET / HTTP/1.1", "Range: bytes=0-1", 'If-Range: "x"')
    x = t.next()
    t.same(x.head.get("Range"), "bytes=0-1", "passed on Range")
    x.reply(b"ab", "Content-Range: bytes 0-1/10", status="206 Partial Content")
    h = c.head()
    t.same((h.status, h.get("Content-Range")), (206, "bytes 0-1/10"), "passed back")


@behaviour(SECTION, "A head of 12 KiB with a 6 KiB cookie passes", nginx="its buffers (`proxy_buffer_size`, `large_client_header_buffers`) are set to "
           "allow it in this run; with its defaults too")
def large_head(t):
    c = t.ask("GET / HTTP/1.1", "Cookie: s=" + "x" * 6000, *(f"X-Field-{i}: {'y' * 100}" for i in range(50)))
    x = t.next()
    t.same(len(x.head.get("Cookie") or ""), 6002, "Cookie length")
    x.reply(b"", "Set-Cookie: s=" + "z" * 6000)
    t.need("z" * 6000 in (c.head().get("Set-Cookie") or ""), "dropped Set-Cookie")


@behaviour(SECTION, "Server-Timing says where the answer came from; the application's own entry stays", "server-timing", only="edgefs")
def server_timing(t):
    c = t.ask()
    t.next().reply(b"", "Server-Timing: db;dur=5")
    value = c.head().get("Server-Timing") or ""
    t.need("db;dur=5" in value, "dropped the application's")
    t.need("edgefs;dur=" in value and 'desc="' in value, f"sent Server-Timing: {value}")


@behaviour(SECTION, "Hosts: none, two, or one that is none is refused", "9112 §3.2", haproxy="leaves the presence of Host to rules")
def bad_hosts(t):
    for what, fields in (("no Host", ()), ("two Hosts", ("Host: a.test", "Host: b.test")), ("Host: a b", ("Host: a b",)),
                         ("Host: a/b", ("Host: a/b",)), ("Host: a.test, b.test", ("Host: a.test, b.test",))):
        c = t.ask("GET / HTTP/1.1", *fields, host=False)
        w = t.origin.look(0.15)
        if w is not None:
            t.next().reply()
            return f"passed on {what}"
        t.same(c.head().status, 400, f"status for {what}")
