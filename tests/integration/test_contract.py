"""What the lock promises, over every client of etcd that it can be made with.

The node `one` locks over the client under test, the node `two` over one of microlock's own. One is
behind `etcd grpc-proxy`, which changes nothing.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from operator import methodcaller
from time import monotonic
from typing import Any

import pytest
import relays
from clients import CLIENTS
from conftest import Etcd
from ctl import Etcdctl
from etcds import Choice
from faces import BOTH_FACES, Microlock
from proxy import Proxy
from watching import Recorder, eventually

from microlock import (
    AlreadyLockedError,
    DestroyedError,
    EtcdClient,
    Hold,
    LockLostError,
    LockNotOwnedError,
    LossReason,
    State,
    connect,
    events,
)

pytestmark = BOTH_FACES

LONG = 60  # no test takes so long
SHORT = 2  # to be waited out, and to be renewed in time on a machine that stalls

Make = Callable[..., Microlock]


@pytest.fixture(scope="module", params=[*CLIENTS, "grpc-proxy"])
def etcd(request: pytest.FixtureRequest, etcd_server: Etcd, etcd_choice: Choice) -> Iterator[Any]:
    with ExitStack() as stack:
        endpoint = etcd_server.endpoint
        if request.param in relays.KINDS:
            between = relays.relay(request.param, endpoint, binary=etcd_choice.binary)
            endpoint = stack.enter_context(between)
        make = CLIENTS.get(request.param, connect)
        yield stack.enter_context(closing(make(endpoint)))


@pytest.fixture(scope="module")
def second_etcd(etcd_server: Etcd) -> Iterator[EtcdClient]:
    with connect(etcd_server.endpoint) as client:
        yield client


@pytest.fixture
def make(etcd: Any, second_etcd: EtcdClient, key: str) -> Iterator[Make]:
    """Makes locks that are destroyed at the end: `make("two", ttl=5)`."""
    with ExitStack() as stack:

        def make(node_id: str = "one", *, key: str = key, ttl: float = LONG) -> Microlock:
            lock = Microlock(second_etcd if node_id == "two" else etcd, key, node_id, ttl)
            stack.callback(lock.destroy)
            return lock

        yield make


@dataclass(frozen=True)
class Case:
    """A hold of the shortest ttl that was begun and waited out.

    Attributes:
        hold: as it was taken.
        lock: whose it should be by now, if it was kept.
        second: an object of the node `two`.
    """

    hold: Hold
    lock: Microlock
    second: Microlock


# What became of the holds: the ttl each began with, how it went on, and whether that is repeated.
FATES: dict[str, tuple[float, Callable[[Microlock], object], bool]] = {
    "renewed": (SHORT, methodcaller("renew"), True),
    "extended": (SHORT, lambda lock: lock.extend(LONG), False),
    "shortened": (LONG, lambda lock: lock.extend(SHORT), False),
    "expired": (SHORT, lambda _: None, False),
}


@pytest.fixture(scope="module")
def waited_out(face: str, etcd: Any, second_etcd: EtcdClient) -> Iterator[Callable[..., Case]]:
    """Holds of every fate, once all that are to end have ended: waits once for all the tests.

    `waited_out("extended", by="a fresh object", test="...")`; each test has its own.
    """
    prefix = f"test-{uuid.uuid4().hex[:8]}/"
    with ExitStack() as stack:

        def lock(etcd: Any, key: str, node_id: str, ttl: float = LONG) -> Microlock:
            made = Microlock(etcd, key, node_id, ttl)
            stack.callback(made.destroy)
            return made

        # At the same time: each renewal takes a proxy half a second.
        pool = stack.enter_context(ThreadPoolExecutor(16))
        going_on = []
        cases: dict[tuple[str, str, str], Case] = {}
        renewing = []
        for fate, by, test in WAITED_OUT:
            ttl, go_on, again = FATES[fate]
            key = f"{prefix}{fate}/{by}/{test}"
            first = lock(etcd, key, "one", ttl)
            heir = first if by == "itself" else lock(etcd, key, "one", ttl)
            cases[fate, by, test] = Case(first.lock(), heir, lock(second_etcd, key, "two"))
            going_on.append(pool.submit(go_on, heir))
            if again:
                renewing.append(heir)
        sentinel = lock(etcd, f"{prefix}sentinel", "one", SHORT)  # ends last
        sentinel.lock()
        ending = [
            case.second for (fate, *_), case in cases.items() if fate in ("expired", "shortened")
        ]

        for each in going_on:
            each.result()

        def ended() -> bool:
            list(pool.map(methodcaller("renew"), renewing))
            return not any(each.holder() for each in (sentinel, *ending))

        assert eventually(ended)
        for each in renewing:
            each.extend(LONG)  # the tests may take their time
        yield lambda fate, by="itself", test="": cases[fate, by, test]


@pytest.fixture
def keys(etcdctl: Etcdctl, prefix: str) -> Callable[[], set[str]]:
    """The keys of this test."""
    return lambda: set(etcdctl("get", "--prefix", "--keys-only", prefix).split())


@pytest.fixture
def leases(etcdctl: Etcdctl) -> Callable[[], set[int]]:
    """The leases of all tests."""
    return lambda: {int(each, 16) for each in etcdctl("lease", "list").splitlines()[1:]}


def entry(key: str, hold: Hold) -> str:
    return f"{key}/{hold.lease_id:x}"


# lock()


def test_lock_takes_a_free_key(make: Make) -> None:
    make("one").lock()
    holder = make("two").holder()
    assert holder
    assert holder.node_id == "one"


def test_lock_tells_what_was_taken(make: Make, key: str) -> None:
    hold = make("one", ttl=LONG).lock()
    holder = make("two").holder()
    assert holder
    assert (hold.key, hold.node_id, hold.ttl, hold.attempts) == (key, "one", LONG, 1)
    assert (hold.token, hold.lease_id) == (holder.token, holder.lease_id)
    assert 0 < hold.waited < 5


def test_lock_raises_who_holds_it_when_another_node_does(make: Make) -> None:
    hold = make("two").lock()
    with pytest.raises(AlreadyLockedError) as caught:
        make("one").lock()
    assert caught.value.holder.node_id == "two"
    assert caught.value.holder.token == hold.token


def test_lock_raises_when_another_object_of_the_node_holds_it(make: Make) -> None:
    make("one").lock()
    for timeout in (0, 1):
        with pytest.raises(AlreadyLockedError, match=r"by one \(another object of this node\)"):
            make("one").lock(timeout=timeout)


def test_lock_raises_when_this_object_holds_it(make: Make) -> None:
    one = make("one")
    hold = one.lock()
    with pytest.raises(AlreadyLockedError, match=r"by one \(this object\)") as caught:
        one.lock()
    assert caught.value.holder.token == hold.token


def test_lock_on_a_held_object_leaves_the_hold(make: Make) -> None:
    one = make("one")
    hold = one.lock()
    with pytest.raises(AlreadyLockedError):
        one.lock()
    assert (one.held, one.token) == (True, hold.token)


def test_lock_takes_a_key_that_was_given_back(make: Make) -> None:
    one, two = make("one"), make("two")
    one.lock()
    one.unlock()
    assert two.lock().node_id == "two"


def test_tokens_rise(make: Make) -> None:
    tokens = []
    for lock in [make("one"), make("two"), make("one")] * 3:
        tokens.append(lock.lock().token)
        lock.unlock()
    assert tokens == sorted(set(tokens))


def test_a_failed_lock_leaves_no_key(make: Make, keys: Callable[[], set[str]], key: str) -> None:
    hold = make("two").lock()
    with pytest.raises(AlreadyLockedError):
        make("one").lock()
    assert keys() == {entry(key, hold)}


def test_a_failed_lock_leaves_no_lease(make: Make, leases: Callable[[], set[int]]) -> None:
    make("two").lock()
    before = leases()
    with pytest.raises(AlreadyLockedError):
        make("one").lock()
    assert leases() <= before


def test_one_of_20_threads_on_one_object_wins(make: Make) -> None:
    one = make("one")
    start = threading.Barrier(20)

    def attempt(_: int) -> bool:
        start.wait()
        try:
            one.lock()
        except AlreadyLockedError:
            return False
        return True

    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(attempt, range(20))) == 1


def test_one_of_20_objects_wins_in_each_of_20_rounds(make: Make) -> None:
    locks = [make(node_id) for node_id in ("one", "two") * 10]
    start = threading.Barrier(20)

    def attempt(lock: Microlock) -> bool:
        start.wait()
        try:
            lock.lock()
        except AlreadyLockedError:
            return False
        return True

    winners = []
    with ThreadPoolExecutor(20) as pool:
        for _ in range(20):
            winners.append(sum(pool.map(attempt, locks)))
            next(lock for lock in locks if lock.held).unlock()
    assert winners == [1] * 20


# unlock()


def test_unlock_frees_the_key(make: Make, keys: Callable[[], set[str]]) -> None:
    one = make("one")
    one.lock()
    one.unlock()
    assert keys() == set()


def test_unlock_raises_when_another_node_holds_it(make: Make) -> None:
    make("two").lock()
    with pytest.raises(LockNotOwnedError) as caught:
        make("one").unlock()
    assert caught.value.holder
    assert caught.value.holder.node_id == "two"


def test_unlock_leaves_another_nodes_hold(make: Make) -> None:
    two = make("two")
    hold = two.lock()
    with pytest.raises(LockNotOwnedError):
        make("one").unlock()
    assert two.holder() is not None
    two.renew()
    assert two.token == hold.token


def test_unlock_raises_when_nobody_holds_it(make: Make) -> None:
    with pytest.raises(LockNotOwnedError) as caught:
        make("one").unlock()
    assert caught.value.holder is None


def test_unlock_raises_when_it_was_given_back_already(make: Make) -> None:
    one = make("one")
    one.lock()
    one.unlock()
    with pytest.raises(LockNotOwnedError, match="this object does not hold it") as caught:
        one.unlock()
    assert not isinstance(caught.value, LockLostError)


def test_unlock_raises_after_a_failed_lock(make: Make) -> None:
    make("two").lock()
    one = make("one")
    with pytest.raises(AlreadyLockedError):
        one.lock()
    with pytest.raises(LockNotOwnedError):
        one.unlock()


def test_a_fresh_object_of_the_node_unlocks(make: Make) -> None:
    make("one").lock()
    make("one").unlock()
    assert make("two").holder() is None


def test_a_hold_that_a_fresh_object_gave_back_is_lost(make: Make) -> None:
    one = make("one")
    one.lock()
    make("one").unlock()
    with pytest.raises(LockLostError) as caught:
        one.unlock()
    assert caught.value.reason is LossReason.DELETED


# Two objects of one node that both locked: each answers for its own hold


@pytest.fixture
def deposed(make: Make, etcdctl: Etcdctl, key: str) -> tuple[Microlock, Microlock]:
    """An object whose entry an operator deleted, and its successor of the same node id."""
    first, second = make("one"), make("one")
    etcdctl("del", entry(key, first.lock()))
    second.lock()
    return first, second


@pytest.mark.parametrize(
    "call", [methodcaller("unlock"), methodcaller("renew"), lambda it: it.extend(LONG)]
)
def test_the_loss_is_raised_when_another_object_of_the_node_took_it(
    deposed: tuple[Microlock, Microlock], call: Callable[[Microlock], object]
) -> None:
    with pytest.raises(LockLostError) as caught:
        call(deposed[0])
    assert caught.value.reason is LossReason.DELETED


@pytest.mark.parametrize(
    "call",
    [
        methodcaller("unlock"),
        methodcaller("renew"),
        lambda it: it.extend(LONG),
        lambda it: it.lock(),
        lambda it: it.destroy(),
    ],
    ids=["unlock", "renew", "extend", "lock", "destroy"],
)
def test_no_call_touches_the_hold_of_another_object_of_the_node(
    deposed: tuple[Microlock, Microlock],
    call: Callable[[Microlock], object],
    etcdctl: Etcdctl,
    key: str,
) -> None:
    first, second = deposed
    before = etcdctl("get", "--prefix", f"{key}/", "-w", "fields").splitlines()[4:]
    with suppress(LockNotOwnedError, AlreadyLockedError):
        call(first)
    assert etcdctl("get", "--prefix", f"{key}/", "-w", "fields").splitlines()[4:] == before
    assert second.renew() > 0


# renew() and extend()


def test_renew_puts_the_whole_ttl_back(make: Make) -> None:
    one = make("one", ttl=LONG)
    one.lock()
    left = one.remaining
    assert eventually(lambda: one.remaining < left - 1)
    assert left - 0.7 < one.renew() < LONG  # a proxy takes half a second


def test_renew_raises_when_another_node_holds_it(make: Make) -> None:
    make("two").lock()
    with pytest.raises(LockNotOwnedError) as caught:
        make("one").renew()
    assert caught.value.holder
    assert caught.value.holder.node_id == "two"


def test_renew_raises_when_nobody_holds_it(make: Make) -> None:
    with pytest.raises(LockNotOwnedError):
        make("one").renew()


def test_renew_raises_when_it_was_given_back(make: Make) -> None:
    one = make("one")
    one.lock()
    one.unlock()
    with pytest.raises(LockNotOwnedError):
        one.renew()


def test_extend_keeps_the_token(make: Make) -> None:
    one = make("one")
    hold = one.lock()
    one.extend(2 * LONG)
    holder = make("two").holder()
    assert holder
    assert (one.token, holder.token) == (hold.token, hold.token)


def test_extend_leaves_one_lease(make: Make, leases: Callable[[], set[int]]) -> None:
    before = leases()
    one = make("one")
    one.lock()
    one.extend(2 * LONG)
    one.extend(3 * LONG)
    holder = make("two").holder()
    assert holder
    assert leases() - before == {holder.lease_id}


def test_an_extended_hold_can_be_renewed_and_unlocked(make: Make) -> None:
    one = make("one")
    one.lock()
    one.extend(2 * LONG)
    assert one.renew() > 1.5 * LONG
    one.unlock()
    assert make("two").holder() is None


def test_extend_raises_when_nobody_holds_it(make: Make) -> None:
    with pytest.raises(LockNotOwnedError):
        make("one").extend(LONG)


# What an object knows


def test_an_object_that_never_locked_holds_nothing(make: Make) -> None:
    one = make("one")
    assert (one.held, one.token, one.remaining) == (False, None, 0.0)
    assert (one.state, one.lost_reason) == (State.RELEASED, None)


def test_a_holder_knows_its_hold(make: Make) -> None:
    one = make("one")
    hold = one.lock()
    assert (one.held, one.token) == (True, hold.token)
    assert LONG - 5 < one.remaining < LONG
    assert (one.state, one.lost_reason) == (State.HELD, None)


def test_after_unlock_nothing_is_held(make: Make) -> None:
    one = make("one")
    one.lock()
    one.unlock()
    assert (one.held, one.token, one.remaining) == (False, None, 0.0)
    assert (one.state, one.lost_reason) == (State.RELEASED, None)


def test_a_refused_object_holds_nothing(make: Make) -> None:
    make("two").lock()
    one = make("one")
    with pytest.raises(AlreadyLockedError):
        one.lock()
    assert (one.held, one.state) == (False, State.RELEASED)


def test_the_deadline_comes_before_etcd_could_end_the_hold(make: Make) -> None:
    one = make("one")
    before = monotonic()
    hold = one.lock()
    deadline = one.remaining + monotonic()
    assert deadline < before + hold.ttl


def test_a_revoked_lease_is_found_by_renew(make: Make, etcdctl: Etcdctl) -> None:
    one = make("one")
    hold = one.lock()
    etcdctl("lease", "revoke", f"{hold.lease_id:x}")
    with pytest.raises(LockLostError):
        one.renew()
    assert (one.held, one.state) == (False, State.LOST)


def test_lock_works_again_at_once_after_the_deadline(make: Make) -> None:
    one = make("one", ttl=1)
    lost = one.lock()
    assert eventually(lambda: not one.held)
    assert one.lock().token > lost.token


# A ttl later


@pytest.mark.parametrize("by", ["itself", "a fresh object"])
@pytest.mark.parametrize("fate", ["renewed", "extended"])
def test_a_kept_hold_outlives_its_first_ttl(
    waited_out: Callable[..., Case], fate: str, by: str
) -> None:
    case = waited_out(fate, by)
    holder = case.second.holder()
    assert holder
    assert (case.lock.held, case.lock.token, holder.token) == (True, *[case.hold.token] * 2)


def test_extend_shortens_too(waited_out: Callable[..., Case]) -> None:
    assert waited_out("shortened").second.lock().token


def test_a_hold_that_is_not_renewed_is_lost(waited_out: Callable[..., Case]) -> None:
    lock = waited_out("expired", test="state").lock
    assert (lock.held, lock.token, lock.remaining) == (False, None, 0.0)
    assert (lock.state, lock.lost_reason) == (State.LOST, LossReason.EXPIRED)


CALLS: dict[str, Callable[[Microlock], object]] = {
    "unlock": methodcaller("unlock"),
    "renew": methodcaller("renew"),
    "extend": lambda lock: lock.extend(LONG),
}


@pytest.mark.parametrize("call", CALLS)
def test_after_expiry_calls_raise_and_touch_nothing(
    waited_out: Callable[..., Case], call: str
) -> None:
    case = waited_out("expired", test=call)
    hold = case.second.lock()
    with pytest.raises(LockLostError) as caught:
        CALLS[call](case.lock)
    # Whichever thread is first: the one of deadlines, or the one of the watch.
    assert caught.value.reason in (LossReason.EXPIRED, LossReason.DELETED)
    case.second.renew()
    assert case.second.token == hold.token


def test_lock_works_again_after_expiry(waited_out: Callable[..., Case]) -> None:
    case = waited_out("expired", test="again")
    assert case.lock.lock().token > case.hold.token
    assert case.lock.state is State.HELD


WAITED_OUT = [
    *((fate, by, "") for fate in ("renewed", "extended") for by in ("itself", "a fresh object")),
    ("shortened", "itself", ""),
    *(("expired", "itself", test) for test in ("state", "again", *CALLS)),
]


# Names


def test_a_lock_and_one_nested_in_it_do_not_meet(make: Make, key: str) -> None:
    make("one", key=key).lock()
    assert make("two", key=f"{key}/nightly").lock().token


def test_a_lock_and_the_one_it_is_nested_in_do_not_meet(make: Make, key: str) -> None:
    make("one", key=f"{key}/nightly").lock()
    assert make("two", key=key).lock().token


def test_unlock_leaves_nested_locks_alone(make: Make, key: str) -> None:
    outer, nested = make("one", key=key), make("one", key=f"{key}/nightly")
    outer.lock()
    nested.lock()
    outer.unlock()
    assert nested.renew() > 0


@pytest.fixture
def nested(make: Make, key: str) -> list[Microlock]:
    """40 held locks, all nested in the key."""
    locks = [make("one", key=f"{key}/{number:x}/{number}") for number in range(40)]
    for lock in locks:
        lock.lock()
    return locks


@pytest.mark.usefixtures("nested")
def test_a_lock_is_free_behind_40_nested_ones(make: Make) -> None:
    one = make("one")
    hold = one.lock()
    holder = make("two").holder()
    assert holder
    assert holder.token == hold.token


@pytest.mark.usefixtures("nested")
def test_a_lock_behind_40_nested_ones_is_refused_to_a_second(make: Make) -> None:
    make("two").lock()
    with pytest.raises(AlreadyLockedError) as caught:
        make("one").lock()
    assert caught.value.holder.node_id == "two"


@pytest.mark.usefixtures("nested")
def test_a_refusal_behind_40_nested_locks_leaves_no_key(
    make: Make, keys: Callable[[], set[str]]
) -> None:
    make("two").lock()
    before = keys()
    with pytest.raises(AlreadyLockedError):
        make("one").lock()
    assert keys() == before


@pytest.mark.usefixtures("nested")
def test_a_refusal_behind_40_nested_locks_leaves_no_lease(
    make: Make, leases: Callable[[], set[int]]
) -> None:
    make("two").lock()
    before = leases()
    with pytest.raises(AlreadyLockedError):
        make("one").lock()
    assert leases() <= before


def test_a_lock_behind_40_nested_ones_can_be_taken_in_turn(
    make: Make, nested: list[Microlock]
) -> None:
    one, two = make("one"), make("two")
    for lock in [one, two, one]:
        lock.lock()
        lock.unlock()
    assert all(lock.renew() > 0 for lock in nested[::10])  # a proxy takes 0.5 s for each


@pytest.mark.parametrize(
    ("name", "node_id"),
    [
        ("замок 鍵 🔒\n", "узел-ñ-🖥"),
        ("k" * (4096 - 14), "n" * 4096),
        ("🔒" * ((4096 - 14) // 4), "узел" * 512),
        ("ends/in/slash/", "a/b"),
        ("//", "\x01\x7f"),
    ],
    ids=["unicode", "4 KiB", "4 KiB of unicode", "slash", "only slashes"],
)
def test_names_come_back_as_they_went(make: Make, prefix: str, name: str, node_id: str) -> None:
    key = f"{prefix}{name}"
    one = make(node_id, key=key)
    one.lock()
    with pytest.raises(AlreadyLockedError) as caught:
        make("two", key=key).lock()
    one.unlock()
    assert caught.value.holder.node_id == node_id


# The events of the key


@pytest.mark.parametrize("name", ["locked", events.locked, Microlock.events.locked])
def test_locked_is_told_of_another_node(make: Make, name: str) -> None:
    seen = Recorder(make("one"), name)
    hold = make("two").lock()
    (event,) = seen.wait_for(1)
    assert (event.name, event.node_id, event.token) == ("locked", "two", hold.token)


@pytest.mark.parametrize("name", ["unlocked", events.unlocked, Microlock.events.unlocked])
def test_unlocked_is_told_of_another_node(make: Make, name: str) -> None:
    two = make("two")
    hold = two.lock()
    seen = Recorder(make("one"), name)
    two.unlock()
    (event,) = seen.wait_for(1)
    assert (event.name, event.node_id, event.token) == ("unlocked", "two", hold.token)


def test_the_events_of_the_key_are_told_of_this_object_too(make: Make) -> None:
    one = make("one")
    seen = Recorder(one)
    hold = one.lock()
    one.unlock()
    assert seen.told(2) == [("locked", hold.token), ("unlocked", hold.token)]


def test_a_nested_lock_tells_nothing(make: Make, key: str) -> None:
    seen = Recorder(make("one"))
    nested = make("two", key=f"{key}/nightly")
    nested.lock()
    nested.unlock()
    hold = make("two").lock()
    assert seen.told(1) == [("locked", hold.token)]


def test_renew_and_extend_tell_nothing(make: Make) -> None:
    one, two = make("one"), make("two")
    seen = Recorder(one)
    hold = two.lock()
    two.renew()
    two.extend(2 * LONG)
    two.renew()
    two.unlock()
    assert seen.told(2) == [("locked", hold.token), ("unlocked", hold.token)]


# destroy()


def test_destroy_unbinds_the_listeners(make: Make) -> None:
    one = make("one")
    seen, still = Recorder(one), Recorder(make("two"))
    one.destroy()
    make("two").lock()
    assert len(still.wait_for(1)) == 1
    assert (seen.events, one.listeners("locked")) == ([], [])


def test_destroy_twice_is_fine(make: Make) -> None:
    one = make("one")
    one.lock()
    one.destroy()
    one.destroy()


def test_destroy_gives_the_hold_back(make: Make, keys: Callable[[], set[str]]) -> None:
    one = make("one")
    one.lock()
    one.destroy()
    assert keys() == set()


@pytest.mark.parametrize("held", [True, False], ids=["held", "released"])
def test_destroy_frees_the_lease(make: Make, leases: Callable[[], set[int]], held: bool) -> None:
    before = leases()
    one = make("one")
    hold = one.lock()
    if not held:
        one.unlock()
    assert leases() - before == {hold.lease_id}
    one.destroy()
    assert leases() <= before


def test_destroy_leaves_another_nodes_hold(make: Make) -> None:
    two = make("two")
    two.lock()
    make("one").destroy()
    assert two.renew() > 0


@pytest.mark.parametrize(
    "call",
    [
        methodcaller("lock"),
        methodcaller("unlock"),
        methodcaller("renew"),
        lambda it: it.extend(LONG),
        methodcaller("holder"),
        methodcaller("waiters"),
        lambda it: it.on("locked", print),
        lambda it: it.once("acquired", print),
    ],
    ids=["lock", "unlock", "renew", "extend", "holder", "waiters", "on", "once"],
)
def test_a_destroyed_lock_raises(make: Make, call: Callable[[Microlock], object]) -> None:
    one = make("one")
    one.lock()
    one.destroy()
    with pytest.raises(DestroyedError):
        call(one)


def test_a_destroyed_lock_holds_nothing(make: Make) -> None:
    one = make("one")
    one.lock()
    one.destroy()
    assert (one.held, one.token, one.remaining) == (False, None, 0.0)


# What it costs


def test_a_warm_cycle_costs_two_raft_writes(own_etcd: Callable[..., Etcd]) -> None:
    endpoint = own_etcd().endpoint
    etcdctl = Etcdctl(endpoint)

    def raft_writes() -> int:
        (status,) = json.loads(etcdctl("endpoint", "status", "-w", "json"))
        return int(status["Status"]["raftIndex"])

    with connect(endpoint) as etcd:
        lock = Microlock(etcd, "foo", "one", LONG)
        lock.lock()
        lock.unlock()
        before = raft_writes()
        for _ in range(10):
            lock.lock()
            lock.unlock()
        assert raft_writes() - before == 20
        lock.destroy()


def test_lock_works_over_a_slow_link(etcd_server: Etcd, key: str) -> None:
    with closing(Proxy(etcd_server.endpoint, delay=0.15)) as link, connect(link.endpoint) as etcd:
        lock = Microlock(etcd, key, "one", LONG)
        lock.lock()
        assert lock.held
        lock.destroy()
