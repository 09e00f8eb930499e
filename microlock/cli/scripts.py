"""For scripts: one process takes a lock, and another gives it back by its token."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from microlock.cli.choosing import (
    chosen,
    kind_options,
    node_id_option,
    timeout_of,
    ttl_option,
    wait_options,
)
from microlock.cli.connection import with_etcd
from microlock.cli.holding import say
from microlock.cli.looking import NODE_ID, look, places
from microlock.cli.number import Integer
from microlock.cli.signals import Signals
from microlock.cli.statuses import LOST
from microlock.engine.client import Client
from microlock.errors import AlreadyLockedError, LockNotOwnedError
from microlock.manager import LockManager

_name = click.argument("name")
_token = click.argument("token", type=Integer(1))
_limit = click.option(
    "--limit",
    type=Integer(1),
    default=1,
    metavar="N",
    help="Number of holders of a semaphore: the same as for `lock`.",
)


@click.command("lock")
@_name
@wait_options
@ttl_option(60.0, "Time until the lock is free, unless it is extended.")
@kind_options
@node_id_option
@with_etcd
def lock(
    client: Client,
    name: str,
    wait: float | None,
    no_wait: bool,
    conflict_exit_code: int,
    ttl: float,
    shared: bool,
    exclusive: bool,
    limit: int | None,
    node_id: str,
) -> int:
    """Take a lock and print its token.

    The lock is held for --ttl, or until `microlock unlock NAME TOKEN`.

    Exit status: 75 if somebody else holds the lock.
    """
    taken = chosen(
        client, [name], node_id, shared=shared, exclusive=exclusive, limit=limit, ttl=ttl
    )
    timeout = timeout_of(wait, no_wait)
    with Signals() as signals, signals.raised():
        try:
            click.echo(taken.lock(timeout=timeout).token)
        except AlreadyLockedError as error:
            if conflict_exit_code:
                say(error)
            return conflict_exit_code
        except BaseException:  # the token was not printed
            taken.destroy()
            raise
    client.close()  # so the hold is left as it is, and ends with its ttl
    return 0


@click.command("unlock")
@_name
@_token
@_limit
@with_etcd
def unlock(client: Client, name: str, token: int, limit: int) -> None:
    """Give a lock back, by its token.

    Exit status: 76 if the lock is no longer held with this token.
    """
    with _by_token(client, name, token):
        LockManager(client, NODE_ID).release(name, token, limit=limit)


@click.command("extend")
@_name
@_token
@_limit
@ttl_option(60.0, "Time until the lock is free, from now on.")
@with_etcd
def extend(client: Client, name: str, token: int, limit: int, ttl: float) -> None:
    """Give a held lock a new ttl, by its token.

    Prints the seconds left.

    Exit status: 76 if the lock is no longer held with this token.
    """
    with _by_token(client, name, token):
        left = LockManager(client, NODE_ID).extend(name, token, ttl, limit=limit)
    click.echo(f"{left:.1f}")


@contextmanager
def _by_token(client: Client, name: str, token: int) -> Iterator[None]:
    try:
        yield
    except LockNotOwnedError as error:
        by = f"; {error.holder} holds it with token {error.holder.token}" if error.holder else ""
        if any(place.token == token for place in places(look(client, name, exact=True))):
            by = "; it is a waiter, or holds a semaphore: give the same --limit as for `lock`"
        say(f"{name!r} is not held with token {token}{by}")
        sys.exit(LOST)
