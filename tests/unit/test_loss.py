"""The loss of a hold, to wait for: the deadline counts by itself, a release is no loss."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

import pytest
from shared_etcd import Store
from walk import Foo

from microlock.core.hold import HoldState
from microlock.engine import clock
from microlock.engine.loss import ThreadLoss
from microlock.engine.reentrant_event import ReentrantEvent
from microlock.errors import LockLostError

# Seconds after which a thread that hangs is a failure.
PATIENCE = 20.0


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    monkeypatch.setattr(clock.REAL, "now", lambda: store.now)


@pytest.fixture
def loss(foo: Foo, hold: HoldState) -> ThreadLoss:
    hold.ended = ReentrantEvent()
    return ThreadLoss(foo.status, hold, clock.REAL)


class Ended(ReentrantEvent):
    """The end of a hold, for which one waits by the clock of the store.

    Args:
        course: what happens meanwhile, one thing in each wait; then time passes.
    """

    def __init__(self, store: Store, course: Iterable[Callable[[], object]]) -> None:
        super().__init__()
        self._store = store
        self._course = iter(course)

    def wait(self, timeout: float | None = None, clock: clock.Clock = clock.REAL) -> bool:
        assert timeout is not None
        if happens := next(self._course, None):
            happens()
        elif not self.is_set():
            self._store.pass_time(timeout)
        return self.is_set()


@pytest.fixture
def wait(loss: ThreadLoss, hold: HoldState, store: Store) -> Callable[..., bool]:
    """Waits for the loss of the hold, while all this happens."""

    def wait(*course: Callable[[], object], timeout: float | None = None) -> bool:
        hold.ended = Ended(store, course)
        return loss.wait(timeout)

    return wait


def test_a_hold_is_lost_by_its_deadline_alone(foo, hold, store, wait):
    end = store.now + foo.remaining
    assert wait()
    assert store.now == pytest.approx(end)


def test_a_loss_by_the_deadline_needs_nobody_to_notice_it(foo, wait):
    wait()
    assert foo.names == ["acquired"]


def test_a_wait_for_a_loss_lasts_as_long_as_the_hold_is_renewed(foo, hold, store, wait):
    end = store.now + foo.remaining
    assert wait(lambda: store.pass_time(2), foo.renew().result)
    assert store.now > end + 2


def test_a_hold_that_is_given_back_is_not_lost(foo, hold, wait):
    assert not wait(foo.unlock().result)


def test_a_hold_whose_lock_is_destroyed_is_not_lost(foo, hold, wait):
    assert not wait(lambda: foo.destroy().result())


@pytest.fixture
def find(foo: Foo, store: Store) -> Callable[[], None]:
    """Deletes the entry, and has the loss found."""

    def find() -> None:
        store.remove(foo.entries[0])
        with pytest.raises(LockLostError):
            foo.renew().result()

    return find


def test_a_hold_that_is_found_lost_is_lost_before_its_deadline(foo, hold, store, wait, find):
    end = store.now + foo.remaining
    assert wait(find)
    assert store.now < end


def test_a_wait_for_a_loss_ends_with_its_time(hold, store, wait):
    start = store.now
    assert not wait(timeout=2)
    assert store.now == start + 2


@pytest.mark.parametrize("timeout", [0, -1])
def test_a_wait_for_a_loss_without_time_looks_only(foo, hold, store, wait, timeout):
    start = store.now
    assert not wait(timeout=timeout)
    assert store.now == start


def test_a_loss_within_the_time_of_a_wait_is_one(hold, wait):
    assert wait(timeout=60)


def test_a_wait_for_a_loss_goes_on_while_the_hold_is_being_given_back(hold, wait):
    assert wait(hold.give_back, hold.stand)


def test_a_wait_for_a_loss_takes_its_time_while_the_hold_is_being_given_back(hold, store, wait):
    start = store.now
    wait(hold.give_back, timeout=1)
    assert store.now == pytest.approx(start + 1)


def test_a_loss_is_not_set_while_the_hold_lasts(loss):
    assert not loss.is_set()


def test_a_loss_is_set_at_the_deadline(foo, loss, store):
    store.pass_time(foo.remaining)
    assert loss.is_set()


def test_what_was_never_held_is_not_lost(foo):
    loss = ThreadLoss(foo.status, None, clock.REAL)
    assert (loss.is_set(), loss.wait()) == (False, False)


def test_what_was_given_back_is_not_lost(foo, loss, store):
    foo.unlock().result()
    store.pass_time(60)
    assert (loss.is_set(), loss.wait()) == (False, False)


def test_a_loss_is_that_of_the_hold_it_was_asked_of(foo, loss, store):
    store.pass_time(60)
    later = ThreadLoss(foo.status, foo.lock().result(), clock.REAL)
    assert (loss.is_set(), later.is_set()) == (True, False)


def test_a_hold_is_lost_to_a_child_of_the_process(foo, loss):
    foo.forked = True
    assert loss.wait()


def wait_elsewhere(foo: Foo, loss: ThreadLoss, end: Callable[[], object]) -> list[bool]:
    """What another thread is told that waits for the loss, when this has ended the hold."""
    foo.extend(3600).result()  # far longer than anybody has patience here
    told: list[bool] = []
    thread = threading.Thread(target=lambda: told.append(loss.wait()), daemon=True)
    thread.start()
    end()
    thread.join(PATIENCE)
    return told


def test_who_waits_for_a_loss_is_woken_when_the_hold_is_given_back(foo, loss):
    assert wait_elsewhere(foo, loss, lambda: foo.unlock().result()) == [False]


def test_who_waits_for_a_loss_is_woken_when_it_is_found(foo, loss, find):
    assert wait_elsewhere(foo, loss, find) == [True]


def test_a_suspended_machine_does_not_make_a_wait_last_as_long_as_the_hold_would_have(loss, hold):
    """The clock that a wait goes by stands still meanwhile."""
    asked = []

    class StandsStill(ReentrantEvent):
        def wait(self, timeout: float | None = None, clock: clock.Clock = clock.REAL) -> bool:
            asked.append(timeout)
            self.set()
            return False

    hold.ended = StandsStill()
    loss.wait()
    assert asked == [0.5]
