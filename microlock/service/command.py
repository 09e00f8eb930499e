"""`microlock serve`: its options, which may also come from a file `.env`."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from dotenv import dotenv_values

from microlock.cli.connection import SecretOption, with_etcd
from microlock.cli.number import Integer, Number
from microlock.core.keys import check_prefix
from microlock.core.port import Get
from microlock.core.retry import Budget
from microlock.engine.client import Client
from microlock.errors import MicrolockError, StorePermissionError
from microlock.etcd.connect import connect
from microlock.service.app import HEALTHY, create_app
from microlock.service.metrics import prometheus
from microlock.service.server import Server
from microlock.service.settings import MAX_EXPIRY_MS, Settings

# A file .env may set these options by short names, and all options by MICROLOCK_….
_SHORT = frozenset({"PORT", "HOST", "DEFAULT_EXPIRY", "ETCD", "MEMORY", "PREFIX", "AUTH_TOKEN"})

_FILE = click.Path(exists=True, dir_okay=False)


class _AuthToken(SecretOption):
    """A secret of this command, not of etcd."""

    of_etcd = False


class _Serve(click.Command):
    """A command whose options may come from a file .env. Environment variables win over it."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> click.Context:
        known = {each.name for each in self.params if each.name}
        extra.setdefault("default_map", _from_file(dotenv_values(".env"), known))
        return super().make_context(info_name, args, parent, **extra)


def _from_file(values: Mapping[str, str | None], known: set[str]) -> dict[str, str]:
    found = {}
    for name, value in values.items():
        option = name.removeprefix("MICROLOCK_")
        if value is not None and option.lower() in known and (option != name or name in _SHORT):
            found[option.lower()] = value
    return found


@click.command("serve", cls=_Serve)
@click.option(
    "-p",
    "--port",
    type=Integer(0, 65535),
    default=3000,
    envvar="MICROLOCK_PORT",
    show_default=True,
    help="TCP port to listen on; 0: any free one.",
)
@click.option(
    "-H",
    "--host",
    default="localhost",
    envvar="MICROLOCK_HOST",
    show_default=True,
    help="Name or address to listen on.",
)
@click.option(
    "--allowed-hosts",
    default="",
    envvar="MICROLOCK_ALLOWED_HOSTS",
    metavar="NAME,...",
    help="More host names that clients may use, such as that of a proxy.",
)
@click.option(
    "-E",
    "--default-expiry",
    type=Number(0, MAX_EXPIRY_MS, min_open=True),
    default=1000.0,
    envvar="MICROLOCK_DEFAULT_EXPIRY",
    metavar="MS",
    show_default=True,
    help="Time that a lock is held if the request has no `exp`.",
)
@click.option(
    "-N",
    "--memory",
    is_flag=True,
    envvar="MICROLOCK_MEMORY",
    help="Keep the locks in this process, without etcd. They end with it.",
)
@click.option(
    "--prefix",
    default="",
    envvar="MICROLOCK_PREFIX",
    help="Prefix of the lock names in etcd; clients don't see it.",
)
@click.option("--auth-token", cls=_AuthToken, envvar="MICROLOCK_AUTH_TOKEN", hidden=True)
@click.option(
    "--auth-token-file",
    type=_FILE,
    envvar="MICROLOCK_AUTH_TOKEN_FILE",
    help="File with the bearer token in its first line. Requests that change anything need it. Or "
    "set the token in $MICROLOCK_AUTH_TOKEN.",
)
@click.option(
    "--tls-cert", type=_FILE, envvar="MICROLOCK_TLS_CERT", help="Serve https with this certificate."
)
@click.option("--tls-key", type=_FILE, envvar="MICROLOCK_TLS_KEY", help="Key of --tls-cert.")
@click.option(
    "--tls-client-ca",
    type=_FILE,
    envvar="MICROLOCK_TLS_CLIENT_CA",
    help="Accept only clients with a certificate of this CA.",
)
@with_etcd
def serve(
    client: Client,
    port: int,
    host: str,
    allowed_hosts: str,
    default_expiry: float,
    memory: bool,
    prefix: str,
    auth_token: str | None,
    auth_token_file: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    tls_client_ca: str | None,
) -> None:
    """Serve locks over HTTP, with a live page.

    docs/service.md describes the requests. A file .env in the current directory may set PORT, HOST,
    DEFAULT_EXPIRY, ETCD, MEMORY, PREFIX, AUTH_TOKEN and each MICROLOCK_… variable.
    """
    token = _token(auth_token, auth_token_file)
    if token is None and not _is_loopback(host):
        click.echo(
            f"microlock serve: there is no auth token: any client that reaches {host} can take and "
            "break locks",
            err=True,
        )
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key belong together")
    if tls_client_ca and tls_cert is None:
        raise click.UsageError("--tls-client-ca needs --tls-cert and --tls-key")
    settings = Settings(
        default_expiry=default_expiry,
        prefix=check_prefix(prefix),
        auth_token=token,
        host=host,
        allowed_hosts=tuple(filter(None, map(str.strip, allowed_hosts.split(",")))),
    )
    if memory:
        client = connect("memory://")
    click.echo(
        f"microlock serve: locks are in {'memory' if memory else client}, under the prefix "
        f"{prefix!r}; changes need {'no' if token is None else 'the'} auth token",
        err=True,
    )
    try:
        client.perform(Get(b"health"), Budget.of(client.clock.now(), HEALTHY))
    except StorePermissionError:  # that is an answer too
        pass
    except MicrolockError as error:
        click.echo(f"microlock serve: requests fail until etcd answers: {error}", err=True)
    Server(
        create_app(client, settings, metrics=prometheus(client)),
        host=host,
        port=port,
        ssl_certfile=tls_cert,
        ssl_keyfile=tls_key,
        ssl_ca_certs=tls_client_ca,
        ssl_cert_reqs=ssl.CERT_REQUIRED if tls_client_ca else ssl.CERT_NONE,
    ).run()


def _token(token: str | None, file: str | None) -> str | None:
    if file is not None:
        try:
            token = Path(file).read_text(encoding="utf-8").partition("\n")[0]
        except (OSError, UnicodeDecodeError) as error:
            raise click.UsageError(f"--auth-token-file {file}: {error}") from None
    if token is not None and not (token.isascii() and token.isprintable() and token.strip()):
        raise click.UsageError("the auth token must be printable ASCII, and not empty")
    return token and token.strip()  # HTTP strips outer blanks from what a client sends


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
