"""The options that choose a lock, and how to wait for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from socket import gethostname
from typing import Any

import click

from microlock.cli.connection import Command
from microlock.cli.number import Integer, Number
from microlock.core.keys import MAX_TTL, MAX_WAIT
from microlock.engine.client import Client
from microlock.lock import Lock
from microlock.manager import LockManager


def node_id_option(command: Command) -> Command:
    return click.option(
        "--node-id",
        envvar="MICROLOCK_NODE_ID",
        metavar="NAME",
        default=lambda: f"{gethostname()}:{os.getpid()}",
        show_default="host:pid",
        help="Name of this node, shown to others.",
    )(command)


def kind_options(command: Command) -> Command:
    for option in (
        click.option(
            "--limit", type=Integer(1), metavar="N", help="Use a semaphore with N holders."
        ),
        click.option("--exclusive", is_flag=True, help="Use a read-write lock, as its one writer."),
        click.option(
            "--shared", is_flag=True, help="Use a read-write lock, as one of its readers."
        ),
    ):
        command = option(command)
    return command


def wait_options(command: Command) -> Command:
    for option in (
        click.option(
            "--conflict-exit-code",
            type=Integer(0, 255),
            default=75,
            metavar="STATUS",
            show_default=True,
            help="Exit status if somebody else holds the lock. With 0, nothing is printed.",
        ),
        click.option("--no-wait", is_flag=True, help="Try once; don't wait."),
        click.option(
            "--wait",
            type=Number(0, MAX_WAIT),
            metavar="SECONDS",
            show_default="no limit",
            help="Wait for the lock at most this long.",
        ),
    ):
        command = option(command)
    return command


def ttl_option(default: float, help: str) -> Callable[[Command], Command]:
    return click.option(
        "--ttl",
        type=Number(0, MAX_TTL, min_open=True),
        default=default,
        metavar="SECONDS",
        show_default=True,
        help=help,
    )


def timeout_of(wait: float | None, no_wait: bool) -> float | None:
    """The `timeout` of `lock()`."""
    if no_wait and wait is not None:
        raise click.UsageError("--wait and --no-wait exclude each other")
    return 0 if no_wait else wait


def chosen(
    client: Client,
    names: Sequence[str],
    node_id: str,
    *,
    shared: bool,
    exclusive: bool,
    limit: int | None,
    **options: Any,
) -> Lock:
    """A lock of the kind that the options choose."""
    said = {"--shared": shared, "--exclusive": exclusive, "--limit": limit is not None}
    kinds = [name for name, given in said.items() if given]
    if len(names) > 1:
        kinds.append("several names")
    if len(kinds) > 1:
        raise click.UsageError(f"{' and '.join(kinds)} exclude each other")
    manager = LockManager(client, node_id)
    if len(names) > 1:
        return manager.many(names, **options)
    (name,) = names
    if shared:
        return manager.read(name, **options)
    if exclusive:
        return manager.write(name, **options)
    if limit is not None:
        return manager.semaphore(name, limit, **options)
    return manager.create(name, **options)
