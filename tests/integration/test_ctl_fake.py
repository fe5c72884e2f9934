"""edgefs-ctl against nodes that are played by this test (fake_nodes.py): the commands, their tables, their errors and exit
codes. No mounts, no replicator. Standard library only."""

import json
import os
import re
import signal
import socket
import struct
import subprocess
import threading
import time
import unittest

from fake_nodes import CTL, LOCAL, NO, OK, REFUSED, ROOT, UNREACHABLE, USAGE, CtlTest, database, screen


class General(CtlTest):
    def test_help_lists_every_command(self):
        out = self.ctl(None, "help")
        for command in ("status", "promote", "databases", "verify", "log", "import", "export", "quarantine", "wait", "version", "help"):
            self.assertRegex(out, rf"(?m)^  {command} +\S")
            text = self.ctl(None, "help", command)
            self.assertIn(f"Usage: edgefs-ctl {command}", text)
            self.assertEqual(self.ctl(None, command, "--help"), text)
            self.assertEqual(self.ctl(None, "-h", command), text)
        self.assertEqual(self.ctl(None, "--help"), out)
        for code in range(6):
            self.assertRegex(out, rf"(?m)^  {code}  \S")
        self.assertIn("unknown command", self.ctl(None, "help", "nothing", rc=USAGE))

    def test_the_manual_has_every_command_option_and_exit_code(self):
        with open(os.path.join(ROOT, "docs", "edgefs-ctl.md"), encoding="utf-8") as f:
            manual = f.read()
        out = self.ctl(None, "help")
        for command in re.findall(r"(?m)^  ([a-z]+) +\S", out.split("Which node")[0]):
            self.assertRegex(manual, rf"`{command}\b")
            for option in re.findall(r"--[a-z-]+", self.ctl(None, "help", command)):
                self.assertIn(option, manual, command)
        for option in re.findall(r"--[a-z-]+", out):
            self.assertTrue(option == "--help" or option in manual, option)
        for code in range(6):
            self.assertRegex(manual, rf"(?m)^\| {code} \| \S")

    def test_version(self):
        self.assertRegex(self.ctl(None, "version"), r"\Aedgefs-ctl \d+\.\d+\.\d+\n\Z")
        self.assertEqual(self.ctl(None, "--version"), self.ctl(None, "version"))

    def test_usage_errors(self):
        for args, text in (((), "help"), (("statu",), "unknown command"), (("--nothing",), "unknown option"),
                           (("status", "--nothing"), "unknown option"), (("status", "x"), "too many"), (("promote",), "missing"),
                           (("promote", "b", "c"), "too many"), (("promote", "b", "--timeout"), "needs a value"),
                           (("promote", "b", "--timeout", "10"), "unit"), (("promote", "b", "--timeout=0s"), "--timeout"),
                           (("status", "--json=yes"), "takes no value"), (("import", "x"), "missing"), (("export", "x"), "missing"),
                           (("wait",), "--lsn"), (("wait", "--lsn", "-1"), "number"), (("wait", "--lsn", "1x"), "number"),
                           (("wait", "--lsn", "99999999999999999999"), "number"), (("log",), "log ls"), (("log", "rm"), "log ls"),
                           (("log", "ls", "--limit", "0"), "number"), (("log", "export"), "missing"),
                           (("log", "export", "--from", "5", "--to", "4", "x"), "beyond"), (("--url",), "needs a value"),
                           (("--url=", "status"), "needs a value"), (("--token-file", "a", "--token-file", "b", "status"), "twice"),
                           (("-c",), "needs a value"), (("version", "x"), "too many")):
            self.assertIn(text, self.ctl(None, *args, rc=USAGE), args)

    def test_bad_urls_and_configuration(self):
        for url in ("ftp://x:1", "127.0.0.1:1", "http://", "http://x:99999", "http://x:1/path", "http://u@x:1"):
            self.assertIn("--url", self.ctl(None, "--url", url, "status", rc=USAGE))
        self.assertIn("EDGEFS_URL", self.ctl(None, "status", rc=USAGE, env={"EDGEFS_URL": "nonsense"}))
        self.assertIn("No such file", self.ctl(None, "-c", self.path("none"), "status", rc=USAGE))
        bad = self.write("bad.yaml", b"dir: /x\ndata: /y\nhttpp: {}\n")
        self.assertIn(bad + ":3: ", self.ctl(None, "-c", bad, "status", rc=USAGE))

    def test_where_the_url_comes_from(self):
        a = self.nodes("a")
        other = self.nodes("other")
        config = self.write("a.yaml", f"node: a\ndir: {self.tmp}/m\ndata: {self.tmp}/d\nhttp: {{listen: '{a.url[7:]}'}}\n".encode())
        name = lambda *args, **more: self.rows(self.ctl(None, *args, "status", **more))[1][0]
        self.assertEqual(name("-c", config), "a")
        self.assertEqual(name("-c", config, env={"EDGEFS_URL": other.url}), "a", "the file stands above the environment")
        self.assertEqual(name("-c", config, "--url", other.url), "other", "--url stands above the file")
        self.assertEqual(name(env={"EDGEFS_URL": a.url}), "a")
        self.assertEqual(name(env={"EDGEFS_URL": f"{self.dead_url()}, {a.url}/"}), "a", "the next one if one is down")
        self.assertEqual(name("--url", self.dead_url(), "--url", a.url), "a")
        self.assertEqual(self.rows(self.ctl(None, "status", f"--url={a.url}"))[1][0], "a", "global options may come last")
        down = self.write("down.yaml", f"node: x\ndir: {self.tmp}/m\ndata: {self.tmp}/d\nhttp: {{listen: '{self.dead_url()[7:]}'}}\n"
                          f"nodes: [{{name: x, url: '{self.dead_url()}'}}, {{name: a, url: '{a.url}'}}]\n".encode())
        self.assertEqual(name("-c", down), "a", "the other nodes in the configuration are asked too")

    def test_unreachable(self):
        for args in (["status"], ["databases"], ["verify"], ["promote", "b"], ["log", "ls"], ["log", "export", self.tmp],
                     ["export", "x.db", self.path("x")], ["import", self.sqlite("in.db"), "x.db"], ["wait", "--lsn", "1"]):
            text = self.ctl(None, "--url", self.dead_url(), *args, rc=UNREACHABLE)
            self.assertIn("cannot be reached", text)
            if args[0] == "import":
                os.unlink(self.path("in.db"))

    def test_token(self):
        a = self.nodes("a")
        a.token = "secret-word"
        self.assertIn("--token-file", self.ctl(a, "status", rc=REFUSED))
        good, wrong = self.write("good", b"secret-word\n"), self.write("wrong", b"other")
        self.assertIn("401", self.ctl(a, "status", "--token-file", wrong, rc=REFUSED))
        self.ctl(a, "status", "--token-file", good)
        self.ctl(a, "status", env={"EDGEFS_TOKEN_FILE": good})
        self.ctl(a, "status", "--token-file", good, env={"EDGEFS_TOKEN_FILE": wrong})
        config = self.write("a.yaml", f"node: a\ndir: {self.tmp}/m\ndata: {self.tmp}/d\nhttp: {{listen: '{a.url[7:]}'}}\n"
                            f"auth: {{token-file: {good}}}\n".encode())
        self.ctl(None, "-c", config, "status")
        for content, text in ((b"", "empty"), (b"two words", "one word"), (b"x" * 5000, "longer"), (b"\xff\xfe", "one word")):
            self.assertIn(text, self.ctl(a, "status", "--token-file", self.write("t", content), rc=USAGE))
        self.assertIn("No such file", self.ctl(a, "status", "--token-file", self.path("none"), rc=USAGE))

    def test_answers_that_are_no_answers(self):
        a = self.nodes("a")
        for body, text in ((b"<html>hello</html>", "cannot be read"), (b"[]", "not an object"), (b'{"a":1,"a":2}', "duplicate"),
                           (b"", "cannot be read"), (b"[" * 100000, "cannot be read"), (b'{"node":"\xff"}', "cannot be read")):
            a.hooks[("GET", "/v1/status")] = lambda h, *_, b=body: (200, b)
            self.assertIn(text, self.ctl(a, "status", rc=REFUSED))
        a.hooks[("GET", "/v1/status")] = lambda *_: (500, b"oops")
        self.assertIn("(500)", self.ctl(a, "status", rc=REFUSED))
        a.hooks[("GET", "/v1/status")] = lambda *_: (503, {"error": "starting; \x1b[31mtry\nagain"})
        text = self.ctl(a, "status", rc=REFUSED)
        self.assertIn("starting; ?[31mtry?again (503)", text, "what comes from the network cannot steer the terminal")

        def cut(h, *_):
            h.send_response(200)
            h.send_header("Content-Length", "100")
            h.end_headers()
            h.wfile.write(b"{")
            h.close_connection = True
            return True
        a.hooks[("GET", "/v1/status")] = cut
        self.ctl(a, "status", rc=UNREACHABLE)
        a.hooks[("GET", "/v1/status")] = lambda *_: (302, {}, [("Location", self.dead_url())])
        self.ctl(a, "status", rc=REFUSED)

    def test_empty_objects_do_not_crash(self):
        a = self.nodes("a")
        a.hooks[("GET", "/v1/")] = lambda *_: (200, {})
        a.hooks[("POST", "/v1/")] = lambda *_: (200, {})
        self.ctl(a, "status")
        self.ctl(a, "databases")
        self.ctl(a, "wait", "--lsn", "1")
        self.ctl(a, "log", "ls", rc=REFUSED)
        self.ctl(a, "log", "export", self.path("x"), rc=REFUSED)
        self.ctl(a, "verify", rc=UNREACHABLE)
        self.ctl(a, "promote", "b", rc=UNREACHABLE)

    def test_full_disk_behind_standard_output(self):
        a = self.nodes("a")
        with open("/dev/full", "w") as full:
            p = subprocess.run([CTL, "--url", a.url, "status"], stdout=full, stderr=subprocess.PIPE, text=True, env=self.environment(),
                               timeout=30, check=False)
        self.assertEqual(p.returncode, LOCAL)
        self.assertIn("No space left", p.stderr)


