"""The table of a run: per group of test files for people, per file on request, and what remains to be explained."""

import collections
import fnmatch
import os
import re

import outcome
import runner

HERE = os.path.dirname(os.path.abspath(__file__))


class Explained:
    """tests/sqlite/explained.txt: lines "FILE MODE TEXT-PATTERN", each below a comment that says why. A pattern is matched against the whole
    text of a difference, with * and ?."""

    def __init__(self):
        self.rules = []
        with open(os.path.join(HERE, "explained.txt")) as f:
            for line in f:
                if line.strip() and not line.startswith("#"):
                    file, mode, pattern = line.split(None, 2)
                    self.rules.append((file, mode, pattern.strip().replace("[", "[[]")))

    def covers(self, file, mode, text):
        return any(fnmatch.fnmatchcase(file, f) and m in ("*", mode) and fnmatch.fnmatchcase(text, p) for f, m, p in self.rules)


def group(file):
    m = re.match(r"[a-z_]*?(?=[0-9A-Z_.-]|$)", file)
    return m[0] or file.split(".")[0]


def differences(results, file, mode):
    """([text now], [text of the first of two runs]) of one file in one mode."""
    entry = results.get(mode, file)
    found = [f"{name}: {text}" for name, text in
             outcome.differences(results.outcome(runner.PLAIN, file), results.outcome(mode, file))]
    found += [f"{name}: {verdict}: {detail}" for name, verdict, detail in entry["databases"] if verdict == "different"]
    found += entry["problems"]
    return found, entry.get("first", {}).get("verdict", [])


def word(results, explained, file, mode):
    """What came out of one file in one mode, for the table by file."""
    plain, entry = results.get(runner.PLAIN, file), results.get(mode, file)
    if not plain or not entry:
        return "not run"
    now, first = differences(results, file, mode)
    o = results.outcome(mode, file)
    text = f"{o.passed()} / {len(o.failed())}"
    if not now and not first:
        return text
    told = all(explained.covers(file, mode, t) for t in now or [f"first of two runs only: {t}" for t in first])
    return f"{text}, {'explained' if told else 'DIFFERS'}" + ("" if now else " (once of twice)")


def by_file(results, files, modes, markdown):
    explained = Explained()
    bar, edge = (" | ", "| ") if markdown else ("  ", "")
    print(edge + bar.join(["file".ljust(28), "plain: passed / failed", *[f"{m}: passed / failed" for m in modes]]) + edge[::-1])
    if markdown:
        print("|" + " --- |" * (2 + len(modes)))
    for file in files:
        plain = results.get(runner.PLAIN, file)
        o = results.outcome(runner.PLAIN, file) if plain else None
        ended = " (" + plain["end"] + ")" if plain and not plain["end"].startswith("exit") else ""
        cells = [file.ljust(28), (f"{o.passed()} / {len(o.failed())}{ended}" if plain else "not run").ljust(14)]
        print(edge + bar.join(cells + [word(results, explained, file, m).ljust(14) for m in modes]) + edge[::-1])


def write(suite, results, files, modes, markdown):
    """Prints it. Returns 0, or 1 if a difference is not explained."""
    explained, unexplained, known = Explained(), [], []
    rows = collections.defaultdict(collections.Counter)
    for file in files:
        plain = results.get(runner.PLAIN, file)
        if plain:
            row, o = rows[group(file)], results.outcome(runner.PLAIN, file)
            row["files"] += 1
            row["passed"] += o.passed()
            row["failed"] += len(o.failed())
        for mode in modes:
            entry = results.get(mode, file)
            if not plain or not entry:
                rows[group(file)]["missing " + mode] += 1
                continue
            now, first = differences(results, file, mode)
            row[mode + " differ"] += bool(now or first)
            for _, verdict, _ in entry["databases"]:
                row[mode + " " + verdict] += 1
            for text in now or [f"first of two runs only: {t}" for t in first]:
                (known if explained.covers(file, mode, text) else unexplained).append((file, mode, text))
    total = sum((c for c in rows.values()), collections.Counter())
    bar, edge = (" | ", "| ") if markdown else ("  ", "")
    heads = ["group".ljust(14), "files", "  ok plain", "fail plain"] + [f"{m}: differ / same / local / bad copies" for m in modes]
    print(edge + bar.join(heads) + edge[::-1])
    if markdown:
        print("|" + " --- |" * len(heads))
    for name, row in [*sorted(rows.items()), ("all", total)]:
        cells = [f"{name:14}", f"{row['files']:5}", f"{row['passed']:10}", f"{row['failed']:10}"]
        for m in modes:
            text = f"{row[m + ' differ']} / {row[m + ' same']} / {row[m + ' local']} / {row[m + ' different']}"
            cells.append(text + (f" ({row['missing ' + m]} not run)" if row["missing " + m] else ""))
        print(edge + bar.join(cells) + edge[::-1])
    for title, found in (("explained", known), ("NOT EXPLAINED", unexplained)):
        if found:
            print(f"\n{title}: {len(found)}")
            for file, mode, text in found:
                print(f"  {file} ({mode}): {text[:300]}")
    print(f"\n{total['files']} files; {len(unexplained)} differences not explained, {len(known)} explained")
    return 1 if unexplained or not total["files"] else 0
