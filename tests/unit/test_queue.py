"""Who holds, who waits, what changed: told from the keys of a lock alone."""

from __future__ import annotations

import pytest

from microlock.queue import Change, Holder, Queue, changes, holder_of, places
from microlock.requests import KeyValue

PREFIX = b"foo/"


def entry(name: str, revision: int, value: bytes = b"alpha", lease_id: int = 1) -> KeyValue:
    return KeyValue(f"foo/{name}".encode(), value, revision, lease_id)


ALPHA, BETA = Holder("alpha", 5, 1), Holder("beta", 7, 2)


def test_nobody_holds_a_lock_without_keys():
    assert holder_of(PREFIX, []) is None


def test_nobody_holds_a_lock_with_nested_names_only():
    assert holder_of(PREFIX, [entry("bar/1", 5)]) is None


def test_the_oldest_entry_holds_in_whatever_order_they_come():
    assert holder_of(PREFIX, [entry("b", 9), entry("c", 5), entry("a", 7)]).token == 5


def test_the_places_are_in_the_order_of_their_revisions():
    found = places(PREFIX, [entry("b", 9), entry("c", 5), entry("a", 7)])
    assert [name for name, _ in found] == [b"foo/c", b"foo/a", b"foo/b"]


def test_two_entries_of_one_revision_are_in_the_order_of_their_names():
    found = places(PREFIX, [entry("b", 5), entry("a", 5)])
    assert [name for name, _ in found] == [b"foo/a", b"foo/b"]


def test_an_older_nested_name_does_not_hold():
    assert holder_of(PREFIX, [entry("bar/1", 3), entry("1", 5)]) == ALPHA


def test_an_empty_value_is_a_holder_without_a_name():
    assert holder_of(PREFIX, [entry("1", 5, b"")]).node_id is None


def test_a_value_that_is_no_text_is_shown_all_the_same():
    assert holder_of(PREFIX, [entry("1", 5, b"\xff")]).node_id == "\\xff"


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


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (None, None, []),
        (None, ALPHA, [Change(True, ALPHA)]),
        (ALPHA, None, [Change(False, ALPHA)]),
        (ALPHA, BETA, [Change(False, ALPHA), Change(True, BETA)]),
        (ALPHA, ALPHA, []),
        (ALPHA, Holder("alpha", 5, 9), []),
        (ALPHA, Holder("alpha", 7, 1), [Change(False, ALPHA), Change(True, Holder("alpha", 7, 1))]),
    ],
    ids=["none", "taken", "freed", "handed over", "renewed", "extended", "taken again"],
)
def test_a_change_of_the_holder_is_told_and_nothing_else(before, after, told):
    assert changes(before, after) == told
