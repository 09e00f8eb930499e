"""An interrupt on any line of the library: what the object says afterwards is what etcd has."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from conftest import Etcd
from nodes import Make
from test_processes import started
from watching import threads_of_microlock

import microlock
from microlock import Microlock

OURS = str(Path(microlock.__file__).parent)
TTL = 60


class Interrupter:
    """Raises KeyboardInterrupt on one line of microlock that this thread comes to."""

    def __init__(self, number: int) -> None:
        self.left = number
        self.seen: Counter[tuple[str, int]] = Counter()

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(OURS):
            return None
        if event == "line":
            line = code.co_filename, frame.f_lineno
            self.seen[line] += 1
            self.left -= self.seen[line] <= 2  # of a loop, the first two rounds
            if not self.left:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self


def interrupted(call: Callable[[], object], number: int) -> bool:
    """Whether so many lines were run, and the call was interrupted there."""
    tracing = sys.gettrace()
    interrupter = Interrupter(number)
    gc.disable()  # it would interrupt a generator that an earlier round has left
    sys.settrace(interrupter)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(tracing)
        gc.enable()
    assert interrupter.left > 0, "the interrupt was swallowed"
    return False


@pytest.fixture(autouse=True, scope="module")
def no_thread_is_taken_for_another_tests() -> Iterator[None]:
    """A tracer raises on the line that leaves a `with`, where a signal does not: a lock that stays
    taken then keeps a thread for ever."""
    yield
    gc.collect()
    for thread in threads_of_microlock():
        thread.name = "left by an interrupt"


def lock(foo: Microlock) -> None:
    foo.lock()


def wait(foo: Microlock) -> None:
    foo.lock(timeout=5)


def block(foo: Microlock) -> None:
    with foo:
        pass


def unlock(foo: Microlock) -> None:
    foo.unlock()


def renew(foo: Microlock) -> None:
    foo.renew()


def extend(foo: Microlock) -> None:
    foo.extend(TTL + 1)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # of a dial that is interrupted
@pytest.mark.parametrize(
    ("call", "warm"),
    [
        *[(call, False) for call in (lock, wait, block, unlock, renew, extend)],
        *[(call, True) for call in (lock, wait, block)],
    ],
)
def test_an_interrupt_on_any_line_leaves_an_object_that_tells_what_etcd_has(
    make: Make, call: Callable[[Microlock], None], warm: bool
) -> None:
    observer = make("observer")
    number = 0
    done = False
    while not done:
        number += 1
        foo = make("foo", ttl=TTL)
        if warm:
            foo.lock()
            foo.unlock()
        if call in (unlock, renew, extend):
            foo.lock()
        done = not interrupted(lambda foo=foo: call(foo), number)
        holder = observer.holder()
        assert (holder and holder.token) == foo.token, f"after line {number}"
        foo.destroy()
        assert observer.holder() is None, f"after line {number}"
    assert number > 20
    gc.collect()  # now, while that is no error


def test_interrupts_by_signals_at_any_moment_leave_an_object_that_tells_what_etcd_has(
    etcd_server: Etcd, key: str
) -> None:
    """In a process of its own, whose signals are no other test's."""
    script = """
import random, signal

class Interrupt(BaseException):
    pass

def interrupt(*_):
    raise Interrupt

signal.signal(signal.SIGALRM, interrupt)
random = random.Random(1)
etcd, other = connect(endpoint), connect(endpoint)
observer = Microlock(other, key, "observer")
foo = Microlock(etcd, key, "foo", ttl=60)
wrong = 0
for _ in range(300):
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0002, 0.006))
        while True:
            with foo:
                pass
    except Interrupt:
        pass
    holder = observer.holder()
    wrong += (holder and holder.token) != foo.token
    if foo.held:  # where it came as the block was entered or left
        foo.unlock()
print(wrong, flush=True)
"""
    with started(script, etcd_server.endpoint, key) as process:
        assert process.stdout
        assert process.stdout.readline() == "0\n"
