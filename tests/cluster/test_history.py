"""The checker must reject what must not happen: histories made by hand, each with one thing wrong, beside the same ones without it."""
import copy
import os
import sys
import unittest
import zlib

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import history  # noqa: E402


def crc(ops):
    return zlib.crc32("".join(f"{op}," for op in ops).encode())


class Story:
    """A small history in which all is well: transactions one after another on one line of one.db, with whoever did and saw them."""

    def __init__(self):
        self.events, self.line, self.notes, self.now = [], [], [], 0.0
        self.side = {}  # transactions that are on no main line: op → those before it

    def tick(self):
        self.now += 1.0
        return self.now

    def write(self, op, s="s", node="a", kind="append", key="p", r="ok", path=None):
        """path: the transactions that it stands on, if not the main line."""
        before = self.line if path is None else path
        t0 = self.tick()
        self.events.append({"e": "call", "op": op, "s": s, "t0": t0})
        if r in ("ok", "info"):
            self.events.append({"e": "try", "db": "one.db", "op": op, "n": len(before) + 1, "parent": before[-1][0] if before else "", "kind": kind, "key": key})
        self.events.append({"e": "write", "op": op, "db": "one.db", "s": s, "t0": t0, "t1": self.tick(), "r": r, "node": node})
        if r in ("ok", "info"):
            before.append((op, kind, key))
        return op

    def note(self, op, ref, s="s", node="a"):
        t0 = self.tick()
        self.events += [{"e": "call", "op": op, "s": s, "t0": t0},
                        {"e": "try", "db": "two.db", "op": op, "n": len(self.notes) + 1, "parent": self.notes[-1][0] if self.notes else "", "ref": ref},
                        {"e": "write", "op": op, "db": "two.db", "s": s, "t0": t0, "t1": self.tick(), "r": "ok", "node": node}]
        self.notes.append((op, ref))

    def observation(self, path):
        ops = [op for op, _, _ in path]
        lists = {k: [op for op, kind, key in path if kind == "append" and key == k] for k in history.LISTS}
        return {"n": len(path), "op": ops[-1] if ops else "", "parent": None, "rows": len(path) + 1, "counter": sum(kind == "add" for _, kind, _ in path),
                "registers": {key: op for op, kind, key in path if kind == "set"}, "lists": {k: [len(v), crc(v)] for k, v in lists.items()},
                "pads": [ops[-1]] * history.PADS if ops else [], "whole": True}

    def read(self, s="s", node="a", upto=None, notes=None, path=None, stale=False, m=False):
        t0 = self.tick()
        path = (self.line if path is None else path)[:upto]
        seen = self.notes[:notes]
        event = {"e": "read", "s": s, "node": node, "t0": t0, "t1": self.tick(), "stale": stale, "m": m,
                 "at": {"two": [len(seen), *(seen[-1] if seen else ("", ""))], "one": self.observation(path)}}
        self.events.append(event)
        return event

    def dump(self):
        rows, before = [[0, "", None, "", ""]], ""
        for n, (op, kind, key) in enumerate(self.line, 1):
            rows.append([n, op, before, kind, key])
            before = op
        return {"one.db": rows, "two.db": [[0, "", ""]] + [[n, op, ref] for n, (op, ref) in enumerate(self.notes, 1)], "state": self.observation(self.line),
                "check one.db": "ok", "check two.db": "ok"}

    def check(self, quarantined=(), synchronous=None, final=None):
        return history.check(self.events, final or {"a": self.dump(), "b": self.dump()}, set(quarantined), synchronous)


def usual():
    story = Story()
    story.write("w1", kind="set", key="x")
    story.write("w2", kind="add", key="c", s="t")
    story.read(node="b", upto=1, s="u")
    story.write("w3", s="t")
    story.note("n1", "w3", s="t")
    story.write("bad", r="fail")
    story.write("back", r="abort")
    story.read()
    story.read(node="b", s="u")
    return story


