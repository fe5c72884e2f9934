"""edgefs-ctl against played nodes (fake_nodes.py), as test_ctl_fake.py: what moves files, log ls|export, import and export."""

import contextlib
import os
import re
import resource
import signal
import socket
import sqlite3
import time
import unittest

from fake_nodes import LOCAL, OK, REFUSED, UNREACHABLE, USAGE, CtlTest, database, ltx, screen


class Log(CtlTest):
    def filled(self):
        a = self.nodes("a")
        for i in range(100, 160):
            kind = {100: "epoch", 101: "state", 102: "drop"}.get(i, "tx")
            r = {"lsn": i, "epoch": 3, "type": kind, "name": "t/100%.db" if i % 2 else "app.db", "time": f"2026-11-21T09:00:{i - 100:02}Z", "payload": 0}
            if kind == "tx":
                data = ltx(i, i + (i == 159), bytes([i]) * 512)
                r.update(payload=len(data), min_txid=i, max_txid=i + (i == 159), pages=1, commit=3)
                a.payloads[i] = data
            a.records.append(r)
        return a

    def test_ls(self):
        a = self.filled()
        out = self.ctl(a, "log", "ls")
        rows = self.rows(out)
        self.assertEqual(rows[0], ["LSN", "EPOCH", "TYPE", "TIME", "TXID", "PAGES", "SIZE", "DATABASE"])
        self.assertEqual([int(r[0]) for r in rows[1:]], list(range(110, 160)), "the newest 50")
        self.assertEqual(rows[-1], ["159", "3", "tx", "2026-11-21T09:00:59Z", "159-160", "1", "660 B", "t/100%.db"])
        rows = self.rows(self.ctl(a, "log", "ls", "--from", "100", "--limit=3"))
        self.assertEqual([(r[0], r[2]) for r in rows[1:]], [("100", "epoch"), ("101", "state"), ("102", "drop")])
        self.assertEqual(len(self.rows(self.ctl(a, "log", "ls", "--limit", "1"))), 2)
        self.assertEqual(len(self.rows(self.ctl(a, "log", "ls", "--from", "9999"))), 1)
        got = self.json(a, "log", "ls", "--limit", "1000")
        self.assertEqual((got["first_lsn"], got["last_lsn"], got["records"]), (100, 159, a.records))
        self.assertIn("begins at LSN 100", self.ctl(a, "log", "ls", "--from", "99", rc=REFUSED))

    def test_ls_tells_what_renames_and_epochs_are_about(self):
        a = self.filled()
        a.records[0].update(name="", primary="b")
        a.records[1].update(type="rename", name="old.db", to="new.db")
        rows = self.rows(self.ctl(a, "log", "ls", "--from", "100", "--limit", "2"))
        self.assertEqual([r[-1] for r in rows[1:]], ["primary b", "old.db → new.db"])

    def test_ls_of_an_empty_log(self):
        self.assertEqual(len(self.rows(self.ctl(self.nodes("a"), "log", "ls"))), 1)

    def test_ls_fetches_page_by_page(self):
        a = self.nodes("a")
        a.records = [{"lsn": i, "epoch": 1, "type": "noop", "name": "", "time": "", "payload": 0} for i in range(1, 2502)]
        self.assertEqual(len(self.rows(self.ctl(a, "log", "ls", "--limit", "2400"))), 2401)
        self.assertEqual([r[1] for r in a.seen("GET", "/v1/log?from")], ["/v1/log?from=102&limit=1000", "/v1/log?from=1102&limit=1000", "/v1/log?from=2102&limit=400"])

    def test_ls_of_a_server_that_goes_in_circles(self):
        a = self.filled()
        a.hooks[("GET", "/v1/log")] = lambda *_: (200, {"first_lsn": 100, "last_lsn": 159, "records": a.records[:1]})
        self.assertIn("other records", self.ctl(a, "log", "ls", rc=REFUSED))
        a.hooks[("GET", "/v1/log")] = lambda h, p, q, b: (200, {"first_lsn": 100, "last_lsn": 159, "records": a.records[-1:]}) if "from" in q else None
        self.assertIn("deleted meanwhile", self.ctl(a, "log", "ls", rc=REFUSED))

    def test_export(self):
        a = self.filled()
        out = self.path("out")
        self.assertRegex(self.ctl(a, "log", "export", out), rf"\A57 files, 36\.7 KiB, exported to {out}\n\Z")
        self.assertEqual(sorted(os.listdir(out)), ["app.db", "t%2F100%25.db"])
        self.assertEqual(self.read("out/app.db/000000000000009e-000000000000009e.ltx"), a.payloads[158])
        self.assertEqual(self.read("out/t%2F100%25.db/000000000000009f-00000000000000a0.ltx"), a.payloads[159])
        self.assertEqual(sum(len(f) for _, _, f in os.walk(out)), 57, "and no temporary files")
        again = self.ctl(a, "log", "export", out)
        self.assertIn("0 files, 0 B", again)
        self.assertIn("57 were there already", again)

    def test_export_a_range(self):
        a = self.filled()
        self.ctl(a, "log", "export", "--from", "110", "--to", "119", self.path("o"))
        self.assertEqual(sum(len(f) for _, _, f in os.walk(self.path("o"))), 10)
        self.assertIn("begins at LSN 100", self.ctl(a, "log", "export", "--from", "5", self.path("o"), rc=REFUSED))
        self.ctl(a, "log", "export", self.path("no/such"), rc=LOCAL)

    def test_export_overwrites_nothing(self):
        a = self.filled()
        os.makedirs(self.path("o/app.db"))
        name = "o/app.db/0000000000000078-0000000000000078.ltx"
        self.write(name, b"mine")
        self.assertIn("is another file", self.ctl(a, "log", "export", "--from", "115", "--to", "125", self.path("o"), rc=LOCAL))
        self.assertEqual(self.read(name), b"mine")

    def test_export_of_damaged_and_of_gone_records(self):
        a = self.filled()
        good = a.payloads[120]
        for i, bad in enumerate((good[:-1], good[:300] + b"?" + good[301:], ltx(119, 119), b"LTX1" + b"\0" * (len(good) - 4))):
            a.payloads[120] = bad
            self.assertIn("LSN 120", self.ctl(a, "log", "export", "--from", "120", "--to", "120", self.path(f"o{i}"), rc=REFUSED))
            self.assertEqual(sum(len(f) for _, _, f in os.walk(self.path(f"o{i}"))), 0, "nothing is left")
        del a.payloads[120]
        self.assertIn("no longer kept", self.ctl(a, "log", "export", "--from", "120", self.path("o"), rc=REFUSED))

    def test_export_stays_in_its_folder(self):
        a = self.filled()
        for name in ("../x", "/etc/x", "a//b", "..", ".", "", "a\nb", "x" * 2000):
            a.records[-1]["name"] = name
            self.ctl(a, "log", "export", "--from", "159", self.path("o"), rc=REFUSED)
        a.records[-1]["name"] = "x" * 300
        self.assertIn("so long a name", self.ctl(a, "log", "export", "--from", "159", self.path("o"), rc=LOCAL))
        self.assertEqual(os.listdir(self.path("o")), [])


