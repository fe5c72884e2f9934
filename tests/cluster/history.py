"""The history checker: given what clients did and saw, and what the cluster holds in the end, says what must not have happened.

Each transaction has a name and tells which one it stands on (store.py). So what was ever committed anywhere is a tree, what the cluster holds in the end is
one path in it, the *main line*, and the last transaction that a read saw names everything that it saw. Nothing is searched for: each rule is a look at that tree.

  lost         a transaction that was acknowledged, or that anybody saw, is on the main line, or in somebody's quarantine; with synchronous commit: on the main line; with
               synchronous commit that may be degraded: on the main line if it was acknowledged and there is no doubt that it waited
  twice        no transaction was carried out twice
  dirty        what was rolled back or refused is nowhere
  torn         each read saw the state that the transactions up to its last one make: registers, counter, lists, rows, pads; and files are sound
  backwards    who reads on a node what is on the main line never finds less there afterwards (so each session has monotonic reads); an acknowledged write counts as read
  own writes   a session finds what it wrote, wherever it asks; unless it lost the failover, or the answer says that it is stale
  monotonic    a session that brings the position of what it read (m) never reads less afterwards, on whichever node, of what is on the main line; but an answer
               that says that it is stale
  order        a note that is seen in two.db names a transaction that is seen in one.db afterwards, if that node had all of both then (ordered); and on the main line of
               two.db is no note about a transaction that is not on that of one.db
  real time    a write that began after another was acknowledged comes after it
  identical    all nodes hold the same in the end

Events (dictionaries; times from one monotonic clock):
  {"e": "try", "db", "op", "n", "parent", "t", "kind", "key" or "ref"}      the application is about to commit
  {"e": "call", "op", "s", "t0"}                                            a client asks for a write …
  {"e": "write", "op", "db", "s", "t0", "t1", "r", "node"}                  … and what became of it: ok, fail (refused), abort (rolled back, as asked), info (not known)
  {"e": "doubt", "op"}                                                      it may have been committed without waiting for replicas
  {"e": "read", "s", "node", "t0", "t1", "stale", "m", "at"}                at: what Store.read returned
"""
import bisect
import zlib

LISTS = ("p", "q")
PADS = 3
DATABASES = ("one.db", "two.db")


class State:
    """What one.db holds after a transaction."""

    __slots__ = ("n", "counter", "registers", "lists")

    def __init__(self, n=0, counter=0, registers=None, lists=None):
        self.n, self.counter = n, counter
        self.registers = registers or {}
        self.lists = lists or {key: (0, 0) for key in LISTS}

    def after(self, op, kind, key):
        counter, registers, lists = self.counter, self.registers, self.lists
        if kind == "set":
            registers = {**registers, key: op}
        elif kind == "add":
            counter += 1
        elif kind == "append":
            count, crc = lists[key]
            lists = {**lists, key: (count + 1, zlib.crc32(f"{op},".encode(), crc))}
        return State(self.n + 1, counter, registers, lists)

    def differs(self, seen, op):
        """None, or what of an observation (store.observe) is not this state after op."""
        want = {"n": self.n, "rows": self.n + 1, "counter": self.counter, "registers": self.registers,
                "lists": {k: list(v) for k, v in self.lists.items()}, "pads": [op] * PADS if self.n else [], "whole": True}
        return next((f"{name} is {seen.get(name)!r}, should be {value!r}" for name, value in want.items() if seen.get(name) != value), None)


class Tree:
    """All that was ever about to be committed to one database, and the main line through it."""

    def __init__(self, name, problems):
        self.name, self.problems = name, problems
        self.nodes = {"": {"n": 0, "parent": None, "kind": "", "key": "", "ref": ""}}
        self.line = {"": 0}  # op on the main line: its place
        self.states = {"": State()}
        self.forks = {"": 0}

    def add(self, op, facts):
        known = self.nodes.get(op)
        if known and (known["n"], known["parent"]) != (facts["n"], facts["parent"]):
            self.problems.append(f"twice: {op} in {self.name} was carried out after {known['parent']!r} and after {facts['parent']!r}")
        self.nodes.setdefault(op, facts)  # the first one stays: two of them could make a circle of the tree

    def set_line(self, rows):
        """rows: (op, parent or None) in order, from place 1 on."""
        before = ""
        for at, op in enumerate(rows, 1):
            if op in self.line:
                self.problems.append(f"twice: {op} is in {self.name} at {self.line[op]} and at {at}")
                continue
            if op not in self.nodes:
                self.problems.append(f"dirty: {op} is in {self.name} in the end, and nobody was about to commit it")
                self.nodes[op] = {"n": at, "parent": before, "kind": "", "key": "", "ref": ""}
            elif self.nodes[op]["parent"] != before or self.nodes[op]["n"] != at:
                self.problems.append(f"torn: {op} stands at {at} of {self.name} after {before!r}, and was committed at {self.nodes[op]['n']} after "
                                     f"{self.nodes[op]['parent']!r}")
            self.line[op] = at
            self.forks[op] = at
            before = op

    def fork(self, op):
        """How much of the main line a history that ends with op holds; None if op came from nowhere."""
        way = []
        while op not in self.forks:
            if op not in self.nodes or op in way:
                return None
            way.append(op)
            op = self.nodes[op]["parent"]
        for o in way:
            self.forks[o] = self.forks[op]
        return self.forks[op]

    def side(self, op):
        """Transactions of a history that ends with op which are not on the main line, newest first."""
        while op not in self.line:
            yield op
            op = self.nodes[op]["parent"]

    def state(self, op):
        way = []
        while op not in self.states:
            way.append(op)
            op = self.nodes[op]["parent"]
        state = self.states[op]
        for o in reversed(way):
            state = self.states[o] = state.after(o, self.nodes[o]["kind"], self.nodes[o]["key"])
        return state


