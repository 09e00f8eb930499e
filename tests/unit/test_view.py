"""What a watcher is told, from a read and the events after it: each change once."""

from __future__ import annotations

import pytest
from faults import Caller
from shared_etcd import FOO, Store

from microlock.core.port import Event, Found, KeyValue, Read, Revoke
from microlock.core.queue import Change, Holder, Standing
from microlock.core.view import View

ALPHA, BETA = Holder("alpha", 5, 1), Holder("beta", 7, 2)


def kv(holder: Holder, key: str = "foo") -> KeyValue:
    name = f"{key}/{holder.lease_id:x}".encode()
    return KeyValue(name, holder.node_id.encode(), holder.token, holder.lease_id)


def put(holder: Holder, revision: int | None = None, key: str = "foo") -> Event:
    entry = kv(holder, key)
    return Event(revision or holder.token, entry.name, entry)


def gone(holder: Holder, revision: int) -> Event:
    return Event(revision, kv(holder).name, None)


def locked(holder: Holder) -> Change:
    return Change(True, holder)


def unlocked(holder: Holder) -> Change:
    return Change(False, holder)


def view(*held: Holder, revision: int = 4) -> View:
    """One that has been read at this revision."""
    made = View(FOO.prefix)
    made.rebase(Found(revision, tuple(map(kv, held))))
    return made


def test_what_is_there_at_first_is_no_change():
    assert View(FOO.prefix).rebase(Found(9, (kv(ALPHA),))) == []


def test_a_watch_goes_on_after_the_revision_of_the_read():
    assert view(revision=9).next_revision == 10


def test_a_put_on_a_free_lock_is_locked():
    assert view().apply([put(ALPHA)]) == [locked(ALPHA)]


def test_a_deletion_is_unlocked():
    assert view(ALPHA, revision=5).apply([gone(ALPHA, 6)]) == [unlocked(ALPHA)]


def test_a_hand_over_is_unlocked_and_locked():
    told = view(ALPHA, BETA, revision=7).apply([gone(ALPHA, 8)])
    assert told == [unlocked(ALPHA), locked(BETA)]


def test_a_waiter_that_enters_is_no_change():
    assert view(ALPHA, revision=5).apply([put(BETA)]) == []


def test_a_waiter_that_leaves_is_no_change():
    assert view(ALPHA, BETA, revision=7).apply([gone(BETA, 8)]) == []


def test_a_put_of_the_same_entry_is_no_change():
    assert view(ALPHA, revision=5).apply([put(ALPHA, revision=9)]) == []


def test_an_extension_is_no_change():
    moved = Event(9, kv(ALPHA).name, KeyValue(kv(ALPHA).name, b"alpha", 5, 77))
    assert view(ALPHA, revision=5).apply([moved]) == []


def test_a_nested_name_is_no_change():
    assert view().apply([put(ALPHA, key="foo/bar")]) == []


def test_a_revision_that_was_read_is_passed_over():
    assert view(revision=5).apply([put(ALPHA)]) == []


def test_a_revision_that_was_told_is_passed_over():
    watched = view()
    watched.apply([put(ALPHA)])
    assert watched.apply([put(ALPHA), gone(ALPHA, 6)]) == [unlocked(ALPHA)]


def test_a_watch_goes_on_after_the_last_event():
    watched = view()
    watched.apply([put(ALPHA), gone(ALPHA, 6)])
    assert watched.next_revision == 7


def test_each_change_of_one_response_is_told():
    told = view().apply([put(ALPHA), gone(ALPHA, 6), put(BETA)])
    assert told == [locked(ALPHA), unlocked(ALPHA), locked(BETA)]


def test_the_changes_of_one_revision_are_told_by_their_result():
    second = Holder("beta", 8, 2)
    told = view(ALPHA, revision=5).apply([put(second), gone(ALPHA, 8)])
    assert told == [unlocked(ALPHA), locked(second)]


def test_a_put_and_a_deletion_in_one_revision_are_no_change():
    assert view().apply([put(ALPHA), gone(ALPHA, 5)]) == []


def test_the_end_of_two_entries_at_once_is_one_unlocked():
    told = view(ALPHA, BETA, revision=7).apply([gone(ALPHA, 8), gone(BETA, 8)])
    assert told == [unlocked(ALPHA)]


def test_an_event_before_the_first_read_is_left_to_the_read():
    assert View(FOO.prefix).apply([put(ALPHA)]) == []


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ([], [], []),
        ([ALPHA], [ALPHA], []),
        ([ALPHA], [ALPHA, BETA], []),
        ([], [ALPHA], [locked(ALPHA)]),
        ([ALPHA], [], [unlocked(ALPHA)]),
        ([ALPHA], [BETA], [unlocked(ALPHA), locked(BETA)]),
    ],
    ids=["free", "same", "a waiter", "taken", "freed", "handed over"],
)
def test_what_was_missed_is_told_as_one_transition_or_none(before, after, told):
    watched = view(*before)
    watched.forget()
    assert watched.rebase(Found(99, tuple(map(kv, after)))) == told


