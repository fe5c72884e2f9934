"""SQLite's own test program: fetches the source package, builds `testfixture` and `sqlite3` from it, once per machine.

The package comes through an apt configuration of its own below the cache directory (sources, lists, archives), so the machine's is
neither changed nor needed to name sources. Everything lies below one directory, made under a private name and renamed when it is
whole; it can be removed at any time."""

import fcntl
import glob
import os
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
MIRROR = os.environ.get("EDGEFS_DEBIAN_MIRROR") or "http://deb.debian.org/debian"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

# What is changed in the test files. They move the lock bytes from 1 GiB to 64 KiB, so that small databases reach beyond them. A process that
# was not told so (the replicator is one, any other application would be) locks other bytes than the tests do and takes their live
# journal for a dead writer's. So the lock bytes stay where the file format has them; one file that makes a database of their size is
# told the old size. See docs/sqlite-suite.md.
CHANGES = {"tester.tcl": ("\nsqlite3_test_control_pending_byte 0x0010000\n", "\n", 1),
           "backup.test": ("$::sqlite_pending_byte", "65536", 2)}


class Unavailable(Exception):
    """There is no test program, and why."""


def cache_directory():
    if os.environ.get("EDGEFS_SQLITE_SUITE"):
        return os.environ["EDGEFS_SQLITE_SUITE"]
    if os.environ.get("XDG_CACHE_HOME") or os.environ.get("HOME"):
        return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.join(os.environ["HOME"], ".cache"), "edgefs-sqlite-suite")
    return os.path.join(ROOT, "build-sqlite")


def codename():
    with open("/etc/os-release") as f:
        for line in f:
            if line.startswith("VERSION_CODENAME="):
                return line.split("=", 1)[1].strip().strip('"')
    raise Unavailable("/etc/os-release names no Debian release")


def run(args, cwd, log, what):
    with open(log, "ab") as out:
        out.write(f"$ {' '.join(args)}\n".encode())
        out.flush()
        try:
            code = subprocess.run(args, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False).returncode
        except OSError as e:
            raise Unavailable(f"{what}: {e}") from None
    if code != 0:
        with open(log, errors="replace") as f:
            raise Unavailable(f"{what} failed (exit status {code}), see {log}\n" + "".join(f.readlines()[-8:]))


def fetch(folder, log):
    """The package's sources in folder/src, as `apt-get source` unpacks them (Debian's patches applied)."""
    apt = os.path.join(folder, "apt")
    for part in ("lists/partial", "cache/archives/partial"):
        os.makedirs(os.path.join(apt, part))
    with open(os.path.join(apt, "sources.list"), "w") as f:
        f.write(f"deb-src [signed-by={KEYRING}] {MIRROR} {codename()} main\n")
    options = []
    for option in (f"Dir::Etc::sourcelist={apt}/sources.list", "Dir::Etc::sourceparts=-", f"Dir::State::lists={apt}/lists",
                   f"Dir::Cache={apt}/cache", "APT::Sandbox::User=root", "Acquire::Retries=2", "Acquire::http::Timeout=20"):
        options += ["-o", option]
    run(["apt-get", *options, "-q", "update"], apt, log, "fetching the list of Debian's source packages")
    run(["apt-get", *options, "-q", "source", "sqlite3"], apt, log, "apt-get source sqlite3")
    found = [d for d in glob.glob(os.path.join(apt, "sqlite3-*")) if os.path.isdir(d)]
    if len(found) != 1:
        raise Unavailable(f"apt-get source sqlite3 left {found}")
    os.rename(found[0], os.path.join(folder, "src"))
    shutil.rmtree(apt)


def adapt(folder):
    for name, (old, new, times) in CHANGES.items():
        path = os.path.join(folder, "src", "test", name)
        with open(path) as f:
            text = f.read()
        if text.count(old) != times:
            raise Unavailable(f"{path} is not as expected: {old.strip()} {text.count(old)} times")
        with open(path, "w") as f:
            f.write(text.replace(old, new))


def compile_all(folder, log, jobs):
    tcl = glob.glob("/usr/lib/*/tcl8*/tclConfig.sh") + glob.glob("/usr/lib/tcl8*/tclConfig.sh")
    if not tcl:
        raise Unavailable("tcl-dev is not installed (scripts/install-deps)")
    build = os.path.join(folder, "build")
    os.mkdir(build)
    run(["../src/configure", f"--with-tcl={os.path.dirname(tcl[0])}", "--disable-shared", "--disable-readline", "--enable-all",
         "CFLAGS=-O2 -w"], build, log, "SQLite's configure")
    run(["make", f"-j{jobs}", "testfixture", "sqlite3"], build, log, "building SQLite's testfixture")


class Suite:
    """Where things are: `testfixture` (program), `home` (the directory to start it in), `test_file(name)`."""

    def __init__(self, folder):
        self.home = os.path.join(folder, "build")
        self.testfixture = os.path.join(self.home, "testfixture")
        self.source = os.path.join(folder, "src")
        self.files = {os.path.basename(p): p for pattern in ("ext/*/*.test", "ext/*/test/*.test", "test/*.test")
                      for p in glob.glob(os.path.join(self.source, pattern))}

    def set_of(self, name):
        """The files of one of SQLite's own sets: veryquick, quick, full. Their definition is a Tcl script of the suite."""
        script = os.path.join(self.source, "test", "list-of-a-set.test")  # any name but permutations.test, which would run it
        code = f"set argv0 {script}; set argv --testdir=; source {self.source}/test/permutations.test; " \
               f"foreach f [dict get $::testspec({name}) -files] {{puts \"file [file tail $f]\"}}; exit 0"
        listing = os.path.join(self.home, f"set-{os.getpid()}.tcl")
        with open(listing, "w") as f:
            f.write(code)
        scratch = os.path.join(self.home, f"set-{os.getpid()}")
        os.makedirs(scratch, exist_ok=True)
        try:
            done = subprocess.run([self.testfixture, listing], cwd=scratch, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, check=False, timeout=60)
        finally:
            os.unlink(listing)
            shutil.rmtree(scratch)
        names = sorted({line[5:] for line in done.stdout.splitlines() if line.startswith("file ")})
        if not names:
            raise Unavailable(f"SQLite's suite does not list its set {name}: {done.stdout[-500:]}")
        return [n for n in names if n in self.files]

    def version(self):
        with open(os.path.join(self.source, "VERSION")) as f:
            return f.read().strip()


def get(jobs=2, say=lambda text: None):
    """A Suite, built if need be (a minute or two). Raises Unavailable. One at a time on a machine: the others wait."""
    cache = cache_directory()
    done = os.path.join(cache, "2")  # the number changes with what this file makes
    os.makedirs(cache, exist_ok=True)
    with open(os.path.join(cache, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.access(os.path.join(done, "build", "testfixture"), os.X_OK):
            log, making = os.path.join(cache, "log"), os.path.join(cache, "making")
            for path in (making, done):
                shutil.rmtree(path, ignore_errors=True)
            with open(log, "w"):
                pass
            os.mkdir(making)
            say(f"fetching and building SQLite's test program in {cache} (once)")
            fetch(making, log)
            adapt(making)
            compile_all(making, log, jobs)
            os.rename(making, done)
    return Suite(done)


if __name__ == "__main__":
    try:
        suite = get(say=print)
    except Unavailable as e:
        sys.exit(f"testfixture: {e}")
    print(suite.testfixture, suite.version(), len(suite.files), "test files")
