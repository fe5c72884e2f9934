#!/usr/bin/env python3
"""The applications of one node, and clients. What a machine runs beside EdgeFS: it is killed with the machine.

  station.py --name a --mount DIR --trail FILE --stop FILE --seed N --listen PORT --direct K --proxied K --urls '{"a": "10.…:8080", …}' [--full] [--ask URL]

--listen: an HTTP application over the databases of DIR (GET / reads, POST / writes). --direct: sessions on the mount itself.
--proxied: sessions through the proxies of --urls, with the position as a cookie; half of them always at the first one, most of the others with the position of what they read, too. Ends when --stop exists.
--ask: the node's API: with each commit is asked whether it waited for replicas (store.Store, unwaited)."""
import argparse
import http.client
import http.server
import json
import os
import random
import socketserver
import threading
import time

from store import LISTS, REGISTERS, Refused, Store, Trail, Unknown

PAUSE = 0.012  # seconds between two operations of a session, on average
POSITION = "__edge_write_pos"


def choose(rng):
    kind = rng.choice(("set", "add", "append"))
    return kind, rng.choice(REGISTERS) if kind == "set" else rng.choice(LISTS) if kind == "append" else "c"


class Application(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    station = None

    def log_message(self, *_):
        pass

    def answer(self, status, body):
        data = json.dumps({**body, "node": self.station.name}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        with self.station.store() as store:
            try:
                self.answer(200, {"at": store.read()})
            except Refused as e:
                self.answer(500, {"error": str(e)})

    def do_POST(self):
        ask = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.station.store() as store:
            try:
                if "ref" in ask:
                    store.write_note(ask["op"], ask["ref"])
                else:
                    store.write(ask["op"], ask["kind"], ask["key"], ask.get("rollback", False))
                self.answer(200, {})
            except Refused as e:
                self.answer(409, {"error": str(e), "refused": True})
            except Unknown as e:
                self.answer(500, {"error": str(e)})


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request, client_address):
        pass  # a client that went away


class Kept:
    """A Store from the station's pool, given back at the end of the block."""

    def __init__(self, station):
        self.station = station

    def __enter__(self):
        with self.station.lock:
            self.store = self.station.pool.pop() if self.station.pool else None
        if self.store is None:
            self.store = self.station.new_store()
        return self.store

    def __exit__(self, *_):
        with self.station.lock:
            self.station.pool.append(self.store)


class Station:
    def __init__(self, args):
        self.args = args
        self.name, self.mount, self.urls = args.name, args.mount, json.loads(args.urls)
        self.trail = Trail(args.trail)
        self.synchronous = "FULL" if args.full else "NORMAL"
        self.lock, self.pool = threading.Lock(), []
        self.life = f"{os.getpid():x}"  # a station that was killed has a successor with the same name

    def store(self):
        return Kept(self)

    def new_store(self):
        return Store(self.mount, self.name, self.trail, self.synchronous, unwaited=self.unwaited if self.args.ask else None)

    def unwaited(self):
        """Which process counts the commits that did not wait, and how many there were; None: it does not say."""
        host, _, token = self.args.ask.partition(" ")
        conn = http.client.HTTPConnection(host, timeout=2)
        try:
            conn.request("GET", "/v1/status", headers={"Authorization": "Bearer " + token})
            status = json.loads(conn.getresponse().read())
            return status["pid"], status["sync"]["unwaited"]
        except (OSError, http.client.HTTPException, ValueError, KeyError):
            return None
        finally:
            conn.close()

    def stopping(self):
        return os.path.exists(self.args.stop)

    # ---- sessions ----

    def session(self, name, rng, write, note, read, monotonic=False):
        """write(op, kind, key, rollback) and note(op, ref) return the node, read() → (node, stale, what was seen); Refused, Unknown."""
        count = 0
        while not self.stopping():
            time.sleep(rng.random() * 2 * PAUSE)
            count += 1
            op = f"{name}.{count}"
            if rng.random() < 0.5:
                start = time.monotonic()
                try:
                    node, stale, at = read()
                except (Refused, Unknown):
                    time.sleep(PAUSE)
                    continue
                self.trail.note(e="read", s=name, node=node, t0=start, t1=time.monotonic(), stale=stale, m=monotonic, at=at)
                continue
            kind, key = choose(rng)
            rollback = rng.random() < 0.05
            if self.attempt(name, "one.db", op, lambda: write(op, kind, key, rollback), rollback) and not rollback and rng.random() < 0.4:
                self.attempt(name, "two.db", op + "n", lambda: note(op + "n", op), False)

    def attempt(self, name, db, op, run, rollback):
        start, node, why = time.monotonic(), None, None
        self.trail.note(e="call", op=op, s=name, t0=start)
        try:
            node, result = run(), "abort" if rollback else "ok"
        except Refused as e:
            result, why = "fail", str(e)
        except Unknown as e:
            result, why = "abort" if rollback else "info", str(e)
        self.trail.note(e="write", op=op, db=db, s=name, t0=start, t1=time.monotonic(), r=result, node=node, why=why)
        if result != "ok":
            time.sleep(PAUSE * 3)
        return result == "ok"

    def direct(self, name, rng):
        store = self.new_store()

        def write(op, kind, key, rollback):
            store.write(op, kind, key, rollback)
            return self.name

        def note(op, ref):
            store.write_note(op, ref)
            return self.name

        def read():
            if rng.random() < 0.05:
                store.close()
            return self.name, False, store.read()

        self.session(name, rng, write, note, read)

    def proxied(self, name, rng, roams, monotonic):
        state = {"position": None, "seen": (1, 0), "connections": {}}

        def ask(method, body=None):
            where = rng.choice(sorted(self.urls)) if roams else self.name
            conn = state["connections"].get(where)
            if conn is None:
                conn = state["connections"][where] = http.client.HTTPConnection(self.urls[where], timeout=3)
            try:
                fields = {"Cookie": f"{POSITION}={state['position']}"} if state["position"] else {}
                if monotonic:
                    fields["X-Read-After-Position"] = "{}-{}".format(*state["seen"])
                conn.request(method, "/", json.dumps(body).encode() if body else None, fields)
                response = conn.getresponse()
                data = response.read()
            except (OSError, http.client.HTTPException) as e:
                conn.close()
                state["connections"].pop(where, None)
                raise Unknown(f"{where}: {type(e).__name__} {e}") from None
            for field, value in response.getheaders():
                if field.lower() == "set-cookie" and value.startswith(POSITION + "="):
                    state["position"] = value.split(";")[0].partition("=")[2]
                if field.lower() in ("x-read-position", "x-write-position"):
                    state["seen"] = max(state["seen"], tuple(int(v) for v in value.split("-")))
            if response.status != 200:
                try:
                    refused = json.loads(data).get("refused")
                except ValueError:
                    refused = False
                # A 503 of the proxy may come after the request was passed on.
                raise (Refused if refused else Unknown)(f"{where}: {response.status} {data[:200]!r}")
            return json.loads(data), response.getheader("X-Edge-Staleness") is not None

        def write(op, kind, key, rollback):
            return ask("POST", {"op": op, "kind": kind, "key": key, "rollback": rollback})[0]["node"]

        def note(op, ref):
            return ask("POST", {"op": op, "ref": ref})[0]["node"]

        def read():
            answer, stale = ask("GET")
            return answer["node"], stale, answer["at"]

        self.session(name, rng, write, note, read, monotonic)

    def run(self):
        threads = []
        if self.args.listen:
            Application.station = self
            server = Server(("127.0.0.1", self.args.listen), Application)
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        for kind, count in (("direct", self.args.direct), ("proxied", self.args.proxied)):
            for i in range(count):
                name = f"{self.name}{kind[0]}{i}-{self.life}"
                rng = random.Random(f"{self.args.seed}-{self.name}{kind}{i}")
                roams = i % 2 == 1 or self.name not in self.urls
                args = (name, rng) if kind == "direct" else (name, rng, roams, roams and (i % 2 == 0 or self.name in "ab"))
                threads.append(threading.Thread(target=getattr(self, kind), args=args, daemon=True))
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        while not self.stopping():
            time.sleep(0.05)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--name", required=True)
    p.add_argument("--mount", default="")
    p.add_argument("--trail", required=True)
    p.add_argument("--stop", required=True)
    p.add_argument("--seed", default="0")
    p.add_argument("--listen", type=int, default=0)
    p.add_argument("--direct", type=int, default=0)
    p.add_argument("--proxied", type=int, default=0)
    p.add_argument("--urls", default="{}")
    p.add_argument("--full", action="store_true")
    p.add_argument("--ask", default="", help="HOST:PORT TOKEN")
    Station(p.parse_args()).run()


if __name__ == "__main__":
    main()
