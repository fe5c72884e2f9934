"""Watches what each node says of its databases while a schedule runs: the order between them is promised as long as none waits for an image."""
import bisect
import contextlib
import http.client
import threading
import time

PERIOD = 0.1


class Watch:
    """A context manager. Asks each node's API all the time, by a thread of its own."""

    def __init__(self, nodes):
        self.nodes = nodes
        self.seen = {n.name: [] for n in nodes}  # [(asked, answered, None: no answer | (all whole, images fetched so far))]
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(n,), daemon=True) for n in nodes]

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        for t in self.threads:
            t.join()

    def run(self, node):
        while not self.ended.wait(PERIOD):
            asked, what = time.monotonic(), None
            with contextlib.suppress(OSError, ValueError, AssertionError, http.client.HTTPException):
                databases = node.api("GET", "/v1/databases", timeout=1)[1]["databases"]
                text = node.api("GET", "/metrics", timeout=1)[1].decode()
                images = next(line.split()[1] for line in text.splitlines() if line.startswith("edgefs_images_fetched_total "))
                what = (all(d["state"] == "ok" for d in databases), images)
            self.seen[node.name].append((asked, time.monotonic(), what))

    def whole(self, name, t0, t1):
        """True if the node said, before t0 and after t1, that it has all of every database, and never anything else in between."""
        seen = self.seen[name]
        first = bisect.bisect_right([s[1] for s in seen], t0) - 1
        last = bisect.bisect_left([s[0] for s in seen], t1)
        answers = {s[2] for s in seen[max(first, 0):last + 1]}
        return first >= 0 and last < len(seen) and len(answers) == 1 and None not in answers and all(a[0] for a in answers)