class Status(CtlTest):
    def test_table(self):
        a, b = self.nodes("a", "b")
        a.databases = [database("app.db"), database("big.db", pages=3000)]
        b.status_more = {"lag_ms": 1234, "lsn": 4700, "uptime_s": 59}
        out = self.ctl(a, "status")
        rows = self.rows(out)
        self.assertEqual(rows[0], ["NODE", "ROLE", "EPOCH", "LSN", "LAG", "DATABASES", "SIZE", "LOG", "UP", "URL"])
        self.assertEqual(rows[1], ["a", "primary", "3", "4711", "0 ms", "2", "11.7 MiB", "1.0 MiB", "2 h 3 min", a.url])
        self.assertEqual(rows[2], ["b", "replica", "3", "4700", "1.2 s", "0", "0 B", "1.0 MiB", "59 s", b.url])
        self.assertNotIn("\x1b", out)
        self.assertNotIn("Warnings", out)
        lines = out.splitlines()
        self.assertEqual(len({line.rindex("http") if "http" in line else line.rindex("URL") for line in lines}), 1, "aligned")

    def test_the_primary_comes_first_whoever_is_asked(self):
        a, b, c = self.nodes("a", "b", "c")
        a.role, c.role = "replica", "primary"
        for node in (a, b, c):
            self.assertEqual([r[0] for r in self.rows(self.ctl(node, "status"))[1:]], ["c", "a", "b"])

    def test_unreachable_node_is_shown(self):
        a, b, c = self.nodes("a", "b", "c")
        b.stop()
        c.url = self.silent_url()
        start = time.monotonic()
        out = self.ctl(a, "status")
        self.assertLess(time.monotonic() - start, 10, "short time-outs, all at once")
        rows = {r[0]: r for r in self.rows(out)[1:]}
        self.assertEqual(rows["b"], ["b", "unreachable", *["-"] * 7, b.url])
        self.assertEqual(rows["c"][1], "unreachable")
        self.assertRegex(out, r"(?m)^  b: http://\S+ cannot be reached: ")
        self.assertRegex(out, r"(?m)^  c: http://\S+ cannot be reached: ")

    def test_the_asked_node_is_reached_by_the_url_given(self):
        a, b = self.nodes("a", "b")
        given = a.url
        a.url = "http://10.255.255.1:9"  # what it advertises is of no use here
        out = self.ctl(None, "--url", given, "status")
        self.assertEqual(self.rows(out)[1], ["a", "primary", "3", "4711", "0 ms", "0", "0 B", "1.0 MiB", "2 h 3 min", given])
        self.assertEqual(self.rows(out)[2][:2], ["b", "replica"])

    def test_warnings(self):
        a, b, c = self.nodes("a", "b", "c")
        a.status_more = {"warnings": ["x.db: cannot be captured"], "role": "handing-over"}
        b.status_more = {"connected": False, "epoch": 2}
        c.status_more = {"version": "0.2.0", "databases": {"count": 1, "bytes": 1, "warnings": 1}}
        out = self.ctl(a, "status")
        self.assertEqual(self.rows(out)[2][4], "disconnected")
        tail = out.split("\n\n")[1]
        self.assertTrue(tail.startswith("Warnings\n"))
        for line in ("a: x.db: cannot be captured", "a: a promotion is under way; writes wait", "b: is still in epoch 2",
                     "b: does not receive changes: it is not connected to the primary", "c: runs version 0.2.0", "a: runs version 0.1.0",
                     "c: 1 database has a warning"):
            self.assertIn("  " + line, tail)

    def test_no_primary_and_two_primaries(self):
        a, b = self.nodes("a", "b")
        b.role, b.epoch = "primary", 4
        self.assertIn("2 nodes say that they are primary; b has the highest epoch", self.ctl(a, "status"))
        a.role = b.role = "replica"
        self.assertIn("nobody accepts writes", self.ctl(a, "status"))

    def test_json(self):
        a, b, c = self.nodes("a", "b", "c")
        b.stop()
        got = self.json(a, "status")
        self.assertEqual(got["primary"], "a")
        self.assertEqual([(n["name"], n["reachable"]) for n in got["nodes"]], [("a", True), ("b", False), ("c", True)])
        self.assertEqual(got["nodes"][0]["status"], a.status())
        self.assertIn("cannot be reached", got["nodes"][1]["error"])

    def test_names_with_wide_and_with_evil_characters(self):
        a, b = self.nodes("日本", "b\x1b]0;x\x07")
        rows = self.ctl(a, "status").splitlines()
        self.assertTrue(rows[1].startswith("日本     primary"), rows[1])
        self.assertTrue(rows[2].startswith("b?]0;x?  replica"), rows[2])

    def test_a_url_that_is_none_is_not_asked(self):
        a, b = self.nodes("a", "b")
        b.url = "file:///etc/passwd"
        self.assertEqual(self.rows(self.ctl(a, "status"))[2][1], "refused")

    def test_colours_only_on_a_terminal(self):
        a, b = self.nodes("a", "b")
        b.status_more = {"connected": False}
        rc, raw, _ = self.on_terminal("--url", a.url, "status")
        self.assertEqual(rc, OK)
        self.assertIn("\x1b[32mprimary\x1b[0m", raw)
        self.assertIn("\x1b[1;31mdisconnected\x1b[0m", raw)
        self.assertEqual(self.rows(screen(raw))[1], self.rows(self.ctl(a, "status"))[1])
        for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
            self.assertNotIn("\x1b", self.on_terminal("--url", a.url, "status", env=env)[1])

    def test_watch_redraws_until_interrupted(self):
        a = self.nodes("a")

        def more(p):
            a.lsn = 4999
        shown = []

        def stop(p):
            shown.append(True)
            p.send_signal(signal.SIGINT)
        a.hooks[("GET", "/v1/status")] = lambda *_: more(None)
        rc, raw, _ = self.on_terminal("--url", a.url, "status", "--watch", "--interval", "100ms", until=rb"(?s)4999.*4999", then=stop)
        self.assertEqual((rc, shown), (-signal.SIGINT, [True]))
        self.assertIn("\x1b[H\x1b[2J", raw)
        self.assertIn("\x1b[?25l", raw)
        self.assertTrue(raw.rstrip().endswith("\x1b[?25h"), "the cursor is back")

    def test_watch_survives_an_outage_and_json_is_one_line_each(self):
        a = self.nodes("a")
        count = []

        def flaky(*_):
            count.append(1)
            return (500, {"error": "oops"}) if len(count) == 2 else None
        a.hooks[("GET", "/v1/status")] = flaky
        p = subprocess.Popen([CTL, "--url", a.url, "status", "--watch", "--json", "--interval", "100ms"], stdout=subprocess.PIPE, text=True,
                             env=self.environment())
        try:
            lines = [json.loads(p.stdout.readline()) for _ in range(3)]
        finally:
            p.stdout.close()  # the reader goes away: it ends by itself
            rc = p.wait(20)
        self.assertEqual(rc, OK)
        self.assertEqual([sorted(x) for x in lines], [["nodes", "primary"], ["error"], ["nodes", "primary"]])


