"""Driving flows on a `Store` while replies are lost, come late, or are interrupted.

The client repeats what has no answer until the time of the call is over. So a flow meets a lost
reply in two ways: as the answer to a repeated request, or as the error that ends the call.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar

from meanwhile import EARLY, Happening, stand
from shared_etcd import CHANGED, Store

from microlock.core import flows
from microlock.core.flows import Flow
from microlock.core.lease import Lease
from microlock.core.place import AwaitTurn, Place
from microlock.core.port import Get, Grant, KeepAlive, Read, Request
from microlock.core.wait import Wait
from microlock.errors import (
    DestroyedError,
    StoreError,
    StoreNoSpaceError,
    StorePermissionError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from microlock.memory.store import timed

T = TypeVar("T")

TTL = 5


class Fault(Protocol):
    def meet(self, request: Request | AwaitTurn, caller: Caller) -> Any:
        """The reply that the flow gets, or the error."""


class Caller:
    """Whoever runs flows: all their requests are counted, and some meet a fault.

    Args:
        faults: by the number of the request, from 0, or by its type.

    Attributes:
        requests: what the flows asked for, so far.
    """

    def __init__(self, store: Store, faults: Mapping[Any, Fault] | None = None) -> None:
        self.store = store
        self.requests: list[Request | AwaitTurn] = []
        # Copies under way: to arrive before the next request, and after all of them.
        self.soon: list[Request] = []
        self.late: list[Request] = []
        self._faults = {} if faults is None else faults
        self._course: Iterator[Happening] = iter(())
        self._wait = Wait(self.store.names.locks, None, EARLY)

    def run(self, flow: Flow[T]) -> T:
        resume = partial(next, flow)
        while True:
            try:
                request = resume()
            except StopIteration as decided:
                return decided.value
            try:
                reply = self.perform(request)
            except BaseException as error:  # noqa: BLE001  it is the flow's to judge
                resume = partial(flow.throw, error)
            else:
                resume = partial(flow.send, reply)

    def try_lock(self, lease: Lease | None = None, *, lost: Place | None = None) -> Any:
        ids = self.store.lease_ids
        now = self.store.now
        return self.run(
            flows.try_lock(self.store.names, TTL, lease, lost=lost, now=now, lease_ids=ids)
        )

    def wait(
        self,
        lease: Lease | None = None,
        *,
        lost: Place | None = None,
        course: Iterable[Happening] = (),
    ) -> Any:
        """`course`: what happens while the flow waits. After that the time is over."""
        self._course = iter(course)
        self._wait = Wait(self.store.names.locks, None, EARLY)
        ids = self.store.lease_ids
        now = self.store.now
        return self.run(flows.wait(self.store.names, TTL, lease, lost=lost, now=now, lease_ids=ids))

    def release(self, place: Place) -> Any:
        return self.run(flows.release(self.store.names, place, TTL))

    def renew(self, place: Place) -> Any:
        return self.run(flows.renew(self.store.names, place))

    def extend(self, place: Place, ttl: int = 30) -> Any:
        return self.run(flows.extend(self.store.names, place, ttl, lease_ids=self.store.lease_ids))

    def adopt(self) -> Any:
        return self.run(flows.adopt(self.store.names, now=self.store.now))

    def perform(self, request: Request | AwaitTurn) -> Any:
        fault = self._faults.get(len(self.requests)) or self._faults.get(type(request))
        self.requests.append(request)
        self._arrive(self.soon)
        return fault.meet(request, self) if fault else self.ask(request)

    def ask(self, request: Request | AwaitTurn) -> Any:
        """What is answered where nothing goes wrong."""
        if isinstance(request, AwaitTurn):
            return stand(self.store, self._wait, request, self._course)
        return self.store.ask(request)

    def deliver(self) -> None:
        """Lets everything arrive that is still on its way."""
        self._arrive(self.soon)
        self._arrive(self.late)

    def _arrive(self, copies: list[Request]) -> None:
        while copies:
            with suppress(StoreError):  # nobody is told
                self.store.apply(copies.pop(0))


class Fate(enum.Enum):
    """What became of a request whose reply was lost."""

    NEVER = "never arrives"
    APPLIED = "was applied"
    SOON = "is applied just before the next request"
    LATE = "is applied after the report"


class End(enum.Enum):
    """How the flow is told."""

    ERROR = "the time is over"
    REPEAT = "another copy is answered"
    INTERRUPT = "Ctrl-C"


@dataclass(frozen=True)
class NoAnswer:
    fate: Fate
    end: End = End.ERROR

    def __str__(self) -> str:
        return f"{self.fate.name}-{self.end.name}".lower()

    def meet(self, request: Request | AwaitTurn, caller: Caller) -> Any:
        if isinstance(request, AwaitTurn):
            return self._end_of_waiting(request, caller)
        match self.fate:
            case Fate.APPLIED:
                with suppress(StoreError):
                    caller.store.apply(request)
            case Fate.SOON:
                caller.soon.append(request)
            case Fate.LATE:
                caller.late.append(request)
        if self.end is End.INTERRUPT:
            raise KeyboardInterrupt
        if self.end is End.ERROR or isinstance(request, Grant):  # which is never repeated
            # As the client says: neither changes what there is.
            doubt = not isinstance(request, Read | Get | KeepAlive)
            raise StoreTimeoutError("no answer", may_have_happened=doubt)
        try:
            return _repeated(caller.store.ask(request))
        except StoreError as error:
            error.may_have_happened = True  # as the client says of any doubt on the way
            raise

    def _end_of_waiting(self, request: AwaitTurn, caller: Caller) -> Any:
        """Nothing is sent that could be lost: it fails at its beginning, or at its end."""
        result = None if self.fate is Fate.NEVER else caller.ask(request)
        if self.end is End.INTERRUPT:
            raise KeyboardInterrupt
        if self.end is End.ERROR:
            raise StoreUnavailableError("the watch ended")
        return result or caller.ask(request)


def _repeated(reply: Any) -> Any:
    return replace(reply, repeated=True) if isinstance(reply, CHANGED) else reply


@dataclass(frozen=True)
class Refusal:
    """etcd certainly did not do it."""

    error: type[StoreError | DestroyedError]

    def __str__(self) -> str:
        return self.error.__name__

    def meet(self, request: Request | AwaitTurn, caller: Caller) -> Any:
        raise self.error("refused")


@dataclass(frozen=True)
class Slow:
    """It takes seconds: on its way to etcd, or the reply on its way back."""

    there: float = 0.0
    back: float = 0.0

    def meet(self, request: Request, caller: Caller) -> Any:
        sent = caller.store.now
        caller.store.pass_time(self.there)
        reply = caller.store.ask(request)
        caller.store.pass_time(self.back)
        return timed(reply, sent, caller.store.now)


NO_ANSWER = [NoAnswer(fate, end) for end in End for fate in Fate]
REFUSALS = [
    Refusal(each) for each in (StorePermissionError, StoreNoSpaceError, StoreUnavailableError)
]
