"""The relay does what its rules say: a fault that does not happen proves nothing."""
import os
import socket
import socketserver
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from relay import Relay  # noqa: E402


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        try:
            while data := self.request.recv(65536):
                self.request.sendall(data)
        except OSError:
            pass


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


class RelayRules(unittest.TestCase):
    """a is whoever connects, b an echo server."""

    def setUp(self):
        self.server = Server(("127.0.0.1", 0), Echo)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)
        self.relay = Relay("127.0.0.1", {"127.0.0.1": "a"}, seed=1)
        self.relay.__enter__()
        self.addCleanup(self.relay.__exit__)
        self.port = self.relay.add("b", *self.server.server_address)
        self.checked = self.relay.add("b", *self.server.server_address, checked=True)

    def connect(self, port=None):
        sock = socket.create_connection(("127.0.0.1", port or self.port), 10)
        self.addCleanup(sock.close)
        return sock

    def exact(self, sock, n):
        data = b""
        while len(data) < n:
            piece = sock.recv(n - len(data))
            self.assertTrue(piece, "the connection ended")
            data += piece
        return data

    def nothing_comes(self, sock):
        sock.settimeout(0.3)
        with self.assertRaises(socket.timeout):
            sock.recv(1)
        sock.settimeout(10)

    def test_what_is_sent_arrives(self):
        sock = self.connect()
        data = os.urandom(1 << 20)
        sender = threading.Thread(target=sock.sendall, args=(data,))
        sender.start()
        self.assertEqual(self.exact(sock, len(data)), data)
        sender.join()

    def test_the_end_of_one_side_is_passed_on(self):
        sock = self.connect()
        sock.sendall(b"last words")
        sock.shutdown(socket.SHUT_WR)
        self.assertEqual(self.exact(sock, 10), b"last words")
        self.assertEqual(sock.recv(1), b"")

    def test_cut_there_and_cut_back(self):
        for way in (("a", "b"), ("b", "a")):
            sock = self.connect()
            sock.sendall(b"1")
            self.exact(sock, 1)
            passed = self.relay.passed["a", "b"]
            self.relay.set(*way, cut=True)
            sock.sendall(b"22")
            self.nothing_comes(sock)
            self.assertEqual(self.relay.passed["a", "b"] - passed, 2 if way == ("b", "a") else 0, "the other direction is open")
            self.relay.heal()
            self.assertEqual(self.exact(sock, 2), b"22")

    def test_a_new_connection_that_is_cut(self):
        self.relay.set("a", "b", cut=True)
        sock = self.connect()
        sock.sendall(b"x")
        self.nothing_comes(sock)
        self.relay.heal()
        self.assertEqual(self.exact(sock, 1), b"x")

    def test_refused(self):
        sock = self.connect()
        sock.sendall(b"1")
        self.exact(sock, 1)
        self.relay.set("a", "b", refuse=True)
        for s in (sock, self.connect()):
            with self.assertRaises(OSError):
                for _ in range(1000):  # a reset may come a moment after a send that succeeded
                    s.sendall(b"x")
                    if not s.recv(1):
                        raise ConnectionResetError
        self.relay.heal()
        sock = self.connect()
        sock.sendall(b"1")
        self.assertEqual(self.exact(sock, 1), b"1")

    def test_corrupted_by_one_bit_where_checksums_are(self):
        self.relay.set("a", "b", corrupt=1)
        data = bytes(1000)
        for port, bits in ((self.checked, 1), (self.port, 0)):
            sock = self.connect(port)
            sock.sendall(data)
            got = self.exact(sock, len(data))
            self.assertEqual(sum(bin(byte).count("1") for byte in got), bits)

    def test_a_part_that_comes_twice(self):
        self.relay.set("a", "b", duplicate=1)
        sock = self.connect(self.checked)
        sock.sendall(bytes(range(200)))
        sock.shutdown(socket.SHUT_WR)
        got = b""
        while piece := sock.recv(1000):
            got += piece
        self.assertGreater(len(got), 200)
        self.assertEqual(self.relay.harmed, 1)

    def test_delayed_and_slow(self):
        for rule, size in (({"delay": 0.3}, 1), ({"rate": 20000}, 8000)):
            self.relay.set("a", "b", **rule)
            sock = self.connect()
            start = time.monotonic()
            sock.sendall(bytes(size))
            self.exact(sock, size)
            self.assertGreaterEqual(time.monotonic() - start, 0.29)


if __name__ == "__main__":
    unittest.main()
