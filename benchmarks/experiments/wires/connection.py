"""gRPC on one connection, for many threads, and without a thread of its own.

Who waits for an answer reads, for all (the leader); the others sleep until their answer is there,
or until the leader has its own and one of them is to read on. With `reader=True` a thread leads
all the time.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from exchange import (
    CANCELLED,
    DEADLINE_EXCEEDED,
    INTERNAL,
    REFUSED_STREAM,
    UNAVAILABLE,
    Exchange,
    RpcFailure,
    refusal,
    status,
)
from framing import (
    BrokenProtocolError,
    DataCame,
    Event,
    Framing,
    GoesAway,
    Headers,
    HeadersCame,
)
from pipe import Pipe

# Seconds that an answer to a ping may wait for a request to go with: Go's servers send a ping with
# about every reply, and on loopback a packet costs as much as all the rest.
PONG_DELAY = 0.5
# Seconds without a byte after which we look, before a call, for what has come while nobody read: a
# ping, or the end.
STALE = 1.0


class Connection:
    def __init__(
        self, pipe: Pipe, framing: Framing, *, reader: bool = False, lazy: bool = True
    ) -> None:
        self._pipe = pipe
        self._lazy = lazy
        self._framing = framing
        self._state = threading.Lock()  # of all that follows, and of the order of what is sent
        self._sending = threading.Lock()  # of the socket; never waited for
        self._unsent = True  # there may be something to send
        self._exchanges: dict[int, Exchange] = {}
        self._led = reader  # someone reads
        self._broken: RpcFailure | None = None
        self._going = False  # no stream is to begin
        self._heard = time.monotonic()
        self._process = os.getpid()
        self._flush()
        if reader:
            threading.Thread(target=self._lead, args=(lambda: False, None), daemon=True).start()

    def usable(self) -> bool:
        """Whether a stream can begin, as far as the server has said."""
        if self._process != os.getpid():
            return False
        if time.monotonic() - self._heard > STALE:
            self._look()
        return self._broken is None and not self._going

    def begin(self, headers: Headers, data: bytes, *, end: bool) -> Exchange:
        self._check_process()
        exchange = Exchange()
        with self._state:
            if self._broken or self._going or not self._framing.may_open():
                raise RpcFailure(UNAVAILABLE, "no stream can begin", processed=False)
            exchange.stream = self._framing.open(headers)
            self._exchanges[exchange.stream] = exchange
            self._framing.send(exchange.stream, data, end=end)
            self._unsent = True
        self._flush()
        return exchange

    def send(self, exchange: Exchange, data: bytes, *, end: bool = False) -> None:
        self._check_process()
        with self._state:
            if not exchange.ended:
                self._framing.send(exchange.stream, data, end=end)
                self._unsent = True
        self._flush()

    def cancel(self, exchange: Exchange, code: int = CANCELLED) -> None:
        self._check_process()
        with self._state:
            if not exchange.ended:
                self._exchanges.pop(exchange.stream, None)
                exchange.end(RpcFailure(code, "given up"))
                if self._broken is None:
                    self._framing.reset(exchange.stream)
                    self._unsent = True
        self._flush()

    def wait(self, exchange: Exchange, ready: Callable[[], object], deadline: float | None) -> None:
        """Returns when it is ready or has ended; after the deadline it is given up."""
        while not (ready() or exchange.ended):
            self._check_process()
            with self._state:
                if ready() or exchange.ended:
                    return
                leads = not self._led
                self._led = True
                exchange.asleep = not leads
            try:
                if leads:
                    self._lead(lambda: ready() or exchange.ended, deadline)
                else:
                    self._sleep(exchange, deadline)
            except TimeoutError:
                self.cancel(exchange, DEADLINE_EXCEEDED)

    def close(self) -> None:
        if self._process == os.getpid():  # of a fork's child, the parent's socket stays as it is
            self._break(RpcFailure(UNAVAILABLE, "closed"))
            self._pipe.shut()
        self._pipe.close()

    # The leader

    def _lead(self, ready: Callable[[], object], deadline: float | None) -> None:
        try:
            while not ready() and self._broken is None:
                data = self._receive(deadline)
                self._heard = time.monotonic()
                with self._state:
                    for event in self._framing.feed(self._pipe.opened(data)):
                        self._came(event)
                    self._unsent = True
                self._flush(lazily=self._lazy)
        except TimeoutError:
            raise
        except (OSError, ValueError, BrokenProtocolError) as error:
            self._break(RpcFailure(UNAVAILABLE, repr(error)))
        finally:
            with self._state:
                self._led = False
                for other in self._exchanges.values():
                    if other.asleep:
                        other.wake()
                        break

    def _look(self) -> None:
        with self._state:
            if self._led or self._broken:
                return
            self._led = True
        with suppress(TimeoutError):
            self._lead(lambda: False, time.monotonic())
        self._heard = time.monotonic()
        self._unsent = True
        self._flush()

    def _receive(self, deadline: float | None) -> bytes:
        left = None if deadline is None else max(0.0001, deadline - time.monotonic())
        if self._lazy and (left is None or left > PONG_DELAY):
            try:
                return self._pipe.receive(PONG_DELAY)
            except TimeoutError:
                self._unsent = True
                self._flush()
            left = None if deadline is None else max(0.0001, deadline - time.monotonic())
        return self._pipe.receive(left)

    def _sleep(self, exchange: Exchange, deadline: float | None) -> None:
        left = -1 if deadline is None else max(0.0, deadline - time.monotonic())
        if exchange.alarm.acquire(timeout=left):
            return
        with self._state:
            if exchange.asleep:
                exchange.asleep = False
                raise TimeoutError
            exchange.alarm.acquire()  # it was released a moment ago

    def _came(self, event: Event) -> None:
        if isinstance(event, GoesAway):
            self._going = True
            for stream in [each for each in self._exchanges if each > event.last]:
                failure = RpcFailure(UNAVAILABLE, "the server goes away", processed=False)
                self._exchanges.pop(stream).end(failure)
            return
        exchange = self._exchanges.get(event.stream)
        if exchange is None:
            return
        if isinstance(event, DataCame):
            exchange.take(event.data)
            if event.ended:
                self._end(exchange, RpcFailure(INTERNAL, "it ended without a status"))
        elif isinstance(event, HeadersCame):
            if event.ended:
                self._end(exchange, status(event.headers))
            elif refused := refusal(event.headers):
                self._framing.reset(event.stream)
                self._end(exchange, refused)
        else:
            processed = event.code != REFUSED_STREAM
            failure = RpcFailure(UNAVAILABLE, f"reset, {event.code}", processed=processed)
            self._end(exchange, failure)

    def _end(self, exchange: Exchange, failure: RpcFailure | None) -> None:
        del self._exchanges[exchange.stream]
        exchange.end(failure)

    def _flush(self, *, lazily: bool = False) -> None:
        """Sends what there is. If someone sends already, it goes with that, or after it."""
        while self._unsent and self._sending.acquire(blocking=False):
            try:
                with self._state:
                    self._unsent = False
                    data = self._pipe.sealed(self._framing.take(lazily=lazily))
                self._pipe.write(data)
            except OSError as error:
                self._break(RpcFailure(UNAVAILABLE, repr(error)))
            finally:
                self._sending.release()

    def _break(self, failure: RpcFailure) -> None:
        with self._state:
            self._fail_all(failure)

    def _fail_all(self, failure: RpcFailure) -> None:
        if self._broken is None:
            self._broken = failure
            exchanges, self._exchanges = self._exchanges, {}
            for exchange in exchanges.values():
                exchange.end(failure)
            with suppress(OSError):
                self._pipe.shut()

    def _check_process(self) -> None:
        if self._process != os.getpid():
            raise RpcFailure(UNAVAILABLE, "the connection is of another process", processed=False)