def test_a_watch_starts_from_now_after_changes_were_missed():
    watched = view()
    watched.forget()
    assert watched.next_revision is None


def test_an_event_before_the_read_that_replaces_the_missed_is_left_to_the_read():
    watched = view()
    watched.forget()
    assert watched.apply([put(ALPHA)]) == []
    assert watched.rebase(Found(5, (kv(ALPHA),))) == [locked(ALPHA)]


def test_a_feed_goes_on_after_the_missed():
    watched = view()
    watched.forget()
    watched.rebase(Found(5, (kv(ALPHA),)))
    assert watched.apply([put(ALPHA), gone(ALPHA, 6)]) == [unlocked(ALPHA)]


def standing(view: View, holder: Holder) -> Standing:
    return view.standing(kv(holder).name, holder.token)


def test_nothing_is_known_of_a_place_before_the_first_read():
    assert standing(View(FOO.prefix), ALPHA) is Standing.UNKNOWN


def test_nothing_is_known_of_a_place_that_was_taken_after_the_last_that_was_told():
    assert standing(view(ALPHA, revision=6), BETA) is Standing.UNKNOWN


def test_a_place_is_known_from_its_own_revision_on():
    assert standing(view(ALPHA, BETA, revision=7), BETA) is Standing.WAITS


def test_a_place_is_known_when_its_own_event_was_told():
    watched = view(ALPHA, revision=5)
    watched.apply([put(BETA)])
    assert standing(watched, BETA) is Standing.WAITS


def test_a_place_is_known_when_a_later_event_was_told():
    watched = view(revision=5)
    watched.apply([put(Holder("gamma", 9, 3))])
    assert standing(watched, BETA) is Standing.GONE


def test_the_place_of_the_holder_is_the_first():
    assert standing(view(ALPHA, BETA, revision=7), ALPHA) is Standing.FIRST


def test_a_place_is_the_first_when_the_holder_has_left():
    watched = view(ALPHA, BETA, revision=7)
    watched.apply([gone(ALPHA, 8)])
    assert standing(watched, BETA) is Standing.FIRST


def test_a_place_whose_entry_was_deleted_is_gone():
    watched = view(ALPHA, BETA, revision=7)
    watched.apply([gone(BETA, 8)])
    assert standing(watched, BETA) is Standing.GONE


def test_nothing_is_known_of_a_place_after_changes_were_missed():
    watched = view(ALPHA, BETA, revision=7)
    watched.forget()
    assert standing(watched, ALPHA) is Standing.UNKNOWN


def test_a_place_is_known_again_after_the_missed_were_read():
    watched = view(ALPHA, BETA, revision=7)
    watched.forget()
    watched.rebase(Found(9, (kv(BETA),)))
    assert (standing(watched, ALPHA), standing(watched, BETA)) == (Standing.GONE, Standing.FIRST)


def test_a_feed_knows_no_holder_before_the_first_read():
    assert View(FOO.prefix).holder is None


def test_a_feed_knows_who_held_when_it_was_read():
    assert view(ALPHA, BETA, revision=7).holder == ALPHA


def test_a_feed_knows_who_holds_after_the_last_event():
    watched = view(ALPHA, BETA, revision=7)
    watched.apply([gone(ALPHA, 8)])
    assert watched.holder == BETA


def test_a_feed_knows_no_holder_of_a_free_lock():
    assert view().holder is None


def test_a_feed_knows_who_held_last_after_changes_were_missed():
    watched = view(ALPHA, revision=5)
    watched.forget()
    assert watched.holder == ALPHA


@pytest.mark.parametrize(
    ("found", "told"),
    [([ALPHA], [locked(ALPHA)]), ([], [Change(False, None)])],
    ids=["held", "free"],
)
def test_who_listened_while_nothing_was_known_is_told_what_is_found(found, told):
    watched = View(FOO.prefix)
    watched.replay()
    assert watched.rebase(Found(9, tuple(map(kv, found)))) == told


def test_what_is_found_is_told_once_to_who_listened_while_nothing_was_known():
    watched = View(FOO.prefix)
    watched.replay()
    watched.rebase(Found(9, (kv(ALPHA),)))
    assert watched.rebase(Found(10, (kv(ALPHA),))) == []


def test_who_listens_when_something_is_known_is_owed_nothing():
    watched = view(ALPHA, revision=5)
    watched.replay()
    assert watched.rebase(Found(9, (kv(ALPHA),))) == []


# The view of one entry, which hears of no other key.


def only(*held: Holder, revision: int = 9) -> View:
    """One that was told of a single entry, if it is there."""
    made = View(FOO.prefix)
    made.rebase(Found(revision, tuple(map(kv, held))))
    return made


