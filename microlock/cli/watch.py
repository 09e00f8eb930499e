"""`microlock watch`: prints the events of a lock."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from queue import SimpleQueue

import click

from microlock import events
from microlock.cli.choosing import chosen, kind_options
from microlock.cli.connection import with_etcd
from microlock.cli.holding import say
from microlock.cli.signals import Signals
from microlock.core.queue import in_one_line
from microlock.engine.client import Client
from microlock.errors import StoreUnavailableError
from microlock.events import LockEvent


@click.command("watch")
@click.argument("name")
@kind_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@with_etcd
def watch(
    client: Client, name: str, shared: bool, exclusive: bool, limit: int | None, as_json: bool
) -> None:
    """Print who takes a lock and who gives it back.

    If etcd goes away, it prints a message, and goes on when etcd is back.
    """
    watched = chosen(client, [name], "watch", shared=shared, exclusive=exclusive, limit=limit)
    told: SimpleQueue[LockEvent] = SimpleQueue()
    with Signals() as signals, signals.raised():
        for each in (events.error, events.locked, events.unlocked):
            watched.on(each, told.put)
        while True:
            event = told.get()
            if event.error:
                # The watch goes on by itself. But if etcd never answered, its address may be wrong.
                if not (isinstance(event.error, StoreUnavailableError) and client.store.answered):
                    raise event.error
                say(f"interrupted, trying again: {event.error}")
                continue
            click.echo(_object(event) if as_json else _line(event))


def _line(event: LockEvent) -> str:
    line = f"{_now()} {event.name:8} {in_one_line(event.key)}"
    if event.token is not None:
        line += f" {in_one_line(event.node_id or 'an unnamed client')}, token {event.token}"
    return line


def _object(event: LockEvent) -> str:
    return json.dumps(
        {
            "time": _now(),
            "event": event.name,
            "key": event.key,
            "node_id": event.node_id,
            "token": event.token,
            "synthesised": event.synthesised,
        }
    )


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
