"""What the behaviours run against: nginx and HAProxy from Debian, and edgefs-proxy on a real node. Each has an origin of its own.

The other two are configured to do the same job: HTTP/1.1 and kept connections behind, nothing buffered, X-Forwarded-*, Upgrade, 2 s for a request's head, silence
in a body, an idle connection and an answer. Python's standard library only."""

import contextlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "integration"))
import harness  # noqa: E402
from wire import Origin  # noqa: E402

NGINX = """\
daemon off; pid {tmp}/nginx.pid; error_log {tmp}/error.log crit; worker_processes 1; {user}
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {tmp}/1; proxy_temp_path {tmp}/2; fastcgi_temp_path {tmp}/3; uwsgi_temp_path {tmp}/4; scgi_temp_path {tmp}/5;
  client_header_timeout 2s; client_body_timeout 2s; keepalive_timeout 2s; client_max_body_size 0;
  large_client_header_buffers 4 16k;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  upstream app {{ server 127.0.0.1:{origin} max_fails=0; keepalive 32; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://app;
      proxy_http_version 1.1; proxy_request_buffering off; proxy_buffering off; proxy_buffer_size 16k; proxy_buffers 8 16k; proxy_busy_buffers_size 32k;
      proxy_read_timeout 2s; proxy_send_timeout 2s;
      proxy_set_header Host $http_host; proxy_set_header Connection $connection_upgrade; proxy_set_header Upgrade $http_upgrade;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $http_host;
    }}
  }}
}}
"""

HAPROXY = """\
global
  maxconn 8192
  nbthread 1
  stats socket {tmp}/admin.sock
defaults
  mode http
  option http-no-delay
  timeout connect 5s
  timeout client 2s
  timeout server 2s
  timeout http-request 2s
  timeout http-keep-alive 2s
  timeout tunnel 60s
  retries 1
frontend f
  bind 127.0.0.1:{port} backlog 4096
  http-request set-header X-Forwarded-Proto http
  http-request set-header X-Forwarded-Host %[req.hdr(Host)]
  option forwardfor
  default_backend b
backend b
  retry-on conn-failure empty-response
  http-request disable-l7-retry unless {{ method GET HEAD OPTIONS }}
  server app 127.0.0.1:{origin}
"""


def anonymous(pid, peak):
    """Bytes of anonymous memory of a process; the peak is that of all its memory since forget_peak, without what is file-backed now."""
    with open(f"/proc/{pid}/status") as f:
        fields = dict(line.split(":", 1) for line in f)
    kib = {k: int(fields[k].split()[0]) for k in ("VmHWM", "RssAnon", "RssFile", "RssShmem")}
    return 1024 * (kib["VmHWM"] - kib["RssFile"] - kib["RssShmem"] if peak else kib["RssAnon"])


def forget_peak(pid):
    with open(f"/proc/{pid}/clear_refs", "w") as f:
        f.write("5")


def listening(port):
    with contextlib.closing(socket.socket()) as s:
        s.settimeout(1)
        return s.connect_ex(("127.0.0.1", port)) == 0


