"""Which etcd: from options, variables or a file. Never a password in a command line, which every
user of the machine can read."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from microlock.cli import configuration
from microlock.cli.number import Number
from microlock.core.keys import MAX_WAIT
from microlock.etcd.connect import DEFAULT_TIMEOUT, connect

Command = Callable[..., Any]


class EtcdOption(click.Option):
    """What the section [microlock] of a file may have."""

    of_etcd = True


class SecretOption(EtcdOption):
    """One that no command line has: from a variable or a file."""

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """A parser that does not know it takes none."""


_FILE = click.Path(dir_okay=False)

_OPTIONS = (
    click.option(
        "--etcd",
        cls=EtcdOption,
        envvar="MICROLOCK_ETCD",
        default="localhost:2379",
        metavar="HOST:PORT,...",
        show_default=True,
        help="The members of etcd.",
    ),
    click.option(
        "--ca-cert",
        cls=EtcdOption,
        envvar="MICROLOCK_CA_CERT",
        type=_FILE,
        help="The CA certificates to trust; with it, or with https://, TLS is on.",
    ),
    click.option(
        "--cert",
        cls=EtcdOption,
        envvar="MICROLOCK_CERT",
        type=_FILE,
        help="The client's certificate, for mutual TLS.",
    ),
    click.option(
        "--cert-key",
        cls=EtcdOption,
        envvar="MICROLOCK_CERT_KEY",
        type=_FILE,
        help="The key of --cert.",
    ),
    click.option(
        "--server-name",
        cls=EtcdOption,
        envvar="MICROLOCK_SERVER_NAME",
        metavar="NAME",
        help="The name in the members' certificates.",
    ),
    click.option(
        "--user",
        cls=EtcdOption,
        envvar="MICROLOCK_USER",
        metavar="NAME",
        help="The user of etcd; the password is in $MICROLOCK_PASSWORD, or is asked for.",
    ),
    click.option(
        "--password", cls=SecretOption, envvar="MICROLOCK_PASSWORD", hidden=True, default=None
    ),
    click.option(
        "--password-file",
        cls=EtcdOption,
        envvar="MICROLOCK_PASSWORD_FILE",
        type=_FILE,
        help="A file whose first line is the password.",
    ),
    click.option(
        "--timeout",
        cls=EtcdOption,
        envvar="MICROLOCK_TIMEOUT",
        type=Number(0, MAX_WAIT, min_open=True),
        default=DEFAULT_TIMEOUT,
        metavar="SECONDS",
        show_default=True,
        help="The time for an answer of etcd.",
    ),
    click.option(
        "--config",
        envvar="MICROLOCK_CONFIG",
        type=_FILE,
        is_eager=True,
        expose_value=False,
        callback=configuration.read,
        help="A file with these options.",
    ),
)


def with_etcd(command: Command) -> Command:
    """Gives a command the options of etcd, and instead of their values a client."""

    @functools.wraps(command)
    def connected(
        etcd: str,
        ca_cert: str | None,
        cert: str | None,
        cert_key: str | None,
        server_name: str | None,
        user: str | None,
        password: str | None,
        password_file: str | None,
        timeout: float,
        **options: Any,
    ) -> Any:
        client = connect(
            etcd,
            ca_cert=ca_cert,
            cert_cert=cert,
            cert_key=cert_key,
            server_name=server_name,
            user=user,
            password=_password(user, password, password_file),
            timeout=timeout,
        )
        with client:
            return command(client, **options)

    for option in reversed(_OPTIONS):
        connected = option(connected)
    return connected


def _password(user: str | None, password: str | None, file: str | None) -> str | None:
    if file is not None:
        try:
            password = Path(file).read_text(encoding="utf-8").partition("\n")[0]
        except (OSError, UnicodeDecodeError) as error:
            raise click.UsageError(f"--password-file {file}: {error}") from None
    if user is None:
        return None
    if password is None and sys.stdin.isatty():
        password = click.prompt(f"Password of {user}", hide_input=True, err=True)
    if password is None:
        raise click.UsageError(
            f"--user {user} needs a password: $MICROLOCK_PASSWORD, --password-file, or in the "
            "file of --config"
        )
    return password
