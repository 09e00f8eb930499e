"""The options for the connection to etcd: from the command line, variables or a file.

A password is never on a command line, which every user of the machine can read.
"""

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
    """An option that the section [microlock] of a file may contain."""

    of_etcd = True


class SecretOption(EtcdOption):
    """An option that only a variable or a file may set, not the command line."""

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Does nothing: the parser rejects an option that it does not know."""


_FILE = click.Path(dir_okay=False)

_OPTIONS = (
    click.option(
        "--etcd",
        cls=EtcdOption,
        envvar="MICROLOCK_ETCD",
        default="localhost:2379",
        metavar="HOST:PORT,...",
        show_default=True,
        help="Addresses of the etcd members.",
    ),
    click.option(
        "--ca-cert",
        cls=EtcdOption,
        envvar="MICROLOCK_CA_CERT",
        type=_FILE,
        help="CA certificates to trust. Turns TLS on, as https:// does.",
    ),
    click.option(
        "--cert", cls=EtcdOption, envvar="MICROLOCK_CERT", type=_FILE, help="Client certificate."
    ),
    click.option(
        "--cert-key", cls=EtcdOption, envvar="MICROLOCK_CERT_KEY", type=_FILE, help="Key of --cert."
    ),
    click.option(
        "--server-name",
        cls=EtcdOption,
        envvar="MICROLOCK_SERVER_NAME",
        metavar="NAME",
        help="Name to expect in the members' certificates.",
    ),
    click.option(
        "--user",
        cls=EtcdOption,
        envvar="MICROLOCK_USER",
        metavar="NAME",
        help="User of etcd. The password comes from $MICROLOCK_PASSWORD or a prompt.",
    ),
    click.option(
        "--password", cls=SecretOption, envvar="MICROLOCK_PASSWORD", hidden=True, default=None
    ),
    click.option(
        "--password-file",
        cls=EtcdOption,
        envvar="MICROLOCK_PASSWORD_FILE",
        type=_FILE,
        help="File with the password in its first line.",
    ),
    click.option(
        "--timeout",
        cls=EtcdOption,
        envvar="MICROLOCK_TIMEOUT",
        type=Number(0, MAX_WAIT, min_open=True),
        default=DEFAULT_TIMEOUT,
        metavar="SECONDS",
        show_default=True,
        help="Time for etcd to answer.",
    ),
    click.option(
        "--config",
        envvar="MICROLOCK_CONFIG",
        type=_FILE,
        is_eager=True,
        expose_value=False,
        callback=configuration.read,
        help="File with these options.",
    ),
)


def with_etcd(command: Command) -> Command:
    """Adds the options of etcd to a command, which gets a client instead of their values."""

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
