"""One network namespace a node, joined by a bridge: a node that is unplugged is gone as a machine is whose cable was pulled, packets and all.

Needs root and iproute2. Names and addresses are taken by making the bridge, so that two runs at a time never share one."""
import subprocess
import sys

NETWORKS = 200


def ip(*args, check=True):
    done = subprocess.run(["ip", *args], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"ip {' '.join(args)}: {done.stderr.strip()}")
    return done.returncode == 0


def remove(bridge):
    """Takes a network away, whatever state it is in. Also what scripts/check calls for a run that was killed."""
    listing = subprocess.run(["ip", "netns", "list"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False).stdout
    for line in listing.splitlines():
        name = line.split()[0]
        if name.startswith(bridge + "-"):
            ip("netns", "del", name, check=False)
            ip("link", "del", name, check=False)  # goes with its peer, but not at once
    ip("link", "del", bridge, check=False)


class Network:
    """A context manager. `host`: the address of this side of the bridge; address(name): that of a node."""

    def __init__(self, names):
        self.names = list(names)
        for number in range(NETWORKS):
            self.bridge = f"efc{number}"
            if ip("link", "add", self.bridge, "type", "bridge", check=False):
                break
        else:
            raise AssertionError("cannot make a bridge: root and iproute2 are needed")
        self.prefix = f"10.213.{number}."
        self.host = self.prefix + "1"
        try:
            ip("addr", "add", self.host + "/24", "dev", self.bridge)
            ip("link", "set", self.bridge, "up")
            for name in self.names:
                self.add(name)
        except BaseException:
            remove(self.bridge)
            raise

    def add(self, name):
        port = self.port(name)
        ip("netns", "add", port)
        ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", port)
        ip("link", "set", port, "master", self.bridge, "up")
        ip("-n", port, "link", "set", "lo", "up")
        ip("-n", port, "addr", "add", self.address(name) + "/24", "dev", "eth0")
        ip("-n", port, "link", "set", "eth0", "up")

    def port(self, name):
        return f"{self.bridge}-{name}"

    def address(self, name):
        return self.prefix + str(11 + self.names.index(name))

    def enter(self, name):
        """What a command begins with to run on that node. (Not `ip netns exec`: it makes a mount namespace, which hides mounts from us.)"""
        return ["nsenter", f"--net=/run/netns/{self.port(name)}"]

    def unplug(self, name):
        ip("link", "set", self.port(name), "down")

    def plug(self, name):
        ip("link", "set", self.port(name), "up")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        remove(self.bridge)


if __name__ == "__main__" and len(sys.argv) == 3 and sys.argv[1] == "remove":
    remove(sys.argv[2])