def test_an_entry_that_was_found_alone_is_there():
    assert standing(only(ALPHA), ALPHA) is Standing.FIRST


def test_an_entry_that_was_not_found_is_gone():
    assert standing(only(), ALPHA) is Standing.GONE


def test_nothing_is_known_of_an_entry_that_was_not_read_yet():
    assert standing(View(FOO.prefix), ALPHA) is Standing.UNKNOWN


def test_an_entry_that_was_put_again_under_another_lease_is_there():
    watched = only(ALPHA)
    watched.apply([Event(10, kv(ALPHA).name, KeyValue(kv(ALPHA).name, b"alpha", 5, 77))])
    assert standing(watched, ALPHA) is Standing.FIRST


def test_an_entry_that_was_found_under_another_lease_is_there():
    watched = View(FOO.prefix)
    watched.rebase(Found(10, (KeyValue(kv(ALPHA).name, b"alpha", 5, 77),)))
    assert standing(watched, ALPHA) is Standing.FIRST


def test_an_entry_that_was_deleted_is_gone():
    watched = only(ALPHA)
    watched.apply([gone(ALPHA, 10)])
    assert standing(watched, ALPHA) is Standing.GONE


@pytest.mark.parametrize("together", [True, False])
def test_an_entry_that_was_deleted_and_created_again_is_gone(together):
    watched = only(ALPHA)
    again = KeyValue(kv(ALPHA).name, b"alpha", 11, 1)
    events = [gone(ALPHA, 10), Event(11, again.name, again)]
    for part in [events] if together else [[each] for each in events]:
        watched.apply(part)
    assert standing(watched, ALPHA) is Standing.GONE


def test_an_entry_that_was_created_again_while_nobody_watched_is_gone():
    watched = only(ALPHA)
    watched.forget()
    watched.rebase(Found(12, (KeyValue(kv(ALPHA).name, b"alpha", 11, 1),)))
    assert standing(watched, ALPHA) is Standing.GONE


def test_nothing_is_known_of_an_entry_after_changes_were_missed():
    watched = only(ALPHA)
    watched.forget()
    assert standing(watched, ALPHA) is Standing.UNKNOWN


def test_the_entry_of_the_holder_is_known_with_the_first_read():
    watched = View(FOO.prefix)
    assert not watched.held
    watched.rebase(Found(9, (kv(ALPHA),)))
    assert [*watched.held] == [kv(ALPHA).name]


def test_an_entry_put_again_without_its_lease_is_a_loss_for_its_holder():
    watched = View(FOO.prefix)
    watched.rebase(Found(9, (kv(ALPHA), kv(BETA))))
    bare = KeyValue(kv(ALPHA).name, b"alpha", ALPHA.token, 0)
    assert watched.apply([Event(10, bare.name, bare)]) == [Change(False, ALPHA), Change(True, BETA)]
    assert standing(watched, ALPHA) is Standing.GONE


def busy(store: Store) -> None:
    """Holds, waiting, expiry, an extension, a nested lock, and a transaction with two changes."""
    caller = Caller(store)
    place = caller.try_lock()
    caller.renew(place)
    store.enter("beta", ttl=3)
    store.enter("delta", key="foo/bar")
    place, _ = caller.extend(place)
    caller.release(place)
    gamma = store.enter("gamma")
    store.pass_time(10)
    lease_id = store.keys[gamma].lease_id
    other = b"foo/ff%x" % lease_id
    store.change((gamma, None, 0), (other, b"epsilon", lease_id))
    store.apply(Revoke(lease_id))


BUSY = ["alpha", "beta", "gamma", "epsilon"]


def told_by(view: View, store: Store, start: int, size: int) -> list[Change]:
    """What it tells when the history from `start` on comes in responses of whole revisions."""
    revisions = range(start, store.revision + 1)
    told = []
    for first in revisions[::size]:
        told += view.apply([e for e in store.events(b"", 0) if first <= e.revision < first + size])
    return told


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_the_story_of_a_lock_is_told_in_full_however_it_is_cut(size):
    store = Store()
    watched = View(FOO.prefix)
    watched.rebase(store.apply(Read(FOO.prefix)))
    busy(store)
    told = told_by(watched, store, start=1, size=size)
    assert [(change.locked, change.holder.node_id) for change in told] == [
        (locked, node_id) for node_id in BUSY for locked in (True, False)
    ]


@pytest.mark.parametrize("size", [1, 3])
def test_the_story_of_a_lock_is_told_once_when_it_comes_twice(size):
    store = Store()
    watched = View(FOO.prefix)
    watched.rebase(store.apply(Read(FOO.prefix)))
    busy(store)
    told_by(watched, store, start=1, size=size)
    assert told_by(watched, store, start=1, size=size) == []
