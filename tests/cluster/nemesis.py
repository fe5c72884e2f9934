"""What goes wrong: faults, chosen by a seed, that overlap, end, and are healed. Each is a function that begins it and returns what ends it."""
import contextlib
import os
import signal

import harness

PROGRAMS = ("fs", "replicator", "proxy")


def programs_of(world, rng):
    return rng.choice(world.nodes), rng.choice(PROGRAMS)


def kill_program(world, rng):
    node, program = programs_of(world, rng)
    pid = node.pids().get(program)
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return f"kill -9 of {program} of {node.name}", None


def kill_station(world, rng):
    node = rng.choice(world.nodes)
    node.kill_station()
    return f"kill -9 of the applications of {node.name}", node.start_station if node.running() else None  # not yet, if they are still dying: heal() sees to it


def crash(world, rng, node=None):
    node = node or rng.choice(world.nodes)
    node.crash()

    def back():
        if not node.running():
            node.start(wait=False)
            node.wait_ready(60)
            node.start_station()

    return f"crash of {node.name}", back


def kill_launcher(world, rng):
    """The one that keeps everything for the others, and perhaps some of these as well. The applications go on for as long as they can."""
    node = rng.choice(world.nodes)
    others = rng.choice(((), (), ("replicator",), ("replicator", "fs")))
    if node.running():
        pids = node.pids()
        node.process.kill()
        for program in others:
            if program in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pids[program], signal.SIGKILL)
        node.process.wait()

    def back():
        node.crash()
        node.start(wait=False)
        node.wait_ready(60)
        node.start_station()

    return f"kill -9 of the launcher{''.join(f', the {p}' for p in others)} of {node.name}", back


def crash_primary(world, rng):
    node = world.primary() or rng.choice(world.nodes)
    name, back = crash(world, rng, node)
    return f"{name} (primary)", back


def stop(world, node, wanted):
    stopped = []
    for program, pid in node.pids().items():
        if program in wanted:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                stopped.append((pid, harness.start_time(pid)))

    def go_on():
        for pid, began in stopped:
            if harness.start_time(pid) == began:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    return go_on


def stop_program(world, rng):
    node, program = programs_of(world, rng)
    return f"SIGSTOP of {program} of {node.name}", stop(world, node, (program,))


def stop_machine(world, rng):
    node = world.primary() if rng.random() < 0.6 else None
    node = node or rng.choice(world.nodes)
    return f"SIGSTOP of all programs of {node.name}", stop(world, node, (*PROGRAMS, "launcher"))


def unplug(world, rng):
    node = world.primary() if rng.random() < 0.6 else None
    node = node or rng.choice(world.nodes)
    node.unplugged = True
    world.network.unplug(node.name)

    def plug():
        world.network.plug(node.name)
        node.unplugged = False

    return f"{node.name} unplugged", plug


def ways(world, name):
    """Everybody that a node talks to."""
    return [n for n in world.names if n != name] + [f"etcd{i}" for i in range(world.members)]


def rules(world, pairs, **what):
    for pair in pairs:
        world.relay.set(*pair, **what)

    def end():
        for pair in pairs:
            world.relay.set(*pair)

    return end


def partition(world, rng):
    """One node and some of those that it talks to; both ways, or one only; silently, or with resets."""
    node = world.primary() if rng.random() < 0.5 else None
    name = (node or rng.choice(world.nodes)).name
    others = ways(world, name)
    some = rng.sample(others, rng.randint(1, len(others)))
    direction = rng.choice(("both ways", "both ways", "out", "in"))
    pairs = [(name, o) for o in some if direction != "in"] + [(o, name) for o in some if direction != "out"]
    how = rng.choice(("cut", "cut", "refuse"))
    return f"{name} and {'+'.join(some)}: {how} {direction}", rules(world, pairs, **{how: True})


def away_from_etcd(world, rng):
    node = world.primary() or rng.choice(world.nodes)
    pairs = [(node.name, f"etcd{i}") for i in range(world.members)]
    return f"{node.name} does not reach etcd", rules(world, pairs + [(b, a) for a, b in pairs], **{rng.choice(("cut", "refuse")): True})


def etcd_gone(world, rng):
    member = rng.randrange(world.members)
    world.etcd.kill(member)
    return f"etcd member {member} killed", lambda: world.etcd.start(member, wait=False)


def etcd_stopped(world, rng):
    member = rng.randrange(world.members)
    world.etcd.signal(signal.SIGSTOP, member)
    return f"etcd member {member} stopped", lambda: world.etcd.signal(signal.SIGCONT, member)


def slow(world, rng):
    name = rng.choice(world.names)
    pairs = [(name, o) for o in ways(world, name)]
    pairs += [(b, a) for a, b in pairs]
    what = rng.choice(({"delay": 0.05}, {"delay": 0.3}, {"rate": 50000}, {"rate": 5000}))
    return f"{name} is slow: {what}", rules(world, pairs, **what)


def harm(world, rng):
    """Bytes of the replication's connections are changed or come twice."""
    name = rng.choice(world.names)
    pairs = [(name, o) for o in world.names if o != name]
    pairs += [(b, a) for a, b in pairs]
    what = rng.choice(({"corrupt": 0.02}, {"corrupt": 0.2}, {"duplicate": 0.05}, {"corrupt": 0.05, "duplicate": 0.05}))
    return f"{name} is harmed: {what}", rules(world, pairs, **what)


def clock_jumps(world, rng):
    """The wall clock of a node is set, and set back."""
    node = world.primary() if rng.random() < 0.6 else None
    node = node or rng.choice(world.nodes)
    seconds = rng.choice((-86400, -3600, -3, 3, 3600, 86400 * 400))
    node.set_clock(seconds)
    return f"the clock of {node.name} jumps by {seconds} s", lambda: node.set_clock(0)


def disk_full(world, rng):
    nodes = [n for n in world.nodes if n.disk]
    if not nodes:
        return kill_program(world, rng)
    node = rng.choice(nodes)
    node.fill_disk()
    return f"the disk of {node.name} is full", node.make_room


def promote(world, rng):
    """Planned, by an operator who does not know what else is going on. Nothing to end; it may be refused."""
    old, target = world.primary(), rng.choice(world.nodes)
    if old is None or target is old or target.unplugged:
        return "no promotion possible", None
    try:
        code, _ = old.api("POST", "/v1/promote", {"node": target.name, "timeout_ms": 1000}, timeout=10)
    except (OSError, harness.http.client.HTTPException) as e:
        code = e
    return f"promotion of {target.name}: {code}", None


FAULTS = (kill_program, kill_program, kill_station, kill_launcher, crash, crash_primary, crash_primary, stop_program, stop_machine, unplug, partition, partition, away_from_etcd,
          etcd_gone, etcd_stopped, slow, promote, harm, clock_jumps, disk_full)
