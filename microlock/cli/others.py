"""Commands of other parts of the package, imported when they are called."""

from __future__ import annotations

from importlib import import_module

import click


class ServeCommand(click.Command):
    """Stands for `serve` in the list of commands: to import that takes time, and an extra."""

    @staticmethod
    def load() -> click.Command:
        try:
            command: click.Command = import_module("microlock.service.command").serve
        except ModuleNotFoundError as error:
            raise click.ClickException(
                f"serve needs {error.name}: pip install 'microlock[service]'"
            ) from None
        return command


serve = ServeCommand("serve", help="Serve locks over HTTP, with a live page.")


# The command itself parses all arguments, `--help` too.
@click.command("etcd", add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def etcd(arguments: tuple[str, ...]) -> int:
    """Run a real etcd for demos and tests."""
    from microlock.server.__main__ import main

    return main(arguments, program="microlock etcd")
