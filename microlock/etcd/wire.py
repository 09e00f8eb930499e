"""The wire to one etcd member: one request with one answer, and one stream.

Another transport than grpcio has these two calls to provide, and raises the same errors.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

import grpc
from google.protobuf.message import Message

from microlock.engine.reentrant_event import ReentrantEvent
from microlock.engine.threads import Daemon
from microlock.errors import (
    DestroyedError,
    MicrolockError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from microlock.etcd.off_main_thread import NotBackError, OffMainThread
from microlock.etcd.translate import translate

M = TypeVar("M", bound=Message)
_FAULTS = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INTERNAL,
}

Metadata = tuple[tuple[str, str], ...]

# What takes the replies of a stream as they come, and at last the error that it ended with. It is
# called on a thread of the wire, and is to return at once.
Sink = Callable[[M | MicrolockError], None]

# Without it a stream to a member that is cut off from its leader stays silent for ever.
HAS_LEADER: Metadata = (("hasleader", "true"),)


class Stream(Protocol):
    """Requests and replies that flow independently, until one side ends it."""

    def send(self, message: Message) -> None:
        """Queues a request; never blocks, and may be called from a garbage collection."""

    def finish(self) -> None:
        """No request follows."""

    def close(self) -> None:
        """Ends it; the sink gets DestroyedError."""


class Wire(Protocol):
    """The way to one member of etcd.

    Attributes:
        address: where it is, for messages.
        answered: whether it ever gave an answer, or another member of the same etcd did.
    """

    address: str

    @property
    def answered(self) -> bool: ...

    def call(
        self, method: str, message: Message, reply: type[M], *, timeout: float, metadata: Metadata
    ) -> M:
        """One request, one answer, within `timeout` seconds. Raises an StoreError."""

    def stream(
        self,
        method: str,
        reply: type[M],
        sink: Sink[M],
        *,
        timeout: float | None,
        metadata: Metadata,
    ) -> Stream:
        """Opens a stream, whose replies go to `sink`. Raises a MicrolockError if that fails."""

    def close(self) -> None: ...


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
            call = self._calls[method] = self._channel.unary_unary(
                method,
                request_serializer=type(message).SerializeToString,
                response_deserializer=reply.FromString,
            )
        try:
            answer: M = self._off_main_thread.run(
                partial(call, message, timeout=timeout, metadata=metadata), patience=timeout + 2
            )
        except (grpc.RpcError, ValueError) as error:
            raise self._translated(error) from error
        except NotBackError:
            raise StoreTimeoutError(
                f"the call to etcd at {self.address} did not come back", may_have_happened=True
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
            raise StoreUnavailableError(f"no thread can read from {self.address}") from error
        return stream

    def close(self) -> None:
        if not self._lent:
            self._channel.close()

    def _translated(self, error: Exception) -> MicrolockError:
        if isinstance(error, grpc.RpcError):
            translated = translate(error, self.address, answered=self.answered)
            # A refusal is an answer. A fault of the connection is none.
            if error.code() not in _FAULTS:
                self._answered.set()
            return translated
        if "closed" in str(error):  # grpcio's ValueError, for "closed channel", "Channel closed!"
            return DestroyedError(f"the connection to {self.address} is closed")
        raise error


def _push(call: Any, sink: Sink[Any], translated: Callable[[Exception], MicrolockError]) -> None:
    """Hands on what the call tells, until it has ended."""
    end: MicrolockError
    try:
        for reply in call:
            sink(reply)
        end = StoreUnavailableError("etcd ended the stream", may_have_happened=True)
    except grpc.RpcError as error:
        end = translated(error)
        end.__cause__ = error
    except Exception as error:  # noqa: BLE001  whoever waits for a reply learns of it
        end = StoreError(f"the stream can't be read: {error!r}", may_have_happened=True)
        end.__cause__ = error
    sink(end)


class GrpcStream:
    def __init__(self, call: Any, requests: SimpleQueue[Message | None]) -> None:
        self._cancel: Callable[[], bool] = call.cancel
        self._requests = requests

    def send(self, message: Message) -> None:
        self._requests.put(message)

    def finish(self) -> None:
        self._requests.put(None)

    def close(self) -> None:
        self.finish()  # lets the thread go that grpcio reads the requests with
        self._cancel()