class HistoryChecker(unittest.TestCase):
    def rejects(self, story, kind, **how):
        problems = story.check(**how)
        self.assertTrue(problems, "the checker found nothing")
        self.assertEqual({p.split(":")[0] for p in problems}, {kind}, problems)

    def test_accepts_what_may_happen(self):
        self.assertEqual(usual().check(), [])

    def test_a_write_whose_end_is_unknown_may_be_there_or_not(self):
        story = usual()
        story.write("maybe", r="info")
        self.assertEqual(story.check(), [])
        story.line.pop()
        self.assertEqual(story.check(), [])

    def test_lost_write(self):
        story = usual()
        story.write("w4")
        story.line.pop()
        self.rejects(story, "lost")

    def test_a_lost_write_may_be_in_quarantine_unless_commits_are_synchronous(self):
        story = usual()
        story.write("w4")
        story.line.pop()
        self.assertEqual(story.check(quarantined={"w4"}), [])
        self.rejects(story, "lost", quarantined={"w4"}, synchronous="refuse")

    def test_a_write_of_which_is_known_that_it_waited_must_not_be_lost_when_others_did_not_wait(self):
        story = usual()
        story.write("w4")
        story.line.pop()
        self.rejects(story, "lost", quarantined={"w4"}, synchronous="degrade")
        story.events.append({"e": "doubt", "op": "w4"})
        self.assertEqual(story.check(quarantined={"w4"}, synchronous="degrade"), [])
        self.rejects(story, "lost", synchronous="degrade")

    def test_what_somebody_saw_must_not_vanish_even_if_it_was_not_acknowledged(self):
        story = usual()
        story.write("w4", r="info")
        story.read(s="u")
        story.line.pop()
        self.rejects(story, "lost")
        self.assertEqual(story.check(quarantined={"w4"}), [])

    def test_each_lost_write_below_one_that_was_seen_counts(self):
        story = usual()
        fork = list(story.line)
        story.write("f1", r="info", path=fork)
        story.write("f2", r="info", path=fork)
        story.read(s="v", node="c", path=fork)
        self.rejects(story, "lost", quarantined={"f2"})
        self.assertEqual(story.check(quarantined={"f1", "f2"}), [])

    def test_rolled_back_or_refused_and_there(self):
        for r in ("abort", "fail"):
            story = usual()
            story.write("dirty", r="info")
            story.events[-1]["r"] = r
            self.rejects(story, "dirty")

    def test_rolled_back_and_seen(self):
        story = usual()
        fork = list(story.line)
        story.write("dirty", r="info", path=fork)
        story.events[-1]["r"] = "abort"
        story.read(s="v", node="c", path=fork)
        self.rejects(story, "dirty", quarantined={"dirty"})

    def test_seen_and_never_written(self):
        story = usual()
        story.read(s="v", node="c", path=[*story.line, ("ghost", "add", "c")])
        self.rejects(story, "dirty")

    def test_seen_before_it_was_asked_for(self):
        story = usual()
        story.write("w4")
        early = story.read(s="v", node="c")
        early["t0"], early["t1"] = 0.1, 0.2
        self.rejects(story, "dirty")

    def test_there_and_never_written(self):
        story = usual()
        story.line.append(("ghost", "note", ""))
        self.rejects(story, "dirty")

    def test_torn_reads(self):
        def change(name, value):
            story = usual()
            read = story.read(s="v", node="c")
            read["at"]["one"][name] = value
            self.rejects(story, "torn")

        change("counter", 0)
        change("counter", 2)
        change("registers", {})
        change("registers", {"x": "w2"})
        change("lists", {"p": [0, 0], "q": [0, 0]})
        change("lists", {"p": [1, crc(["w2"])], "q": [0, 0]})
        change("rows", 3)
        change("pads", ["w3", "w2", "w3"])
        change("pads", ["w3", "w3"])
        change("whole", False)
        change("n", 2)

    def test_a_file_that_is_no_database_any_more(self):
        story = usual()
        story.read(s="v", node="c")["at"] = {"broken": "SQLITE_CORRUPT malformed"}
        self.rejects(story, "torn")

    def test_unsound_or_inconsistent_in_the_end(self):
        for part, value in (("check one.db", "row 3 missing from index"), ("state", usual().observation([]))):
            final = {"a": {**usual().dump(), part: value}}
            self.rejects(usual(), "torn", final=final)

    def test_nodes_that_differ_in_the_end(self):
        final = {"a": usual().dump(), "b": copy.deepcopy(usual().dump())}
        final["b"]["two.db"].pop()
        self.rejects(usual(), "identical", final=final)

    def test_twice_in_the_end(self):
        story = usual()
        story.line.append(story.line[0])
        self.assertIn("twice", {p.split(":")[0] for p in story.check()})

    def test_carried_out_twice(self):
        story = usual()
        story.events.append({"e": "try", "db": "one.db", "op": "w2", "n": 3, "parent": "w3", "kind": "add", "key": "c"})
        self.assertIn("twice", {p.split(":")[0] for p in story.check()})

    def test_a_session_that_brings_its_position_reads_less_on_another_node(self):
        story = Story()
        for i in range(3):
            story.write(f"s.{i}")
        story.read("q", "a", m=True)
        story.read("q", "b", upto=2, m=True)
        self.rejects(story, "monotonic")
        for change in ({"m": False}, {"stale": True}, {"s": "r"}):
            again = copy.deepcopy(story)
            again.events[-1].update(change)
            self.assertEqual(again.check(), [], change)

    def test_reads_that_go_backwards_on_a_node(self):
        story = usual()
        story.read(node="c", s="v", upto=2, notes=0)
        story.read(node="c", s="v", upto=1, notes=0)
        self.rejects(story, "backwards")

    def test_reads_at_the_same_time_may_come_in_any_order(self):
        story = usual()
        one = story.read(node="c", s="v", upto=2, notes=0)
        two = story.read(node="c", s="x", upto=1, notes=0)
        two["t0"] = one["t0"]
        self.assertEqual(story.check(), [])

    def test_notes_that_go_backwards(self):
        story = usual()
        story.read(node="c", s="v")
        story.read(node="c", s="v", notes=0)
        self.rejects(story, "backwards")

    def test_an_acknowledged_write_is_there_on_its_node(self):
        story = usual()
        story.read(node="a", s="v", upto=2, notes=0)
        self.rejects(story, "backwards")

    def test_own_writes_on_another_node(self):
        story = usual()
        story.read(node="c", s="t", upto=2, notes=0)
        self.rejects(story, "own writes")

    def test_own_writes_may_be_missing_in_an_answer_that_says_so(self):
        story = usual()
        story.read(node="c", s="t", upto=2, notes=0, stale=True)
        self.assertEqual(story.check(), [])

    def test_own_writes_that_were_lost_may_be_missing(self):
        story = usual()
        fork = list(story.line)
        story.write("f1", s="v", node="c", path=fork)
        story.read(node="c", s="v", path=fork)
        story.read(node="c", s="v")
        self.assertEqual(story.check(quarantined={"f1"}), [])

    def test_a_note_without_what_it_is_about(self):
        story = usual()
        story.read(node="c", s="v", upto=2)
        self.rejects(story, "order")

    def test_a_note_without_what_it_is_about_is_no_fault_where_the_order_is_not_promised(self):
        story = usual()
        story.read(node="c", s="v", upto=2)
        checker = history.Checker(story.events, {"a": story.dump(), "b": story.dump()}, set(), ordered=lambda node, t0, t1: False)
        self.assertEqual((checker.run(), checker.unordered), ([], 1))

    def test_a_note_that_outlives_what_it_is_about(self):
        story = usual()
        story.line.remove(story.line[-1])
        self.assertIn("order", {p.split(":")[0] for p in story.check()})

    def test_real_time(self):
        story = usual()
        story.write("w4", s="v")
        story.line[2], story.line[3] = story.line[3], story.line[2]
        self.assertIn("real time", {p.split(":")[0] for p in story.check()})

    def test_real_time_alone(self):
        story = Story()
        story.write("w1")
        story.write("w2", s="t")
        for e in story.events:  # w2 was asked for and answered before w1 was asked for
            for t in ("t0", "t1"):
                if t in e and e["op"] == "w2":
                    e[t] -= 10
        self.rejects(story, "real time")


if __name__ == "__main__":
    unittest.main()
