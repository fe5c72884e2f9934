"""A real etcd (Debian's etcd-server) on loopback, one member or several, for the tests of the lease."""
import json
import os
import shutil
import signal
import ssl
import subprocess
import tempfile
import urllib.request
from base64 import b64encode

from harness import free_port, wait_until


class Certificates:
    """Made with openssl in `folder`: ca.pem; server.pem, client.pem, each with its .key; and other-ca.pem, whom nobody knows."""

    def __init__(self, folder):
        self.folder = folder
        for ca in ("ca", "other-ca"):
            self.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", f"/CN={ca}",
                         "-keyout", self.path(ca + ".key"), "-out", self.path(ca + ".pem"))
        # etcd's gateway is a client of its own server, with the server's certificate, and such a certificate must not have a common name.
        self.issue("server", "/O=server", "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
        self.issue("client", "/O=client", "extendedKeyUsage=clientAuth\n")

    def path(self, name):
        return os.path.join(self.folder, name)

    def openssl(self, *args):
        subprocess.run(["openssl", *args], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def issue(self, name, subject, extensions):
        with open(self.path(name + ".ext"), "w") as f:
            f.write(extensions)
        self.openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", subject, "-keyout", self.path(name + ".key"),
                     "-out", self.path(name + ".csr"))
        self.openssl("x509", "-req", "-in", self.path(name + ".csr"), "-CA", self.path("ca.pem"), "-CAkey", self.path("ca.key"), "-CAcreateserial", "-days", "2",
                     "-extfile", self.path(name + ".ext"), "-out", self.path(name + ".pem"))


class Etcd:
    """A context manager. `endpoints` is what goes into lease.endpoints. tls: clients speak TLS; mutual: they need a certificate, too. `certificates`."""

    def __init__(self, members=1, tls=False, mutual=False, prefix=()):
        self.prefix = prefix  # of the command
        self.tmp = tempfile.mkdtemp(prefix="efs-etcd-")
        self.ports = [(free_port(), free_port()) for _ in range(members)]
        self.processes = [None] * members
        self.mutual = mutual
        self.certificates = self.tls = None
        self.scheme = "https" if tls or mutual else "http"
        if tls or mutual:
            self.certificates = Certificates(self.tmp)
            self.tls = ssl.create_default_context(cafile=self.certificates.path("ca.pem"))
            self.tls.load_cert_chain(self.certificates.path("client.pem"), self.certificates.path("client.key"))
        self.endpoints = [f"{self.scheme}://127.0.0.1:{client}" for client, _ in self.ports]

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
                [*self.prefix, "etcd", "--name", f"m{i}", "--data-dir", os.path.join(self.tmp, f"m{i}"), "--log-level", "warn",
                 "--listen-client-urls", self.endpoints[i], "--advertise-client-urls", self.endpoints[i], *self.tls_options(),
                 "--listen-peer-urls", f"http://127.0.0.1:{peer}", "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
                 "--initial-cluster", cluster, "--initial-cluster-token", self.tmp, "--heartbeat-interval", "50", "--election-timeout", "500"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        if wait:
            wait_until(lambda: self.healthy(i), 30, f"member {i} of etcd answers")

    def tls_options(self):
        if not self.certificates:
            return []
        # A trusted-ca-file alone makes this etcd ask for certificates.
        return ["--cert-file", self.certificates.path("server.pem"), "--key-file", self.certificates.path("server.key"),
                *(["--trusted-ca-file", self.certificates.path("ca.pem"), "--client-cert-auth"] if self.mutual else [])]

    def kill(self, i=0):
        self.processes[i].kill()
        self.processes[i].wait()

    def signal(self, sig, i=0):
        self.processes[i].send_signal(sig)

    def healthy(self, i=0):
        try:
            with urllib.request.urlopen(self.endpoints[i] + "/health", timeout=2, context=self.tls) as r:
                return json.load(r).get("health") == "true"
        except (OSError, ValueError):
            return False

    def post(self, path, body, i=0):
        request = urllib.request.Request(f"{self.endpoints[i]}/v3/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=5, context=self.tls) as r:
            return json.load(r)

    def delete(self, key):
        self.post("kv/deleterange", {"key": b64encode(key.encode()).decode()})

    def enable_authentication(self, user, password, prefix="edgefs/"):
        """A user that may read and write what is below prefix; and root, as etcd wants it."""
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        for path, body in (("user/add", {"name": "root", "password": "of-the-tests"}), ("role/add", {"name": "root"}),
                           ("user/grant", {"user": "root", "role": "root"}), ("user/add", {"name": user, "password": password}), ("role/add", {"name": "node"}),
                           ("role/grant", {"name": "node", "perm": {"permType": "READWRITE", "key": b64encode(prefix.encode()).decode(),
                                                                     "range_end": b64encode(end.encode()).decode()}}),
                           ("user/grant", {"user": user, "role": "node"}), ("enable", {})):
            self.post("auth/" + path, body)

    def lease(self, ttl="2s", more=""):
        """The value of `lease:` for a node."""
        return f"{{type: etcd, endpoints: [{', '.join(self.endpoints)}], ttl: {ttl}{', ' + more if more else ''}}}"
