"""One node is active and the others stand by: each takes the lock when it starts, or as soon as it
is free, and stands by again when it has lost it.

    python examples/standby.py              on an etcd that it brings along
    python examples/standby.py host:port    on an etcd of your own
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time

from microlock import LockManager, Microlock, connect

KEY = "standby/scheduler"
TTL = 2

started = time.monotonic()


# This is the part to copy.


def stop(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
    sys.exit()


def run_node(endpoint: str, node_id: str) -> None:
    """What each node runs."""
    signal.signal(signal.SIGTERM, stop)
    foo = Microlock(connect(endpoint), KEY, node_id, ttl=TTL, auto_renew=True)
    foo.on("waiting", lambda: print("stands by", flush=True))
    foo.on("acquired", lambda event: print(f"active, token {event.token}", flush=True))
    foo.on("lost", lambda event: print(f"lost: {event.reason.value}", flush=True))

    try:
        while True:
            foo.lock(timeout=None)  # raises when etcd is gone: to be started again
            foo.lost.wait()  # begin the work on `acquired`, end it on `lost`
    finally:
        foo.destroy()  # gives back the lock, or the place in the queue


# The rest is to watch it at work.


def say(who: str, what: str) -> None:
    print(f"  {time.monotonic() - started:6.2f} s  {who:<8} {what}", flush=True)


class Node:
    """A node in a process of its own."""

    def __init__(self, endpoint: str, name: str) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--node", endpoint, name], stdout=subprocess.PIPE, text=True
        )

    def wait_for(self, word: str) -> None:
        """Shows what it says, until it has said this."""
        assert self.process.stdout
        for line in self.process.stdout:
            say(self.name, line.strip())
            if word in line:
                return
        sys.exit(f"{self.name} has ended")


def main(endpoint: str) -> None:
    nodes: list[Node] = []

    def start(name: str) -> Node:
        nodes.append(Node(endpoint, name))
        return nodes[-1]

    try:
        node_a = start("node-a")
        node_a.wait_for("active")
        node_b = start("node-b")
        node_b.wait_for("stands by")

        node_a.process.kill()
        say("node-a", "killed: kill -9")
        node_b.wait_for("active")  # at the end of node-a's ttl

        node_c = start("node-c")
        node_c.wait_for("stands by")
        with connect(endpoint) as etcd:
            LockManager(etcd, "operator").break_lock(KEY)
        say("operator", f"took the lock from {node_b.name}")
        node_c.wait_for("active")
        node_b.wait_for("stands by")  # again

        node_c.process.terminate()
        say("node-c", "ended in good order: SIGTERM")
        node_b.wait_for("active")  # at once: it was given back
    finally:
        for node in nodes:
            node.process.terminate()
        for node in nodes:
            node.process.communicate()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--node"]:
        run_node(*sys.argv[2:])
    elif sys.argv[1:]:
        main(sys.argv[1])
    else:
        from microlock.server import EtcdServer

        with EtcdServer(fast=True) as server:
            main(server.endpoint)
