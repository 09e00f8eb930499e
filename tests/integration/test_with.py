"""`with` and the decorator: in the block the lock is held, and after it, it is not."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack

import pytest
from cluster import hang
from conftest import Etcd
from ctl import Etcdctl
from faces import BOTH_FACES, ONLY_TASKS, ONLY_THREADS, Microlock
from nodes import LONG, Make, begin, nodes, queued
from watching import DEADLINE, eventually
from witness import AT_ONCE, at_most, entries

from microlock import (
    AlreadyLockedError,
    DestroyedError,
    InvalidArgumentError,
    LockLostError,
    LockUncertainError,
    LossReason,
    StoreError,
)

pytestmark = BOTH_FACES

# How a hold may end in its block, and what it is lost by.
LOSSES: dict[str, tuple[float, Callable[[Etcdctl, Microlock], object], LossReason]] = {
    "expired": (1, lambda etcdctl, lock: None, LossReason.EXPIRED),
    "deleted": (
        LONG,
        lambda etcdctl, lock: etcdctl("del", "--prefix", f"{lock.key}/"),
        LossReason.DELETED,
    ),
    "revoked": (
        LONG,
        lambda etcdctl, lock: etcdctl("lease", "revoke", f"{lock.hold.lease_id:x}"),  # type: ignore[union-attr]
        LossReason.DELETED,
    ),
}


class BodyError(Exception):
    """What the block of a test raises."""


def token_of(lock: Microlock) -> int | None:
    """The token of who holds it, as etcd says."""
    holder = lock.holder()
    return holder and holder.token


# Entering


def test_with_returns_the_lock(make: Make) -> None:
    foo = make()
    with foo as entered:
        assert entered is foo


def test_the_lock_is_held_in_the_block(make: Make) -> None:
    foo, other = make("one"), make("two")
    with foo:
        assert foo.held
        assert token_of(other) == foo.token


def test_with_waits_its_turn(make: Make) -> None:
    one, two = make("one"), make("two")
    steps: list[str] = []
    two.lock()

    def enter() -> None:
        with one:
            steps.append("entered")

    entering = begin(enter)
    assert queued(two)
    steps.append("given back")
    two.unlock()
    entering.result(DEADLINE)
    assert steps == ["given back", "entered"]


def test_blocks_of_many_threads_and_nodes_never_overlap(make: Make, key: str) -> None:
    inside, overlaps = threading.Lock(), []

    def work(node: int) -> int:
        lock = make(f"node-{node % 4}")
        for _ in range(10):
            with lock:
                overlaps.append(not inside.acquire(blocking=False))
                inside.release()
        return node

    working = [begin(lambda node=node: work(node)) for node in range(8)]
    assert [each.result(3 * DEADLINE) for each in working] == list(range(8))
    assert overlaps == [False] * 80


@pytest.mark.parametrize("timeout", [0, 0.5])
def test_the_block_is_not_run_when_the_time_is_over(make: Make, timeout: float) -> None:
    one, two = make("one", timeout=timeout), make("two")
    hold, ran = two.lock(), False
    with at_most(timeout + AT_ONCE), pytest.raises(AlreadyLockedError) as refused, one:
        ran = True
    assert not ran
    assert refused.value.holder.token == hold.token


def test_a_block_that_was_not_entered_leaves_no_place_in_the_queue(
    make: Make, etcdctl: Etcdctl, key: str
) -> None:
    one, two = make("one", timeout=0.5), make("two")
    two.lock()
    with pytest.raises(AlreadyLockedError), one:
        pass
    assert len(entries(etcdctl, key)) == 1


@pytest.mark.parametrize("timeout", [0, 1, None])
@pytest.mark.parametrize("fault", ["kill", "pause"])
def test_the_block_is_not_run_when_etcd_is_down(
    own_etcd: Callable[..., Etcd], fault: str, timeout: float | None
) -> None:
    etcd, ran = own_etcd(), False
    with nodes(etcd.endpoint, "foo", timeout=1) as make:
        foo = make(ttl=1, timeout=timeout)
        foo.holder()  # etcd is known to be there, and worth waiting for
        hang(etcd) if fault == "pause" else etcd.kill()
        # ttl and timeout are 1 s each.
        with at_most(6), pytest.raises((StoreError, LockUncertainError)), foo:
            ran = True
        assert not ran
        assert not foo.held
        if fault == "pause":
            etcd.resume()


def test_the_block_is_not_run_after_destroy(make: Make) -> None:
    foo, ran = make(), False
    foo.destroy()
    with pytest.raises(DestroyedError), foo:
        ran = True
    assert not ran


def test_the_block_is_not_run_when_destroy_ends_the_waiting(make: Make) -> None:
    one, two = make("one"), make("two")
    two.lock()
    ran = threading.Event()

    def enter() -> None:
        with one:
            ran.set()

    entering = begin(enter)
    assert queued(two)
    one.destroy()
    assert isinstance(entering.exception(DEADLINE), DestroyedError)
    assert not ran.is_set()


def test_a_nested_block_of_the_same_object_raises_at_once(make: Make) -> None:
    foo, ran = make(), False
    with foo:
        with at_most(AT_ONCE), pytest.raises(AlreadyLockedError) as refused, foo:
            ran = True
        assert refused.value.holder.token == foo.token
    assert not ran


def test_a_nested_block_of_the_same_object_leaves_the_hold(make: Make) -> None:
    foo, other = make("one"), make("two")
    with foo:
        token = foo.token
        with pytest.raises(AlreadyLockedError), foo:
            pass
        assert foo.held
        assert token_of(other) == token
    assert other.holder() is None


# Leaving


def test_leaving_gives_the_lock_back(make: Make, etcdctl: Etcdctl, key: str) -> None:
    foo = make()
    with foo:
        pass
    assert not foo.held
    assert entries(etcdctl, key) == []


@pytest.mark.parametrize("way", ["return", "break", "continue"])
def test_leaving_by_a_jump_gives_the_lock_back(make: Make, way: str) -> None:
    foo, other = make("one"), make("two")

    def jump() -> None:
        for _ in range(1):
            with foo:
                if way == "return":
                    return
                if way == "break":
                    break
                continue

    jump()
    assert other.holder() is None


@pytest.mark.parametrize("error", [BodyError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_exception_of_the_block_gives_the_lock_back(
    make: Make, etcdctl: Etcdctl, key: str, error: type[BaseException]
) -> None:
    foo, raised = make(), error()
    with pytest.raises(error) as caught, foo:
        raise raised
    assert caught.value is raised
    assert not foo.held
    assert entries(etcdctl, key) == []


def test_the_next_in_the_queue_enters_when_the_block_is_left(make: Make) -> None:
    one, two = make("one"), make("two")
    with one:
        waiting = begin(lambda: two.lock(timeout=None))
        assert queued(one)
        token = one.token
    assert token
    assert waiting.result(AT_ONCE).token > token


def test_a_block_can_be_entered_again_and_again(make: Make) -> None:
    foo, tokens = make(), []
    for _ in range(5):
        with foo:
            tokens.append(foo.token)
    assert tokens == sorted(set(tokens))


@pytest.mark.parametrize("loss", LOSSES)
def test_leaving_says_that_the_lock_was_lost(make: Make, etcdctl: Etcdctl, loss: str) -> None:
    ttl, lose, reason = LOSSES[loss]
    foo, ended = make(ttl=ttl), False

    def work() -> None:
        nonlocal ended
        with foo:
            lose(etcdctl, foo)
            assert eventually(lambda: not foo.held)
            ended = True

    with pytest.raises(LockLostError) as caught:
        work()
    assert ended
    assert caught.value.reason is reason


def test_leaving_finds_out_itself_that_the_lock_was_lost(
    make: Make, etcdctl: Etcdctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("microlock.core.tracker.UNWATCHED", LONG)
    foo = make()

    def work() -> None:
        with foo:
            LOSSES["deleted"][1](etcdctl, foo)
            assert foo.held

    with pytest.raises(LockLostError):
        work()


def test_leaving_a_lost_block_leaves_the_next_holder_alone(make: Make, etcdctl: Etcdctl) -> None:
    one, two = make("one"), make("two")

    def work() -> None:
        with one:
            LOSSES["deleted"][1](etcdctl, one)
            two.lock()

    with pytest.raises(LockLostError):
        work()
    assert two.renew() > 0
    assert token_of(one) == two.token


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_never_replaces_the_blocks_own_exception(
    make: Make, etcdctl: Etcdctl, loss: str
) -> None:
    ttl, lose, _ = LOSSES[loss]
    foo = make(ttl=ttl)

    def work() -> None:
        with foo:
            lose(etcdctl, foo)
            assert eventually(lambda: not foo.held)
            raise BodyError

    with pytest.raises(BodyError):
        work()


@pytest.mark.parametrize("error", [BodyError, KeyboardInterrupt])
@pytest.mark.parametrize("fault", ["kill", "pause"])
def test_a_failed_unlock_never_replaces_the_blocks_own_exception(
    own_etcd: Callable[..., Etcd], fault: str, error: type[BaseException]
) -> None:
    etcd = own_etcd()
    with nodes(etcd.endpoint, "foo", timeout=1) as make:

        def work() -> None:
            with make():
                getattr(etcd, fault)()
                raise error

        with pytest.raises(error):
            work()
        if fault == "pause":
            etcd.resume()


@pytest.mark.parametrize("fault", ["kill", "pause"])
def test_leaving_says_that_the_lock_could_not_be_given_back(
    own_etcd: Callable[..., Etcd], fault: str
) -> None:
    etcd = own_etcd()
    with nodes(etcd.endpoint, "foo", timeout=1) as make:
        with pytest.raises((StoreError, LockUncertainError)), make():
            getattr(etcd, fault)()
        if fault == "pause":
            etcd.resume()


# In the block


def test_unlock_in_the_block_is_fine(make: Make) -> None:
    foo, other = make("one"), make("two")
    with foo:
        foo.unlock()
        assert other.holder() is None


def test_leaving_after_unlock_leaves_the_next_holder_alone(make: Make) -> None:
    one, two = make("one"), make("two")
    with one:
        one.unlock()
        two.lock()
    assert token_of(one) == two.token


def test_leaving_after_unlock_leaves_a_later_hold_of_the_object(make: Make) -> None:
    foo = make()
    with foo:
        foo.unlock()
        hold = foo.lock()
    assert foo.held
    assert token_of(foo) == hold.token


def test_destroy_in_the_block_is_fine(make: Make) -> None:
    foo, other = make("one"), make("two")
    with foo:
        foo.destroy()
        assert other.holder() is None


def test_renew_and_extend_in_the_block_are_given_back_too(make: Make) -> None:
    foo, other = make("one"), make("two")
    with foo:
        foo.renew()
        foo.extend(2 * LONG)
    assert other.holder() is None


# Threads with one object


@pytest.mark.parametrize("ended", ["unlocked", "lost", "unlocked after a second block"])
def test_a_block_that_is_left_late_never_gives_back_the_hold_of_another_thread(
    make: Make, etcdctl: Etcdctl, ended: str
) -> None:
    foo, other = make("one"), make("two")
    over, leave = threading.Event(), threading.Event()

    def late() -> None:
        with foo:
            if ended == "lost":
                LOSSES["deleted"][1](etcdctl, foo)
                assert eventually(lambda: not foo.held)
            else:
                foo.unlock()
            if ended == "unlocked after a second block":
                with foo:
                    pass
            over.set()
            assert leave.wait(DEADLINE)

    leaving = begin(late)
    assert over.wait(DEADLINE)
    with foo:
        token = foo.token
        leave.set()
        error = leaving.exception(DEADLINE)
        assert isinstance(error, LockLostError) if ended == "lost" else error is None
        assert foo.token == token
        assert token_of(other) == token
    assert other.holder() is None


@ONLY_THREADS
def test_a_block_gives_back_the_hold_that_it_took_and_none_that_overtook_it(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    foo = make()
    acquire, tokens = foo._acquire, []

    def overtaken(timeout: float | None) -> object:
        holding = acquire(timeout)
        monkeypatch.undo()
        begin(lambda: (foo.unlock(), tokens.append(foo.lock().token))).result(DEADLINE)
        return holding

    monkeypatch.setattr(foo, "_acquire", overtaken)
    with foo:
        pass
    assert [foo.token] == tokens


def test_a_block_may_be_left_on_another_thread(make: Make) -> None:
    foo, other = make("one"), make("two")
    stack = ExitStack()
    begin(lambda: stack.enter_context(foo)).result(DEADLINE)
    assert foo.held
    stack.close()
    assert other.holder() is None


def test_a_block_of_a_second_thread_waits_until_the_object_gives_its_hold_back(make: Make) -> None:
    foo, inside = make(), []

    def enter() -> None:
        with foo:
            inside.append("second")

    with foo:
        entering = begin(enter)
        time.sleep(0.3)
        inside.append("first")
    entering.result(DEADLINE)
    assert inside == ["first", "second"]


def test_a_block_in_a_block_of_the_same_thread_is_refused_at_once(make: Make) -> None:
    foo = make()
    with foo, at_most(AT_ONCE), pytest.raises(AlreadyLockedError, match="this object"), foo:
        raise AssertionError("there are two in the block")


# ExitStack


def test_an_exit_stack_gives_back_all_locks(make: Make, etcdctl: Etcdctl, prefix: str) -> None:
    with ExitStack() as stack:
        for name in "abc":
            stack.enter_context(make(key=f"{prefix}{name}"))
        assert len(etcdctl("get", "--prefix", "--keys-only", prefix).split()) == 3
    assert etcdctl("get", "--prefix", "--keys-only", prefix).split() == []


def test_an_exit_stack_gives_back_the_first_lock_if_the_second_is_refused(
    make: Make, etcdctl: Etcdctl, prefix: str
) -> None:
    taken = make("two", key=f"{prefix}b")
    taken.lock()

    def work() -> None:
        with ExitStack() as stack:
            stack.enter_context(make(key=f"{prefix}a"))
            stack.enter_context(make(key=f"{prefix}b", timeout=0.5))

    with pytest.raises(AlreadyLockedError):
        work()
    left = etcdctl("get", "--prefix", "--keys-only", prefix).split()
    assert left == entries(etcdctl, f"{prefix}b")


def test_an_exit_stack_gives_back_the_others_if_one_was_lost(
    make: Make, etcdctl: Etcdctl, prefix: str
) -> None:

    def work() -> None:
        with ExitStack() as stack:
            stack.enter_context(make(key=f"{prefix}a"))
            lost = stack.enter_context(make(key=f"{prefix}b"))
            stack.enter_context(make(key=f"{prefix}c"))
            LOSSES["deleted"][1](etcdctl, lost)

    with pytest.raises(LockLostError):
        work()
    assert etcdctl("get", "--prefix", "--keys-only", prefix).split() == []


# As a decorator


def test_a_decorated_function_holds_the_lock(make: Make) -> None:
    foo, other = make("one"), make("two")

    @foo
    def work() -> int | None:
        assert foo.held
        return token_of(other)

    assert work()
    assert other.holder() is None


def test_a_decorated_function_gets_its_arguments_and_returns_its_result(make: Make) -> None:
    @make()
    def work(*args: int, **kwargs: int) -> tuple[tuple[int, ...], dict[str, int]]:
        return args, kwargs

    assert work(1, 2, three=3) == ((1, 2), {"three": 3})


def test_a_decorated_function_keeps_its_name_and_its_signature(make: Make) -> None:
    @make()
    def work(first: int, *, second: int = 2) -> int:
        """Works."""
        return first + second

    assert (work.__name__, work.__doc__) == ("work", "Works.")
    assert list(inspect.signature(work).parameters) == ["first", "second"]


def test_each_call_of_a_decorated_function_takes_the_lock_anew(make: Make) -> None:
    foo = make()

    @foo
    def work() -> int | None:
        return foo.token

    tokens = [work() for _ in range(3)]
    assert len(set(tokens)) == 3
    assert tokens == sorted(tokens, key=lambda token: token or 0)


def test_nothing_is_locked_before_a_decorated_function_is_called(make: Make) -> None:
    foo = make()

    @foo
    def work() -> None:
        raise AssertionError

    assert foo.holder() is None


def test_a_method_can_be_decorated(make: Make) -> None:
    foo = make()

    class Worker:
        def __init__(self, name: str) -> None:
            self.name = name

        @foo
        def work(self, more: str) -> tuple[str, bool]:
            return self.name + more, foo.held

    assert Worker("a").work("b") == ("ab", True)
    assert not foo.held


def test_a_decorated_function_that_raises_gives_the_lock_back(make: Make) -> None:
    foo, other = make("one"), make("two")

    @foo
    def work() -> None:
        raise BodyError

    with pytest.raises(BodyError):
        work()
    assert other.holder() is None


def test_a_decorated_function_is_not_called_without_the_lock(make: Make) -> None:
    two, called = make("two"), False
    two.lock()

    @make("one", timeout=0.5)
    def work() -> None:
        nonlocal called
        called = True

    with pytest.raises(AlreadyLockedError):
        work()
    assert not called


def test_a_decorated_function_says_that_the_lock_was_lost(make: Make, etcdctl: Etcdctl) -> None:
    foo = make()

    @foo
    def work() -> None:
        LOSSES["deleted"][1](etcdctl, foo)

    with pytest.raises(LockLostError):
        work()


async def asynchronous() -> None: ...


def generator() -> Iterator[None]:
    yield


async def asynchronous_generator() -> AsyncIterator[None]:
    yield


@ONLY_THREADS
@pytest.mark.parametrize("function", [asynchronous, generator, asynchronous_generator])
def test_what_works_after_its_call_can_not_be_decorated(
    make: Make, function: Callable[[], object]
) -> None:
    with pytest.raises(InvalidArgumentError, match=function.__name__):
        make()(function)


@ONLY_TASKS
@pytest.mark.parametrize("function", [print, generator, asynchronous_generator])
def test_what_is_no_coroutine_function_can_not_be_decorated_on_a_loop(
    make: Make, function: Callable[[], object]
) -> None:
    with pytest.raises(InvalidArgumentError, match=function.__name__):
        make()._shown(function)