class Databases(CtlTest):
    def test_table(self):
        a = self.nodes("a")
        a.databases = [database("app.db", open=True), database("t/x.db", state="waiting", warning="a reader\nis in the way"),
                       {"name": "notes.txt", "kind": "other", "bytes": 12}]
        out = self.ctl(a, "databases")
        rows = self.rows(out)
        self.assertEqual(rows[0], ["NAME", "SIZE", "MODE", "STATE", "PAGE", "PAGES", "TXID", "CHECKSUM"])
        self.assertEqual(rows[1], ["app.db", "12.0 KiB", "wal", "ok", "4096", "3", "5", "8000000000000001", "open"])
        self.assertEqual(rows[2][:4], ["t/x.db", "12.0 KiB", "wal", "waiting"])
        self.assertEqual(rows[3][:4], ["notes.txt", "12 B", "-", "not replicated"])
        self.assertIn("\nWarnings\n  t/x.db: a reader?is in the way\n", out)
        self.assertEqual(self.json(a, "databases")["databases"], a.databases)

    def test_errors(self):
        a = self.nodes("a")
        a.hooks[("GET", "/v1/databases")] = lambda *_: (403, {"error": "not for you"})
        self.assertIn("not for you (403)", self.ctl(a, "databases", rc=REFUSED))


