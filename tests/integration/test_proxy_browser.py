"""The applications of examples/ behind the proxies of three nodes, used with a real browser."""

import unittest

import harness
import webdriver
from harness import EdgeTest, within
from proxy_cluster import Browser, Promoter, ProxyCluster


@unittest.skipUnless(webdriver.installed(), "SKIPPED: NO BROWSER: the Debian packages chromium and chromium-driver are not installed")
class ProxyBrowser(EdgeTest):
    def sign_up(self, page, node):
        page.open(f"http://127.0.0.1:{node.web}/sign-up")
        page.type("#id_username", "ada")
        page.type("#id_password1", "analytical-engine")
        page.type("#id_password2", "analytical-engine")
        page.click("form:not(.inline) button")
        self.shows(page, "Log out")

    def shows(self, page, text):
        """A click begins to load a page and may return before it is there. No reload: a page that shows something old goes on showing it."""
        harness.wait_until(lambda: text in page.text(), 30, lambda: f"{text!r} at {page.url()}: {page.text()!r}")

    def rounds(self, page, nodes, n):
        """Edits a note on one node after the other and looks at it on the two others."""
        page.open(f"http://127.0.0.1:{nodes[1].web}/")
        page.type("#id_title", "Hello")
        page.type("#id_text", "0")
        page.click("#add")
        self.shows(page, "version 1")
        path = "/" + page.url().rsplit("/", 1)[1]
        self.assertRegex(path, r"^/\d+$")
        for i in range(n):
            where, *others = nodes[i % 3], nodes[(i + 1) % 3], nodes[(i + 2) % 3]
            page.open(f"http://127.0.0.1:{where.web}{path}")
            page.type("#id_text", f"edit {i}")
            page.click("#save")
            self.shows(page, f"version {i + 2}")
            for node in others:
                page.open(f"http://127.0.0.1:{node.web}{path}")
                self.assertEqual(page.run("return document.getElementById('id_text').value"), f"edit {i}", f"on {node.name}")
                self.assertIn(f"version {i + 2}", page.text())

    @within(120)
    def test_a_browser_reads_on_every_node_what_it_wrote_on_another(self):
        with ProxyCluster(3, "notes") as cluster, webdriver.Chromium() as page:
            self.sign_up(page, cluster.nodes[1])
            cookies = page.cookies()
            self.assertTrue(cookies["__edge_write_pos"]["httpOnly"])
            self.assertIn("sessionid", cookies)
            self.rounds(page, cluster.nodes, harness.rounds(6))

    @within(120)
    def test_a_browser_notices_nothing_of_promotions(self):
        with ProxyCluster(3, "notes") as cluster, webdriver.Chromium() as page:
            self.sign_up(page, cluster.nodes[2])
            promoter = Promoter(cluster, 1)
            promoter.start()
            self.rounds(page, cluster.nodes, harness.rounds(6))
            promoter.stop()
            self.assertGreater(promoter.done, 0)

    @within(120)
    def test_eventsource_and_websocket_of_a_browser_work_on_replicas(self):
        with ProxyCluster(3, "feed", "    upgrade-writes: [/chat]\n") as cluster, webdriver.Chromium() as page:
            b, c = cluster.nodes[1:]
            tabs = {}
            for node in (b, c):
                tabs[node] = page.new_tab()
                page.switch(tabs[node])
                page.open(f"http://127.0.0.1:{node.web}/")
                harness.wait_until(lambda: page.run("return socket.readyState") == 1, 20, "the WebSocket is open")

            def shown(what, want):
                harness.wait_until(lambda: want in page.text(what), 20, lambda: f"{want!r} in {what}: {page.text(what)!r}")

            for i in range(5):
                page.switch(tabs[b])
                page.type("#say input[name=text]", f"said {i}")
                page.click("#say button")
                shown("#said", f"me: said {i}")
                page.switch(tabs[c])
                shown("#said", f"me: said {i}")
            page.type("#post input[name=text]", "from the browser")
            page.click("#post button")
            shown("#posts", "from the browser")
            other = Browser(cluster.nodes)
            self.assertEqual(other.post(b, "/post", {"text": "from elsewhere"}).status, 200)
            other.close()
            shown("#posts", "from elsewhere")
            page.switch(tabs[b])
            shown("#posts", "from elsewhere")
