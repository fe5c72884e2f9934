"""Unmodified applications (examples/notes: Django with sessions in SQLite; examples/feed: events, WebSocket) on three mounted nodes with a proxy each."""

import os
import random
import re
import subprocess
import threading
import time

import harness
from harness import EdgeTest, within
from proxy_cluster import Browser, Events, Promoter, ProxyCluster, WebSocket, log_in, sign_up

CLIENTS = 4


class Reader(threading.Thread):
    """One person with a browser: writes on a node, reads it back on the two others at once, over and over; then once more what a session holds.
    Every answer must be the newest: the note's version counts the edits, so one that was lost or done twice shows."""

    def __init__(self, cluster, name, rounds, seed):
        super().__init__(daemon=True)
        self.cluster, self.name, self.rounds = cluster, name, rounds
        self.random = random.Random(seed)
        self.edits = self.reads = self.visits = 0
        self.how = {}  # Server-Timing's word: how often
        self.slowest = 0.0
        self.error = None

    def run(self):
        try:
            self.work()
        except Exception as e:
            self.error = f"{self.name}: after {self.edits} edits and {self.reads} reads: {type(e).__name__}: {e}"

    def work(self):
        nodes = list(self.cluster.nodes)
        sign_up(Browser(nodes), nodes[1], self.name).close()
        browser = log_in(Browser(nodes), nodes[1], self.name)
        answer = browser.post(nodes[1], "/", {"title": self.name, "text": "0"})
        assert answer.status == 302, f"new note: {answer.status} {answer.text[:300]}"
        self.path = answer.get("Location")
        try:
            for _ in range(self.rounds):
                self.random.shuffle(nodes)
                self.edit(browser, nodes)
                if self.edits % 10 == 0:
                    self.visit(browser, nodes)
        finally:
            browser.close()

    def timed(self, call, *args, **kw):
        start = time.monotonic()
        answer = call(*args, **kw)
        self.slowest = max(self.slowest, time.monotonic() - start)
        said = re.findall(r'edgefs;dur=[\d.]+;desc="(\w+)"', ", ".join(v for n, v in answer.fields if n.lower() == "server-timing"))
        word = said[-1] if said else "?"  # the last one is that of the proxy that was asked
        self.how[word] = self.how.get(word, 0) + 1
        return answer

    def edit(self, browser, nodes):
        text = f"{self.edits + 1} {self.random.randrange(1 << 30)}"
        answer = self.timed(browser.post, nodes[0], self.path, {"version": self.edits + 1, "title": self.name, "text": text})
        assert answer.status == 302, f"edit on {nodes[0].name}: {answer.status} {dict(answer.fields)} {re.sub('<[^>]*>', ' ', answer.text)[:500]}"
        self.edits += 1
        for node in nodes[1:]:
            answer = self.timed(browser.get, node, self.path + ".json")
            assert answer.status == 200, f"read on {node.name}: {answer.status} {dict(answer.fields)} {answer.text[:300]}"
            got = harness.json.loads(answer.text)
            assert (got["text"], got["version"]) == (text, self.edits + 1), \
                f"STALE on {node.name}: {got} instead of {text!r}, version {self.edits + 1}; written on {nodes[0].name}; {dict(answer.fields)}"
            self.reads += 1

    def visit(self, browser, nodes):
        """The session itself is a row that is written."""
        answer = self.timed(browser.post, nodes[2], "/visit")
        assert answer.status == 200, f"visit on {nodes[2].name}: {answer.status} {answer.text[:300]}"
        self.visits += 1
        for node in nodes[:2]:
            answer = self.timed(browser.get, node, "/")
            assert f"visits: {self.visits}<" in answer.text, f"STALE session on {node.name}: not {self.visits} visits: {answer.status} {answer.text[-300:]}"
            self.reads += 1