class Checker:
    def __init__(self, events, final, quarantined, synchronous=None, ordered=lambda node, t0, t1: True):
        """final: {node: store.dump()}; quarantined: names of the transactions that are in some node's quarantine; ordered: was the order between the databases promised on
        that node then?"""
        self.ordered, self.unordered = ordered, 0  # unordered: reads in the wrong order where it was not promised
        self.events, self.final, self.quarantined, self.synchronous = events, final, quarantined, synchronous
        self.problems = []
        self.trees = {name: Tree(name, self.problems) for name in DATABASES}
        self.calls = {e["op"]: e["t0"] for e in events if e["e"] == "call"}
        self.writes = [e for e in events if e["e"] == "write"]
        self.reads = [e for e in events if e["e"] == "read"]
        self.never = {e["op"]: e["r"] for e in self.writes if e["r"] in ("fail", "abort")}
        self.acknowledged = {e["op"] for e in self.writes if e["r"] == "ok"}
        self.doubts = {e["op"] for e in events if e["e"] == "doubt"}
        self.lost = set()

    def run(self):
        for e in self.events:
            if e["e"] == "try":
                self.trees[e["db"]].add(e["op"], e)
        self.check_final()
        for write in self.writes:
            if write["r"] == "ok":
                self.check_kept(write["db"], write["op"], f"acknowledged to {write['s']}")
        for op, how in self.never.items():
            for tree in self.trees.values():
                if op in tree.line:
                    self.problems.append(f"dirty: {op} ({how}) is in {tree.name}")
        good = [r for r in self.reads if self.check_read(r)]
        self.check_kept_order()
        self.check_backwards(good)
        self.check_own_writes(good)
        self.check_monotonic(good)
        self.check_real_time()
        return self.problems

    def check_final(self):
        names = sorted(self.final)
        for name in names[1:]:
            for part in self.final[names[0]]:
                if self.final[name][part] != self.final[names[0]][part]:
                    self.problems.append(f"identical: {part} differs between {names[0]} and {name}")
        truth = self.final[names[0]]
        for name in DATABASES:
            rows = truth[name]
            if [r[0] for r in rows] != list(range(len(rows))):
                self.problems.append(f"torn: the numbers in {name} have gaps")
            self.trees[name].set_line([r[1] for r in rows[1:]])
            if truth["check " + name] != "ok":
                self.problems.append(f"torn: integrity_check of {name}: {truth['check ' + name]}")
        tree = self.trees["one.db"]
        last = truth["one.db"][-1][1]
        wrong = tree.state(last).differs(truth["state"], last) if tree.fork(last) is not None else "it cannot be told"
        if wrong:
            self.problems.append(f"torn: one.db in the end: {wrong}")

    def check_kept(self, name, op, why):
        if op in self.trees[name].line or op in self.lost:
            return
        self.lost.add(op)
        durable = self.synchronous == "degrade" and op in self.acknowledged and op not in self.doubts or self.synchronous == "refuse"
        if durable or op not in self.quarantined:
            self.problems.append(f"lost: {op} of {name} ({why}){'' if durable else ' is in nobody’s quarantine'}")

    def check_read(self, r):
        """Whether the order rules can be applied to it."""
        who, at = f"{r['s']} on {r['node']} at {r['t1']:.3f}", r["at"]
        if "broken" in at:
            self.problems.append(f"torn: {who}: {at['broken']}")
            return False
        last = {"one.db": at["one"]["op"], "two.db": at["two"][1]}
        for name, op in last.items():
            tree = self.trees[name]
            if tree.fork(op) is None:
                self.problems.append(f"dirty: {who} saw {op!r} in {name}, which nobody was about to commit")
                return False
            if op in self.never:
                self.problems.append(f"dirty: {who} saw {op} in {name} ({self.never[op]})")
            if op and self.calls.get(op, 0) > r["t1"]:
                self.problems.append(f"dirty: {who} saw {op} in {name} before it was asked for")
            for o in tree.side(op):
                self.check_kept(name, o, f"seen by {who}")
        wrong = self.trees["one.db"].state(last["one.db"]).differs(at["one"], last["one.db"])
        if wrong:
            self.problems.append(f"torn: {who}, after {last['one.db']!r}: {wrong}")
        if at["two"][0] != self.trees["two.db"].nodes[last["two.db"]]["n"]:
            self.problems.append(f"torn: {who}: two.db has {at['two'][0]} notes after {last['two.db']!r}")
        place = self.trees["one.db"].line.get(at["two"][2])
        late = place is not None and self.trees["one.db"].fork(last["one.db"]) < place
        if late and not self.ordered(r["node"], r["t0"], r["t1"]):
            self.unordered += 1
        elif late:
            self.problems.append(f"order: {who} saw the note {last['two.db']} about {at['two'][2]} (place {place}), and in one.db only "
                                 f"{self.trees['one.db'].fork(last['one.db'])}")
        return True

    def check_kept_order(self):
        """No failover keeps a note without what it is about."""
        two = self.trees["two.db"]
        for op in two.line:
            ref = two.nodes[op]["ref"]
            if ref and ref not in self.trees["one.db"].line and self.ordered(None, 0, 0):
                self.problems.append(f"order: the note {op} about {ref} is in two.db in the end, and {ref} is not in one.db")

    def seen(self, name, r):
        return self.trees[name].fork(r["at"]["one"]["op"] if name == "one.db" else r["at"]["two"][1])

    def check_backwards(self, reads):
        for name in DATABASES:
            line = self.trees[name].line
            seen = {}  # node: [(t1, place, what)]
            for r in reads:
                seen.setdefault(r["node"], []).append((r["t1"], self.seen(name, r), f"read by {r['s']}"))
            for w in self.writes:
                if w["r"] == "ok" and w["db"] == name and w["op"] in line and w.get("node"):
                    seen.setdefault(w["node"], []).append((w["t1"], line[w["op"]], f"written by {w['s']}"))
            for node, points in seen.items():
                points.sort(key=lambda p: p[0])
                times, best = [p[0] for p in points], []
                for p in points:
                    best.append(p if not best or p[1] > best[-1][1] else best[-1])
                for r in reads:
                    k = bisect.bisect_left(times, r["t0"])
                    if r["node"] == node and k and best[k - 1][1] > self.seen(name, r):
                        b = best[k - 1]
                        self.problems.append(f"backwards: {r['s']} saw {name} on {node} at place {self.seen(name, r)} from {r['t0']:.3f} on; place {b[1]} was "
                                             f"{b[2]} there at {b[0]:.3f}")

    def check_own_writes(self, reads):
        for name in DATABASES:
            line = self.trees[name].line
            own = {}
            for w in self.writes:
                if w["r"] == "ok" and w["db"] == name and w["op"] in line:
                    own.setdefault(w["s"], []).append((w["t1"], line[w["op"]], w["op"]))
            for r in reads:
                for t1, place, op in own.get(r["s"], ()):
                    if t1 < r["t0"] and place > self.seen(name, r) and not r["stale"]:
                        self.problems.append(f"own writes: {r['s']} wrote {op} (place {place} of {name}) until {t1:.3f}, and saw only {self.seen(name, r)} on "
                                             f"{r['node']} from {r['t0']:.3f} on")
                        break

    def check_monotonic(self, reads):
        for name in DATABASES:
            best = {}  # session: (place, t1, node) of the most that it has read
            for r in sorted((r for r in reads if r.get("m")), key=lambda r: r["t0"]):
                place = self.seen(name, r)
                most = best.get(r["s"])
                if most and place < most[0] and not r["stale"]:
                    self.problems.append(f"monotonic: {r['s']} saw {name} at place {most[0]} on {most[2]} until {most[1]:.3f}, and at {place} on {r['node']} from "
                                         f"{r['t0']:.3f} on")
                if not most or place > most[0]:
                    best[r["s"]] = (place, r["t1"], r["node"])

    def check_real_time(self):
        for name in DATABASES:
            line = self.trees[name].line
            points = sorted((w["t1"], line[w["op"]], w["op"]) for w in self.writes if w["r"] == "ok" and w["db"] == name and w["op"] in line)
            times, best = [p[0] for p in points], []
            for p in points:
                best.append(p if not best or p[1] > best[-1][1] else best[-1])
            for op, t0 in self.calls.items():
                k = bisect.bisect_left(times, t0)
                if op in line and k and best[k - 1][1] > line[op]:
                    self.problems.append(f"real time: {op} was asked for at {t0:.3f} and stands at {line[op]} of {name}; {best[k - 1][2]} was acknowledged at "
                                         f"{best[k - 1][0]:.3f} and stands at {best[k - 1][1]}")


def check(events, final, quarantined, synchronous=None):
    """The list of what must not have happened. synchronous: None, or the policy: refuse, degrade."""
    return Checker(events, final, quarantined, synchronous).run()
