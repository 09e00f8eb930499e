"""Threads of the handlers: one lock's in order, those of different locks apart."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import suppress
from weakref import ref

import pytest
from watching import eventually

from microlock.engine import handlers as module
from microlock.engine.handlers import Handlers, Mailbox

# Seconds after which a thread that hangs is a failure.
PATIENCE = 20.0


@pytest.fixture
def handlers() -> Iterator[Handlers]:
    handlers = Handlers()
    yield handlers
    handlers.close()
    assert eventually(lambda: handlers._threads == 0)


class Slow:
    """A job that goes on until it is let go."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        assert self.go.wait(PATIENCE)


@pytest.fixture
def slow() -> Iterator[Slow]:
    job = Slow()
    yield job
    job.go.set()


def done(handlers: Handlers, mailbox: Mailbox) -> None:
    """Waits until all is done that was submitted so far."""
    handlers.end(mailbox, lambda: None, timeout=PATIENCE)


def test_jobs_of_one_lock_are_done_in_order(handlers):
    mailbox, seen = Mailbox(), []
    for number in range(100):
        handlers.submit(mailbox, lambda number=number: seen.append(number))
    done(handlers, mailbox)
    assert seen == [*range(100)]


def test_jobs_of_one_lock_are_done_one_after_the_other(handlers, slow):
    mailbox, seen = Mailbox(), []
    handlers.submit(mailbox, slow)
    handlers.submit(mailbox, lambda: seen.append(1))
    assert slow.begun.wait(PATIENCE)
    assert seen == []
    slow.go.set()
    done(handlers, mailbox)
    assert seen == [1]


def test_a_slow_handler_of_one_lock_delays_no_other_locks(handlers, slow):
    told = threading.Event()
    handlers.submit(Mailbox(), slow)
    handlers.submit(Mailbox(), told.set)
    assert told.wait(PATIENCE)
    assert not slow.go.is_set()


def test_many_slow_handlers_delay_no_other_locks(handlers):
    slow = [Slow() for _ in range(20)]
    for each in slow:
        handlers.submit(Mailbox(), each)
    told = threading.Event()
    handlers.submit(Mailbox(), told.set)
    assert told.wait(PATIENCE)
    for each in slow:
        each.go.set()


def test_there_are_so_many_threads_at_most_and_others_wait(handlers, monkeypatch):
    monkeypatch.setattr(module, "_LIMIT", 2)
    slow, told = [Slow(), Slow()], threading.Event()
    for each in slow:
        handlers.submit(Mailbox(), each)
    assert all(each.begun.wait(PATIENCE) for each in slow)
    handlers.submit(Mailbox(), told.set)
    assert handlers._threads == 2
    assert not told.is_set()
    slow[0].go.set()
    assert told.wait(PATIENCE)
    slow[1].go.set()


def test_a_thread_that_is_free_does_the_next_job(handlers):
    mailbox = Mailbox()
    for _ in range(20):
        handlers.submit(mailbox, lambda: None)
        done(handlers, mailbox)
        assert eventually(lambda: handlers._busy == 0)
    assert handlers._threads <= 2


def test_a_job_that_fails_is_logged_and_stops_nothing(handlers, caplog):
    def fail() -> None:
        raise LookupError("a bug of ours")

    mailbox, told = Mailbox(), threading.Event()
    handlers.submit(mailbox, fail)
    handlers.submit(mailbox, told.set)
    assert told.wait(PATIENCE)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("microlock", logging.ERROR)


def test_a_job_that_is_done_is_not_kept(handlers):
    class Job:
        def __call__(self) -> None: ...

    mailbox, job = Mailbox(), Job()
    left = ref(job)
    handlers.submit(mailbox, job)
    del job
    assert eventually(lambda: left() is None)


def test_the_threads_have_a_name(handlers):
    mailbox, seen = Mailbox(), []
    handlers.submit(mailbox, lambda: seen.append(threading.current_thread().name))
    done(handlers, mailbox)
    assert seen == ["microlock-handlers"]


def test_a_thread_without_work_ends(handlers, monkeypatch):
    monkeypatch.setattr(module, "_IDLE", 0.01)
    mailbox = Mailbox()
    handlers.submit(mailbox, lambda: None)
    done(handlers, mailbox)
    assert eventually(lambda: handlers._threads == 0)
    told = threading.Event()
    handlers.submit(mailbox, told.set)
    assert told.wait(PATIENCE)


# A thread that can't be started.


def refuse(self: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_without_any_thread_a_job_is_refused_and_not_done_later(handlers, monkeypatch):
    mailbox, seen = Mailbox(), []
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            handlers.submit(mailbox, lambda: seen.append(1))
    handlers.submit(mailbox, lambda: seen.append(2))
    done(handlers, mailbox)
    assert seen == [2]


def test_a_thread_that_is_there_does_what_another_could_not_be_started_for(
    handlers, monkeypatch, slow
):
    told = threading.Event()
    handlers.submit(Mailbox(), slow)
    assert slow.begun.wait(PATIENCE)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    handlers.submit(Mailbox(), told.set)
    slow.go.set()
    assert told.wait(PATIENCE)


def test_a_job_whose_thread_was_interrupted_in_its_start_is_done_with_the_next(
    handlers, monkeypatch
):
    def interrupt(self: threading.Thread) -> None:
        raise KeyboardInterrupt

    mailbox, seen = Mailbox(), []
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", interrupt)
        with suppress(KeyboardInterrupt):
            handlers.submit(mailbox, lambda: seen.append(1))
    handlers.submit(mailbox, lambda: seen.append(2))
    done(handlers, mailbox)
    assert seen == [1, 2]


# The end of a lock, and of the client.


def test_the_end_of_a_lock_comes_after_what_was_before(handlers, slow):
    mailbox, seen = Mailbox(), []
    handlers.submit(mailbox, slow)
    handlers.submit(mailbox, lambda: seen.append("job"))
    assert slow.begun.wait(PATIENCE)
    slow.go.set()
    handlers.end(mailbox, lambda: seen.append("end"), timeout=PATIENCE)
    assert seen == ["job", "end"]


def test_the_end_of_a_lock_without_jobs_is_done_here(handlers):
    seen: list[int] = []
    handlers.end(Mailbox(), lambda: seen.append(threading.get_ident()), timeout=PATIENCE)
    assert seen == [threading.get_ident()]


def test_nobody_waits_for_a_slow_handler_longer_than_asked(handlers, slow):
    mailbox = Mailbox()
    handlers.submit(mailbox, slow)
    assert slow.begun.wait(PATIENCE)
    handlers.end(mailbox, lambda: None, timeout=0.01)
    assert not slow.go.is_set()


def test_a_handler_that_ends_its_own_lock_does_not_wait_for_itself(handlers):
    mailbox, seen, over = Mailbox(), [], threading.Event()

    def handler() -> None:
        handlers.end(mailbox, over.set, timeout=PATIENCE)
        seen.append(over.is_set())

    handlers.submit(mailbox, handler)
    assert over.wait(PATIENCE)
    assert seen == [False]


def test_what_was_submitted_before_the_close_is_done(handlers, slow):
    mailbox, told = Mailbox(), threading.Event()
    handlers.submit(mailbox, slow)
    handlers.submit(mailbox, told.set)
    handlers.close()
    slow.go.set()
    assert told.wait(PATIENCE)


def test_after_the_close_nothing_more_is_done(handlers):
    handlers.close()
    seen: list[int] = []
    handlers.submit(Mailbox(), lambda: seen.append(1))
    assert (handlers._threads, seen) == (0, [])
