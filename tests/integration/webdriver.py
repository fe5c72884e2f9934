"""Headless Chromium through chromedriver (Debian packages chromium and chromium-driver): the few commands of the WebDriver protocol that tests need.
Python's standard library only."""

import http.client
import json
import os
import shutil
import subprocess
import tempfile

import harness

DRIVER = "/usr/bin/chromedriver"
CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"]
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # W3C WebDriver §12


def installed():
    return os.access(DRIVER, os.X_OK) and os.access(CHROMIUM, os.X_OK)


class DriverError(AssertionError):
    pass


class Chromium:
    """A browser with a profile of its own. A context manager."""

    def __enter__(self):
        self.profile = tempfile.mkdtemp(prefix="chromium-")
        self.port = harness.free_port()
        self.session = None
        self.log = open(os.path.join(self.profile, "driver.log"), "wb")
        self.driver = subprocess.Popen([DRIVER, f"--port={self.port}"], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        try:
            harness.wait_until(self.ready, 30, "chromedriver answers")
            options = {"binary": CHROMIUM, "args": [*FLAGS, f"--user-data-dir={self.profile}/data"]}
            answer = self.call("POST", "/session", {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}})
            self.session = answer["sessionId"]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        try:
            if self.session:
                self.call("DELETE", "")
        finally:
            self.driver.terminate()
            self.driver.wait(20)
            self.log.close()
            shutil.rmtree(self.profile, ignore_errors=True)

    def ready(self):
        try:
            return self.call("GET", "/status")["ready"]
        except OSError:
            return False

    def call(self, method, path, body=None):
        conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            where = path if self.session is None else f"/session/{self.session}{path}"
            conn.request(method, where, json.dumps(body) if method == "POST" else None, {"Content-Type": "application/json"})
            value = json.loads(conn.getresponse().read())["value"]
        finally:
            conn.close()
        if isinstance(value, dict) and "error" in value:
            raise DriverError(f"chromedriver, {method} {path}: {value['error']}: {value.get('message', '')[:300]}")
        return value

    # ---- a page ----

    def open(self, url):
        self.call("POST", "/url", {"url": url})

    def url(self):
        return self.call("GET", "/url")

    def find(self, css):
        return self.call("POST", "/element", {"using": "css selector", "value": css})[ELEMENT]

    def type(self, css, text):
        element = self.find(css)
        self.call("POST", f"/element/{element}/clear", {})
        self.call("POST", f"/element/{element}/value", {"text": text})

    def click(self, css):
        self.call("POST", f"/element/{self.find(css)}/click", {})

    def text(self, css="body"):
        """What a person sees; "" while a page is being replaced by the next one."""
        try:
            return self.call("GET", f"/element/{self.find(css)}/text")
        except DriverError:
            return ""

    def run(self, script, *args):
        return self.call("POST", "/execute/sync", {"script": script, "args": list(args)})

    def cookies(self):
        return {c["name"]: c for c in self.call("GET", "/cookie")}

    # ---- tabs ----

    def new_tab(self):
        return self.call("POST", "/window/new", {"type": "tab"})["handle"]

    def tab(self):
        return self.call("GET", "/window")

    def switch(self, handle):
        self.call("POST", "/window", {"handle": handle})
