"""A real etcd (Debian's etcd-server) on loopback, one member or several, for the tests of the lease."""
import json
import os
import shutil
import signal
import subprocess
import tempfile
import urllib.request
from base64 import b64encode

from harness import free_port, wait_until


class Etcd:
    """A context manager. `endpoints` is what goes into lease.endpoints."""

    def __init__(self, members=1):
        self.tmp = tempfile.mkdtemp(prefix="efs-etcd-")
        self.ports = [(free_port(), free_port()) for _ in range(members)]
        self.processes = [None] * members
        self.endpoints = [f"http://127.0.0.1:{client}" for client, _ in self.ports]

    def __enter__(self):
        try:
            for i in range(len(self.ports)):
                self.start(i, wait=False)
            wait_until(lambda: all(self.healthy(i) for i in range(len(self.ports))), 30, "etcd answers")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in self.processes:
            if process and process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait()
        shutil.rmtree(self.tmp, ignore_errors=True)

    def start(self, i=0, wait=True):
        client, peer = self.ports[i]
        cluster = ",".join(f"m{k}=http://127.0.0.1:{p}" for k, (_, p) in enumerate(self.ports))
        with open(os.path.join(self.tmp, f"m{i}.log"), "ab") as log:
            self.processes[i] = subprocess.Popen(
                ["etcd", "--name", f"m{i}", "--data-dir", os.path.join(self.tmp, f"m{i}"), "--log-level", "warn",
                 "--listen-client-urls", f"http://127.0.0.1:{client}", "--advertise-client-urls", f"http://127.0.0.1:{client}",
                 "--listen-peer-urls", f"http://127.0.0.1:{peer}", "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
                 "--initial-cluster", cluster, "--initial-cluster-token", self.tmp, "--heartbeat-interval", "50", "--election-timeout", "500"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        if wait:
            wait_until(lambda: self.healthy(i), 30, f"member {i} of etcd answers")

    def kill(self, i=0):
        self.processes[i].kill()
        self.processes[i].wait()

    def signal(self, sig, i=0):
        self.processes[i].send_signal(sig)

    def healthy(self, i=0):
        try:
            with urllib.request.urlopen(self.endpoints[i] + "/health", timeout=2) as r:
                return json.load(r).get("health") == "true"
        except (OSError, ValueError):
            return False

    def post(self, path, body, i=0):
        request = urllib.request.Request(f"{self.endpoints[i]}/v3/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=5) as r:
            return json.load(r)

    def delete(self, key):
        self.post("kv/deleterange", {"key": b64encode(key.encode()).decode()})

    def lease(self, ttl="2s", more=""):
        """The value of `lease:` for a node."""
        return f"{{type: etcd, endpoints: [{', '.join(self.endpoints)}], ttl: {ttl}{', ' + more if more else ''}}}"
