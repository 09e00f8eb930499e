"""What `microlock.core.port` says that a store must guarantee: the same of every store.

Another store is judged by it with one more fixture in `STORES`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from queue import SimpleQueue
from time import monotonic, sleep
from typing import Any
from uuid import uuid4

import pytest
from conftest import Etcd
from ctl import Etcdctl
from watching import DEADLINE

from microlock import LeaseNotFoundError, StoreError, connect
from microlock.core.keys import entry_name
from microlock.core.overview import watch_name
from microlock.core.port import (
    Enter,
    Event,
    Found,
    Get,
    Grant,
    Join,
    KeepAlive,
    KeepAlives,
    KeyValue,
    Leave,
    Move,
    Read,
    ReadAll,
    Revoke,
    TimeToLive,
    WatchCancelled,
    WatchCreated,
    WatchEvents,
)
from microlock.engine.client import Client, Store, Watching

LONG = 60  # seconds; no test takes so long
SHORT = 1
ALPHA, BETA = b"alpha", b"beta"


class Port:
    """A store, as one client sees it, and a lock of this test.

    Args:
        forget: has it forget what happened before a revision.

    Attributes:
        lock: the prefix of its entries.
    """

    def __init__(self, client: Client, forget: Callable[[int], object]) -> None:
        self.store: Store = client.store
        self.forget = forget
        self.lock = f"test-{uuid4().hex[:8]}/".encode()

    def ask(self, request: Any, *, repeated: bool = False) -> Any:
        member = self.store.members[0]
        return self.store.attempt(member, request, timeout=10, repeated=repeated)

    def lease(self, ttl: int = LONG) -> int:
        lease_id = secrets.randbits(63)
        self.ask(Grant(lease_id, ttl))
        return lease_id

    def entry(self, lease_id: int, lock: bytes = b"") -> bytes:
        return entry_name(lock or self.lock, lease_id)

    def enter(self, lease_id: int, value: bytes = ALPHA, **how: Any) -> Any:
        return self.ask(Enter(self.lock, self.entry(lease_id), value, lease_id), **how)

    def join(self, lease_id: int, value: bytes = ALPHA, *, near: int = 2, **how: Any) -> Any:
        return self.ask(Join(self.lock, self.entry(lease_id), value, lease_id, near), **how)

    def there(self) -> list[bytes]:
        found: Found = self.ask(Read(self.lock))
        return [kv.name for kv in found.keys]

    @contextmanager
    def watch(self, name: bytes = b"", start: int | None = None) -> Iterator[Watch]:
        told: SimpleQueue[Any] = SimpleQueue()
        stream = self.store.open_watch(self.store.members[0], told.put, timeout=10)
        with closing(stream):
            stream.create(1, name or self.lock, start)
            yield Watch(stream, told)


class Watch:
    """One watch, with the id 1, on a stream of its own.

    Attributes:
        created: the answer to its creation.
    """

    def __init__(self, stream: Watching, told: SimpleQueue[Any]) -> None:
        self.stream = stream
        self.told = told
        self.created: WatchCreated = told.get(timeout=DEADLINE)
        assert isinstance(self.created, WatchCreated)
        assert self.created.watch_id == 1

    def next(self) -> tuple[Event, ...]:
        told = self.told.get(timeout=DEADLINE)
        assert isinstance(told, WatchEvents), told
        return told.events

    def until(self, name: bytes) -> list[Event]:
        """All events up to the first of this name."""
        events: list[Event] = []
        while not any(event.name == name for event in events):
            events += self.next()
        return events


@contextmanager
def on_etcd(request: pytest.FixtureRequest) -> Iterator[Port]:
    etcd: Etcd = request.getfixturevalue("etcd_server")
    with connect(etcd.endpoint) as client:
        yield Port(client, lambda revision: Etcdctl(etcd.endpoint)("compact", f"{revision}"))


@contextmanager
def in_memory(request: pytest.FixtureRequest) -> Iterator[Port]:
    with connect("memory://") as client:
        memory: Any = client.store
        yield Port(client, lambda revision: memory.change(lambda it: it.compact(revision)))


STORES = {"etcd": on_etcd, "memory": in_memory}


@pytest.fixture(params=STORES)
def port(request: pytest.FixtureRequest) -> Iterator[Port]:
    with STORES[request.param](request) as made:
        yield made


# Atomicity.


def test_of_many_who_enter_at_once_one_is_in(port: Port) -> None:
    leases = [port.lease() for _ in range(20)]
    with ThreadPoolExecutor(20) as pool:
        entered = list(pool.map(port.enter, leases))
    (mine,) = [each for each in entered if each.token is not None]
    others = [each for each in entered if each is not mine]
    assert {each.before[0].create_revision for each in others} == {mine.token}


def test_all_who_join_at_once_stand_in_one_queue(port: Port) -> None:
    leases = [port.lease() for _ in range(20)]
    with ThreadPoolExecutor(20) as pool:
        joined = list(pool.map(lambda lease: port.join(lease, near=20), leases))
    queue = sorted(joined, key=lambda each: each.token)
    tokens = [each.token for each in queue]
    assert len(set(tokens)) == 20
    for place, each in enumerate(queue):
        assert [kv.create_revision for kv in each.before] == tokens[:place]


def test_who_joins_learns_of_the_oldest_and_of_those_next_before_it(port: Port) -> None:
    tokens = [port.join(port.lease()).token for _ in range(6)]
    before = [kv.create_revision for kv in port.join(port.lease(), near=2).before]
    assert before[0] == tokens[0]
    assert before[-2:] == tokens[-2:]


def test_what_was_answered_is_seen_by_all(port: Port) -> None:
    for _ in range(20):
        lease_id = port.lease()
        token = port.enter(lease_id).token
        assert port.there() == [port.entry(lease_id)]
        port.ask(Leave(port.entry(lease_id), token))
        assert port.there() == []


def test_who_asks_again_comes_in_unless_another_has_come_since(port: Port) -> None:
    first, mine, other = port.lease(), port.lease(), port.lease()
    port.enter(first)
    refused = port.ask(Enter(port.lock, port.entry(mine), ALPHA, mine, limit=3))
    assert (refused.token, [kv.name for kv in refused.before]) == (None, [port.entry(first)])
    entered = port.ask(Enter(port.lock, port.entry(mine), ALPHA, mine, 3, refused.since))
    assert port.there() == [port.entry(first), port.entry(mine)]
    assert port.ask(Read(port.lock)).keys[1].create_revision == entered.token
    again = port.ask(Enter(port.lock, port.entry(other), BETA, other, 3, refused.since))
    assert (again.token, len(again.before)) == (None, 2)


def test_who_has_gone_since_is_in_nobodys_way(port: Port) -> None:
    first, mine = port.lease(), port.lease()
    token = port.enter(first).token
    since = port.enter(mine).since
    port.ask(Leave(port.entry(first), token))
    assert port.ask(Enter(port.lock, port.entry(mine), ALPHA, mine, 1, since)).token


def test_of_more_entries_than_are_read_nobody_says_that_they_are_all(port: Port) -> None:
    for _ in range(20):
        port.join(port.lease())
    mine = port.lease()
    few = port.ask(Enter(port.lock, port.entry(mine), ALPHA, mine, limit=5))
    many = port.ask(Enter(port.lock, port.entry(mine), ALPHA, mine, limit=30))
    assert (few.since, len(few.before) >= 5) == (None, True)
    assert (many.since is None, len(many.before)) == (False, 20)


@pytest.mark.parametrize("way", ["enter", "join"])
def test_my_entry_may_be_that_of_another_lock(port: Port, way: str) -> None:
    """As that of a reader, whom only writers keep out."""
    rivals, mine, rival = port.lock + b"write/", port.lease(), port.lease()
    entry = entry_name(port.lock + b"read/", mine)
    ask: Any = Enter if way == "enter" else lambda *of: Join(*of, near=2)
    token = port.ask(ask(rivals, entry, ALPHA, mine)).token
    assert port.ask(Get(entry)).keys[0].create_revision == token
    assert port.ask(ask(rivals, entry, BETA, mine)).token == token
    assert port.ask(Get(entry)).keys[0].value == ALPHA
    port.ask(Leave(entry, token))
    port.ask(Join(rivals, entry_name(rivals, rival), BETA, rival, near=2))
    asked = port.ask(ask(rivals, entry, ALPHA, mine))
    assert [kv.name for kv in asked.before] == [entry_name(rivals, rival)]
    assert bool(port.ask(Get(entry)).keys) == (way == "join")


# Several at once.


def several(port: Port, lease_id: int) -> tuple[bytes, tuple[tuple[bytes, bytes], ...]]:
    """My entry of the lock, and those of others."""
    locks = port.lock + b"a/", port.lock + b"b/"
    return port.entry(lease_id), tuple((lock, port.entry(lease_id, lock)) for lock in locks)


@pytest.mark.parametrize("way", ["enter", "join"])
def test_entries_of_several_locks_come_at_one_revision_and_go_together(
    port: Port, way: str
) -> None:
    mine, next_lease = port.lease(), port.lease()
    entry, others = several(port, mine)
    names = [entry, *(name for _, name in others)]
    if way == "enter":
        token = port.ask(Enter(port.lock, entry, ALPHA, mine, others=others)).token
    else:
        token = port.ask(Join(port.lock, entry, ALPHA, mine, 2, others)).token
    beside = tuple(names[1:])
    assert [kv.name for kv in port.ask(Get(entry, beside)).keys] == names
    assert port.ask(Move(entry, BETA, token, mine, next_lease, beside)).done
    there = port.ask(Get(entry, beside)).keys
    assert there == tuple(KeyValue(name, BETA, token, next_lease) for name in names)
    assert port.ask(Leave(entry, token, beside)).done
    assert port.ask(Get(entry, beside)).keys == ()


def test_of_several_locks_all_are_entered_or_none(port: Port) -> None:
    mine, other = port.lease(), port.lease()
    entry, others = several(port, mine)
    lock, name = others[1][0], port.entry(other, others[1][0])
    port.ask(Enter(lock, name, BETA, other))
    entered = port.ask(Enter(port.lock, entry, ALPHA, mine, others=others))
    assert (entered.token, [kv.name for kv in entered.before]) == (None, [name])
    assert port.there() == []
    joined = port.ask(Join(port.lock, entry, ALPHA, mine, 2, others))
    assert [kv.name for kv in joined.before] == [name]


@pytest.mark.parametrize("way", ["leave", "move"])
def test_of_several_entries_none_is_changed_if_one_is_gone(port: Port, way: str) -> None:
    mine, next_lease = port.lease(), port.lease()
    entry, others = several(port, mine)
    token = port.ask(Enter(port.lock, entry, ALPHA, mine, others=others)).token
    (_, first), (_, second) = others
    port.ask(Leave(second, token))
    if way == "leave":
        assert not port.ask(Leave(entry, token, (first, second))).done
    else:
        moved = port.ask(Move(entry, BETA, token, mine, next_lease, (first, second)))
        assert (moved.done, moved.there) == (False, None)
    left = port.ask(Get(entry, (first, second))).keys
    assert left == tuple(KeyValue(name, ALPHA, token, mine) for name in (entry, first))


# Revisions and tokens.


def test_tokens_rise(port: Port) -> None:
    lease_id, tokens = port.lease(), []
    for _ in range(5):
        tokens.append(port.enter(lease_id).token)
        port.ask(Leave(port.entry(lease_id), tokens[-1]))
    assert tokens == sorted(set(tokens))


def test_a_read_is_not_older_than_what_it_tells(port: Port) -> None:
    token = port.enter(port.lease()).token
    found = port.ask(Read(port.lock))
    assert found.revision >= token == found.keys[0].create_revision


def test_a_move_keeps_the_token_and_the_place(port: Port) -> None:
    first, second, other = port.lease(), port.lease(), port.lease()
    token = port.enter(first).token
    port.join(other)
    moved = port.ask(Move(port.entry(first), ALPHA, token, first, second))
    assert (moved.done, moved.there) == (True, None)
    mine, _ = port.ask(Read(port.lock)).keys
    assert mine == KeyValue(port.entry(first), ALPHA, token, second)
    port.ask(Revoke(first))
    assert port.there()[0] == port.entry(first)
    port.ask(Revoke(second))
    assert port.there() == [port.entry(other)]


# Leases.


def test_a_lease_is_granted_for_as_long_as_was_asked_or_longer(port: Port) -> None:
    asked = port.ask(Grant(secrets.randbits(63), LONG))
    assert asked.ttl >= LONG
    assert asked.sent <= asked.at


def test_an_id_is_not_granted_twice(port: Port) -> None:
    lease_id = port.lease()
    with pytest.raises(StoreError) as refused:
        port.ask(Grant(lease_id, LONG))
    assert not refused.value.may_have_happened


def test_a_lease_takes_its_entries_with_it_at_one_revision(port: Port) -> None:
    lease_id, other = port.lease(), port.lease()
    entries = [port.entry(lease_id), port.entry(other)]
    for entry in entries:
        port.ask(Join(port.lock, entry, ALPHA, lease_id, 1))
    with port.watch() as watch:
        port.ask(Revoke(lease_id))
        assert port.there() == []
        events = watch.next()
    assert sorted(event.name for event in events) == sorted(entries)
    assert len({event.revision for event in events}) == 1
    assert all(event.kv is None for event in events)


@pytest.mark.parametrize("way", ["enter", "join", "move"])
def test_nothing_is_put_under_a_lease_that_was_revoked(port: Port, way: str) -> None:
    lease_id, other = port.lease(), port.lease()
    port.ask(Revoke(lease_id))
    puts: dict[str, Callable[[], object]] = {
        "enter": lambda: port.enter(lease_id),
        "join": lambda: port.join(lease_id),
        "move": lambda: port.ask(Move(port.entry(other), ALPHA, token, other, lease_id)),
    }
    token = port.enter(other).token if way == "move" else 0
    with pytest.raises(LeaseNotFoundError) as refused:
        puts[way]()
    assert not refused.value.may_have_happened
    assert port.entry(lease_id) not in port.there()


def test_a_lease_that_is_not_there_is_revoked(port: Port) -> None:
    assert port.ask(Revoke(secrets.randbits(63))) is False


def test_a_lease_that_is_gone_is_not_kept_alive(port: Port) -> None:
    there, gone = port.lease(), secrets.randbits(63)
    assert port.ask(KeepAlive(there)).ttl >= LONG
    assert port.ask(KeepAlive(gone)).ttl <= 0
    kept = port.ask(KeepAlives((there, gone)))
    assert kept[there].ttl >= LONG
    assert gone not in kept or kept[gone].ttl <= 0


def test_a_lease_ends_by_itself_and_never_too_early(port: Port) -> None:
    lease_id = port.lease(SHORT)
    ttl = port.ask(KeepAlive(lease_id)).ttl
    begun = monotonic()
    port.enter(lease_id)
    with port.watch() as watch:
        kept = port.ask(KeepAlive(lease_id))
        gone = watch.until(port.entry(lease_id))[-1]
        assert gone.kv is None
        assert monotonic() - begun >= ttl
    assert kept.ttl == ttl
    with pytest.raises(LeaseNotFoundError):
        port.enter(lease_id)


def test_a_lease_lives_as_long_as_it_is_kept_alive(port: Port) -> None:
    kept, left = port.lease(SHORT), port.lease(SHORT)
    port.join(kept)
    port.join(left)
    with port.watch(port.entry(left)) as watch:
        end = monotonic() + DEADLINE
        while watch.told.empty():
            assert port.ask(KeepAlive(kept)).ttl > 0
            assert monotonic() < end
            sleep(SHORT / 10)
    assert port.there() == [port.entry(kept)]
    port.ask(Revoke(kept))


# Doubt: copies that arrive at any later time.


@pytest.mark.parametrize("way", ["enter", "join"])
def test_a_copy_puts_nothing_and_tells_the_token(port: Port, way: str) -> None:
    lease_id = port.lease()
    first = getattr(port, way)(lease_id)
    again = getattr(port, way)(lease_id, BETA, repeated=True)
    assert again.token == first.token
    assert (first.repeated, again.repeated) == (False, True)
    (kv,) = port.ask(Get(port.entry(lease_id))).keys
    assert kv.value == ALPHA


def test_a_late_copy_puts_nothing_under_a_lease_that_has_ended(port: Port) -> None:
    lease_id = port.lease()
    token = port.enter(lease_id).token
    port.ask(Leave(port.entry(lease_id), token))
    port.ask(Revoke(lease_id))
    for copy in (port.enter, port.join):
        with pytest.raises(LeaseNotFoundError):
            copy(lease_id)
    assert port.there() == []


def test_a_copy_of_leave_deletes_no_later_entry(port: Port) -> None:
    lease_id = port.lease()
    token = port.enter(lease_id).token
    assert port.ask(Leave(port.entry(lease_id), token)).done
    again = port.enter(lease_id).token
    late = port.ask(Leave(port.entry(lease_id), token), repeated=True)
    assert (late.done, late.repeated) == (False, True)
    assert port.ask(Get(port.entry(lease_id))).keys[0].create_revision == again


def test_a_copy_of_move_changes_nothing_after_a_newer_one(port: Port) -> None:
    leases = [port.lease() for _ in range(3)]
    entry, token = port.entry(leases[0]), port.enter(leases[0]).token
    for old, new in ((0, 1), (1, 2)):
        assert port.ask(Move(entry, ALPHA, token, leases[old], leases[new])).done
    late = port.ask(Move(entry, BETA, token, leases[0], leases[1]), repeated=True)
    assert (late.done, late.there) == (False, KeyValue(entry, ALPHA, token, leases[2]))
    assert late.repeated


def test_a_move_of_what_is_gone_puts_nothing(port: Port) -> None:
    first, second = port.lease(), port.lease()
    token = port.enter(first).token
    port.ask(Leave(port.entry(first), token))
    moved = port.ask(Move(port.entry(first), ALPHA, token, first, second))
    assert (moved.done, moved.there) == (False, None)
    assert port.there() == []


# Watches.


def test_a_read_and_a_watch_from_there_are_the_whole_story(port: Port) -> None:
    """While many come and go."""
    leases = [port.lease() for _ in range(8)]

    def comes_and_goes(lease_id: int) -> None:
        for _ in range(10):
            port.ask(Leave(port.entry(lease_id), port.join(lease_id).token))

    with ThreadPoolExecutor(8) as pool:
        works = [pool.submit(comes_and_goes, lease_id) for lease_id in leases]
        found = port.ask(Read(port.lock))
        with port.watch(start=found.revision + 1) as watch:
            for each in works:
                each.result()
            last = port.lease()
            port.join(last)
            events = watch.until(port.entry(last))
    assert [event.revision for event in events] == sorted(event.revision for event in events)
    assert len({(event.revision, event.name) for event in events}) == len(events)
    names = {kv.name for kv in found.keys}
    for event in events:
        assert (event.name in names) == (event.kv is None)
        names ^= {event.name}
    assert names == set(port.there())


def test_a_watch_from_now_tells_of_what_comes(port: Port) -> None:
    port.join(port.lease())
    with port.watch() as watch:
        lease_id = port.lease()
        token = port.join(lease_id, BETA).token
        (event,) = watch.next()
        assert event == Event(
            token, port.entry(lease_id), KeyValue(port.entry(lease_id), BETA, token, lease_id)
        )
        assert watch.created.revision < token


def test_a_watch_of_an_entry_tells_of_nothing_else(port: Port) -> None:
    mine, other = port.lease(), port.lease()
    token = port.join(mine).token
    with port.watch(port.entry(mine)) as watch:
        port.join(other)
        port.ask(Leave(port.entry(mine), token))
        (event,) = watch.next()
        assert (event.name, event.kv) == (port.entry(mine), None)


@pytest.mark.parametrize("cut", [0, 3])  # a whole name, and one that goes on
def test_a_watch_of_all_locks_that_begin_so_tells_of_each(port: Port, cut: int) -> None:
    before, prefix = port.lock, port.lock[: len(port.lock) - cut]
    with port.watch(watch_name(prefix, 1)) as watch:
        for lock in (b"beside/" + before, before + b"nested/", before):
            port.lock = lock
            port.join(port.lease())
        (nested,), (own,) = watch.next(), watch.next()
    assert nested.name.startswith(before + b"nested/")
    assert own.name.rpartition(b"/")[0] + b"/" == before


def test_a_watch_that_was_cancelled_soon_tells_nothing_more(port: Port) -> None:
    with port.watch() as one, port.watch() as other:
        one.stream.cancel(1)
        for _ in range(50):
            port.join(port.lease())
            other.next()
            told = [one.told.get() for _ in range(one.told.qsize())]
            if not any(isinstance(each, WatchEvents) for each in told):
                break
        else:
            pytest.fail("it tells of everything")


def test_a_watch_of_what_is_forgotten_fails(port: Port) -> None:
    tokens = [port.join(port.lease()).token for _ in range(4)]
    port.forget(tokens[2])
    with port.watch(start=tokens[2]) as watch:
        assert [event.revision for event in watch.until(port.there()[-1])] == tokens[2:]
    with port.watch(start=tokens[1]) as watch:
        failed = watch.told.get(timeout=DEADLINE)
        assert isinstance(failed, WatchCancelled)
        assert (failed.watch_id, failed.compacted) == (1, True)


# Reading.


def test_a_lock_has_neither_its_neighbours_nor_those_within_it(port: Port) -> None:
    beside = port.lock[:-1] + b"x/"
    for lock in (beside, port.lock + b"within/", port.lock):
        lease_id = port.lease()
        port.ask(Join(lock, entry_name(lock, lease_id), ALPHA, lease_id, 2))
    assert port.there() == [port.entry(lease_id)]


def test_as_many_are_read_as_were_asked_for_the_oldest_first(port: Port) -> None:
    leases = [port.lease() for _ in range(4)]
    for lease_id in reversed(leases):
        port.join(lease_id)
    entries = [port.entry(lease_id) for lease_id in reversed(leases)]
    assert port.there() == entries
    assert [kv.name for kv in port.ask(Read(port.lock, 2)).keys] == entries[:2]


def test_one_entry_is_got_as_it_is(port: Port) -> None:
    lease_id = port.lease()
    token = port.enter(lease_id).token
    (kv,) = port.ask(Get(port.entry(lease_id))).keys
    assert kv == KeyValue(port.entry(lease_id), ALPHA, token, lease_id)
    assert port.ask(Get(port.lock + b"none")).keys == ()


def test_all_entries_of_the_locks_that_begin_so(port: Port) -> None:
    made: dict[bytes, set[bytes]] = {}
    for name in (b"a", b"b", b"a/b", b"ab/read"):
        lock = port.lock + name + b"/"
        leases = [port.lease() for _ in range(2)]
        for lease_id in leases:
            port.ask(Join(lock, entry_name(lock, lease_id), ALPHA, lease_id, 1))
        made[lock] = {entry_name(lock, lease_id) for lease_id in leases}
    for begin in (port.lock, port.lock + b"a", port.lock + b"a/"):
        found: Found = port.ask(ReadAll(begin))
        locks = [lock for lock in made if lock.startswith(begin) and lock != begin]
        assert {kv.name for kv in found.keys} == set[bytes]().union(
            *(made[lock] for lock in locks if len(lock) > len(begin) + 1)
        )
        assert {kv.value for kv in found.keys} == {ALPHA}


def test_a_lease_says_how_long_it_lives_yet(port: Port) -> None:
    lease_id = port.lease(LONG)
    assert 0 < port.ask(TimeToLive(lease_id)).ttl <= LONG
    port.ask(Revoke(lease_id))
    assert port.ask(TimeToLive(lease_id)).ttl <= 0


def test_a_lease_says_what_lives_by_it(port: Port) -> None:
    lease_id = port.lease()
    assert port.ask(TimeToLive(lease_id, names=True)).names == ()
    port.enter(lease_id)
    assert port.ask(TimeToLive(lease_id)).names == ()
    assert port.ask(TimeToLive(lease_id, names=True)).names == (port.entry(lease_id),)
    port.ask(Revoke(lease_id))
    assert port.ask(TimeToLive(lease_id, names=True)).names == ()
