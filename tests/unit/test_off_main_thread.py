"""Calls of the main thread on another one."""

from __future__ import annotations

import gc
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from microlock.etcd.off_main_thread import NotBackError, OffMainThread


def test_a_call_of_the_main_thread_is_made_on_another():
    assert OffMainThread().run(threading.current_thread) is not threading.main_thread()


def test_a_call_of_another_thread_is_made_where_it_is():
    with ThreadPoolExecutor() as pool:
        caller, made = pool.submit(
            lambda: (threading.current_thread(), OffMainThread().run(threading.current_thread))
        ).result()
    assert made is caller


def test_one_thread_makes_all_calls():
    elsewhere = OffMainThread()
    assert len({elsewhere.run(threading.current_thread) for _ in range(20)}) == 1


def test_what_the_call_raises_is_raised():
    with pytest.raises(LookupError, match="that one"):
        OffMainThread().run(lambda: {}["that one"])


def test_an_interrupt_ends_the_wait_and_the_next_call_need_not_wait_for_the_first():
    elsewhere, leave = OffMainThread(), threading.Event()
    main = threading.main_thread().ident
    assert main

    def interrupt() -> None:
        signal.pthread_kill(main, signal.SIGINT)
        leave.wait(20)

    with pytest.raises(KeyboardInterrupt):
        elsewhere.run(interrupt)
    assert elsewhere.run(lambda: 5) == 5
    leave.set()


def test_a_call_that_overruns_its_time_is_given_up():
    leave = threading.Event()
    with pytest.raises(NotBackError):
        OffMainThread().run(lambda: leave.wait(20), patience=0.01)
    leave.set()


def test_its_thread_ends_when_it_is_dropped():
    elsewhere = OffMainThread()
    thread = elsewhere.run(threading.current_thread)
    del elsewhere
    gc.collect()
    thread.join(20)
    assert not thread.is_alive()


def test_a_call_is_made_where_it_is_when_no_thread_can_be_started(monkeypatch):
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    assert OffMainThread().run(threading.current_thread) is threading.main_thread()
