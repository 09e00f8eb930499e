"""The main job of microlock, to watch: two nodes, one lock, a real etcd.

Run it with `make demo`, or with an etcd of your own: `python examples/demo.py host:port`.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from microlock import AlreadyLockedError, LockEvent, LockLostError, Microlock, connect

KEY = "demo/nightly-report"
TTL = 2

started = time.monotonic()
printing = threading.Lock()


def say(who: str, what: str) -> None:
    with printing:
        print(f"  {time.monotonic() - started:6.2f} s  {who:<9} {what}", flush=True)


@contextmanager
def step(title: str) -> Iterator[None]:
    with printing:
        print(f"\n{title}", flush=True)
    yield
    time.sleep(0.2)  # for the last events to be printed under their step


def wait_for(event: threading.Event, what: str) -> None:
    if not event.wait(timeout=15):
        sys.exit(f"{what} did not happen within 15 s")


def hold_until_killed(endpoint: str) -> None:
    """What the process runs that is killed with the lock in its hands."""
    foo = Microlock(connect(endpoint), KEY, "node-c", ttl=TTL)
    print(foo.lock().token, flush=True)
    time.sleep(60)


def main(endpoint: str) -> None:
    with connect(endpoint) as etcd, connect(endpoint) as other_etcd:
        one = Microlock(etcd, KEY, "node-a", ttl=TTL)
        two = Microlock(other_etcd, KEY, "node-b", ttl=TTL)
        freed = threading.Event()
        tokens = []

        def on_event(event: LockEvent) -> None:
            say("event", f"{event.name:<9} {event.node_id}, token {event.token}")

        one.on("locked", on_event)
        one.on("unlocked", on_event)

        with step("1  node-a takes the lock; node-b is told who has it"):
            hold = one.lock()
            tokens.append(hold.token)
            say("node-a", f"locked, token {hold.token}, {one.remaining:.1f} s to go")
            try:
                two.lock()
            except AlreadyLockedError as error:
                say("node-b", f"AlreadyLockedError: held by {error.holder}")

        with step("2  node-a renews, then asks for more time: same hold, same token"):
            say("node-a", f"renewed, {one.renew():.1f} s to go")
            say("node-a", f"extended, {one.extend(30):.1f} s to go, token {one.token}")

        with step("3  node-a unlocks, and node-b's turn comes"):
            one.unlock()
            hold = two.lock()
            tokens.append(hold.token)
            say("node-b", f"locked, token {hold.token}")
            two.unlock()

        with step("4  node-c takes the lock in a process of its own, and is killed: kill -9"):
            node_c = subprocess.Popen(
                [sys.executable, __file__, "--hold", endpoint], stdout=subprocess.PIPE, text=True
            )
            with node_c:
                assert node_c.stdout
                tokens.append(int(node_c.stdout.readline()))
                one.once("unlocked", freed.set)
                say("node-c", f"locked, token {tokens[-1]}")
                node_c.kill()
            killed = time.monotonic()
            say("node-c", "killed")
            try:
                one.lock()
            except AlreadyLockedError as error:
                say("node-a", f"AlreadyLockedError: held by {error.holder}, dead or not")
            wait_for(freed, "the expiry of a dead node's lock")
            say("node-a", f"free {time.monotonic() - killed:.1f} s after the kill: ttl {TTL} s")

        with step("5  node-a takes it again, and forgets to renew"):
            hold = one.lock()
            tokens.append(hold.token)
            say("node-a", f"locked, token {hold.token}")
            time.sleep(hold.ttl)
            say("node-a", f"held: {one.held}, whatever the network says")
            try:
                one.unlock()
            except LockLostError as error:
                say("node-a", f"LockLostError: {error.reason.value}")

        rising = " < ".join(map(str, tokens))
        assert tokens == sorted(set(tokens)), rising
        print(f"\nThe fencing tokens rose with every holder: {rising}")
        one.destroy()
        two.destroy()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--hold"]:
        hold_until_killed(sys.argv[2])
    else:
        if sys.argv[1:]:
            print(f"microlock on the etcd at {sys.argv[1]}")
            main(sys.argv[1])
        else:
            from microlock.server import EtcdServer

            with EtcdServer(fast=True) as server:
                print(
                    f"microlock on etcd {server.version} at {server.endpoint}, for this demo only"
                )
                main(server.endpoint)