class Promote(CtlTest):
    def test_goes_to_the_primary_by_itself(self):
        a, b = self.nodes("a", "b")
        self.assertEqual(self.ctl(b, "promote", "b"), "b is primary: epoch 4, LSN 4712; writes paused for 12 ms\n")
        (_, _, body, _), = a.seen("POST", "/v1/promote")
        self.assertEqual(json.loads(body), {"node": "b", "timeout_ms": 10000, "now": False})
        self.assertEqual(b.seen("POST", "/"), [])

    def test_time_out_is_passed_on_and_undone_is_no(self):
        a, _ = self.nodes("a", "b")
        a.hooks[("POST", "/v1/promote")] = lambda *_: (504, {"error": "b did not catch up within 300 ms"})
        self.assertIn("undone", self.ctl(a, "promote", "b", "--timeout", "300ms", rc=NO))
        self.assertEqual(json.loads(a.seen("POST", "/v1/promote")[0][2])["timeout_ms"], 300)

    def test_refusals(self):
        a, _ = self.nodes("a", "b")
        self.assertIn("there is no node z (404)", self.ctl(a, "promote", "z", rc=REFUSED))
        a.hooks[("POST", "/v1/promote")] = lambda *_: (409, {"error": "b is not connected"})
        self.assertIn("b is not connected (409)", self.ctl(a, "promote", "b", rc=REFUSED))

    def test_follows_a_role_that_moved_but_not_for_ever(self):
        a, b = self.nodes("a", "b")
        a.hooks[("POST", "/v1/promote")] = lambda *_: (421, {"error": "no", "primary": "b", "primary_url": b.url})
        b.hooks[("POST", "/v1/promote")] = lambda *_: (200, {"primary": "a", "epoch": 9, "lsn": 1})
        self.assertEqual(self.ctl(a, "promote", "a"), "a is primary: epoch 9, LSN 1\n")
        b.hooks[("POST", "/v1/promote")] = lambda *_: (421, {"error": "no", "primary": "a", "primary_url": a.url})
        self.ctl(a, "promote", "a", rc=REFUSED)
        self.assertLess(len(a.seen("POST", "/v1/promote")), 8)

    def test_primary_unreachable(self):
        a, b = self.nodes("a", "b")
        a.stop()
        self.assertIn("the primary, a (", self.ctl(b, "promote", "b", rc=UNREACHABLE))
        a.role = "replica"
        self.assertIn("no node that can be reached is primary", self.ctl(b, "promote", "b", rc=UNREACHABLE))

    def test_connection_lost_in_the_middle(self):
        a, _ = self.nodes("a", "b")

        def hang_up(h, *_):
            h.connection.shutdown(socket.SHUT_RDWR)
            return True
        a.hooks[("POST", "/v1/promote")] = hang_up
        self.assertIn("is not known", self.ctl(a, "promote", "b", rc=UNREACHABLE))


