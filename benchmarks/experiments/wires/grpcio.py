"""The same two calls over grpcio, with its options."""

from __future__ import annotations

import itertools
import threading
from queue import SimpleQueue
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

M = TypeVar("M", bound=Message)
Options = tuple[tuple[str, Any], ...]

LIMIT = 64 * 2**20
OWN_CONNECTION: Options = (("grpc.use_local_subchannel_pool", 1),)
ONE_THREAD: Options = (("SingleThreadedUnaryStream", 1),)


def channel(address: str, ca: str | None, options: Options = (), *, aio: bool = False) -> Any:
    module: Any = grpc.aio if aio else grpc
    options = (("grpc.max_receive_message_length", LIMIT), *options)
    if ca is None:
        return module.insecure_channel(address, options=options)
    with open(ca, "rb") as file:
        return module.secure_channel(
            address, grpc.ssl_channel_credentials(file.read()), options=options
        )


class GrpcioWire:
    """Args:
    channels: each with a connection of its own; a thread stays with one.
    streaming: a call is a stream with one reply, which `ONE_THREAD` is for.
    registered: methods are registered with the channel, as generated stubs do.
    """

    def __init__(
        self,
        address: str,
        ca: str | None,
        options: Options = (),
        *,
        channels: int = 1,
        streaming: bool = False,
        registered: bool = False,
    ) -> None:
        if channels > 1:
            options = (*options, *OWN_CONNECTION)
        self._channels = [channel(address, ca, options) for _ in range(channels)]
        self._calls: list[dict[str, Any]] = [{} for _ in range(channels)]
        self._next = itertools.count()
        self._mine = threading.local()
        self._streaming = streaming
        self._more = {"_registered_method": True} if registered else {}

    def call(self, method: str, message: Message, reply: type[M], *, timeout: float = 5) -> M:
        number = getattr(self._mine, "number", None)
        if number is None:
            number = self._mine.number = next(self._next) % len(self._channels)
        call = self._calls[number].get(method)
        if call is None:
            mine = self._channels[number]
            make = mine.unary_stream if self._streaming else mine.unary_unary
            call = self._calls[number][method] = make(
                f"/etcdserverpb.{method}",
                request_serializer=type(message).SerializeToString,
                response_deserializer=reply.FromString,
                **self._more,
            )
        answer = call(message, timeout=timeout)
        if self._streaming:
            (answer,) = answer
        return answer  # type: ignore[no-any-return]

    def stream(self, method: str, reply: type[Message]) -> GrpcioStream:
        return GrpcioStream(self._channels[0], method, reply)

    def close(self) -> None:
        for each in self._channels:
            each.close()


class GrpcioStream:
    def __init__(self, on: Any, method: str, reply: type[Message]) -> None:
        self._requests: SimpleQueue[Message | None] = SimpleQueue()
        call = on.stream_stream(
            f"/etcdserverpb.{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=reply.FromString,
        )
        self._replies = call(iter(self._requests.get, None))

    def send(self, *messages: Message) -> None:
        for message in messages:
            self._requests.put(message)

    def finish(self) -> None:
        self._requests.put(None)

    def receive(self) -> Any:
        return next(self._replies)

    def close(self) -> None:
        self.finish()
        self._replies.cancel()


class GrpcioAio:
    """One channel on a loop of asyncio."""

    def __init__(self, address: str, ca: str | None) -> None:
        self._channel = channel(address, ca, aio=True)
        self._calls: dict[str, Any] = {}

    async def call(self, method: str, message: Message, reply: type[M]) -> M:
        call = self._calls.get(method)
        if call is None:
            call = self._calls[method] = self._channel.unary_unary(
                f"/etcdserverpb.{method}",
                request_serializer=type(message).SerializeToString,
                response_deserializer=reply.FromString,
            )
        return await call(message, timeout=5)  # type: ignore[no-any-return]
