"""Commands that another part of the package has: imported when they are called."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import click

# All that follows is for the command itself, `--help` too.
_AS_IT_IS: dict[str, Any] = {
    "add_help_option": False,
    "context_settings": {"ignore_unknown_options": True},
}


def _taken(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.argument("arguments", nargs=-1, type=click.UNPROCESSED)(command)


@click.command("serve", **_AS_IT_IS)
@_taken
def serve(arguments: tuple[str, ...]) -> Any:
    """Serve locks over HTTP, with a live page."""
    try:
        command = import_module("microlock.service.command").serve
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"serve needs {error.name}: pip install 'microlock[service]'"
        ) from None
    return command.main(
        [*arguments],
        prog_name="serve",
        standalone_mode=False,
        parent=click.get_current_context().parent,
    )


@click.command("etcd", **_AS_IT_IS)
@_taken
def etcd(arguments: tuple[str, ...]) -> int:
    """Run an etcd to try things with."""
    from microlock.server.__main__ import main

    return main(arguments, program="microlock etcd")