class Import(CtlTest):
    def test_import_goes_to_the_primary(self):
        a, b = self.nodes("a", "b")
        source = self.sqlite("in.db", 5000)
        out = self.ctl(b, "import", source, "tenants/ü b.db")
        self.assertRegex(out, r"\Atenants/ü b\.db: 1\.\d MiB imported in \S+ \w+: LSN 4712, transaction 1, checksum 8000000000000009\n\Z")
        self.assertEqual(a.imported, {"tenants/ü b.db": self.read("in.db")})
        self.assertEqual(a.seen("PUT", "/")[0][1], "/v1/databases/tenants%2F%C3%BC%20b.db")
        self.assertEqual(b.seen("PUT", "/"), [])

    def test_follows_the_primary(self):
        a, b = self.nodes("a", "b")
        small, big = self.sqlite("small.db", 1), self.sqlite("big.db", 20000)
        a.hooks[("PUT", "/")] = lambda *_: (421, {"error": "no", "primary": "b", "primary_url": b.url})
        a.refuse_put = None
        b.hooks[("PUT", "/")] = lambda *_: (200, {"name": "x", "lsn": 5})
        self.ctl(a, "import", small, "x.db")
        a.hooks.clear()
        a.refuse_put = (421, {"error": "no", "primary": "b", "primary_url": b.url})  # before the body is sent
        self.ctl(a, "import", big, "x.db")
        self.assertEqual(len(b.seen("PUT", "/")), 2)
        self.assertEqual(b.seen("PUT", "/")[1][2], self.read("big.db"))

    def test_refusals(self):
        a = self.nodes("a")
        source = self.sqlite("in.db")
        for status, text in ((409, "is open"), (400, "not a database"), (403, "no"), (507, "disk full")):
            a.hooks[("PUT", "/")] = lambda *_: (status, {"error": text})
            self.assertIn(f"{text} ({status})", self.ctl(a, "import", source, "x.db", rc=REFUSED))

    def test_names(self):
        a = self.nodes("a")
        source = self.sqlite("in.db")
        for name in ("", "/abs.db", "../x.db", "a/../b", "a//b", "x/", ".", "a\tb", "x" * 1025):
            self.ctl(a, "import", source, name, rc=USAGE)
        self.assertEqual(a.requests, [])

    def test_files_that_are_not_to_be_imported(self):
        a = self.nodes("a")
        good = self.read(os.path.basename(self.sqlite("good.db")))
        self.assertIn("No such file", self.ctl(a, "import", self.path("none"), "x.db", rc=LOCAL))
        self.assertIn("regular", self.ctl(a, "import", self.tmp, "x.db", rc=LOCAL))
        os.mkfifo(self.path("fifo"))
        self.assertIn("regular", self.ctl(a, "import", self.path("fifo"), "x.db", rc=LOCAL))
        self.assertIn("not an SQLite database", self.ctl(a, "import", self.write("text", b"hello" * 100), "x.db", rc=LOCAL))
        self.assertIn("not an SQLite database", self.ctl(a, "import", self.write("empty", b""), "x.db", rc=LOCAL))
        self.assertIn("cut short", self.ctl(a, "import", self.write("cut", good[:-100]), "x.db", rc=LOCAL))
        self.write("good.db-journal", b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7")
        self.assertIn("unfinished", self.ctl(a, "import", self.path("good.db"), "x.db", rc=LOCAL))
        self.assertEqual(a.requests, [])

    def test_a_live_source_is_refused(self):
        a = self.nodes("a")
        source = self.sqlite("live.db")
        with contextlib.closing(sqlite3.connect(source, isolation_level=None)) as db:
            db.execute("BEGIN EXCLUSIVE")
            self.assertIn("another program", self.ctl(a, "import", source, "x.db", rc=LOCAL))
            db.execute("ROLLBACK")
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("INSERT INTO t VALUES (NULL, 'in the WAL')")
            self.assertIn("wal_checkpoint", self.ctl(a, "import", source, "x.db", rc=LOCAL))
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self.ctl(a, "import", source, "x.db")
        self.assertEqual(a.imported["x.db"], self.read("live.db"))

    def test_connection_lost(self):
        a = self.nodes("a")

        def hang_up(h, *_):
            h.connection.shutdown(socket.SHUT_RDWR)
            return True
        a.hooks[("PUT", "/")] = hang_up
        self.ctl(a, "import", self.sqlite("in.db"), "x.db", rc=UNREACHABLE)

    def test_progress_bar(self):
        a = self.nodes("a")
        a.pace = 0.005
        source = self.sqlite("in.db", 50000)
        rc, raw, out = self.on_terminal("--url", a.url, "import", source, "x.db", out=False)
        self.assertEqual(rc, OK)
        self.assertIn("imported", out)
        self.assertRegex(raw, r"\rx\.db  \[=*>? *\]  +\d+%  [\d.]+ [KM]iB of [\d.]+ MiB  [\d.]+ [KM]iB/s  \S+ left\x1b\[K")
        self.assertTrue(raw.endswith("\r\x1b[K"), "nothing stays")
        rc, raw, _ = self.on_terminal("--url", a.url, "import", source, "x.db", out=False, columns=30)
        self.assertEqual(rc, OK)
        self.assertTrue(all(len(line) < 30 for line in re.sub(r"\x1b\[K", "", raw).split("\r")), "fits a narrow terminal")
        rc, raw, err = self.on_terminal("--url", a.url, "import", source, "x.db", err=False)
        self.assertEqual((rc, err), (OK, ""), "no terminal, no bar")


class Export(CtlTest):
    def serving(self, rows=2000):
        a = self.nodes("a")
        self.sqlite("source.db", rows)
        a.databases = [database("app.db")]
        a.images["app.db"] = self.read("source.db")
        return a

    def no_leftovers(self, *names):
        self.assertEqual(sorted(f for f in os.listdir(self.tmp)), sorted(names))

    def test_export(self):
        a = self.serving()
        old = os.umask(0o027)
        try:
            out = self.ctl(a, "export", "app.db", self.path("copy.db"))
        finally:
            os.umask(old)
        self.assertRegex(out, r"\Aapp\.db: \d+ KiB \(\d+ pages\) exported to \S+/copy\.db in ")
        self.assertEqual(self.read("copy.db"), a.images["app.db"])
        self.assertEqual(os.stat(self.path("copy.db")).st_mode & 0o777, 0o640)
        self.no_leftovers("source.db", "copy.db")
        self.ctl(a, "export", "app.db", "relative.db", cwd=self.tmp)
        self.assertEqual(self.read("relative.db"), a.images["app.db"])
        self.assertEqual(a.seen("GET", "/v1/databases/app.db/image")[0][1], "/v1/databases/app.db/image?format=sqlite")

    def test_existing_files(self):
        a = self.serving()
        self.write("copy.db", b"mine")
        self.assertIn("--force", self.ctl(a, "export", "app.db", self.path("copy.db"), rc=LOCAL))
        self.assertEqual(self.read("copy.db"), b"mine")
        self.assertEqual(a.requests, [], "known before anything is fetched")
        self.ctl(a, "export", "app.db", self.path("copy.db"), "--force")
        self.assertEqual(self.read("copy.db"), a.images["app.db"])
        self.assertIn("is a directory", self.ctl(a, "export", "app.db", self.tmp, "--force", rc=LOCAL))
        self.write("copy.db-wal", b"")
        self.assertIn("belongs to an older", self.ctl(a, "export", "app.db", self.path("copy.db"), "--force", rc=LOCAL))

    def test_a_file_that_appears_meanwhile_is_not_overwritten(self):
        a = self.serving()
        a.hooks[("GET", "/v1/databases/app.db/image")] = lambda *_: self.write("copy.db", b"mine") and None
        self.assertIn("File exists", self.ctl(a, "export", "app.db", self.path("copy.db"), rc=LOCAL))
        self.assertEqual(self.read("copy.db"), b"mine")
        self.no_leftovers("source.db", "copy.db")

    def test_errors_leave_nothing(self):
        a = self.serving()
        image = a.images["app.db"]
        self.assertIn("there is no database none.db (404)".replace(" (404)", ""), self.ctl(a, "export", "none.db", self.path("x"), rc=REFUSED))
        self.ctl(a, "export", "../app.db", self.path("x"), rc=USAGE)
        self.ctl(a, "export", "app.db", self.path("no/such/x"), rc=LOCAL)
        a.images["app.db"] = image[:-4096]
        self.assertIn("incomplete", self.ctl(a, "export", "app.db", self.path("x"), rc=REFUSED))
        a.images["app.db"] = image[:-100]
        self.assertIn("incomplete", self.ctl(a, "export", "app.db", self.path("x"), rc=REFUSED))
        a.images["app.db"] = b"hello" * 100
        self.assertIn("not an SQLite database", self.ctl(a, "export", "app.db", self.path("x"), rc=REFUSED))

        def cut(h, *_):
            h.send_response(200)
            h.send_header("Content-Length", str(len(image)))
            h.end_headers()
            h.wfile.write(image[:100000])
            h.close_connection = True
            return True
        a.hooks[("GET", "/v1/databases/app.db/image")] = cut
        self.ctl(a, "export", "app.db", self.path("x"), rc=UNREACHABLE)

        def unframed(h, *_):
            h.send_response(200)
            h.send_header("Connection", "close")
            h.end_headers()
            h.wfile.write(image[:8192])
            h.close_connection = True
            return True
        a.hooks[("GET", "/v1/databases/app.db/image")] = unframed
        self.assertIn("incomplete", self.ctl(a, "export", "app.db", self.path("x"), rc=REFUSED))
        self.no_leftovers("source.db")

    def test_an_empty_database(self):
        a = self.serving()
        a.images["app.db"] = b""
        self.assertIn("0 B (0 pages)", self.ctl(a, "export", "app.db", self.path("x")))
        self.assertEqual(self.read("x"), b"")

    def test_disk_full(self):
        a = self.serving()
        a.images["app.db"] *= 1

        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))
        self.assertIn("too large", self.ctl(a, "export", "app.db", self.path("x"), rc=LOCAL, preexec_fn=limit))
        self.no_leftovers("source.db")

    def slow(self, image):
        def send(h, *_):
            h.send_response(200)
            h.send_header("Content-Length", str(len(image)))
            h.end_headers()
            for i in range(0, len(image), 16384):
                h.wfile.write(image[i:i + 16384])
                time.sleep(0.02)  # a slow link
            return True
        return send

    def test_progress_bar(self):
        a = self.serving()
        a.hooks[("GET", "/v1/databases/app.db/image")] = self.slow(a.images["app.db"])
        rc, raw, out = self.on_terminal("--url", a.url, "export", "app.db", self.path("x"), out=False)
        self.assertEqual(rc, OK, raw)
        self.assertRegex(raw, r"\rapp\.db  \[=*>? *\]  +\d+%  \d+ KiB of \d+ KiB  [\d.]+ [KM]iB/s  \d+:\d\d left")
        self.assertIn("exported to", out)

    def test_interrupt_leaves_nothing(self):
        a = self.serving()
        a.hooks[("GET", "/v1/databases/app.db/image")] = self.slow(a.images["app.db"] * 20)
        self.addCleanup(signal.signal, signal.SIGHUP, signal.signal(signal.SIGHUP, signal.SIG_DFL))  # ignored, if the tests were started by nohup
        for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            rc, raw, _ = self.on_terminal("--url", a.url, "export", "app.db", self.path("x"), until=rb"/s", then=lambda p: p.send_signal(sig))
            self.assertEqual(rc, -sig)
            self.assertEqual(screen(raw).strip(), "", "no half a bar")
            self.no_leftovers("source.db")


if __name__ == "__main__":
    unittest.main()
