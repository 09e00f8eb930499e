"""`microlock break`: ends a hold, whosever it is."""

from __future__ import annotations

import click

from microlock.cli.connection import with_etcd
from microlock.cli.holding import say
from microlock.cli.looking import NODE_ID, look, places, seconds_left
from microlock.cli.statuses import FAILED
from microlock.core.elsewhere import break_place
from microlock.core.queue import Holder, in_one_line
from microlock.engine.client import Client
from microlock.engine.host import look as call


@click.command("break")
@click.argument("name")
@click.option(
    "--token", type=click.IntRange(1), help="End the hold with this token, or remove the waiter."
)
@click.option("--yes", is_flag=True, help="Don't ask.")
@with_etcd
def break_lock(client: Client, name: str, token: int | None, yes: bool) -> int:
    """End the hold of any node.

    Shows the holder, and asks. The holder notices, but may still be at work; the next in the queue
    gets the lock.

    Exit status: 1 if nothing was broken.
    """
    key = in_one_line(name)
    found = _found(client, name, token)
    if not found:
        say(f"{key!r} is not held" if token is None else f"{key!r} is not held by token {token}")
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
            say(f"{key!r}: {whose}, has just given it back")
    return 0 if broken else FAILED


def _confirmed() -> bool:
    try:
        return click.confirm("It may be at work still. Break it?", err=True)
    except click.Abort as aborted:
        if isinstance(aborted.__context__, KeyboardInterrupt):
            raise
        click.echo(err=True)  # after the question, which got no answer
        return False


def _found(client: Client, name: str, token: int | None) -> list[Holder]:
    locks = look(client, name, exact=True)
    if token is None:
        return [holder for lock in locks for holder in lock.holders]
    return [place for place in places(locks) if place.token == token]
