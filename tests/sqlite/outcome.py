"""What one run of a test file said, test by test, and how two runs differ."""

import collections
import re

OK = re.compile(r"^(\S.*?)\.\.\.( Ok| Omitted)$")
BEGUN = re.compile(r"^(\S.*?)\.\.\.$")
EXPECTED = re.compile(r"^! (\S.*?) expected: ")
GOT = re.compile(r"^! (\S.*?) got: +(.*)$", re.S)
TOTAL = re.compile(r"^(\d+) errors out of (\d+) tests", re.M)
FAILED = re.compile(r"^!Failures on these tests: ?(.*)$", re.M)


class Outcome:
    """tests: {name: Counter of "ok", "omitted", "failed"} (names may come more than once); got: {name: what the last failure
    of that name said}; end: how the program ended."""

    def __init__(self, text, end):
        self.tests = collections.defaultdict(collections.Counter)
        self.got = {}
        self.end = end
        begun = None
        lines = [line.lstrip(".") for line in text.splitlines()]  # threads write a dot for each thing they did, as many as they came to, before the name of the next test
        for i, line in enumerate(lines):
            m = OK.match(line)
            if m:
                self.tests[m[1]][m[2].strip().lower()] += 1
                begun = None
                continue
            m = EXPECTED.match(line)
            if m:
                self.tests[m[1]]["failed"] += 1
                begun = None
                continue
            m = GOT.match(line)
            if m:
                self.got[m[1]] = m[2]
                continue
            m = BEGUN.match(line)
            if m:
                begun = m[1]
            elif begun and line.startswith("Error: "):
                self.tests[begun]["failed"] += 1
                self.got[begun] = " ".join(lines[i:i + 3])
                begun = None
            elif begun and line.endswith((" Ok", " Omitted")):  # the test wrote something of its own in between
                self.tests[begun]["ok" if line.endswith("Ok") else "omitted"] += 1
                begun = None
        if begun:
            self.tests[begun]["begun"] += 1
        m = TOTAL.search(text)
        self.errors, self.count = (int(m[1]), int(m[2])) if m else (None, None)
        m = FAILED.search(text)
        for name in (m[1].split() if m else []):  # thread tests and the like fail without a line of their own
            if not self.tests[name]["failed"]:
                self.tests[name]["failed"] += 1

    def failed(self):
        return sorted(n for n, c in self.tests.items() if c["failed"])

    def passed(self):
        return sum(c["ok"] for c in self.tests.values())

    def finished(self):
        return self.count is not None


def describe(counter):
    return "+".join(f"{n} {kind}" if n > 1 else kind for kind, n in sorted(counter.items()) if n) or "not run"


def differences(plain, mount):
    """[(test name, text)]: tests whose outcome is not the same in both, first the plain directory's; and how the runs ended if
    that differs. Failing in both is no difference."""
    found = []
    for name in sorted(set(plain.tests) | set(mount.tests)):
        p, m = plain.tests.get(name, collections.Counter()), mount.tests.get(name, collections.Counter())
        if +p != +m:
            text = f"{describe(p)} / {describe(m)}"
            got = mount.got.get(name) if m["failed"] else plain.got.get(name)
            found.append((name, text + (f": {got[:300]}" if got else "")))
    if plain.end != mount.end:
        found.append(("(end)", f"{plain.end} / {mount.end}"))
    return found
