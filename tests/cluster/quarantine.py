"""Which transactions lie in the quarantine of a node: what `edgefs-ctl quarantine` lists is exported and searched for their names."""
import json
import os
import re

import harness
import ltx

# A row of `log` or `note` has what follows the name (another name, or a word) directly behind it; elsewhere a digit of the next cell may follow.
NAME = re.compile(rb"[a-z][dp]\d+-[0-9a-f]+\.\d+n?(?=[a-z])")


def transactions(node, folder):
    found = set()
    for number, item in enumerate(json.loads(harness.ctl(node, "quarantine", "ls", "--json"))["quarantine"]):
        to = os.path.join(folder, f"quarantine-{node.name}-{number}")
        harness.ctl(node, "quarantine", "export", item["file"], to)
        for path in (to, to + "-wal"):
            if os.path.exists(path):
                with open(path, "rb") as f:
                    data = f.read()
                found |= names_in(data if item["kind"] == "database" else b"\0".join(ltx.pages(data).values()))
                os.unlink(path)
    return found


def names_in(data):
    return {m.decode() for m in NAME.findall(data)}
