"""`microlock elect`: a command that runs whenever this node leads."""

from __future__ import annotations

import random
from time import sleep

import click

from microlock.cli.child import find
from microlock.cli.choosing import node_id_option, ttl_option
from microlock.cli.commands import RunsCommand, grace_option
from microlock.cli.connection import with_etcd
from microlock.cli.holding import ended, run_holding, say
from microlock.cli.signals import Signals
from microlock.engine.client import Client
from microlock.errors import LockLostError, LockUncertainError, StoreUnavailableError
from microlock.manager import LockManager

# Seconds until it campaigns again, on average.
_PAUSE = 2.0


@click.command("elect", cls=RunsCommand)
@click.argument("name")
@click.option("--value", metavar="TEXT", show_default="the node id", help="Value to proclaim.")
@ttl_option(10.0, "Time until others replace a dead leader; renewed while the command runs.")
@node_id_option
@grace_option
@with_etcd
def elect(
    client: Client,
    name: str,
    command: list[str],
    value: str | None,
    ttl: float,
    node_id: str,
    grace: float,
) -> int:
    """Run a command whenever this node leads.

    As `microlock run`, but after a loss it ends the command and campaigns again, even if etcd is
    away for long. When the command ends by itself, microlock ends with its exit status.
    """
    program, led, timeout = find(command), False, client.timeout
    with Signals() as signals:
        while True:
            client.timeout = timeout  # shorter after a loss
            election = LockManager(client, node_id).election(name, ttl=ttl, auto_renew=True)
            with ended(election, client):
                try:
                    with signals.raised():
                        election.campaign(value)
                    led = True
                    status = run_holding(
                        election, client, program, [name], grace=grace, signals=signals
                    )
                    if status is not None:
                        return status
                except (StoreUnavailableError, LockLostError, LockUncertainError) as error:
                    if not led:
                        raise
                    say(error)
                    with signals.raised():
                        sleep(_PAUSE * random.uniform(0.5, 1.5))
