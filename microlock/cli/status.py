"""`microlock status`: holders and waiters of locks."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from time import sleep
from unicodedata import east_asian_width

import click

from microlock.cli.connection import with_etcd
from microlock.cli.holding import say
from microlock.cli.looking import look, places, seconds_left
from microlock.cli.number import Integer, Number
from microlock.cli.signals import Signals
from microlock.core.jsonable import lock_object
from microlock.core.keys import MAX_WAIT
from microlock.core.queue import LockStatus, in_one_line
from microlock.engine.client import Client
from microlock.errors import StoreUnavailableError

# The seconds left of each lease; None: not readable.
Left = Mapping[int, int | None]

_HEAD = ("LOCK", "STATE", "WHO", "TOKEN", "LEASE")
_COLOURS = {"held": "green", "waits": "yellow"}
# Moves the cursor to the upper left, and clears the screen.
_HOME = "\033[H\033[J"


@click.command("status")
@click.argument("prefix", default="")
@click.option("--watch", is_flag=True, help="Refresh until interrupted, also while etcd is away.")
@click.option(
    "--interval",
    type=Number(0.1, MAX_WAIT),
    default=1.0,
    metavar="SECONDS",
    show_default=True,
    help="Time between refreshes with --watch.",
)
@click.option(
    "--limit",
    type=Integer(1),
    metavar="N",
    default=1,
    show_default=True,
    help="Show locks as semaphores with N holders.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array in one line.")
@with_etcd
def status(
    client: Client, prefix: str, watch: bool, interval: float, limit: int, as_json: bool
) -> None:
    """Show the holders and waiters of locks, in order.

    Shows all locks whose names begin with PREFIX. LEASE is the number of seconds until the lease
    ends if nothing renews it. Without --limit, only the first holder of a semaphore is shown as a
    holder, since etcd does not store the limit.
    """
    shown = _as_json if as_json else _table

    def seen() -> str:
        locks = [_of(lock, limit) for lock in look(client, prefix)]
        return shown(locks, seconds_left(client, places(locks)))

    if not watch:
        click.echo(seen())
        return
    live, trouble = sys.stdout.isatty() and not as_json, ""
    with Signals() as signals, signals.raised():
        while True:
            text, before, trouble = "", trouble, ""
            try:
                text = seen()
            except StoreUnavailableError as error:
                trouble = f"etcd does not answer, trying again: {error}"
            if live:
                click.echo(f"{_HOME}{_cut(text or trouble)}")
            elif text:
                click.echo(text)
            elif trouble != before:  # once, not at each refresh
                say(trouble)
            sleep(interval)


def _of(lock: LockStatus, limit: int) -> LockStatus:
    """The lock, where a queue is that of a semaphore."""
    if lock.kind != "queue":
        return lock
    queue = lock.holders + lock.waiters
    return replace(lock, holders=queue[:limit], waiters=queue[limit:])


def _as_json(locks: Sequence[LockStatus], left: Left) -> str:
    return json.dumps([lock_object(lock, left) for lock in locks])


def _table(locks: Sequence[LockStatus], left: Left) -> str:
    if not locks:
        return "no locks"
    rows = [_HEAD, *(row for lock in locks for row in _rows(lock, left))]
    columns = zip(*rows, strict=True)
    widths = [max(map(_width, column)) for column in columns]
    return "\n".join(_line(row, widths) for row in rows)


def _rows(lock: LockStatus, left: Left) -> Iterator[tuple[str, ...]]:
    key, held = in_one_line(lock.name), len(lock.holders)
    for number, who in enumerate(places([lock])):
        seconds = left[who.lease_id]
        role = f" ({who.role})" if who.role else ""
        yield (
            key if number == 0 else "",
            "held" if number < held else "waits",
            f"{who}{role}",
            f"{who.token}",
            "?" if seconds is None else f"{seconds} s",
        )


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)]
    for number in (3, 4):  # numbers are aligned to the right
        cells[number] = row[number].rjust(widths[number])
    if row is _HEAD:
        return click.style("  ".join(cells), bold=True)
    colour = _COLOURS[row[1]]
    cells[1] = click.style(cells[1], fg=colour)
    return "  ".join([click.style(cells[0], bold=True), *cells[1:]])


def _width(text: str) -> int:
    """The columns that a text takes on a terminal."""
    return sum(2 if east_asian_width(each) in "WF" else 1 for each in text)


def _cut(text: str) -> str:
    """The lines that fit on the screen, and the number of the others."""
    lines, height = text.splitlines(), shutil.get_terminal_size().lines - 2
    if len(lines) <= height:
        return text
    return "\n".join([*lines[:height], f"... and {len(lines) - height} more"])
