"""The wire over a grpcio channel: a lent one, or our own if ngh2 is not available."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import Message

from microlock.engine.reentrant_event import ReentrantEvent
from microlock.engine.threads import Daemon
from microlock.errors import (
    DestroyedError,
    MicrolockError,
    StoreError,
    StoreTimeoutError,
    StoreTlsError,
    StoreUnavailableError,
)
from microlock.etcd.messages import KEEP_ALIVE
from microlock.etcd.off_main_thread import NotBackError, OffMainThread
from microlock.etcd.translate import closes_at_once, not_http2, short, translate
from microlock.etcd.wire import Address, M, Metadata, Sink
from microlock.etcd.wire.tls import Security

if TYPE_CHECKING:
    from microlock.etcd.wire.aside import ThreadsWire

_FAULTS = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INTERNAL,
}

# grpcio reports every fault of a connection as UNAVAILABLE: only the text tells them apart.
# The request was not sent: the name was not found, or no connection could be made.
_PREFIX = r"^failed to connect to all addresses; last error: (\w+: )?"
_NOT_SENT = ("failed to connect to all addresses", "errors resolving", "DNS resolution failed")
# "Unwrap failed": with TLS 1.3 a server refuses a client's certificate after the handshake.
_TLS = ("SSL", "Tls handshake", "Unwrap failed", "Hostname Verification", "security handshaker")
_TLS_PERHAPS = ("Socket closed", "Connection reset", "Handshake read failed")
_NOT_ETCD = ("Failed parsing HTTP/2",)
# A call that was under way when its channel was closed, or its stream.
_BY_US = ("Channel closed", "Locally cancelled")


_OPTIONS: tuple[tuple[str, int | str], ...] = (
    # With gRPC's own backoff, 1 s and rising, it would take seconds to notice that etcd is back.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    # Despite its name, the most time of one attempt: TCP (which sends a lost packet again after
    # 1 s), TLS and HTTP/2.
    ("grpc.min_reconnect_backoff_ms", 3_000),
    # Notice a member that stopped without a word. etcd ends connections that ping more often
    # than every 5 s (--grpc-keepalive-min-time).
    ("grpc.keepalive_time_ms", 6_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 3_000),
    # There may be many names under a lock; etcd itself limits what it sends.
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
)


def dialled(
    address: Address, security: Security | None, server_name: str | None, answered: ReentrantEvent
) -> GrpcWire:
    """The wire over our own grpcio channel, where sockets with ngh2 are not available."""
    options = _OPTIONS
    if server_name:
        options += (("grpc.ssl_target_name_override", server_name),)
    if security:
        files = (security.ca, security.key, security.cert)
        read = [Path(each).read_bytes() if each else None for each in files]
        credentials = grpc.ssl_channel_credentials(*read)
        make = partial(grpc.secure_channel, credentials=credentials)
    else:
        make = partial(grpc.insecure_channel)
    # grpcio's threads block the signals that the thread blocks which starts them.
    channel = OffMainThread().aside(lambda: make(address.text, options=options))
    return GrpcWire(channel, address.text, answered=answered)


class GrpcWire:
    """A `Wire` over a grpcio channel."""

    def __init__(
        self,
        channel: grpc.Channel,
        address: str,
        *,
        answered: ReentrantEvent | None = None,
        lent: bool = False,
    ) -> None:
        self._answered = answered or ReentrantEvent()
        self.address = address
        self._channel = channel
        self._lent = lent
        self._calls: dict[str, Callable[..., Any]] = {}
        self._off_main_thread = OffMainThread()

    @property
    def answered(self) -> bool:
        return self._answered.is_set()

    def call(
        self, method: str, message: Message, reply: type[M], *, timeout: float, metadata: Metadata
    ) -> M:
        call = self._calls.get(method)
        if call is None:
            streamed = method == KEEP_ALIVE
            make: Any = self._channel.stream_stream if streamed else self._channel.unary_unary
            call = make(
                method,
                request_serializer=type(message).SerializeToString,
                response_deserializer=reply.FromString,
            )
            call = self._calls[method] = partial(_first, call) if streamed else call
        # A stream has a grpcio thread, which blocks the signals that the thread blocks which starts
        # it.
        run = self._off_main_thread.aside if method == KEEP_ALIVE else self._off_main_thread.run
        try:
            answer: M = run(
                partial(call, message, timeout=timeout, metadata=metadata), patience=timeout + 2
            )
        except (grpc.RpcError, ValueError) as error:
            raise self._translated(error) from error
        except NotBackError:
            raise StoreTimeoutError(
                f"the call to etcd at {self.address} did not return", may_have_happened=True
            ) from None
        self._answered.set()
        return answer

    def stream(
        self,
        method: str,
        reply: type[M],
        sink: Sink[M],
        *,
        timeout: float | None,
        metadata: Metadata,
    ) -> GrpcStream:
        open_stream = self._channel.stream_stream(
            method,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=reply.FromString,
        )
        requests: SimpleQueue[Message | None] = SimpleQueue()
        try:
            call = open_stream(iter(requests.get, None), timeout=timeout, metadata=metadata)
        except ValueError as error:
            raise self._translated(error) from error
        stream = GrpcStream(call, requests)
        try:
            Daemon("microlock-stream", _push, call, sink, self._translated).start()
        except RuntimeError as error:  # too many threads, or the interpreter exits
            stream.close()
            raise StoreUnavailableError(
                f"no thread can be started to read from {self.address}"
            ) from error
        return stream

    def on_loop(self) -> ThreadsWire:
        from microlock.etcd.wire.aside import (
            ThreadsWire,
        )  # imports asyncio, which not everybody needs

        return ThreadsWire(self)

    def close(self) -> None:
        if not self._lent:
            self._channel.close()

    def _translated(self, error: Exception) -> MicrolockError:
        if isinstance(error, grpc.RpcError):
            translated = translate_rpc(error, self.address, answered=self.answered)
            # A refusal is an answer; a fault of the connection is not.
            if error.code() not in _FAULTS:
                self._answered.set()
            return translated
        if "closed" in str(error):  # grpcio's ValueError, for "closed channel", "Channel closed!"
            return DestroyedError(f"the connection to {self.address} is closed")
        raise error


def _first(open_stream: Callable[..., Any], message: Message, **options: Any) -> Any:
    """One request and its answer on a stream, which ends only then: else a proxy cancels it."""
    requests: SimpleQueue[Message | None] = SimpleQueue()
    requests.put(message)
    call = open_stream(iter(requests.get, None), **options)
    try:
        return next(call)
    except StopIteration:
        raise StoreUnavailableError("etcd ended the stream", may_have_happened=True) from None
    finally:
        requests.put(None)


def _push(call: Any, sink: Sink[Any], translated: Callable[[Exception], MicrolockError]) -> None:
    """Passes the replies of a stream to the sink, and then the error that ended it."""
    end: MicrolockError
    try:
        for reply in call:
            sink(reply)
        end = StoreUnavailableError("etcd ended the stream", may_have_happened=True)
    except grpc.RpcError as error:
        end = translated(error)
        end.__cause__ = error
    except Exception as error:  # noqa: BLE001  the sink gets it
        end = StoreError(f"the stream can't be read: {error!r}", may_have_happened=True)
        end.__cause__ = error
    sink(end)


class GrpcStream:
    def __init__(self, call: Any, requests: SimpleQueue[Message | None]) -> None:
        self._cancel: Callable[[], bool] = call.cancel
        self._requests = requests

    def send(self, *messages: Message) -> None:
        for message in messages:
            self._requests.put(message)

    def finish(self) -> None:
        self._requests.put(None)

    def close(self) -> None:
        self.finish()  # ends the thread by which grpcio reads the requests
        self._cancel()


def translate_rpc(error: grpc.RpcError, address: str, *, answered: bool) -> MicrolockError:
    """Translates the failure of an RPC.

    Args:
        error: the error that a call raised.
        address: the address of the member, for the message.
        answered: whether this address has ever answered.
    """
    code, details = error.code(), error.details() or ""

    def has(texts: tuple[str, ...]) -> bool:
        return any(text in details for text in texts)

    if code is grpc.StatusCode.CANCELLED and has(_BY_US):
        return DestroyedError(f"the connection to {address} was closed")
    if code is not grpc.StatusCode.UNAVAILABLE or not has(_NOT_SENT):
        return translate(code.name, details, address, answered=answered)
    reason = short(re.sub(_PREFIX, "", details))
    if has(_TLS):
        return StoreTlsError(f"no TLS connection to {address} ({reason})")
    if has(_NOT_ETCD):
        return not_http2(address, reason, answered=answered)
    if has(_TLS_PERHAPS) and not answered:
        return closes_at_once(address, reason)
    kind = StoreTimeoutError if "timed out" in details else StoreUnavailableError
    return kind(f"no connection to {address} ({reason})")