def campaign(cluster, rounds, pause=None):
    """`rounds` in all, with several people at a time; with a pause: the primary is promoted around meanwhile, so often (s). Returns a text."""
    rng = harness.seed("proxy")
    promoter = Promoter(cluster, pause) if pause else None
    readers = [Reader(cluster, f"user{i}", rounds // CLIENTS, rng.random()) for i in range(CLIENTS)]
    start = time.monotonic()
    if promoter:
        promoter.start()
    for r in readers:
        r.start()
    for r in readers:
        r.join()
    took = time.monotonic() - start
    if promoter:
        promoter.stop()
    errors = [r.error for r in readers if r.error]
    how = {}
    for r in readers:
        for word, n in r.how.items():
            how[word] = how.get(word, 0) + n
    text = (f"{sum(r.edits for r in readers)} edits, {sum(r.reads for r in readers)} reads, {sum(r.visits for r in readers)} session writes in {took:.0f} s, "
            f"slowest answer {1000 * max(r.slowest for r in readers):.0f} ms, {how}" + (f", {promoter.done} promotions" if promoter else ""))
    print(text, flush=True)
    if errors:
        raise AssertionError("\n".join(errors) + f"\n({text})")
    cluster.sync()
    for node in cluster.nodes:
        for r in readers:
            rows = node.sql(cluster.database, "SELECT version FROM notes_note WHERE title = ?", (r.name,))
            assert rows == [(r.edits + 1,)], f"{node.name}: {rows} instead of version {r.edits + 1}: a write was lost or done twice"
    assert how.get("forwarded", 0) > 0 and how.get("local", 0) + how.get("waited", 0) > 0, f"not everything was exercised: {how}"
    return promoter


class ProxyNotes(EdgeTest):
    @within(180)
    def test_what_a_client_wrote_it_reads_at_once_on_every_node(self):
        with ProxyCluster(3, "notes") as cluster:
            campaign(cluster, harness.rounds(1000))

    @within(180)
    def test_promotions_under_load_show_no_error_no_stale_read_and_lose_no_write(self):
        with ProxyCluster(3, "notes") as cluster:
            promoter = campaign(cluster, harness.rounds(1000), 5 if harness.LONG else 1)
            self.assertGreater(promoter.done, 2)

    @within(60)
    def test_of_two_edits_of_one_version_on_two_nodes_one_is_told_of_the_conflict(self):
        with ProxyCluster(3, "notes") as cluster:
            a, b, c = cluster.nodes
            browser = sign_up(Browser(cluster.nodes), b, "ada")
            path = browser.post(b, "/", {"title": "t", "text": "0"}).get("Location")
            answers = []

            def edit(node, text):
                other = Browser(cluster.nodes)
                other.cookies = dict(browser.cookies)
                answers.append(other.post(node, path, {"version": 1, "title": "t", "text": text}).status)
                other.close()

            threads = [threading.Thread(target=edit, args=(n, n.name)) for n in (a, b, c)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            self.assertEqual(sorted(answers), [302, 409, 409])
            browser.close()


class ProxyFeed(EdgeTest):
    EXTRA = "    upgrade-writes: [/chat]\n"

    @within(60)
    def test_a_chat_over_websocket_works_on_replicas(self):
        with ProxyCluster(3, "feed", self.EXTRA) as cluster:
            sockets = [WebSocket(node.web, "/chat") for node in cluster.nodes]
            for s in sockets:
                self.assertEqual(s.status, 101, s.head)
            for i in range(30):
                sockets[i % 3].send({"who": "abc"[i % 3], "text": f"line {i}"})
                for s in sockets:
                    self.assertEqual(s.receive(), {"id": i + 1, "who": "abc"[i % 3], "text": f"line {i}"})
            for s in sockets:
                s.close()

    @within(60)
    def test_events_arrive_one_by_one_on_every_node(self):
        with ProxyCluster(3, "feed", self.EXTRA) as cluster:
            streams = [Events(node.web, "/events") for node in cluster.nodes]
            for s in streams:
                s.comment()
            browser = Browser(cluster.nodes)
            for i in range(30):
                answer = browser.post(cluster.nodes[i % 3], "/post", {"text": f"post {i}"})
                self.assertEqual(answer.status, 200, answer.text)
                for s in streams:  # each before the next is posted
                    self.assertEqual(s.next(), {"id": str(i + 1), "data": f"post {i}"})
            late = Events(cluster.nodes[2].web, "/events", last=25)
            late.comment()
            self.assertEqual([late.next()["id"] for _ in range(5)], ["26", "27", "28", "29", "30"])
            for s in [*streams, late]:
                s.close()
            browser.close()

    @within(120)
    def test_a_large_upload_through_a_replica_takes_no_memory(self):
        size = (10 << 30) if harness.LONG else (256 << 20)
        with ProxyCluster(2, "feed", self.EXTRA) as cluster:
            def proxy(node):
                return next(p for p, program in harness.children(node.process.pid).items() if program == "edgefs-proxy")

            def peak(node):
                with open(f"/proc/{proxy(node)}/status") as f:
                    return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmHWM:"))

            browser = Browser(cluster.nodes)
            self.assertEqual(browser.post(cluster.nodes[1], "/upload").status, 200)  # pools and buffers are there
            browser.close()
            before = [peak(n) for n in cluster.nodes]
            b = cluster.nodes[1]
            sized = os.path.join(cluster.tmp, "zeroes")
            with open(sized, "wb") as f:
                f.truncate(size)
            for body in (f"-T - < {sized}", f"-T {sized}"):  # chunked, then sized
                done = subprocess.run(f"curl -sS -X POST {body} http://127.0.0.1:{b.web}/upload", shell=True, stdout=subprocess.PIPE, check=True)
                self.assertEqual(harness.json.loads(done.stdout), {"bytes": size})
            for node, was in zip(cluster.nodes, before):
                self.assertLess(peak(node) - was, 8 << 20, f"the proxy of {node.name} grew")


class ProxyExamples(EdgeTest):
    """The commands of the examples' READMEs, as they stand there; only folder and ports are others."""

    def run_readme(self, name, ports):
        top = harness.tempfile.mkdtemp(prefix="x-")
        folder, work = os.path.join(top, "n"), os.path.join(top, "src")
        harness.shutil.copytree(os.path.join(harness.ROOT, "examples", name), work)
        bases = free_bases(len(ports))

        def local(text):
            text = text.replace(f"/tmp/{name}", folder)
            return re.sub(r"\b(" + "|".join(ports) + r")(?=[123@$])", lambda m: bases[ports.index(m.group(1))], text)

        for file in ("README.md", "node.yaml"):
            path = os.path.join(work, file)
            text = local(harness.read(path))
            with open(path, "w") as f:
                f.write(text)
        script = "\n".join(re.findall(r"^```sh\n(.*?)^```", harness.read(os.path.join(work, "README.md")), re.M | re.S))
        env = dict(os.environ, PATH=harness.BUILD + ":" + os.environ["PATH"])
        try:
            done = subprocess.run(["bash", "-eu", "-o", "pipefail", "-c", script], cwd=work, env=env, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=80)
            print(done.stdout)
            if done.returncode:
                for n in (1, 2, 3):
                    print(f"---- log of node {n}\n" + harness.read(f"{folder}/{n}/log")[-5000:])
            self.assertEqual(done.returncode, 0, "a command of the README failed")
            return done.stdout
        finally:
            for n in (1, 2, 3):
                config = f"{folder}/{n}/node.yaml"
                if os.path.exists(config):
                    subprocess.run([harness.EDGEFS, "stop", "-c", config], env=env, timeout=30, check=False)
            if not harness.mount_points(top):
                harness.shutil.rmtree(top)

    def in_order(self, text, *pieces):
        at = 0
        for piece in pieces:
            found = text.find(piece, at)
            self.assertGreaterEqual(found, 0, f"{piece!r} is not there (after the others) in:\n{text}")
            at = found + len(piece)

    @within(100)
    def test_the_commands_of_the_notes_readme_do_what_it_says(self):
        out = self.run_readme("notes", ["410", "808", "300"])
        self.in_order(out, "wal", "302", "__edge_write_pos=", '"text": "World", "version": 1}', "302\n409\n", '"text": "mine", "version": 2}',
                      '"text": "again", "version": 3}')

    @within(100)
    def test_the_commands_of_the_shop_readme_do_what_it_says(self):
        out = self.run_readme("shop", ["420", "818", "310"])
        self.in_order(out, 'desc="', "<h1>Slide rule</h1>", 'desc="forwarded"', "302\n409\n", "<h1>Order 1</h1>", "2 × Slide rule", "<h1>Order 1</h1>",
                      "2 × Slide rule")

    @within(100)
    def test_the_commands_of_the_feed_readme_do_what_it_says(self):
        out = self.run_readme("feed", ["430", "828", "320"])
        self.in_order(out, '{"id": 1}', '{"id": 3}', ": hello", "data: post number 1", "data: post number 2", "data: post number 3", '{"bytes": 100000000}')


def free_bases(n):
    """Four-digit beginnings such that the ports that they make with 1, 2 and 3 are free."""
    found = []
    while len(found) < n:
        base = random.SystemRandom().randrange(1100, 3200)
        if str(base) not in found and all(free(10 * base + i) for i in (1, 2, 3)):
            found.append(str(base))
    return found


def free(port):
    with harness.socket.socket() as s:
        try:
            s.bind(("127.0.0.1", port))
            return True
        except OSError:
            return False
