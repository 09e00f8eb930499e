"""`microlock run`: a command under a lock."""

from __future__ import annotations

import sys

import click

from microlock import events
from microlock.cli.child import find
from microlock.cli.choosing import (
    chosen,
    kind_options,
    node_id_option,
    timeout_of,
    ttl_option,
    wait_options,
)
from microlock.cli.commands import RunsCommand, grace_option
from microlock.cli.connection import with_etcd
from microlock.cli.holding import ended, run_holding, say
from microlock.cli.number import Number
from microlock.cli.signals import Signals
from microlock.cli.statuses import LOST
from microlock.core.keys import MAX_WAIT
from microlock.engine.client import Client
from microlock.errors import AlreadyLockedError
from microlock.events import LockEvent
from microlock.lock import Lock


@click.command("run", cls=RunsCommand)
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@wait_options
@ttl_option(10.0, "Time until the lock of a dead machine is free; renewed while the command runs.")
@click.option(
    "--min-hold",
    type=Number(0, MAX_WAIT),
    default=0.0,
    metavar="SECONDS",
    help="Keep others out at least this long, even if the command ends sooner.",
)
@kind_options
@node_id_option
@grace_option
@with_etcd
def run(
    client: Client,
    names: tuple[str, ...],
    command: list[str],
    wait: float | None,
    no_wait: bool,
    conflict_exit_code: int,
    ttl: float,
    min_hold: float,
    shared: bool,
    exclusive: bool,
    limit: int | None,
    node_id: str,
    grace: float,
) -> int:
    """Run a command while holding a lock.

    Several NAMEs are locked together: all or none. The command runs in its own process group, with
    MICROLOCK_TOKEN and MICROLOCK_KEY in its environment. If the lock is lost, the command gets
    SIGTERM, and SIGKILL after --grace.

    Exit status: that of the command; 75 if somebody else holds the lock, 76 if the lock was lost,
    69 if etcd does not answer or refuses, 126 if the command can't be run, 127 if it does not
    exist, 2 if an option is wrong.
    """
    program, timeout = find(command), timeout_of(wait, no_wait)
    lock = chosen(
        client,
        names,
        node_id,
        shared=shared,
        exclusive=exclusive,
        limit=limit,
        ttl=ttl,
        min_hold=min_hold,
        auto_renew=True,
    )
    with Signals() as signals, ended(lock, client):
        if sys.stderr.isatty():
            lock.once(events.waiting, lambda event: _say_who_holds(lock, event))
        try:
            with signals.raised():
                lock.lock(timeout=timeout)
        except AlreadyLockedError as error:
            if conflict_exit_code:
                say(error)
            return conflict_exit_code
        status = run_holding(lock, client, program, names, grace=grace, signals=signals)
    return LOST if status is None else status


def _say_who_holds(lock: Lock, waiting: LockEvent) -> None:
    holder = lock.holder()
    if holder and holder.token != waiting.token:  # else its turn has come
        say(f"waiting for {lock.key!r}, held by {holder}")
