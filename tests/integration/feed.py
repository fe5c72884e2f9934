"""A client of the position feed (include/edgefs/position_feed.h), for tests."""
import collections
import os
import socket
import struct
import time

STATE, MOVED, CAPTURED, TOUCHED, CAPTURE, SUBSCRIBE, QUIET = 1, 2, 3, 4, 65, 66, 67
ROLES = ("starting", "replica", "primary", "handing-over")
HEAD = struct.Struct("=HHiQQQQQQQQ")  # struct position_feed_msg
TAIL = struct.Struct("=BBBBHHHHI")  # struct position_feed_state

Now = collections.namedtuple("Now", "seq applied last current_ns")
Message = collections.namedtuple("Message", "kind result id touched now tail")
State = collections.namedtuple("State", "role lease connected holding hold epochs primary primary_url neighbours")


def decode_state(tail):
    role, lease, flags, n_epochs, name_len, url_len, n_neighbours, _, hold = TAIL.unpack_from(tail)
    at = TAIL.size
    epochs = [struct.unpack_from("=QQ", tail, at + 16 * i) for i in range(n_epochs)]
    at += 16 * n_epochs
    name, url = tail[at:at + name_len].decode(), tail[at + name_len:at + name_len + url_len].decode()
    at += name_len + url_len
    neighbours = {}
    for _ in range(n_neighbours):
        reached, n = tail[at], tail[at + 1]
        neighbours[tail[at + 2:at + 2 + n].decode()] = bool(reached)
        at += 2 + n
    assert at == len(tail), (at, tail)
    return State(ROLES[role], lease, bool(flags & 1), bool(flags & 2), hold, epochs, name, url, neighbours)


class Feed:
    def __init__(self, node):
        self.s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.s.connect(os.path.join(node.data, "run/position.sock"))
        self.now = self.state = None
        self.touched = {}
        self.answers = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.s.close()

    def send(self, kind, number=0, tail=b"", version=1):
        self.s.send(HEAD.pack(kind, version, 0, number, 0, 0, 0, 0, 0, 0, 0) + tail)

    def receive(self, timeout=10):
        """The next message, taken into now, state, touched, answers; None: the replicator closed."""
        self.s.settimeout(timeout)
        p = self.s.recv(65536)
        if not p:
            return None
        kind, version, result, number, touched, seq, ae, al, le, ll, current = HEAD.unpack_from(p)
        assert version == 1
        m = Message(kind, result, number, touched, Now(seq, (ae, al), (le, ll), current), p[HEAD.size:])
        assert self.now is None or seq >= self.now.seq, (self.now, m)
        self.now = m.now
        if kind == STATE:
            self.state = decode_state(m.tail)
        elif kind == TOUCHED:
            self.touched[number] = touched
        elif kind == CAPTURED:
            self.answers[number] = (result, m.now.last)
        return m

    def until(self, condition, timeout=15):
        """Receives until condition(self); no waiting in between: what does not come as a message is not seen."""
        deadline = time.monotonic() + timeout
        while not condition(self):
            if self.receive(max(deadline - time.monotonic(), 0.001)) is None:
                raise AssertionError("the replicator closed the position feed")
        return self

    def capture(self, number, name=""):
        """Asks, and returns (result, position)."""
        self.send(CAPTURE, number, name.encode())
        self.until(lambda f: number in f.answers)
        return self.answers.pop(number)

    def subscribe(self, *globs):
        self.touched = {}
        self.send(SUBSCRIBE, 0, b"".join(g.encode() + b"\0" for g in globs))
        self.until(lambda f: len(f.touched) == len(globs))
