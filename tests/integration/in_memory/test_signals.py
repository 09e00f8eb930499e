"""Ctrl-C at any moment, where the request itself runs on the thread that is interrupted."""

from __future__ import annotations

import gc
import random
import signal
import threading
from collections.abc import Iterator
from time import monotonic

import pytest
from watching import DEADLINE

from microlock import Microlock, connect

INTERRUPTS = 500


@pytest.fixture
def _interrupting() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    gc.collect()
    gc.disable()  # an interrupt in what another test's garbage runs is lost
    yield
    gc.enable()
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def lock_for_ever(foo: Microlock, *, interrupted_after: float) -> None:
    try:
        signal.setitimer(signal.ITIMER_REAL, interrupted_after, 1.0)  # once more if it is lost
        while True:
            with foo:
                pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


# One that comes while Python drops what an earlier one has ended is swallowed by Python.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("_interrupting")
def test_interrupts_leave_nothing_and_the_store_to_other_threads() -> None:
    when, rounds, over = random.Random(7), [0], threading.Event()
    with connect("memory://") as etcd:
        foo, bar = Microlock(etcd, "foo", "one", 600), Microlock(etcd, "bar", "two", 600)
        foo.on("unlocked", lambda: None)  # so that there is somebody to tell

        def others() -> None:
            while not over.wait(0.001):
                with bar:
                    rounds[0] += 1

        thread = threading.Thread(target=others)
        thread.start()
        try:
            for _ in range(INTERRUPTS):
                with pytest.raises(KeyboardInterrupt):
                    lock_for_ever(foo, interrupted_after=when.uniform(1e-5, 1e-3))
                if foo.held:  # it came with the first instruction of `__exit__`
                    foo.unlock()
                assert foo.holder() is None
            before, end = rounds[0], monotonic() + DEADLINE
            while rounds[0] == before:
                assert monotonic() < end, "no other thread gets through"
        finally:
            over.set()
            thread.join(DEADLINE)