class Program:
    """A target that is one program in the foreground with a configuration file."""

    tls = None  # else what clients need to speak TLS with it

    def __init__(self, name, text, argv, origin):
        self.name = name
        self.origin = origin
        self.tmp = tempfile.mkdtemp(prefix=f"http-{name}-")
        self.port = harness.free_port()
        self.log = os.path.join(self.tmp, "log")
        user = "user root;" if os.geteuid() == 0 else ""
        config = os.path.join(self.tmp, "conf")
        with open(config, "w") as f:
            f.write(text.format(tmp=self.tmp, port=self.port, origin=self.origin.port, user=user))
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([a.format(config=config, tmp=self.tmp) for a in argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            harness.wait_until(lambda: self.alive() and listening(self.port), 10, lambda: f"{name} listens: {harness.read(self.log)}")
        except AssertionError:
            self.close()
            raise

    def alive(self):
        if self.process.poll() is not None:
            raise AssertionError(f"{self.name} ended: {harness.read(self.log)}")
        return True

    def pid(self):
        """The process that does the work: nginx has a master above it."""
        below = list(harness.children(self.process.pid))
        return below[0] if below else self.process.pid

    def memory(self, peak=False):
        return anonymous(self.pid(), peak)

    def forget_peak(self):
        forget_peak(self.pid())

    def close(self):
        self.origin.close()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.tmp, ignore_errors=True)


def nginx(deadline):
    return Program("nginx", NGINX, ["/usr/sbin/nginx", "-c", "{config}", "-e", "stderr"], Origin(deadline))


def haproxy(deadline):
    return Program("haproxy", HAPROXY, ["/usr/sbin/haproxy", "-db", "-f", "{config}"], Origin(deadline))


def make_certificate(folder, name="tls"):
    """(certificate, key): PEM files of a self-signed certificate for 127.0.0.1."""
    certificate, key = (os.path.join(folder, f"{name}.{kind}") for kind in ("pem", "key"))
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", f"/CN={name}",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate], check=True, stderr=subprocess.DEVNULL)
    return certificate, key


EDGEFS = """\
proxy:
  - listen: 127.0.0.1:{port}
    target: 127.0.0.1:{origin}
    trust: [127.0.0.1]
    limits: {{header-time: 2s, body-time: 2s, idle-time: 2s, response-time: 2s, idle-target-connections: 32}}
    splice: {splice}
{more}"""


class Edgefs:
    """The proxy of a real node that is primary ("edgefs"), or of a replica whose writes go through the primary's proxy ("edgefs-replica"), or the same with
    TLS on both hops ("edgefs-tls"). The first splices long bodies, the others copy them."""

    def __init__(self, name, deadline):
        self.name = name
        self.origin = Origin(deadline)
        nodes = 1 if name == "edgefs" else 2
        self.tls = None
        ports = [harness.free_port() for _ in range(nodes)]
        self.cluster = harness.Cluster(nodes, start=False, prefix="http-")
        try:
            scheme = "https" if name == "edgefs-tls" else "http"
            more = "    peers: {" + ", ".join(f"{n.name}: '{scheme}://127.0.0.1:{p}'" for n, p in zip(self.cluster.nodes, ports)) + "}\n"
            if scheme == "https":
                certificate, key = make_certificate(self.cluster.tmp)
                more += f"    tls: {{certificate: {certificate}, key: {key}}}\n    peer-tls: {{ca: {certificate}}}\n"
                self.tls = ssl.create_default_context(cafile=certificate)
                self.tls.set_alpn_protocols(["http/1.1"])
            for node, port in zip(self.cluster.nodes, ports):
                node.extra += EDGEFS.format(port=port, origin=self.origin.port, more=more, splice="on" if nodes == 1 else "off")
                node.write_config()
            self.cluster.start()
            self.node, self.port = self.cluster.nodes[-1], ports[-1]
            for port in ports:
                harness.wait_until(lambda p=port: listening(p), 10, "the proxy listens")
        except BaseException:
            self.cluster.report()
            self.close()
            raise

    def pid(self):
        return next(p for p, program in harness.children(self.node.process.pid).items() if program == "edgefs-proxy")

    def memory(self, peak=False):
        return anonymous(self.pid(), peak)

    def forget_peak(self):
        forget_peak(self.pid())

    def close(self):
        self.origin.close()
        problems = self.cluster.clean()
        if problems:
            raise AssertionError("; ".join(problems))


OPEN = {
    "edgefs": lambda deadline: Edgefs("edgefs", deadline),
    "edgefs-replica": lambda deadline: Edgefs("edgefs-replica", deadline),
    "edgefs-tls": lambda deadline: Edgefs("edgefs-tls", deadline),
    "nginx": nginx,
    "haproxy": haproxy,
}
