#!/usr/bin/env python3
"""A small application that knows nothing of EdgeFS: keys and values in an SQLite file, over HTTP/1.1. kvapp.py DATABASE PORT NAME

GET /v/KEY reads, POST /v/KEY writes the body, POST /fail/KEY writes and answers 500, POST /move/KEY writes and redirects, POST /own/KEY writes
and sets a cookie of its own, POST /replay/KEY asks for a replay at the primary unless it can write. POST /hang/KEY does nothing until somebody asked for
GET /v/go-on. X-App names the process that answered."""
import http.server
import socketserver
import sqlite3
import sys
import threading

database, port, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
local = threading.local()
go_on = threading.Event()


def connection():
    if not hasattr(local, "db"):
        local.db = sqlite3.connect(database, timeout=5, isolation_level=None)
    return local.db


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    disable_nagle_algorithm = True

    def answer(self, status, text, *fields):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-App", name)
        for k, v in fields:
            self.send_header(k, v)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        key = self.path.split("?")[0].rsplit("/", 1)[1]
        if key == "go-on":
            go_on.set()
        try:
            row = connection().execute("SELECT value FROM kv WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as e:
            self.answer(500, str(e))
            return
        self.answer(200 if row else 404, row[0] if row else "", *([("Cache-Control", "public, max-age=60"), ("ETag", f'"{row[0]}"')] if row and "cached" in self.path else []))

    def do_POST(self):
        _, how, key = self.path.split("/")
        value = self.rfile.read(int(self.headers["Content-Length"])).decode()
        connection().execute(f"PRAGMA busy_timeout = {0 if how == 'replay' else 5000}")
        if how == "hang":
            go_on.wait(60)
        try:
            connection().execute("INSERT INTO kv VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", (key, value))
        except sqlite3.Error as e:
            if how == "replay":
                self.answer(409, "", ("fly-replay", "instance=primary"))
            else:
                self.answer(500, str(e))
            return
        if how == "fail":
            self.answer(500, "failed, but written")
        elif how == "move":
            self.answer(303, "", ("Location", f"/v/{key}"))
        elif how == "own":
            self.answer(200, "ok", ("Set-Cookie", "mine=1; Path=/x"))
        else:
            self.answer(200, "ok")

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


socketserver.TCPServer.allow_reuse_address = True
Server(("127.0.0.1", port), Handler).serve_forever()
