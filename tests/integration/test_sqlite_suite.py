"""A few files of SQLite's own test suite on the mount, in both modes: scripts/check-sqlite --quick. All of it: make check-sqlite."""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest

from harness import ROOT, EdgeTest, both_modes, within

UNAVAILABLE = 77


@both_modes
class SqliteSuite(EdgeTest):
    @within(400)  # the first time on a machine SQLite's source package is fetched and built
    def test_every_test_of_a_selection_ends_as_in_a_plain_directory_and_the_replica_has_the_same_databases(self):
        results = tempfile.mkdtemp(prefix="efs-results-")
        try:
            done = subprocess.run([sys.executable, os.path.join(ROOT, "scripts", "check-sqlite"), "--quick", "--results", results,
                                   "--mode", "passthrough" if self.passthrough else "fallback"],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        finally:
            shutil.rmtree(results)
        if done.returncode == UNAVAILABLE:
            raise unittest.SkipTest(done.stdout.strip().splitlines()[-1])
        self.assertEqual(done.returncode, 0, done.stdout)


if __name__ == "__main__":
    unittest.main()
