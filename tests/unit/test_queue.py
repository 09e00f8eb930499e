"""Who holds, who waits, what changed: told from the keys of a lock alone."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from microlock.core.admission import LEADER, MUTEX, READER, lock_name, semaphore
from microlock.core.port import Event, KeyValue
from microlock.core.queue import (
    Change,
    Holder,
    Queue,
    Standing,
    changes,
    entries,
    holding,
    places,
    statuses,
)

PREFIX = b"foo/"


def entry(name: str, revision: int, value: bytes = b"alpha", lease_id: int = 1) -> KeyValue:
    return KeyValue(f"foo/{name}".encode(), value, revision, lease_id)


ALPHA, BETA = Holder("alpha", 5, 1), Holder("beta", 7, 2)
AGAIN, GAMMA = Holder("alpha", 7, 1), Holder("gamma", 9, 3)


def test_nobody_holds_a_lock_without_keys():
    assert Queue(PREFIX, []).holder is None


def test_nobody_holds_a_lock_with_nested_names_only():
    assert Queue(PREFIX, [entry("bar/1", 5)]).holder is None


def test_the_oldest_entry_holds_in_whatever_order_they_come():
    assert Queue(PREFIX, [entry("b", 9), entry("c", 5), entry("a", 7)]).holder.token == 5


def test_the_places_are_in_the_order_of_their_revisions():
    found = places(PREFIX, [entry("b", 9), entry("c", 5), entry("a", 7)])
    assert [name for name, _ in found] == [b"foo/c", b"foo/a", b"foo/b"]


def test_two_entries_of_one_revision_are_in_the_order_of_their_names():
    found = places(PREFIX, [entry("b", 5), entry("a", 5)])
    assert [name for name, _ in found] == [b"foo/a", b"foo/b"]


def test_an_older_nested_name_does_not_hold():
    assert Queue(PREFIX, [entry("bar/1", 3), entry("1", 5)]).holder == ALPHA


def test_an_empty_value_is_a_holder_without_a_name():
    assert Queue(PREFIX, [entry("1", 5, b"")]).holder.node_id is None


def test_a_value_that_is_no_text_is_shown_all_the_same():
    assert Queue(PREFIX, [entry("1", 5, b"\xff")]).holder.node_id == "\\xff"


def test_a_holder_is_written_as_its_node():
    assert str(ALPHA) == "alpha"


def test_a_holder_without_a_name_is_written_as_its_lease():
    assert str(Holder(None, 5, 0xABC)) == "an unnamed client (lease abc)"


def test_a_queue_knows_the_holder_it_was_read_with():
    assert Queue(PREFIX, [entry("1", 5)]).holder == ALPHA


def test_a_queue_has_no_holder_when_the_last_entry_is_deleted():
    queue = Queue(PREFIX, [entry("1", 5)])
    queue.delete(b"foo/1")
    assert queue.holder is None


def test_a_queue_goes_on_to_the_next_in_line():
    queue = Queue(PREFIX, [entry("1", 5), entry("3", 9), entry("2", 7, b"beta", 2)])
    queue.delete(b"foo/1")
    assert queue.holder == BETA


def test_a_queue_keeps_its_holder_when_another_enters():
    queue = Queue(PREFIX, [entry("2", 5)])
    queue.put(entry("1", 7))
    assert queue.holder == ALPHA


def test_a_queue_knows_the_new_lease_of_its_holder():
    queue = Queue(PREFIX, [entry("1", 5)])
    queue.put(entry("1", 5, lease_id=9))
    assert queue.holder == Holder("alpha", 5, 9)


def test_a_queue_passes_over_nested_names():
    queue = Queue(PREFIX)
    queue.put(entry("bar/1", 3))
    assert queue.holder is None


def test_a_queue_passes_over_the_deletion_of_what_it_never_had():
    queue = Queue(PREFIX, [entry("1", 5)])
    queue.delete(b"foo/bar/1")
    assert queue.holder == ALPHA


def test_a_queue_keeps_the_order_of_its_entries_when_one_is_put_again():
    queue = Queue(PREFIX, [entry("1", 5), entry("2", 7, b"beta", 2), entry("3", 9)])
    queue.put(entry("2", 7, b"beta", lease_id=8))
    queue.delete(b"foo/1")
    assert queue.holder == Holder("beta", 7, 8)


def test_an_entry_put_anew_goes_to_the_end_though_its_deletion_was_missed():
    queue = Queue(PREFIX, [entry("1", 5), entry("2", 7, b"beta", 2)])
    queue.put(entry("1", 9))
    assert queue.holder == BETA


def test_an_entry_put_anew_stands_where_it_was_put_anew():
    queue = Queue(PREFIX, [entry("1", 5), entry("2", 7)])
    queue.put(entry("1", 9))
    assert queue.standing(b"foo/1", 5) is Standing.GONE
    assert queue.standing(b"foo/1", 9) is Standing.WAITS


def test_the_lock_is_held_by_the_entry_of_the_holder():
    assert [*Queue(PREFIX, [entry("2", 7), entry("1", 5)]).held] == [b"foo/1"]
    assert not Queue(PREFIX).held


def test_an_entry_put_again_without_its_lease_is_gone_and_in_nobodys_way():
    queue = Queue(PREFIX, [entry("1", 5), entry("2", 7, b"beta", 2)])
    queue.put(entry("1", 5, lease_id=0))
    assert queue.standing(b"foo/1", 5) is Standing.GONE
    assert queue.holder == BETA


def test_a_key_without_a_lease_is_no_entry_of_a_queue():
    queue = Queue(PREFIX, [entry("2", 7)])
    queue.put(entry("3", 9, lease_id=0))
    assert queue.standing(b"foo/3", 9) is Standing.GONE


def test_an_entry_that_gets_its_lease_back_gets_its_place_back():
    queue = Queue(PREFIX, [entry("1", 5), entry("2", 7, b"beta", 2)])
    queue.put(entry("1", 5, lease_id=0))
    queue.put(entry("1", 5))
    assert queue.holder == ALPHA
    assert queue.standing(b"foo/2", 7) is Standing.WAITS


def standing(name: str, token: int) -> Standing:
    """Where it stands in a queue of two, beside a nested lock."""
    queue = Queue(PREFIX, [entry("2", 7), entry("1", 5), entry("bar/1", 3)])
    return queue.standing(f"foo/{name}".encode(), token)


def test_the_oldest_entry_is_the_first():
    assert standing("1", 5) is Standing.FIRST


def test_an_entry_behind_another_waits():
    assert standing("2", 7) is Standing.WAITS


def test_an_entry_that_is_not_there_is_gone():
    assert standing("3", 9) is Standing.GONE


@pytest.mark.parametrize("token", [4, 6])
def test_an_entry_of_another_revision_is_gone(token):
    assert standing("1", token) is Standing.GONE


def test_a_nested_name_has_no_place_in_the_queue():
    assert standing("bar/1", 3) is Standing.GONE


def test_an_entry_is_the_first_when_all_before_it_are_deleted():
    queue = Queue(PREFIX, [entry("1", 5), entry("2", 7), entry("3", 9)])
    queue.delete(b"foo/2")
    queue.delete(b"foo/1")
    assert queue.standing(b"foo/3", 9) is Standing.FIRST


def test_a_deleted_entry_is_gone():
    queue = Queue(PREFIX, [entry("1", 5)])
    queue.delete(b"foo/1")
    assert queue.standing(b"foo/1", 5) is Standing.GONE


def key(name: str, revision: int, lease_id: int = 1) -> KeyValue:
    return KeyValue(name.encode(), b"alpha", revision, lease_id)


def told(*keys: KeyValue) -> dict[tuple[str, str], tuple[list[int], list[int]]]:
    """The tokens of who holds and who waits, by the name of the lock and its kind."""
    return {
        (each.name, each.kind): ([h.token for h in each.holders], [w.token for w in each.waiters])
        for each in statuses(keys)
    }


def test_each_of_many_locks_is_held_by_its_oldest_entry_and_the_others_wait():
    keys = key("foo/2", 7, 2), key("foo/3", 8, 2), key("foo/1", 5), key("bar/3", 9, 3)
    assert told(*keys) == {("bar", "queue"): ([9], []), ("foo", "queue"): ([5], [7, 8])}


def test_a_nested_lock_has_a_holder_of_its_own():
    foo, nested = key("foo/1", 5), key("foo/bar/2", 7, 2)
    assert told(foo, nested) == {("foo", "queue"): ([5], []), ("foo/bar", "queue"): ([7], [])}


def queued(*roles: str) -> list[KeyValue]:
    """Readers and writers in the order of arrival, from revision 1 on."""
    return [key(f"foo/{role}/{at:x}", at) for at, role in enumerate(roles, 1)]


@pytest.mark.parametrize(
    ("roles", "held"), [("rrwr", 2), ("wrr", 1), ("w", 1), ("r", 1), ("wwr", 1)]
)
def test_readers_hold_it_up_to_the_first_writer_and_a_writer_alone(roles, held):
    (lock,) = statuses(queued(*({"r": "read", "w": "write"}[each] for each in roles)))
    assert (lock.name, lock.kind, len(lock.holders)) == ("foo", "readers/writers", held)
    everybody = lock.holders + lock.waiters
    assert [each.token for each in everybody] == [*range(1, len(roles) + 1)]
    assert "".join((each.role or "")[0] for each in everybody) == roles


def test_a_queue_and_readers_of_one_name_are_two_locks():
    assert told(key("foo/1", 5), *queued("read")) == {
        ("foo", "queue"): ([5], []),
        ("foo", "readers/writers"): ([1], []),
    }


@pytest.mark.parametrize("name", ["read/1", "/read/1", "write/1", "bread/1", "foo/reader/1"])
def test_readers_are_those_of_a_key_alone(name):
    (lock,) = statuses([key(name, 5)])
    assert (lock.name, lock.kind) == (name[:-2], "queue")
    assert lock.holders[0].role is None


@pytest.mark.parametrize("name", ["foo", "foo/", "foo/bar", "1", "/1", "foo/12345678901234567"])
def test_a_key_that_is_no_entry_is_no_lock(name):
    assert told(key(name, 5)) == {}


def test_a_key_without_a_lease_is_no_lock_though_it_looks_like_an_entry():
    assert told(key("users/42", 5, lease_id=0)) == {}


def test_a_key_without_a_lease_does_not_hold_the_lock_that_it_looks_like():
    keys = key("foo/1", 3, lease_id=0), key("foo/2", 5)
    assert told(*keys) == {("foo", "queue"): ([5], [])}


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ([], [], []),
        ([], [ALPHA], [Change(True, ALPHA)]),
        ([ALPHA], [], [Change(False, ALPHA)]),
        ([ALPHA], [BETA], [Change(False, ALPHA), Change(True, BETA)]),
        ([ALPHA], [ALPHA], []),
        ([ALPHA], [Holder("alpha", 5, 9)], []),
        ([ALPHA], [AGAIN], [Change(False, ALPHA), Change(True, AGAIN)]),
        ([ALPHA], [ALPHA, BETA], [Change(True, BETA)]),
        ([ALPHA, BETA], [BETA], [Change(False, ALPHA)]),
        ([BETA], [ALPHA, GAMMA], [Change(False, BETA), Change(True, ALPHA), Change(True, GAMMA)]),
    ],
    ids=[
        "none",
        "taken",
        "freed",
        "handed over",
        "renewed",
        "extended",
        "taken again",
        "another comes",
        "one of two goes",
        "one for two",
    ],
)
def test_a_change_of_the_holders_is_told_and_nothing_else(before, after, told):
    assert changes(before, after) == told


RULES = {
    "mutex": (lock_name(PREFIX, MUTEX), [b""]),
    "semaphore": (lock_name(PREFIX, semaphore(3)), [b""]),
    "readers and writers": (lock_name(PREFIX, READER), [b"read/", b"read/", b"write/"]),
    "leader": (lock_name(PREFIX, LEADER), [b""]),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(5))
def test_whatever_changes_those_hold_who_would_if_all_was_read(rule, seed):
    """And what is told is the difference, at each revision."""
    random, (lock, parts) = Random(seed), RULES[rule]
    queue, there, before = Queue(lock), dict[bytes, KeyValue](), list[Holder]()
    lost: list[KeyValue] = []  # that have no lease for a while
    for revision in range(1, 300):
        happened: dict[bytes, KeyValue | None] = {}
        came = KeyValue(PREFIX + random.choice(parts) + b"%x" % revision, b"alpha", revision, 1)
        for _ in range(random.choice([1, 1, 1, 2, 3])):
            left = [kv for kv in there.values() if kv.name not in happened]
            kv = random.choice(left or [came])
            match random.choice(["come", "come", "go", "again", "lose", "regain"]):
                case "go":
                    happened[kv.name] = None
                case "lose":
                    lost.append(kv)
                    happened[kv.name] = replace(kv, lease_id=0)
                case "again":
                    happened[kv.name] = replace(kv, value=b"%d" % revision)
                case "regain" if lost and lost[0].name not in happened:
                    kv = lost.pop(0)
                    happened[kv.name] = kv
                case _:
                    happened[came.name] = came
        told = queue.apply([Event(revision, *each) for each in happened.items()])
        there |= {name: kv for name, kv in happened.items() if kv}
        there = {name: kv for name, kv in there.items() if happened.get(name, kv) and kv.lease_id}
        after = [Holder.of(kv, lock) for kv in holding(lock, entries(lock, there.values()))]
        assert [*queue.held.values()] == after
        assert told == changes(before, after)
        before = after
