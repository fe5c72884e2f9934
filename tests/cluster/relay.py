"""A TCP relay between the nodes, and between them and etcd, that can cut, delay, throttle, corrupt and duplicate what passes, for each direction of each pair.

The nodes know each other, and etcd, by the relay's ports only. Who connects is told by its address, who is meant by the port. It runs on a thread of its own;
rules may be changed from any thread, and hold from the next piece of data on, also on connections that exist."""
import asyncio
import contextlib
import dataclasses
import os
import random
import threading

PIECE = 65536
LOOK_SECONDS = 0.02  # how soon a rule that ends is noticed
PRIORITY = -10  # nice value: the network and etcd are not slow because applications are busy


@dataclasses.dataclass
class Rule:
    cut: bool = False  # nothing passes, and nobody is told: what is sent meanwhile arrives when the rule ends, if anybody still wants it
    refuse: bool = False  # connections are reset, new ones too
    delay: float = 0  # seconds that each piece is held
    rate: float = 0  # bytes a second; 0: no limit
    corrupt: float = 0  # probability that a byte of a piece is changed
    duplicate: float = 0  # probability that a part of a piece is sent twice


class Relay:
    """A context manager. add() before anybody connects; set() and heal() at any time."""

    def __init__(self, host, names, seed=0):
        """names: {address: name} of who may connect."""
        self.host, self.names = host, dict(names)
        self.rules = {}  # (from, to): Rule
        self.random = random.Random(seed)
        self.passed = {}  # (from, to): bytes
        self.harmed = 0  # pieces that were corrupted or duplicated
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.run, name="relay", daemon=True)
        self.servers, self.tasks = [], set()

    def run(self):
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), PRIORITY)
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        self.loop.close()

    async def end(self):
        for server in self.servers:
            server.close()
        for _ in range(3):  # a connection that is being accepted may still become a task
            tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        asyncio.run_coroutine_threadsafe(self.end(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)

    def add(self, name, host, port, checked=False):
        """A port of the relay that leads to host:port, which is called `name`. Returns the port. checked: what passes carries checksums, so it may be
        corrupted (plain HTTP and JSON have no more than TCP's)."""
        def accept(reader, writer):
            task = self.loop.create_task(self.serve(name, host, port, checked, reader, writer))
            self.tasks.add(task)  # the loop itself holds tasks weakly
            task.add_done_callback(self.tasks.discard)

        async def listen():
            return await asyncio.start_server(accept, self.host, 0)

        server = asyncio.run_coroutine_threadsafe(listen(), self.loop).result(10)
        self.servers.append(server)
        return server.sockets[0].getsockname()[1]

    def set(self, source, target, **what):
        """Rule for bytes that go from source to target (not for those that come back)."""
        self.rules[source, target] = Rule(**what)

    def heal(self):
        self.rules = {}

    def rule(self, source, target):
        return self.rules.get((source, target)) or Rule()

    async def serve(self, target, host, port, checked, reader, writer):
        source = self.names.get(writer.get_extra_info("peername")[0], "?")
        other = None
        try:
            while self.rule(source, target).cut and not self.rule(source, target).refuse:
                await asyncio.sleep(LOOK_SECONDS)
            if self.rule(source, target).refuse:
                raise ConnectionResetError
            back, other = await asyncio.wait_for(asyncio.open_connection(host, port), 10)
            ways = [asyncio.ensure_future(self.pump(source, target, checked, reader, other)), asyncio.ensure_future(self.pump(target, source, checked, back, writer))]
            try:
                await asyncio.gather(*ways)
            finally:
                for way in ways:
                    way.cancel()
        except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError):
            pass
        finally:
            for w in (writer, other):
                if w is not None:
                    w.transport.abort()  # a reset, also when one side was reset: nobody takes a part for the whole

    async def pump(self, source, target, checked, reader, writer):
        while True:
            piece = await reader.read(PIECE)
            while True:
                rule = self.rule(source, target)
                if rule.refuse or writer.transport.is_closing():
                    raise ConnectionResetError
                if not rule.cut:
                    break
                await asyncio.sleep(LOOK_SECONDS)
            if not piece:
                if writer.can_write_eof():
                    writer.write_eof()
                return
            if rule.delay:
                await asyncio.sleep(rule.delay)
            self.passed[source, target] = self.passed.get((source, target), 0) + len(piece)
            await self.send(rule, self.harm(rule, piece) if checked else piece, writer)

    def harm(self, rule, piece):
        if self.random.random() < rule.corrupt:
            at = self.random.randrange(len(piece))
            piece = piece[:at] + bytes([piece[at] ^ (1 << self.random.randrange(8))]) + piece[at + 1:]
            self.harmed += 1
        if self.random.random() < rule.duplicate:
            at = self.random.randrange(len(piece))
            end = self.random.randrange(at, len(piece)) + 1
            piece = piece[:end] + piece[at:end] + piece[end:]
            self.harmed += 1
        return piece

    async def send(self, rule, piece, writer):
        step = max(1, int(rule.rate / 20)) if rule.rate else len(piece)
        for at in range(0, len(piece), step):
            writer.write(piece[at:at + step])
            await writer.drain()
            if rule.rate:
                await asyncio.sleep(step / rule.rate)
