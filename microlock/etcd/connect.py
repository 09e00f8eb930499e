"""Where an `EtcdClient` comes from: `connect()`, or the client of another library."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from unicodedata import normalize
from urllib.parse import unquote, urlsplit
from weakref import WeakKeyDictionary, ref

import grpc

from microlock.core.keys import check_duration
from microlock.engine.reentrant_event import ReentrantEvent
from microlock.errors import ClientRequiredError, InvalidArgumentError
from microlock.etcd.client import EtcdClient
from microlock.etcd.login import Given, Login
from microlock.etcd.off_main_thread import OffMainThread
from microlock.etcd.wire import GrpcWire, Metadata

DEFAULT_PORT = 2379
DEFAULT_TIMEOUT = 5.0

_OPTIONS = (
    # gRPC's own backoff, 1 s and rising, would hide for seconds that etcd is back.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    # Despite its name, how long one attempt may take: TCP (which sends a lost packet again after
    # 1 s), TLS and HTTP/2.
    ("grpc.min_reconnect_backoff_ms", 3_000),
    # Notice a member that stopped without a word. etcd ends connections that ping more often
    # than every 5 s (--grpc-keepalive-min-time).
    ("grpc.keepalive_time_ms", 6_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 3_000),
    # The names under a lock may be many; etcd bounds what it sends by itself.
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
)


def connect(
    endpoints: str | Iterable[str] = "localhost:2379",
    *,
    ca_cert: str | Path | None = None,
    cert_key: str | Path | None = None,
    cert_cert: str | Path | None = None,
    user: str | None = None,
    password: str | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> EtcdClient:
    """A client of etcd for locks. Nothing is sent before the first call of a lock.

    Args:
        endpoints: the members of one cluster, as `host:port`, `host` (port 2379) or a URL with
            http or https; one of them, several separated by commas, or an iterable.
        ca_cert: file with the CA certificates to trust, PEM. TLS is on if this or `cert_cert` is
            given, or an endpoint is https; without it the CAs that gRPC brings are trusted.
        cert_key: file with the key of the client's certificate, PEM; for mutual TLS.
        cert_cert: file with the client's certificate, PEM; for mutual TLS.
        user: user of etcd; needs `password`. Works without TLS too, where the password can be
            read on the way.
        password: its password.
        timeout: seconds > 0 that each call of a lock may take, trying again included.

    Raises:
        InvalidArgumentError: an argument is wrong, or a file can't be read.
    """
    addresses, schemes = _parse(endpoints)
    if (cert_key is None) != (cert_cert is None):
        raise InvalidArgumentError("cert_key and cert_cert belong together: give both or neither")
    if (user is None) != (password is None):
        raise InvalidArgumentError("user and password belong together: give both or neither")
    with_tls = ca_cert is not None or cert_cert is not None or "https" in schemes
    if with_tls and "http" in schemes:
        raise InvalidArgumentError(f"endpoints must not mix http with TLS: {endpoints!r}")
    seconds = check_duration("timeout", timeout)
    if with_tls:
        credentials = grpc.ssl_channel_credentials(
            _read("ca_cert", ca_cert), _read("cert_key", cert_key), _read("cert_cert", cert_cert)
        )
        channel = partial(grpc.secure_channel, credentials=credentials, options=_OPTIONS)
    else:
        channel = partial(grpc.insecure_channel, options=_OPTIONS)
    # For the threads that grpcio starts: they block the signals that their starter blocks.
    channels = OffMainThread().aside(lambda: [channel(each) for each in addresses])
    answered = ReentrantEvent()
    return EtcdClient(
        [
            GrpcWire(channel, address, answered=answered)
            for channel, address in zip(channels, addresses, strict=True)
        ],
        timeout=seconds,
        identity=Login(_text("user", user), _text("password", password, secret=True))
        if user is not None
        else None,
    )


def _parse(endpoints: object) -> tuple[list[str], set[str]]:
    """The addresses as `host:port`, and the schemes that were named."""
    if isinstance(endpoints, str):
        endpoints = endpoints.split(",")
    if not isinstance(endpoints, Iterable) or not (given := list(endpoints)):
        raise InvalidArgumentError(f"endpoints must be one or more host:port, not {endpoints!r}")
    # A password with a comma in it is in two of these.
    secret = any("@" in unquote(normalize("NFKC", repr(each))) for each in given)
    parsed = [_parse_one(each, secret=secret) for each in given]
    addresses = list(dict.fromkeys(address for address, _ in parsed))
    return addresses, {scheme for _, scheme in parsed if scheme}


def _parse_one(endpoint: object, *, secret: bool) -> tuple[str, str]:
    shown = repr(endpoint)
    if secret:
        shown = "what is given (a user and password are arguments of their own)"
    wrong = InvalidArgumentError(f"endpoints: {shown} is not host:port or a URL with http(s)")
    if not isinstance(endpoint, str):
        raise wrong
    text = endpoint.strip()
    port = 0
    with suppress(ValueError):  # which tells a part of what is given
        url = urlsplit(text if "://" in text else f"//{text}")
        port = DEFAULT_PORT if url.port is None else url.port
    if not port:
        raise wrong
    rest = url.path.strip("/") or url.query or url.fragment or re.search(r"[\s,@]", text)
    if not url.hostname or rest or url.scheme not in ("", "http", "https"):
        raise wrong
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return f"{host}:{port}", url.scheme


def _read(argument: str, path: object) -> bytes | None:
    if path is None:
        return None
    if not isinstance(path, str | Path):
        raise InvalidArgumentError(f"{argument} must be the path of a file, not {_told(path)}")
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        # Its text has the path once more.
        raise InvalidArgumentError(f"{argument}: {_told(path)} can't be read: {why}") from None
    if not content:
        # gRPC would trust public CAs instead of this one, and ends the process for a client's.
        raise InvalidArgumentError(f"{argument}: {_told(path)} is empty")
    return content


# What is in a URL with a password, in PEM, in settings.
_SECRET = re.compile(r"@|-----|\\n|passw", re.IGNORECASE)


def _told(value: object) -> str:
    """What an error may show of an argument: nothing that could be a password or a key."""
    shown = repr(value)
    if len(shown) > 256 or _SECRET.search(shown):
        return f"what is given, a {type(value).__name__}"
    return shown


def _text(argument: str, value: object, *, secret: bool = False) -> str:
    if not isinstance(value, str) or not value:
        shown = type(value).__name__ if secret else repr(value)
        raise InvalidArgumentError(f"{argument} must be a non-empty str, not {shown}")
    return value


_lent: WeakKeyDictionary[Any, EtcdClient] = WeakKeyDictionary()


def client_of(etcd: object) -> EtcdClient:
    """The `EtcdClient` for what a user has: the same one for the same object.

    A client of python-etcd3 or etcd-sdk-python lends its channels, its metadata and its timeout.

    Raises:
        ClientRequiredError: it is none of these.
    """
    if isinstance(etcd, EtcdClient):
        return etcd
    with suppress(TypeError):  # what can't be a key is no client, which is told below
        if known := _lent.get(etcd):
            return known
    # No lock: a signal's handler may come here on the same thread. Of two clients made at the same
    # time the first is everybody's; the other one has started nothing.
    return _lent.setdefault(etcd, _borrow(etcd, _lent_wires(etcd)))


def _lent_wires(etcd: object) -> list[GrpcWire]:
    # Told by what they have, so that neither library needs to be there.
    channels: dict[object, Any]
    members = getattr(etcd, "endpoints", None)
    if isinstance(members, Mapping):  # etcd-sdk-python: one channel for each endpoint
        channels = {name: getattr(member, "channel", None) for name, member in members.items()}
    else:  # python-etcd3
        channels = {getattr(etcd, "_url", "etcd"): getattr(etcd, "channel", None)}
    if not channels or not all(isinstance(each, grpc.Channel) for each in channels.values()):
        raise ClientRequiredError(
            "etcd must be what microlock.connect() returns, or a client of python-etcd3 or "
            f"etcd-sdk-python (no asyncio, no HTTP gateway), not {_told(etcd)}"
        )
    return [GrpcWire(channel, str(name), lent=True) for name, channel in channels.items()]


def _borrow(etcd: Any, wires: list[GrpcWire]) -> EtcdClient:
    owner = ref(etcd)  # a strong one would keep it, and this client with it, for ever

    def metadata() -> Metadata:
        return tuple(getattr(owner(), "metadata", None) or ())

    timeout = getattr(etcd, "timeout", None)
    seconds = DEFAULT_TIMEOUT if timeout is None else check_duration("timeout", timeout)
    return EtcdClient(wires, timeout=seconds, identity=Given(metadata))
