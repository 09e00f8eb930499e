"""The command `microlock` with all its commands. Each error becomes one line and an exit status."""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import suppress
from typing import Any, NoReturn

import click
from click.exceptions import NoArgsIsHelpError

from microlock.cli.breaking import break_lock
from microlock.cli.elect import elect
from microlock.cli.others import ServeCommand, etcd, serve
from microlock.cli.run import run
from microlock.cli.scripts import extend, lock, unlock
from microlock.cli.signals import Stopped
from microlock.cli.status import status
from microlock.cli.statuses import FAILED, status_of
from microlock.cli.watch import watch
from microlock.errors import MicrolockError


class Program(click.Group):
    """A group of commands, which return their exit status (None: 0) or raise."""

    def main(self, *args: Any, **options: Any) -> NoReturn:
        options["standalone_mode"] = False
        try:
            status = super().main(*args, **options)
        except MicrolockError as error:
            status = _failed(self.name, error, status_of(error))
        except NoArgsIsHelpError as error:
            error.show()
            status = error.exit_code
        except click.ClickException as error:
            context = getattr(error, "ctx", None)
            name = context.command_path if context else self.name
            hint = f" (see {name} --help)" if isinstance(error, click.UsageError) else ""
            why = error.format_message()
            if isinstance(error, click.NoSuchOption) and context and context.command is self:
                why = f"{error.option_name}: options go after the command, if it has them"
            status = _failed(name, f"{why}{hint}", error.exit_code)
        except OSError as error:
            status = _failed(self.name, error, FAILED)
        except Stopped as stopped:
            _die_of(stopped.signum)
        except click.Abort as aborted:
            if isinstance(aborted.__cause__ or aborted.__context__, KeyboardInterrupt):
                _die_of(signal.SIGINT)
            status = FAILED
        _forget_what_cannot_be_said()
        sys.exit(status)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, left = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, ServeCommand) else command, left


def _failed(name: str | None, why: object, status: int) -> int:
    with suppress(OSError):
        click.echo(f"{name}: {why}", err=True)
    return status


def _forget_what_cannot_be_said() -> None:
    """Drops output that can't be written: else Python tries again at exit, with status 120."""
    for fd, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), fd)


def _die_of(signum: int) -> NoReturn:
    """Ends this process as if the signal had killed it.

    A shell sees that: it ends its script, and sets the status 128 + the number. Of two deaths by
    one fault only the first leaves a core.
    """
    try:
        import resource
    except ImportError:  # not on Windows
        pass
    else:
        _, most = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, most))
    sys.stdout.flush()
    if hasattr(signal, "pthread_kill"):
        with suppress(OSError):  # SIGKILL has no handler
            signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)
    sys.exit(128 + signum)  # the first process of a container can't be killed by itself


@click.group(
    "microlock",
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="microlock", message="%(prog)s %(version)s")
def program() -> None:
    """Distributed locks on etcd v3, for shell scripts and operators.

    The README says what a lock guarantees, and what it can't. docs/command-line.md shows these
    commands with cron, systemd, make and Kubernetes.
    """
    logging.getLogger("microlock").addHandler(logging.NullHandler())  # commands print errors


for command in (run, elect, status, watch, lock, unlock, extend, break_lock, serve, etcd):
    program.add_command(command)
