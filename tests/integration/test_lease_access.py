"""An etcd that speaks TLS, wants certificates, or has users."""
import contextlib
import os

import harness
from etcd import Etcd
from harness import Cluster, EdgeTest, wait_until, within
from test_failover import wait_followers, wait_primary


@contextlib.contextmanager
def cluster_on(etcd, more, n=2):
    """n nodes with `more` in their lease. Yields (cluster, primary), everybody connected."""
    with Cluster(n, start=False) as cluster:
        for node in cluster.nodes:
            node.lease = etcd.lease("2s", more)
            node.write_config()
            node.start(wait=False)
        for node in cluster.nodes:
            node.wait_ready()
        primary = wait_primary(cluster)
        wait_followers(cluster, primary)
        yield cluster, primary


def lone_node(cluster, etcd, more):
    """A node that cannot get at etcd; returns it once it runs."""
    node = cluster.nodes[0]
    node.lease = etcd.lease("2s", more)
    node.write_config()
    return node.start()


class LeaseAccess(EdgeTest):
    def fails_over(self, cluster, primary):
        harness.make_load_db(primary)
        cluster.sync()
        primary.kill_all()
        new = wait_primary(cluster, primary)
        new.sql("load.db", "INSERT INTO t (w, s) VALUES (1, 1)")
        primary.start()
        wait_followers(cluster, new)
        cluster.sync()
        cluster.identical()

    def stays_replica(self, etcd, more, why):
        """With a lease like that a node neither becomes primary nor keeps silent about the reason."""
        with Cluster(1, start=False) as cluster:
            node = lone_node(cluster, etcd, more)
            wait_until(lambda: why in node.log(), 15, lambda: f"the log says {why!r}: {node.log_tail(20)}")
            self.assertEqual(node.status()["role"], "replica")
            self.assertFalse(node.status()["lease"]["reachable"])

    @within(90)
    def test_tls(self):
        with Etcd(tls=True) as etcd:
            path = etcd.certificates.path
            with cluster_on(etcd, f"ca-file: {path('ca.pem')}") as (cluster, primary):
                self.fails_over(cluster, primary)
            self.stays_replica(etcd, f"ca-file: {path('other-ca.pem')}", "certificate")

    @within(90)
    def test_an_etcd_that_wants_certificates(self):
        with Etcd(mutual=True) as etcd:
            path = etcd.certificates.path
            with cluster_on(etcd, f"ca-file: {path('ca.pem')}, cert-file: {path('client.pem')}, key-file: {path('client.key')}") as (cluster, primary):
                self.fails_over(cluster, primary)
            self.stays_replica(etcd, f"ca-file: {path('ca.pem')}", "certificate")

    @within(90)
    def test_user_and_password(self):
        with Etcd() as etcd:
            right, wrong = (os.path.join(etcd.tmp, name) for name in ("right", "wrong"))
            for name, text in ((right, "open sesame\n"), (wrong, "open barley\n")):
                with open(name, "w") as f:
                    f.write(text)
                os.chmod(name, 0o600)
            etcd.enable_authentication("edgefs", "open sesame")
            with cluster_on(etcd, f"user: edgefs, password-file: {right}") as (cluster, primary):
                # A restarted etcd knows none of the tokens that it gave.
                epoch = primary.status()["epoch"]
                etcd.kill()
                etcd.start()
                renewed = primary.status()["lease"]["renewed_ms"]
                wait_until(lambda: (s := primary.status())["lease"]["reachable"] and s["lease"]["renewed_ms"] <= renewed and s["role"] == "primary", 20,
                           lambda: f"the lease is renewed with a new token: {primary.status()}")
                self.assertGreaterEqual(primary.status()["epoch"], epoch)
                self.fails_over(cluster, wait_primary(cluster))
            self.stays_replica(etcd, f"user: edgefs, password-file: {wrong}", "authentication failed")
