"""`connect()`: checks its arguments, and makes the client."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from unicodedata import normalize
from urllib.parse import unquote, urlsplit

from microlock.core.keys import check_duration
from microlock.engine.client import Client
from microlock.engine.reentrant_event import ReentrantEvent
from microlock.errors import InvalidArgumentError
from microlock.etcd.client import EtcdClient
from microlock.etcd.login import Login
from microlock.etcd.wire import Address, Wire, forks
from microlock.etcd.wire.tls import Security, Tls

log = logging.getLogger("microlock")

DEFAULT_PORT = 2379
DEFAULT_TIMEOUT = 5.0


def connect(
    endpoints: str | Iterable[str] = "localhost:2379",
    *,
    ca_cert: str | Path | None = None,
    cert_key: str | Path | None = None,
    cert_cert: str | Path | None = None,
    user: str | None = None,
    password: str | None = None,
    server_name: str | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> Client:
    """Makes a client of etcd for locks. Nothing is sent before the first call of a lock.

    Args:
        endpoints: the members of one cluster: one endpoint, several separated by commas, or an
            iterable. Each is `host:port`, `host` (port 2379), an http or https URL, `unix:path` or
            `unix-abstract:name`. A host name is looked up for each new connection.
            Or a store in this process: `memory://` for a new one, `memory://name` to share it by
            name. It takes no other argument but `timeout`.
        ca_cert: PEM file with the CA certificates to trust; None: the CAs of the system. TLS is on
            if `ca_cert` or `cert_cert` is given, or if an endpoint is https. All files are read
            again for each connection, so you can replace them.
        cert_key: PEM file with the key of the client's certificate, for mutual TLS.
        cert_cert: PEM file with the client's certificate, for mutual TLS.
        user: the etcd user; needs `password`. It works without TLS too, but then the password is
            readable on the network. It does no harm if etcd's authentication is off.
        password: the password of `user`.
        server_name: the name in the members' certificates, if it is not the host of the endpoint.
        timeout: seconds > 0 that each call of a lock may take, with all its tries.

    Raises:
        InvalidArgumentError: an argument is wrong, or a file can't be read.
    """
    if not isinstance(endpoints, str) and isinstance(endpoints, Iterable):
        endpoints = list(endpoints)
    if address := _in_memory(endpoints):
        from microlock.memory import connect as memory  # not needed with etcd

        given = {"ca_cert": ca_cert, "cert_key": cert_key, "cert_cert": cert_cert}
        given |= {"user": user, "password": password, "server_name": server_name}
        if wrong := [name for name, value in given.items() if value is not None]:
            raise InvalidArgumentError(f"{address} takes no {' and no '.join(wrong)}")
        return memory.connect(address, timeout=check_duration("timeout", timeout))
    addresses, schemes = _parse(endpoints)
    if (cert_key is None) != (cert_cert is None):
        raise InvalidArgumentError("cert_key and cert_cert belong together: give both or neither")
    if (user is None) != (password is None):
        raise InvalidArgumentError("user and password belong together: give both or neither")
    with_tls = ca_cert is not None or cert_cert is not None or "https" in schemes
    if with_tls and "http" in schemes:
        raise InvalidArgumentError(f"endpoints must not mix http with TLS: {endpoints!r}")
    seconds = check_duration("timeout", timeout)
    identity = None
    if user is not None:
        identity = Login(_text("user", user), _text("password", password, secret=True))
    if server_name is not None:
        server_name = _text("server_name", server_name)
        if not with_tls:
            raise InvalidArgumentError("server_name needs TLS: give ca_cert, or an https endpoint")
    security = None
    if with_tls:
        security = Security(
            _file("ca_cert", ca_cert), _file("cert_key", cert_key), _file("cert_cert", cert_cert)
        )
        try:
            Tls(security, server_name or "localhost")
        except OSError as error:
            what = "ca_cert, cert_key, cert_cert or server_name"
            raise InvalidArgumentError(f"{what} can't be used: {error}") from error
    answered = ReentrantEvent()
    wires = [_wire(each, security, server_name, answered) for each in addresses]
    return EtcdClient(wires, timeout=seconds, identity=identity)


def _in_memory(endpoints: object) -> str | None:
    """The `memory://` address, if that is what is given."""
    only = endpoints[0] if isinstance(endpoints, list) and len(endpoints) == 1 else endpoints
    return only if isinstance(only, str) and only.startswith("memory://") else None


def _wire(
    address: Address, security: Security | None, server_name: str | None, answered: ReentrantEvent
) -> Wire:
    try:
        with forks.kept_out:
            from microlock.etcd.wire.sockets import SocketWire
    except ImportError:  # no ngh2 for this Python, or this processor
        log.info("grpcio is used for %s: ngh2 can't be imported", address.text)
        from microlock.etcd.wire.grpcio import dialled

        return dialled(address, security, server_name, answered)
    return SocketWire(address, security=security, server_name=server_name, answered=answered)


def _parse(endpoints: object) -> tuple[list[Address], set[str]]:
    """The addresses, and the schemes that were given."""
    if isinstance(endpoints, str):
        endpoints = endpoints.split(",")
    if not isinstance(endpoints, Iterable) or not (given := list(endpoints)):
        raise InvalidArgumentError(f"endpoints must be one or more host:port, not {endpoints!r}")
    # The comma may be part of a password, which then is in two of these.
    secret = any("@" in unquote(normalize("NFKC", repr(each))) for each in given)
    parsed = [_parse_one(each, secret=secret) for each in given]
    addresses = list(dict.fromkeys(address for address, _ in parsed))
    return addresses, {scheme for _, scheme in parsed if scheme}


def _parse_one(endpoint: object, *, secret: bool) -> tuple[Address, str]:
    named = repr(endpoint)
    if secret:
        named = "the given value (user and password are separate arguments)"
    wrong = InvalidArgumentError(
        f"endpoints: {named} is not host:port, a URL with http(s), unix:path or memory://name"
    )
    if not isinstance(endpoint, str):
        raise wrong
    text = endpoint.strip()
    kind, _, path = text.partition(":")
    if kind in ("unix", "unix-abstract"):
        # As grpc has them: unix:path, unix:///absolute, unix-abstract:name.
        path = path.removeprefix("//")
        if not path or "\0" in path:
            raise wrong
        return Address(text, path="\0" + path if kind == "unix-abstract" else path), ""
    port = 0
    with suppress(ValueError):  # its text would show part of what is given
        url = urlsplit(text if "://" in text else f"//{text}")
        port = DEFAULT_PORT if url.port is None else url.port
    if not port:
        raise wrong
    rest = url.path.strip("/") or url.query or url.fragment or re.search(r"[\s,@\0]", text)
    if not url.hostname or rest or url.scheme not in ("", "http", "https"):
        raise wrong
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return Address(f"{host}:{port}", url.hostname, port), url.scheme


def _file(argument: str, path: object) -> str | None:
    """The path of a file that can be read."""
    if path is None:
        return None
    if not isinstance(path, str | Path):
        raise InvalidArgumentError(f"{argument} must be the path of a file, not {shown(path)}")
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        # `from None`: the text of OSError has the path again.
        raise InvalidArgumentError(f"{argument}: {shown(path)} can't be read: {why}") from None
    if not content:
        raise InvalidArgumentError(f"{argument}: {shown(path)} is empty")
    return str(path)


# These are in a URL with a password, in a PEM file, in settings.
_SECRET = re.compile(r"@|-----|\\n|passw", re.IGNORECASE)


def shown(value: object) -> str:
    """An argument as an error may show it: without anything that could be a password or a key."""
    text = repr(value)
    if len(text) > 256 or _SECRET.search(text):
        return f"the given {type(value).__name__}"
    return text


def _text(argument: str, value: object, *, secret: bool = False) -> str:
    if not isinstance(value, str) or not value:
        shown = type(value).__name__ if secret else repr(value)
        raise InvalidArgumentError(f"{argument} must be a non-empty str, not {shown}")
    return value
