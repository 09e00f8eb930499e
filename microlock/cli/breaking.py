"""`microlock break`: ends a hold of any node."""

from __future__ import annotations

import click

from microlock.cli.connection import with_etcd
from microlock.cli.holding import say
from microlock.cli.looking import NODE_ID, look, places, seconds_left
from microlock.cli.number import Integer
from microlock.cli.statuses import FAILED
from microlock.core.elsewhere import break_place
from microlock.core.queue import Holder, in_one_line
from microlock.engine.client import Client
from microlock.engine.host import look as call


@click.command("break")
@click.argument("name")
@click.option(
    "--token",
    type=Integer(1),
    help="Break only the hold, or remove only the waiter, with this token.",
)
@click.option("--yes", is_flag=True, help="Skip the question.")
@with_etcd
def break_lock(client: Client, name: str, token: int | None, yes: bool) -> int:
    """End the hold of any node.

    Shows the holder and asks first. The next waiter gets the lock. The old holder learns of the
    loss, but may go on for a while.

    Exit status: 1 if nothing was broken.
    """
    key = in_one_line(name)
    found = _found(client, name, token)
    if not found:
        say(f"{key!r} is not held" if token is None else f"{key!r} has no entry with token {token}")
        return FAILED
    left = seconds_left(client, found)
    for holder in found:
        seconds = left[holder.lease_id]
        ends = "" if seconds is None else f", {seconds} s left"
        click.echo(f"{key}: {holder}, token {holder.token}{ends}", err=True)
    if not (yes or _confirmed()):
        say("nothing was broken")
        return FAILED
    broken = 0
    for holder in found:
        whose = f"{holder}, token {holder.token}"
        if call(client, break_place(name, NODE_ID, holder.token)):
            say(f"{key!r}: removed the entry of {whose}")
            broken += 1
        else:
            say(f"{key!r}: the entry of {whose}, is already gone")
    return 0 if broken else FAILED


def _confirmed() -> bool:
    try:
        return click.confirm("Its process may still be working. Break it?", err=True)
    except click.Abort as aborted:
        if isinstance(aborted.__context__, KeyboardInterrupt):
            raise
        click.echo(err=True)  # ends the line of the question
        return False


def _found(client: Client, name: str, token: int | None) -> list[Holder]:
    locks = look(client, name, exact=True)
    if token is None:
        return [holder for lock in locks for holder in lock.holders]
    return [place for place in places(locks) if place.token == token]
