"""An event that may be set at any moment, by the thread that waits for it too."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from time import monotonic

import pytest

from microlock.engine.reentrant_event import ReentrantEvent


def test_a_flag_is_not_set_at_first():
    assert not ReentrantEvent().is_set()


def test_a_wait_ends_with_its_time():
    assert not ReentrantEvent().wait(0.01)


def test_a_time_that_is_over_is_no_time():
    assert not ReentrantEvent().wait(-1)


def test_a_wait_for_what_is_set_is_none():
    flag = ReentrantEvent()
    flag.set()
    assert flag.wait()


def test_a_flag_that_was_cleared_is_waited_for_again():
    flag = ReentrantEvent()
    flag.set()
    flag.clear()
    assert not flag.wait(0)


def test_all_who_wait_are_woken():
    flag = ReentrantEvent()
    with ThreadPoolExecutor() as pool:
        waits = [pool.submit(flag.wait, 20) for _ in range(3)]
        flag.set()
        assert [each.result() for each in waits] == [True] * 3


def test_what_is_set_just_before_the_waiting_begins_is_not_lost(monkeypatch):
    """As by the handler of a signal, between the look and the wait."""
    flag = ReentrantEvent()

    class Interrupted(SimpleQueue):  # type: ignore[type-arg]
        def get(self, block: bool = True, timeout: float | None = None) -> None:
            flag.set()
            return super().get(block, timeout)

    monkeypatch.setattr("microlock.engine.clock.SimpleQueue", Interrupted)
    assert flag.wait(20)


def test_nothing_is_left_of_a_wait():
    flag = ReentrantEvent()
    flag.wait(0)
    assert flag.waiting == []


def test_a_signal_that_came_to_another_thread_ends_a_wait_of_the_main_one():
    class Handled(Exception):
        pass

    def handle(*_: object) -> None:
        raise Handled

    waits, over = ReentrantEvent(), threading.Event()
    before = signal.signal(signal.SIGUSR2, handle)
    other = threading.Thread(target=over.wait)
    other.start()
    try:
        assert other.ident
        timer = threading.Timer(0.05, signal.pthread_kill, (other.ident, signal.SIGUSR2))
        timer.start()
        begun = monotonic()
        with pytest.raises(Handled):
            waits.wait(20)
        assert monotonic() - begun < 10
        timer.join()
    finally:
        over.set()
        other.join()
        signal.signal(signal.SIGUSR2, before)
