"""Many at once."""
import harness
from harness import Cluster, EdgeTest, both_modes, rounds, within


@both_modes
class Concurrent(EdgeTest):
    @within(90)
    def test_8_writers_and_8_readers_while_two_replicas_follow(self):
        with Cluster(3, self.passthrough) as cluster:
            a, b, c = cluster.nodes
            harness.make_load_db(a)
            cluster.sync()
            writers = [cluster.load("writer", "--mounts", a.mount, "--id", i, "--large", 50, "--reopen", 70 if i % 4 == 0 else 0,
                                    "--sync", ("NORMAL", "FULL")[i % 2]) for i in range(8)]
            readers = [cluster.load("reader", "--db", a.path("load.db"), "--seed", i, "--reopen", 50 if i % 4 == 0 else 0) for i in range(8)]
            readers += [cluster.load("reader", "--db", n.path("load.db"), "--seed", i) for n in (b, c) for i in range(2)]
            for w in writers:
                w.wait_acked(rounds(250), timeout=rounds(60))
            for w in writers:
                w.finish()
            for r in readers:
                result = r.finish()
                self.assertGreater(result["states"], 10, f"{r.name} saw the data change: {result}")
            cluster.identical()
            for n in cluster.nodes:
                harness.check_exactly_once(n, "load.db", writers)

    def test_several_databases_at_once(self):
        names = [f"d{i}.db" for i in range(6)]
        with Cluster(2, self.passthrough) as cluster:
            a, b = cluster.nodes
            for name in names:
                harness.make_load_db(a, name)
            writers = [cluster.load("writer", "--mounts", a.mount, "--id", i, "--db", *names[i % 3 * 2:][:2]) for i in range(6)]
            for w in writers:
                w.wait_acked(rounds(200))
            for w in writers:
                w.finish()
            cluster.identical()
            # Each writer's rows lie in its two databases, in turn.
            for i, w in enumerate(writers):
                mine = set(w.acked())
                have = [row for name in names for row in b.sql(name, "SELECT w, s FROM t WHERE w = ?", (i,))]
                self.assertEqual(len(have), len(mine))
                self.assertEqual(set(have), mine)