class Wait(CtlTest):
    def test_reached(self):
        a = self.nodes("a")
        self.assertIn("LSN 4000 applied", self.ctl(a, "wait", "--lsn", "4000"))
        self.assertEqual(json.loads(a.seen("POST", "/v1/wait")[0][2])["lsn"], 4000)

    def test_not_reached_is_no(self):
        a = self.nodes("a")
        self.assertIn("has not applied LSN 5000", self.ctl(a, "wait", "--lsn", "5000", "--timeout", "0ms", rc=NO))

    def test_reached_at_last(self):
        a = self.nodes("a")

        def moving(*_):
            a.lsn += 100
        a.hooks[("POST", "/v1/wait")] = moving
        self.assertIn("LSN 5000 applied", self.ctl(a, "wait", "--lsn", "5000", "--timeout", "20s"))
        self.assertEqual(len(a.seen("POST", "/v1/wait")), 3)
        self.assertTrue(all(json.loads(r[2])["timeout_ms"] <= 60000 for r in a.seen("POST", "/v1/wait")))

    def test_refused(self):
        a = self.nodes("a")
        a.hooks[("POST", "/v1/wait")] = lambda *_: (400, {"error": "bad"})
        self.ctl(a, "wait", "--lsn", "1", rc=REFUSED)


