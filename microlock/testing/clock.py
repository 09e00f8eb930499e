"""A clock that stands still until a test turns it.

It knows the threads that wait by it, and which of them have work. So it goes from one alarm to the
next, and each time waits until all threads have done their work. The threads work one after the
other, in the order in which the work came to them. So the same test always has the same order of
events.
"""

from __future__ import annotations

import asyncio
import math
import sys
import threading
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from heapq import heappop, heappush
from itertools import count
from queue import Empty
from time import monotonic
from typing import Any, TypeVar
from weakref import WeakSet

from microlock.core.keys import check_seconds

T = TypeVar("T")

# Seconds, by the clock of the system, that one thread may take for its work.
_PATIENCE = 10.0
# Seconds after which the other threads no longer wait for it: it may wait for one of them.
_TURN = 1.0
# The longest wait of the main thread, which can run signal handlers only between waits.
_NAP = 0.5
# So many rounds of an event loop are enough to finish what an alarm has woken.
_ROUNDS = 10


class _Alarm:
    __slots__ = ("ring",)

    def __init__(self, ring: Callable[[], object]) -> None:
        self.ring: Callable[[], object] | None = ring

    def cancel(self) -> None:
        self.ring = None


class TurnedClock:
    """A clock that stands still until `advance()` turns it.

    The thread that makes the clock turns it. If that thread has to wait in a call of a lock, the
    wait turns the clock too: the call takes no real time.
    """

    turned = True

    def __init__(self) -> None:
        self._now = 1000.0
        self._turner = threading.current_thread()
        self._turning = threading.RLock()
        self._waits_since = 0.0  # when the call of that thread began to wait, by the system's clock
        self._changed = threading.Condition(threading.RLock())
        # Under its lock:
        self._alarms: list[tuple[float, int, _Alarm]] = []
        self._numbers = count()
        self._busy: list[threading.Thread] = []  # threads with work; the first one works
        self._workers: WeakSet[threading.Thread] = WeakSet()
        self._loops: WeakSet[asyncio.AbstractEventLoop] = WeakSet()

    def __repr__(self) -> str:
        return f"<TurnedClock at {self._now:g} s>"

    def now(self) -> float:
        return self._now

    # Turning it.

    def advance(self, seconds: float) -> None:
        """Turns the clock, and does everything that falls due on the way.

        Raises:
            InvalidArgumentError: `seconds` is not a number of 0 or more.
            TimeoutError: something takes longer than 10 s of real time, such as a handler that
                waits for something that never comes.
        """
        end = self._now + check_seconds("seconds", seconds)
        with self._turning:
            for _ in self._turn(end):
                self.settle()

    async def advance_async(self, seconds: float) -> None:
        """As `advance()`, in a task: the other tasks of its loop go on meanwhile."""
        for _ in self._turn(self._now + check_seconds("seconds", seconds)):
            await self._settle_async()

    async def until(self, awaitable: Awaitable[T]) -> T:
        """Turns the clock from one alarm to the next until the awaitable is done."""
        done, last = asyncio.ensure_future(awaitable), monotonic() + _PATIENCE
        try:
            while True:
                for _ in self._turn(math.inf, done.done):
                    await self._settle_async()
                if done.done():
                    return done.result()
                if monotonic() > last:
                    raise TimeoutError(
                        f"nothing is due any more at {self._now:g} s to end {done!r}"
                    )
                await asyncio.wait({done}, timeout=0.01)  # another thread may be at work for it
        finally:
            done.cancel()

    async def _settle_async(self) -> None:
        while True:
            self.settle()
            for _ in range(_ROUNDS):
                await asyncio.sleep(0)
            if not self._busy:
                break

    def settle(self) -> None:
        """Waits until everything that is due now is done. Raises as `advance()`."""
        if not self.settled(_PATIENCE):
            first = self._busy[0]
            frame = sys._current_frames().get(first.ident or 0)
            where = "".join(traceback.format_stack(frame)[-3:]) if frame else ""
            raise TimeoutError(f"{first.name} still works after {_PATIENCE:g} s:\n{where}")

    def settled(self, patience: float) -> bool:
        """As `settle()`, but waits at most `patience` real seconds for each thread.

        Returns whether everything is done.
        """
        while True:
            with self._changed:
                if threading.current_thread() in self._busy:
                    return True  # this thread itself has work: others wait for it
                while self._busy:
                    first, end = self._busy[0], monotonic() + patience
                    while self._busy and self._busy[0] is first:
                        if (left := end - monotonic()) <= 0:
                            return False
                        self._changed.wait(min(left, _NAP))
            for loop in tuple(self._loops):
                _run_through(loop, patience)
            if not self._busy:
                return True

    def _turn(self, end: float, over: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Goes from one alarm to the next until the time `end`. At each yield the caller does
        everything that is due by then."""
        yield
        while not over():
            with self._changed:
                while self._alarms and self._alarms[0][2].ring is None:
                    heappop(self._alarms)
                if not self._alarms or self._alarms[0][0] > end:
                    self._now = max(self._now, end) if end < math.inf else self._now
                    return
                at, _, alarm = heappop(self._alarms)
                self._now = max(self._now, at)
                assert alarm.ring
                alarm.ring()
            yield

    # The `Clock` of the locks: see `microlock.engine.clock`.

    def inbox(self) -> _Inbox:
        return _Inbox(self)

    def start(self, thread: threading.Thread) -> None:
        run = thread.run

        def tracked() -> None:
            try:
                run()
            finally:
                self._rest(thread)

        thread.run = tracked  # type: ignore[method-assign]
        with self._changed:
            self._workers.add(thread)
            self._busy.append(thread)
        try:
            thread.start()
        except BaseException:
            if not thread.ident:
                self._rest(thread)
            raise

    def leave(self) -> None:
        thread = threading.current_thread()
        if thread is self._turner:
            self._waits_since = 0.0
            self.settled(_TURN)
        if thread not in self._workers:
            self._rest(thread)

    def alarm(
        self, at: float, wake: Callable[[], object], loop: asyncio.AbstractEventLoop
    ) -> Callable[[], object]:
        with self._changed:
            self._loops.add(loop)
            if at <= self._now:
                return loop.call_soon(wake).cancel
            return self._set(at, partial(_wake_in, loop, wake))

    def _set(self, at: float, ring: Callable[[], object]) -> Callable[[], object]:
        alarm = _Alarm(ring)
        if at < math.inf:
            heappush(self._alarms, (at, next(self._numbers), alarm))
        return alarm.cancel

    def enter(self) -> None:
        """This thread is in a call: the clock waits for it until `leave()`."""
        me = threading.current_thread()
        # Loops are waited for in another way, and the thread that turns the clock waits itself.
        if me is not self._turner and asyncio._get_running_loop() is None:
            with self._changed:
                self._wake(me)
            self.take_turn()

    def take_turn(self) -> None:
        """Waits while other threads do work that came to them earlier."""
        me, end = threading.current_thread(), monotonic() + _TURN
        with self._changed:
            while me in self._busy and self._busy[0] is not me:
                if (left := end - monotonic()) <= 0:
                    return
                self._changed.wait(left)

    def _wake(self, thread: threading.Thread) -> None:
        """This thread has work now. Call it under the lock."""
        if thread not in self._busy:
            self._busy.append(thread)
        self._changed.notify_all()

    def _rest(self, thread: threading.Thread) -> None:
        """This thread has no more work."""
        with self._changed:
            if thread in self._busy:
                self._busy.remove(thread)
                self._changed.notify_all()

    def _wait_by_turning(self, end: float, over: Callable[[], bool]) -> bool:
        """The wait of the thread that turns the clock. False: it has to wait in another way."""
        if threading.current_thread() is not self._turner:
            return False
        if not self._turning.acquire(blocking=False):  # another thread turns it
            return False
        try:
            self._rest(self._turner)
            self._waits_since = self._waits_since or monotonic()
            for _ in self._turn(end, over):
                self.settle()
                if monotonic() - self._waits_since > _PATIENCE:
                    self._waits_since = 0.0  # the clean-up that follows has its own time
                    raise TimeoutError(
                        f"nothing is due any more at {self._now:g} s to end this wait"
                    )
        finally:
            self._turning.release()
        return over() or end < math.inf


class _Inbox:
    """Where threads wait: see `microlock.engine.clock.Inbox`."""

    def __init__(self, clock: TurnedClock) -> None:
        self._clock = clock
        self._items: deque[Any] = deque()
        self._sleepers: list[threading.Thread] = []

    def empty(self) -> bool:
        return not self._items

    def put(self, item: Any, block: bool = True) -> None:
        with self._clock._changed:
            self._items.append(item)
            if self._sleepers:
                self._clock._wake(self._sleepers.pop(0))

    def get_nowait(self) -> Any:
        try:
            return self._items.popleft()
        except IndexError:
            raise Empty from None

    def get(self, *, timeout: float | None = None) -> Any:
        clock = self._clock
        end = math.inf if timeout is None else clock.now() + timeout
        while True:
            clock.take_turn()
            with suppress(Empty):
                return self.get_nowait()
            if clock.now() >= end:
                raise Empty
            if not clock._wait_by_turning(end, lambda: bool(self._items)):
                self._sleep(end)

    def _sleep(self, end: float) -> None:
        """Sleeps until an item comes, or until the time `end`."""
        me, clock = threading.current_thread(), self._clock
        longest = _NAP if me is threading.main_thread() else None
        with clock._changed:
            if self._items:
                return
            self._sleepers.append(me)
            cancel = clock._set(end, partial(self._ring, me))
            clock._rest(me)
            try:
                while me in self._sleepers:
                    clock._changed.wait(longest)
            finally:
                cancel()
                if me in self._sleepers:  # the wait was interrupted
                    self._sleepers.remove(me)

    def _ring(self, thread: threading.Thread) -> None:
        if thread in self._sleepers:
            self._sleepers.remove(thread)
            self._clock._wake(thread)


def _wake_in(loop: asyncio.AbstractEventLoop, wake: Callable[[], object]) -> None:
    with suppress(RuntimeError):  # it is closed
        loop.call_soon_threadsafe(wake)


def _run_through(loop: asyncio.AbstractEventLoop, patience: float) -> None:
    """Waits until the event loop of another thread has done the work it was woken for."""
    if asyncio._get_running_loop() is loop or not loop.is_running():
        return
    done = threading.Event()

    def again(rounds: int) -> None:
        if rounds:
            loop.call_soon(again, rounds - 1)
        else:
            done.set()

    with suppress(RuntimeError):  # it is closed
        loop.call_soon_threadsafe(again, _ROUNDS)
        done.wait(patience)
