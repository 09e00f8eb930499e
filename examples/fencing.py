"""What the fencing token is for: a paused process wakes up after its ttl, and its write is refused.

No lock that ends with a lease can stop such a write. The table can: it refuses a token lower than
one that it has seen. Here it is sqlite3; any table with a column for the token will do.

    python examples/fencing.py              on an etcd that it brings along
    python examples/fencing.py host:port    on an etcd of your own
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing

from microlock import Microlock, connect

KEY = "fencing/nightly-report"
TTL = 2

started = time.monotonic()


class StaleTokenError(Exception):
    """Somebody who took the lock later has written already."""


# This is the part to copy.


def create(db: sqlite3.Connection) -> None:
    with db:
        db.execute("CREATE TABLE report (name TEXT PRIMARY KEY, text TEXT, fence INTEGER)")
        db.execute("INSERT INTO report VALUES ('nightly', '', 0)")


def write(db: sqlite3.Connection, text: str, token: int) -> None:
    """Writes the report. One statement looks at the token and writes, so nothing comes between."""
    with db:
        written = db.execute(
            "UPDATE report SET text = :text, fence = :token"
            " WHERE name = 'nightly' AND fence <= :token",
            {"text": text, "token": token},
        ).rowcount
    if not written:
        raise StaleTokenError(f"token {token} is stale: a later one has written")


# The rest is to watch it at work.


def say(who: str, what: str) -> None:
    print(f"  {time.monotonic() - started:6.2f} s  {who:<7} {what}", flush=True)


def node_a(endpoint: str, path: str) -> None:
    """Runs in a process of its own, and is paused between its check and its write."""
    with connect(endpoint) as etcd, closing(sqlite3.connect(path)) as db:
        foo = Microlock(etcd, KEY, "node-a", ttl=TTL)
        token = foo.lock().token
        foo.check()  # it holds the lock ...
        print(f"locked, token {token}, about to write", flush=True)
        sys.stdin.readline()  # ... and here it stands still, for longer than its ttl
        try:
            write(db, "by node-a", token)
        except StaleTokenError as error:
            print(f"StaleTokenError: {error}")
        else:
            print("written")
        print(f"held: {foo.held}")
        foo.destroy()


def main(endpoint: str, path: str) -> None:
    with closing(sqlite3.connect(path)) as db, connect(endpoint) as etcd:
        create(db)
        foo = Microlock(etcd, KEY, "node-b", ttl=TTL)
        command = [sys.executable, __file__, "--node-a", endpoint, path]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as paused:
            assert paused.stdin
            assert paused.stdout
            try:
                say("node-a", paused.stdout.readline().strip())
                os.kill(paused.pid, signal.SIGSTOP)
                say("node-a", "paused: SIGSTOP")

                hold = foo.lock(timeout=30)
                say("node-b", f"locked, token {hold.token}, after waiting {hold.waited:.1f} s")
                write(db, "by node-b", hold.token)
                say("node-b", "written")

                os.kill(paused.pid, signal.SIGCONT)
                say("node-a", "goes on, and writes: SIGCONT")
                output, _ = paused.communicate("go on\n", timeout=30)
                for line in output.splitlines():
                    say("node-a", line)
            finally:
                paused.kill()
        foo.destroy()
        text, fence = db.execute("SELECT text, fence FROM report").fetchone()
        print(f"\nThe report is {text}, token {fence}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--node-a"]:
        node_a(*sys.argv[2:])
    else:
        with tempfile.TemporaryDirectory() as directory:
            table = os.path.join(directory, "reports.db")
            if sys.argv[1:]:
                main(sys.argv[1], table)
            else:
                from microlock.server import EtcdServer

                with EtcdServer(fast=True) as server:
                    main(server.endpoint, table)