class Verify(CtlTest):
    def three(self, **more):
        nodes = self.nodes("a", "b", "c")
        for n in nodes:
            n.databases = [database("app.db", **more), database("t/x.db", checksum="8000000000000002")]
            n.sums = {"app.db": [11, 12, 13], "t/x.db": [1, 2, 3]}
        return nodes

    def test_identical(self):
        a, b, c = self.three()
        out = self.ctl(b, "verify")
        rows = self.rows(out)
        self.assertEqual(rows[0], ["DATABASE", "SIZE", "TXID", "CHECKSUM", "a", "b", "c"])
        self.assertEqual(rows[1], ["app.db", "12.0 KiB", "5", "8000000000000001", "ok", "ok", "ok"])
        self.assertEqual(rows[2], ["t/x.db", "12.0 KiB", "5", "8000000000000002", "ok", "ok", "ok"])
        self.assertTrue(out.endswith("\n\nEpoch 3, LSN 4711: 2 databases identical on 3 nodes, all pages match their checksums\n"), out)
        for n in (a, b, c):
            self.assertEqual([r[1] for r in n.seen("GET", "/v1/databases?")], ["/v1/databases?lsn=4711&wait_ms=10000"])
            self.assertEqual(len(n.seen("GET", "/v1/databases/t%2Fx.db/checksum")), 1)
            self.assertEqual(n.seen("GET", "/v1/databases/app.db/sums"), [])
        got = self.json(a, "verify")
        self.assertEqual((got["identical"], got["epoch"], got["lsn"], got["primary"]), (True, 3, 4711, "a"))
        self.assertEqual([d["name"] for d in got["databases"]], ["app.db", "t/x.db"])
        self.assertEqual(got["databases"][0]["nodes"]["c"]["result"], "ok")
        self.assertTrue(got["databases"][0]["nodes"]["c"]["scrubbed"])

    def test_one_database_and_quick(self):
        a, b, _ = self.three()
        b.databases[1]["checksum"] = "8000000000000666"
        self.assertEqual(len(self.rows(self.ctl(a, "verify", "app.db"))), 2)
        out = self.ctl(a, "verify", "app.db", "--quick")
        self.assertTrue(out.endswith("1 database identical on 3 nodes\n"), out)
        self.assertEqual(len(a.seen("GET", "/v1/databases/app.db/checksum")), 1)
        self.assertIn("no node has a database called", self.ctl(a, "verify", "none.db", rc=REFUSED))
        self.assertIn("not a path", self.ctl(a, "verify", "../x", rc=USAGE))

    def test_differing_pages_are_listed(self):
        a, b, _ = self.three()
        b.databases[0]["checksum"] = "8000000000000fff"
        b.sums["app.db"] = [11, 99, 98]
        out = self.ctl(a, "verify", rc=NO)
        self.assertEqual(self.rows(out)[1][-3:], ["ok", "DIFFERS", "ok"])
        self.assertIn("app.db on b: DIFFERS, contents\n    2 pages not as on the primary: 2, 3\n", out)
        self.assertIn("1 of 2 databases not in order", out)
        self.assertNotIn("meanwhile", out)
        got = self.json(a, "verify", rc=NO)
        self.assertFalse(got["identical"])
        self.assertEqual(got["databases"][0]["nodes"]["b"]["differing_pages"], [2, 3])
        self.assertEqual(got["databases"][0]["nodes"]["b"]["differing_count"], 2)

    def test_many_pages_as_ranges_and_of_another_length(self):
        a, b, _ = self.three()
        a.databases[0].update(pages=4000, bytes=4000 * 4096)
        a.sums["app.db"] = list(range(4000))
        b.databases[0].update(pages=3000, bytes=3000 * 4096)
        b.sums["app.db"] = [s + 1 if s % 100 == 0 or 10 <= s < 20 else s for s in range(3000)]
        out = self.ctl(a, "verify", rc=NO)
        self.assertIn("app.db on b: DIFFERS, number of pages\n    1040 pages not as on the primary: 1, 11-20, 101, 201, 301", out)
        self.assertRegex(out, r" and \d+ more\n")
        pages = self.json(a, "verify", rc=NO)["databases"][0]["nodes"]["b"]
        self.assertEqual((pages["differing_count"], len(pages["differing_pages"])), (1040, 1000))

    def test_pages_of_a_database_that_is_being_written(self):
        a, b, _ = self.three()
        b.databases[0]["checksum"] = "8000000000000fff"
        b.sums["app.db"] = [11, 99, 13]

        def busy(h, path, *_):
            return 200, struct.pack(">3Q", 11, 99, 13), [("X-Edgefs-Position", f"{100 + len(b.requests):016x}/8000000000000fff")]
        b.hooks[("GET", "/v1/databases/app.db/sums")] = busy
        self.assertIn("being written meanwhile", self.ctl(a, "verify", rc=NO))
        b.hooks.clear()
        b.sums = dict(a.sums)
        self.assertIn("no page differs any more at transaction 0000000000000005", self.ctl(a, "verify", rc=NO))
        b.hooks[("GET", "/v1/databases/app.db/sums")] = lambda *_: (500, {"error": "oops"})
        self.assertIn("pages could not be compared: ", self.ctl(a, "verify", rc=NO))

    def test_missing_extra_and_other_files(self):
        a, b, c = self.three()
        a.databases.append({"name": "notes.txt", "kind": "other", "bytes": 12})
        b.databases.pop(0)
        c.databases.append(database("zombie.db"))
        out = self.ctl(a, "verify", rc=NO)
        self.assertEqual([r[-3:] for r in self.rows(out)[1:]], [["ok", "missing", "ok"], ["ok", "ok", "ok"], ["missing", "ok", "extra"]])
        self.assertNotIn("notes.txt", out)

    def test_same_contents_but_another_transaction_number(self):
        a, b, _ = self.three()
        b.databases[0]["txid"] = 4
        self.assertIn("app.db on b: DIFFERS, transaction number", self.ctl(a, "verify", rc=NO))

    def test_damaged_pages(self):
        a, _, c = self.three()
        a.scrubs["app.db"] = {"checksum": "8000000000000abc", "bad_pages": [7, 8], "bad_count": 2}
        c.scrubs["t/x.db"] = {"bad_pages": [], "bad_count": 0, "checksum": "8000000000000abc"}
        out = self.ctl(a, "verify", rc=NO)
        self.assertEqual(self.rows(out)[1][-3:], ["DAMAGED", "ok", "ok"])
        self.assertEqual(self.rows(out)[2][-3:], ["ok", "ok", "DAMAGED"])
        self.assertIn("app.db on a: DAMAGED\n    2 pages damaged: 7, 8\n", out)
        self.assertIn("2 of 2 databases not in order", out)
        self.ctl(a, "verify", "--quick")

    def test_node_that_is_behind_or_down_or_refuses(self):
        a, b, c = self.three()
        b.lsn = 4000
        c.stop()
        out = self.ctl(a, "verify", "--wait", "0s", rc=NO)
        self.assertEqual(self.rows(out)[1][-3:], ["ok", "behind", "unreachable"])
        self.assertIn("2 databases on one node, all pages match their checksums; 2 nodes not compared", out)
        b.hooks[("GET", "/v1/databases")] = lambda *_: (403, {"error": "not for you"})
        out = self.ctl(a, "verify", rc=NO)
        self.assertEqual(self.rows(out)[1][-2], "refused")
        self.assertIn("not for you", out)
        a.stop()
        self.ctl(b, "verify", rc=UNREACHABLE)

    def test_forgotten_position_is_taken_anew(self):
        a, b, _ = self.three()
        tries = []

        def forgetful(h, path, query, _):
            if "lsn" in query and len(tries) < 2:
                tries.append(query["lsn"])
                for n in a.cluster:
                    n.lsn += 10
                return 410, {"error": "too long ago"}
            return None
        b.hooks[("GET", "/v1/databases")] = forgetful
        self.assertIn("LSN 4731: 2 databases identical", self.ctl(a, "verify"))
        self.assertEqual(tries, ["4711", "4721"])
        b.hooks[("GET", "/v1/databases")] = lambda h, p, q, _: (410, {"error": "too long ago"}) if "lsn" in q else None
        out = self.ctl(a, "verify", rc=NO)
        self.assertEqual(self.rows(out)[1][-2], "too old")

    def test_scrub_that_fails_is_not_passed_over(self):
        a, b, c = self.three()
        b.hooks[("GET", "/v1/databases/app.db/checksum")] = lambda *_: (500, {"error": "disk on fire"})
        out = self.ctl(a, "verify", rc=NO)
        self.assertEqual(self.rows(out)[1][-3:], ["ok", "unknown", "ok"])
        self.assertIn("disk on fire", out)
        self.assertIn("1 not checked", out)
        b.hooks[("GET", "/v1/databases/app.db/checksum")] = lambda *_: (404, {"error": "gone"})
        self.assertIn("removed while", self.ctl(a, "verify"))

    def test_busy_pages_are_not_damaged_pages(self):
        a, b, _ = self.three()
        answers = []

        def say(*bad):
            answers.append(bad)

        def busy(h, path, *_):
            bad = answers.pop(0) if len(answers) > 1 else answers[0]
            return 200, {"name": "app.db", "txid": 1000 + len(b.requests), "lsn": 1, "page_size": 4096, "pages": 9, "checksum": "8000000000000001",
                         "tracked": "8000000000000001" if not bad else "8000000000000002", "bad_pages": bad, "bad_count": len(bad)}
        b.hooks[("GET", "/v1/databases/app.db/checksum")] = busy
        for bad in ((3, 4), (5,), ()):
            say(*bad)
        self.assertIn("2 databases identical on 3 nodes, all pages match", self.ctl(a, "verify"))
        answers.clear()
        for bad in ((3, 4, 7), (4, 6, 7), (4, 7, 8), (2, 4, 7), (1, 4, 7)):
            say(*bad)
        self.assertIn("    2 pages damaged: 4, 7\n", self.ctl(a, "verify", rc=NO))
        answers.clear()
        for i in range(5):
            say(i + 1)
        out = self.ctl(a, "verify", rc=NO)
        self.assertIn("it was being written all the time", out)
        self.assertIn("1 not checked", out)

    def test_a_node_that_dies_while_it_reads(self):
        a, b, _ = self.three()

        def hang_up(h, *_):
            h.connection.shutdown(socket.SHUT_RDWR)
            return True
        b.hooks[("GET", "/v1/databases/app.db/checksum")] = hang_up
        out = self.ctl(a, "verify", rc=NO)
        self.assertEqual([r[-2] for r in self.rows(out)[1:]], ["unknown", "unknown"])
        self.assertIn("the node is gone", out)

    def test_state_is_told(self):
        a, b, _ = self.three()
        b.databases[0].update(state="image", checksum=None, warning="receiving an image")
        out = self.ctl(a, "verify", rc=NO)
        self.assertIn("app.db on b: DIFFERS, no checksum; state image: receiving an image", out)

    def test_progress_on_a_terminal(self):
        a, _, _ = self.three()
        go = threading.Event()
        a.hooks[("GET", "/v1/databases/t%2Fx.db/checksum")] = lambda *_: go.wait(20) and None
        rc, raw, _ = self.on_terminal("--url", a.url, "verify", until=rb"verify .*%.*/s", then=lambda p: go.set())
        self.assertEqual(rc, OK)
        self.assertIn(" of 72.0 KiB", raw)
        self.assertNotIn("verify", screen(raw), "the bar is gone at the end")

    def test_no_databases(self):
        a, _ = self.nodes("a", "b")
        self.assertIn("0 databases identical on 2 nodes", self.ctl(a, "verify"))


if __name__ == "__main__":
    unittest.main()
