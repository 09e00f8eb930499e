"""The watches of a client: what is asked of etcd for them, and who is notified of what."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from microlock.core import watchstream
from microlock.core.port import (
    Event,
    Found,
    Get,
    KeyValue,
    Read,
    WatchCancelled,
    WatchCreated,
    WatchEvents,
)
from microlock.core.queue import Change, Holder, Standing
from microlock.core.watchstream import (
    Cancel,
    Create,
    Log,
    Query,
    Reopen,
    Tell,
    TellFailed,
    WatchStream,
)
from microlock.errors import (
    DestroyedError,
    StoreError,
    StorePermissionError,
    StoreTimeoutError,
    StoreUnavailableError,
)

LOCK, ENTRY, SECOND = b"foo/", b"foo/a1", b"foo/b2"
NOBODY: Any = object()
ALPHA = KeyValue(ENTRY, b"alpha", 5, 0xA1)
BETA = KeyValue(SECOND, b"beta", 8, 0xB2)
AWAY = StoreUnavailableError("away")
REFUSED = StorePermissionError("refused")
UNKNOWN = (Standing.UNKNOWN, None)


class Subscriber:
    """Notes what it is notified of."""

    def __init__(self, interest: bytes | None = None) -> None:
        self.interest = interest
        self.told: list[tuple[bytes, tuple[Change, ...], bool]] = []
        self.failures: list[tuple[bytes, Exception, bool]] = []

    def watched(self, name: bytes, changes: Sequence[Change], *, synthesised: bool) -> None:
        self.told.append((name, tuple(changes), synthesised))

    def watch_failed(self, name: bytes, error: Exception, *, final: bool) -> None:
        self.failures.append((name, error, final))


NOBODY: Any = object()


@pytest.fixture
def machine() -> WatchStream:
    return WatchStream()


@pytest.fixture
def one() -> Subscriber:
    return Subscriber()


def told(commands: Sequence[Any]) -> list[Any]:
    """Notifies, and returns what else there is to do."""
    for each in commands:
        if isinstance(each, Tell | TellFailed):
            for subscriber in each.subscribers:
                each.deliver(subscriber)
    return [each for each in commands if not isinstance(each, Tell | TellFailed | Log)]


def running(machine: WatchStream, *names: bytes, found: Found | None = None) -> list[Subscriber]:
    """Opens a stream on which these are watched; one subscriber for each."""
    subscribers = [Subscriber() for _ in names]
    for name, subscriber in zip(names, subscribers, strict=True):
        machine.subscribe(name, subscriber)
    found = found or Found(9, (ALPHA,))
    todo = list(machine.opened())
    while todo:
        match todo.pop(0):
            case Create(watch_id):
                todo += machine.received(WatchCreated(watch_id, found.revision))
            case Query(name):
                told(machine.read(name, found))
    return subscribers


# Who comes and who goes.


def test_nothing_is_asked_for_before_there_is_a_stream(machine, one):
    machine.subscribe(LOCK, one)
    assert machine.review(LOCK) == []


def test_a_stream_that_opens_has_a_watch_made_of_each_name_with_ids_from_1_up(machine, one):
    names = (LOCK, ENTRY, SECOND)
    for name in names:
        machine.subscribe(name, one)
    creates = [*machine.opened(), *machine.received(WatchCreated(1, 9))]
    creates = [each for each in creates if isinstance(each, Create)]
    assert creates == [Create(number, name, None) for number, name in enumerate(names, 1)]


def test_a_watch_is_made_on_the_open_stream_when_somebody_comes(machine, one):
    machine.opened()
    machine.subscribe(LOCK, one)
    assert machine.review(LOCK) == [Create(1, LOCK, None)]


def test_many_subscribers_of_a_name_share_one_watch(machine):
    machine.opened()
    for _ in range(3):
        machine.subscribe(LOCK, Subscriber())
    assert [machine.review(LOCK) for _ in range(3)] == [[Create(1, LOCK, None)], [], []]


def test_to_subscribe_twice_is_as_once(machine, one):
    machine.subscribe(LOCK, one)
    machine.subscribe(LOCK, one)
    assert machine.unsubscribe(LOCK, one)
    assert machine.names == []


def test_what_is_known_is_not_read(machine, one):
    machine.subscribe(ENTRY, one, Found(5, (ALPHA,)))
    assert machine.opened() == [Create(1, ENTRY, 6)]
    assert machine.received(WatchCreated(1, 9)) == []
    assert machine.look(ENTRY, ENTRY, 5)[0] is Standing.FIRST


def test_the_last_who_leaves_has_the_watch_cancelled(machine):
    (one,), two = running(machine, LOCK), Subscriber()
    machine.subscribe(LOCK, two)
    machine.unsubscribe(LOCK, one)
    assert machine.review(LOCK) == []
    machine.unsubscribe(LOCK, two)
    assert machine.review(LOCK) == [Cancel(1)]
    assert machine.review(LOCK) == []


def test_to_leave_what_is_not_watched_does_nothing(machine, one):
    assert not machine.unsubscribe(LOCK, one)
    assert machine.review(LOCK) == []


def test_one_who_leaves_and_comes_back_at_once_keeps_the_watch(machine):
    (one,) = running(machine, LOCK)
    machine.unsubscribe(LOCK, one)
    machine.subscribe(LOCK, one)
    assert machine.review(LOCK) == []
    assert machine.look(LOCK, ENTRY, 5)[0] is Standing.FIRST


def test_a_watch_that_is_left_before_it_was_made_is_cancelled_when_it_is(machine, one):
    machine.subscribe(LOCK, one)
    machine.opened()
    machine.unsubscribe(LOCK, one)
    assert machine.review(LOCK) == []
    assert machine.received(WatchCreated(1, 9)) == [Cancel(1)]


def test_a_watch_that_is_left_and_asked_for_again_before_it_was_made_is_made_once(machine, one):
    machine.subscribe(LOCK, one)
    machine.opened()
    machine.unsubscribe(LOCK, one)
    machine.review(LOCK)
    machine.subscribe(LOCK, one)
    assert machine.review(LOCK) == []
    assert machine.received(WatchCreated(1, 9)) == [Create(2, LOCK, None), Cancel(1)]
    assert machine.received(WatchCreated(2, 9)) == [Query(LOCK, Read(LOCK))]


def test_a_refusal_of_a_watch_that_was_left_matters_to_nobody(machine, one):
    machine.subscribe(LOCK, one)
    machine.opened()
    machine.unsubscribe(LOCK, one)
    machine.review(LOCK)
    assert machine.received(WatchCancelled(-1, created=True, refused=True)) == []


def test_what_nobody_watches_any_more_is_not_asked_for_on_a_new_stream(machine, one):
    machine.subscribe(LOCK, one)
    machine.unsubscribe(LOCK, one)
    assert machine.opened() == []


def test_a_signals_handler_that_ends_what_it_interrupts_leaves_the_watch_that_was_asked_for(
    machine, one, monkeypatch
):
    """It is in the middle of `subscribe`, on the same thread."""
    make = watchstream._Watch

    def interrupted(name: bytes, known: Found | None) -> Any:
        monkeypatch.setattr(watchstream, "_Watch", make)
        other = Subscriber()
        machine.subscribe(name, other)
        machine.unsubscribe(name, other)
        return make(name, known)

    monkeypatch.setattr(watchstream, "_Watch", interrupted)
    machine.subscribe(LOCK, one)
    assert machine.names == [LOCK]
    running(machine, LOCK)
    assert machine.look(LOCK, ENTRY, 5)[0] is Standing.FIRST
    assert len(one.told) == 1


def test_a_signals_handler_that_ends_the_last_subscription_leaves_the_watch_to_who_joins_it(
    machine, one
):
    """It comes when `subscribe` has found the watch, and has not joined it yet."""
    (last,) = running(machine, LOCK)

    class Interrupted(dict[int, Any]):
        def __setitem__(self, key: int, value: Any) -> None:
            machine.unsubscribe(LOCK, last)
            super().__setitem__(key, value)

    watch = machine._watches[LOCK]
    watch.subscribers = Interrupted(watch.subscribers)
    machine.subscribe(LOCK, one)
    assert machine.review(LOCK) == []
    assert machine.look(LOCK, ENTRY, 5)[0] is Standing.FIRST
    told(machine.received(WatchEvents(1, (Event(10, ENTRY, None),))))
    assert (len(one.told), len(last.told)) == (1, 1)


def test_it_is_known_what_is_watched(machine, one):
    assert (machine.watching(LOCK, besides=NOBODY), machine.idle) == (False, True)
    machine.subscribe(LOCK, one)
    assert (machine.watching(LOCK, besides=NOBODY), machine.names, machine.idle) == (
        True,
        [LOCK],
        False,
    )
    machine.unsubscribe(LOCK, one)
    assert (machine.watching(LOCK, besides=NOBODY), machine.names, machine.idle) == (
        False,
        [],
        True,
    )


# What is told.


def test_nothing_is_known_of_what_is_not_watched(machine):
    assert machine.look(LOCK, ENTRY, 5) == UNKNOWN


def test_nothing_is_known_before_the_read(machine, one):
    machine.subscribe(LOCK, one)
    machine.opened()
    assert machine.look(LOCK, ENTRY, 5) == UNKNOWN
    assert not machine.settled(LOCK)


@pytest.mark.parametrize(("name", "request_"), [(LOCK, Read(LOCK)), (ENTRY, Get(ENTRY))])
def test_what_a_new_watch_reads_is_what_it_watches(machine, one, name, request_):
    machine.subscribe(name, one)
    machine.opened()
    assert machine.received(WatchCreated(1, 9)) == [Query(name, request_)]


@pytest.mark.parametrize(
    ("keys", "standing"), [((ALPHA,), Standing.FIRST), ((), Standing.GONE)], ids=["there", "gone"]
)
@pytest.mark.parametrize("name", [LOCK, ENTRY])
def test_the_read_tells_where_an_entry_stands(machine, name, keys, standing):
    (one,) = running(machine, name, found=Found(9, keys))
    assert machine.look(name, ENTRY, 5)[0] is standing
    assert one.told == [(name, (), True)]
    assert (machine.settled(name), machine.error(name)) == (True, None)


def test_the_watch_of_an_entry_of_a_nested_lock_knows_whether_it_is_there(machine):
    name = b"foo/bar/a1"
    running(machine, name, found=Found(9, (KeyValue(name, b"alpha", 5, 0xA1),)))
    assert machine.look(name, name, 5)[0] is Standing.FIRST


def test_a_change_is_told_with_the_holder(machine):
    (one,) = running(machine, LOCK)
    told(machine.received(WatchEvents(1, (Event(10, ENTRY, None),))))
    assert one.told[1:] == [(LOCK, (Change(False, Holder("alpha", 5, 0xA1)),), False)]
    assert machine.look(LOCK, ENTRY, 5) == (Standing.GONE, None)


def test_what_the_read_has_told_already_is_passed_over(machine):
    (one,) = running(machine, LOCK, found=Found(9, ()))
    told(machine.received(WatchEvents(1, (Event(9, ENTRY, ALPHA), Event(9, ENTRY, None)))))
    assert [changes for _, changes, _ in one.told] == [(), ()]


@pytest.mark.parametrize(
    ("interest", "notified"),
    [
        (None, True),
        ([SECOND], True),
        ([ENTRY], False),
        ([b"foo/c3", SECOND], True),
        ([b"foo/c3"], False),
    ],
    ids=["all", "what happened", "the holder", "one of several", "another"],
)
def test_only_those_are_notified_whose_entry_an_event_is_about(machine, interest, notified):
    running(machine, LOCK)
    subscriber = Subscriber(interest)
    machine.subscribe(LOCK, subscriber)
    told(machine.received(WatchEvents(1, (Event(10, SECOND, BETA),))))
    assert len(subscriber.told) == notified


def test_a_waiter_is_notified_when_the_deletion_of_another_entry_admits_it(machine):
    running(machine, LOCK, found=Found(9, (ALPHA, BETA)))
    waiter, other = Subscriber([SECOND]), Subscriber([b"foo/c3"])
    machine.subscribe(LOCK, waiter)
    machine.subscribe(LOCK, other)
    told(machine.received(WatchEvents(1, (Event(10, ENTRY, None),))))
    assert (len(waiter.told), len(other.told)) == (1, 0)


def test_everybody_is_notified_of_what_was_read(machine, one):
    one.interest = [b"foo/c3"]
    machine.subscribe(LOCK, one)
    running(machine, LOCK)
    assert len(one.told) == 1


def test_one_who_left_is_notified_of_nothing_more(machine):
    (one,) = running(machine, LOCK)
    machine.unsubscribe(LOCK, one)
    told(machine.received(WatchEvents(1, (Event(10, ENTRY, None),))))
    assert len(one.told) == 1


@pytest.mark.parametrize(
    "reply", [WatchEvents(7, ()), WatchCreated(7, 9), WatchCancelled(7), WatchCancelled(-1)]
)
def test_replies_that_are_about_nothing_we_watch_do_nothing(machine, reply):
    running(machine, LOCK)
    assert machine.received(reply) == []


# Whose reply it is.


def created(machine: WatchStream, watch_id: int) -> tuple[list[bytes], list[bytes]]:
    """What is read, and what is asked for, when a watch was made with this id."""
    commands = machine.received(WatchCreated(watch_id, 9))
    read = [each.name for each in commands if isinstance(each, Query)]
    return read, [each.name for each in commands if isinstance(each, Create)]


@pytest.fixture
def four(machine, one) -> list[bytes]:
    """Names that are watched on a stream that is about to open."""
    names = [b"a/", b"b/", b"c/", b"d/"]
    for name in names:
        machine.subscribe(name, one)
    return names


def test_a_reply_with_our_id_is_that_watchs_whatever_the_order(machine, four):
    machine.opened()
    assert created(machine, 1) == ([b"a/"], [b"b/", b"c/", b"d/"])
    assert created(machine, 4) == ([b"d/"], [])
    assert created(machine, 2) == ([b"b/"], [])


@pytest.mark.parametrize("first", [0, 2, 40])
def test_a_proxy_with_ids_of_its_own_is_asked_for_one_watch_after_the_other(
    machine, one, four, first
):
    assert machine.opened() == [Create(1, b"a/", None)]
    made = [created(machine, first + each) for each in range(4)]
    assert made == [([b"a/"], [b"b/"]), ([b"b/"], [b"c/"]), ([b"c/"], [b"d/"]), ([b"d/"], [])]
    for name in four:
        told(machine.read(name, Found(9, ())))
    machine.unsubscribe(b"b/", one)
    assert machine.review(b"b/") == [Cancel(first + 1)]


def test_one_who_comes_while_a_proxy_makes_a_watch_waits_until_it_is_made(machine, one):
    machine.subscribe(LOCK, one)
    machine.opened()
    machine.subscribe(SECOND, one)
    assert [machine.review(SECOND), machine.review(SECOND)] == [[], []]
    assert created(machine, 0) == ([LOCK], [SECOND])


def test_one_who_leaves_before_its_watch_was_asked_for_is_not_asked_for(machine, one, four):
    machine.opened()
    machine.unsubscribe(b"b/", one)
    assert machine.review(b"b/") == []
    assert created(machine, 0) == ([b"a/"], [b"c/"])


def test_a_watch_that_is_refused_lets_the_next_one_be_made(machine, four):
    """As etcd does it: with no id, before any reply has shown whose they are."""
    machine.opened()
    refused = WatchCancelled(-1, created=True, refused=True)
    assert machine.received(refused) == [Query(b"a/", Read(b"a/")), Create(2, b"b/", None)]
    assert created(machine, 2) == ([b"b/"], [b"c/", b"d/"])


def test_what_a_proxy_has_ended_is_cancelled_before_it_is_made_again(machine, one):
    machine.subscribe(LOCK, one)
    machine.opened()
    created(machine, 0)
    told(machine.read(LOCK, Found(9, ())))
    again = machine.received(WatchCancelled(0, compacted=True))
    assert again == [Cancel(0), Create(2, LOCK, None)]


def test_on_the_next_stream_nobody_knows_again_whose_ids_the_replies_have(machine, four):
    machine.opened()
    created(machine, 1)
    machine.broke(AWAY)
    assert machine.opened() == [Create(1, b"a/", None)]


def test_a_watch_with_an_id_of_a_proxy_hears_its_events(machine, one):
    machine.subscribe(LOCK, one)
    machine.opened()
    machine.received(WatchCreated(0, 9))
    told(machine.read(LOCK, Found(9, ())))
    told(machine.received(WatchEvents(0, (Event(10, ENTRY, ALPHA),))))
    assert machine.look(LOCK, ENTRY, 5)[0] is Standing.FIRST


def test_which_creation_has_waited_longest_for_its_reply_is_known(machine, one):
    assert machine.asked is None
    for name in (LOCK, ENTRY):
        machine.subscribe(name, one)
    machine.opened()
    asked = [machine.asked]
    for watch_id in (1, 2):
        machine.received(WatchCreated(watch_id, 9))
        asked.append(machine.asked)
    assert asked == [1, 2, None]


# A stream that breaks.


def test_a_break_is_told_once_and_the_watch_goes_on_where_it_was(machine):
    (one,) = running(machine, LOCK)
    slow = StoreTimeoutError("slow")
    assert told(machine.broke(AWAY)) == [Reopen(1, AWAY)]
    assert told(machine.broke(slow)) == [Reopen(2, slow)]
    assert one.failures == [(LOCK, AWAY, False)]
    assert machine.look(LOCK, ENTRY, 5)[0] is Standing.FIRST
    assert machine.opened() == [Create(1, LOCK, 10)]
    assert machine.received(WatchCreated(1, 9)) == []
    assert machine.error(LOCK) is None


def test_each_outage_is_told(machine):
    (one,) = running(machine, LOCK)
    for _ in range(2):
        assert told(machine.broke(AWAY)) == [Reopen(1, AWAY)]
        machine.opened()
        machine.received(WatchCreated(1, 9))
    assert len(one.failures) == 2


def test_another_kind_of_failure_in_an_outage_is_told_too(machine):
    (one,) = running(machine, LOCK)
    full = StoreError("full")
    machine.broke(AWAY)
    told(machine.broke(full))
    assert one.failures == [(LOCK, full, False)]


def test_one_who_comes_in_an_outage_learns_of_it(machine):
    running(machine, LOCK)
    machine.broke(AWAY)
    late = Subscriber()
    machine.subscribe(ENTRY, late)
    told(machine.broke(AWAY))
    assert late.failures == [(ENTRY, AWAY, False)]
    assert (machine.settled(ENTRY), machine.error(ENTRY)) == (True, AWAY)


def test_a_watch_that_never_worked_ends_with_a_permanent_error(machine, one):
    machine.subscribe(LOCK, one)
    assert told(machine.broke(REFUSED)) == [Reopen(1, REFUSED)]
    assert one.failures == [(LOCK, REFUSED, True)]
    assert not machine.watching(LOCK, besides=NOBODY)
    assert machine.error(LOCK) is REFUSED


def test_a_watch_that_worked_outlives_a_permanent_error(machine):
    (one,) = running(machine, LOCK)
    told(machine.broke(REFUSED))
    assert one.failures == [(LOCK, REFUSED, False)]
    assert machine.watching(LOCK, besides=NOBODY)


def test_who_waited_while_nothing_was_known_is_told_what_is_there_as_a_change(machine, one):
    machine.subscribe(LOCK, one)
    machine.broke(AWAY)
    running(machine, LOCK)
    assert one.told == [(LOCK, (Change(True, Holder("alpha", 5, 0xA1)),), True)]


def test_replies_of_a_watch_of_the_stream_before_are_not_waited_for(machine, one):
    machine.subscribe(LOCK, one)
    machine.opened()
    machine.broke(AWAY)
    assert machine.opened() == [Create(1, LOCK, None)]
    assert machine.received(WatchCreated(1, 9)) == [Query(LOCK, Read(LOCK))]


def test_one_who_leaves_in_an_outage_has_nothing_cancelled(machine):
    (one,) = running(machine, LOCK)
    machine.broke(AWAY)
    machine.unsubscribe(LOCK, one)
    assert machine.review(LOCK) == []
    assert machine.opened() == []


def test_a_read_that_fails_breaks_the_stream(machine, one):
    machine.subscribe(LOCK, one)
    machine.opened()
    machine.received(WatchCreated(1, 9))
    assert told(machine.read(LOCK, AWAY)) == [Reopen(1, AWAY)]
    assert one.failures == [(LOCK, AWAY, False)]


def test_a_read_that_is_refused_ends_that_watch_alone(machine):
    one, two = running(machine, LOCK, ENTRY)
    machine.broke(AWAY)
    machine.opened()
    machine.received(WatchCreated(1, 4))
    assert told(machine.read(LOCK, REFUSED)) == [Cancel(1)]
    assert (one.failures, two.failures) == ([(LOCK, REFUSED, True)], [])
    assert machine.names == [ENTRY]


def test_an_answer_to_a_read_for_nobody_does_nothing(machine):
    assert machine.read(LOCK, Found(9, ())) == []


# What etcd cancels.


def test_after_a_compaction_it_starts_from_now_and_reads_what_it_missed(machine):
    (one,) = running(machine, LOCK)
    assert machine.received(WatchCancelled(1, compacted=True)) == [Create(2, LOCK, None)]
    assert machine.look(LOCK, ENTRY, 5)[0] is Standing.UNKNOWN
    assert machine.received(WatchCreated(2, 40)) == [Query(LOCK, Read(LOCK))]
    told(machine.read(LOCK, Found(40, (BETA,))))
    changes = (Change(False, Holder("alpha", 5, 0xA1)), Change(True, Holder("beta", 8, 0xB2)))
    assert one.told[1:] == [(LOCK, changes, True)]


@pytest.mark.parametrize("created", [True, False])
def test_a_refusal_is_one_if_the_read_says_so(machine, one, created):
    machine.subscribe(LOCK, one)
    (two,) = running(machine, ENTRY) if not created else (None,)
    if created:
        machine.opened()
    reply = WatchCancelled(-1 if created else 1, created=created, refused=True)
    assert machine.received(reply) == [Query(LOCK, Read(LOCK))]
    assert told(machine.read(LOCK, REFUSED)) == []
    assert one.failures == [(LOCK, REFUSED, True)]
    assert two is None or two.failures == []


def test_a_login_that_has_expired_has_the_stream_opened_again_and_nobody_is_told(machine):
    one, two = running(machine, LOCK, ENTRY)
    machine.received(WatchCancelled(1, refused=True))
    assert machine.read(LOCK, Found(12, ())) == [Reopen(1)]
    assert machine.opened() == [Create(1, LOCK, 10)]
    assert machine.received(WatchCreated(1, 12)) == [Create(2, ENTRY, 10)]
    assert one.failures == two.failures == []


def test_a_login_that_expires_again_and_again_has_longer_and_longer_to_wait(machine, one):
    machine.subscribe(LOCK, one)
    attempts = []
    for _ in range(3):
        machine.opened()
        machine.received(WatchCancelled(-1, created=True, refused=True))
        attempts += machine.read(LOCK, Found(12, ()))
    assert attempts == [Reopen(1), Reopen(2), Reopen(3)]


def test_a_watch_that_is_cancelled_for_no_known_reason_is_made_again_alone(machine):
    one, two = running(machine, LOCK, ENTRY)
    assert machine.received(WatchCancelled(1, reason="odd")) == [Create(3, LOCK, 10)]
    assert machine.received(WatchCreated(3, 9)) == []
    assert one.failures == two.failures == []


def test_a_watch_that_is_cancelled_again_and_again_ends_alone(machine):
    one, two = running(machine, LOCK, ENTRY)
    for watch_id in (1, 3, 4):
        machine.received(WatchCancelled(watch_id, reason="odd"))
        machine.received(WatchCreated(max(watch_id, 2) + 1, 9))
    told(machine.received(WatchCancelled(5, reason="odd")))
    ((name, error, final),) = one.failures
    assert (name, str(error), final) == (LOCK, "etcd cancelled the watch: odd", True)
    assert two.failures == []


def test_a_watch_that_tells_something_may_be_cancelled_later_on(machine):
    (one,) = running(machine, LOCK)
    for watch_id in range(1, 9):
        machine.received(WatchCancelled(watch_id))
        machine.received(WatchCreated(watch_id + 1, 9))
        machine.received(WatchEvents(watch_id + 1, (Event(9 + watch_id, SECOND, BETA),)))
    assert one.failures == []


def test_a_watch_that_can_not_be_made_ends_alone(machine, one):
    (two,) = running(machine, ENTRY)
    machine.subscribe(LOCK, one)
    machine.review(LOCK)
    told(machine.received(WatchCancelled(-1, created=True, reason="odd")))
    assert [final for _, _, final in one.failures] == [True]
    assert two.failures == []


# A member that lags, and an etcd that was put back.


def test_a_member_that_lags_behind_is_asked_about_once_for_each_stream(machine):
    running(machine, LOCK, ENTRY)
    for _ in range(2):
        machine.broke(AWAY)
        machine.opened()
        query = Query(LOCK, Read(LOCK))
        assert machine.received(WatchCreated(1, 4)) == [Create(2, ENTRY, 10), query]
        assert machine.read(LOCK, Found(12, ())) == []
        assert machine.received(WatchCreated(2, 4)) == []


def test_what_is_known_of_a_later_moment_than_a_read_says_nothing_about_the_read(machine, one):
    """Another thread subscribes while the answer is on its way."""
    running(machine, ENTRY)
    machine.subscribe(LOCK, one)
    machine.review(LOCK)
    machine.received(WatchCreated(2, 9))
    machine.subscribe(SECOND, one, known=Found(12, ()))
    assert told(machine.read(LOCK, Found(11, ()))) == []


def test_a_reply_without_events_changes_nothing(machine):
    (one,) = running(machine, LOCK)
    told(machine.received(WatchEvents(1, ())))
    assert [changes for _, changes, _ in one.told] == [(), ()]


def test_what_the_read_about_a_lagging_member_finds_is_left_to_the_watch_to_tell(machine):
    (one,) = running(machine, LOCK)
    machine.broke(AWAY)
    machine.opened()
    machine.received(WatchCreated(1, 4))
    machine.read(LOCK, Found(12, ()))
    assert machine.look(LOCK, ENTRY, 5)[0] is Standing.FIRST
    told(machine.received(WatchEvents(1, (Event(11, ENTRY, None),))))
    assert one.told[1:] == [(LOCK, (Change(False, Holder("alpha", 5, 0xA1)),), False)]


def put_back(machine: WatchStream, found: Found) -> None:
    """etcd comes back with older data; when that is noticed, this is there."""
    machine.broke(AWAY)
    machine.opened()
    machine.received(WatchCreated(1, 6))
    assert machine.read(LOCK, Found(6, ())) == [Reopen(2)]
    assert machine.look(LOCK, SECOND, 8) == UNKNOWN
    assert machine.opened() == [Create(1, LOCK, None)]
    machine.received(WatchCreated(1, found.revision))
    told(machine.read(LOCK, found))


HOLDER = Holder("beta", 8, 0xB2)
OTHER = KeyValue(b"foo/c3", b"gamma", 8, 0xC3)  # in its history another one has the token 8


@pytest.mark.parametrize(
    ("keys", "changes", "standing"),
    [
        ((), (Change(False, HOLDER),), Standing.GONE),
        (
            (OTHER,),
            (Change(False, HOLDER), Change(True, Holder("gamma", 8, 0xC3))),
            Standing.GONE,
        ),
        ((BETA,), (), Standing.FIRST),
    ],
    ids=["free", "held by another", "held as before"],
)
def test_of_an_etcd_that_was_put_back_nothing_that_was_told_before_counts(
    machine, keys, changes, standing
):
    (one,) = running(machine, LOCK, found=Found(9, (BETA,)))
    put_back(machine, Found(8, keys))
    assert one.told[1:] == [(LOCK, changes, True)]
    assert machine.look(LOCK, SECOND, 8)[0] is standing


def test_a_lock_that_was_free_and_is_held_in_an_etcd_that_was_put_back_is_told(machine):
    (one,) = running(machine, LOCK, found=Found(9, ()))
    put_back(machine, Found(8, (BETA,)))
    assert one.told[1:] == [(LOCK, (Change(True, HOLDER),), True)]


def test_an_etcd_that_was_put_back_makes_every_watch_begin_anew(machine):
    """It may reach again what the others know before each of them has asked."""
    running(machine, LOCK)
    running(machine, ENTRY, found=Found(20, ()))
    machine.broke(AWAY)
    machine.opened()
    machine.received(WatchCreated(1, 15))
    machine.read(LOCK, Found(15, ()))
    assert machine.opened() == [Create(1, LOCK, None)]
    assert machine.received(WatchCreated(1, 25))[0] == Create(2, ENTRY, None)


def test_what_was_known_of_a_history_that_is_lost_is_read(machine, one):
    running(machine, LOCK)
    machine.broke(AWAY)
    machine.opened()
    machine.received(WatchCreated(1, 4))
    machine.read(LOCK, Found(4, ()))
    running(machine, found=Found(4, ()))
    for revision, start in ((9, None), (10, 11)):
        name = b"foo/%d" % revision
        machine.subscribe(name, one, known=Found(revision, ()))
        (create,) = machine.review(name)
        assert create == Create(create.watch_id, name, start)


@pytest.mark.parametrize("breaks_first", [False, True])
def test_what_was_known_before_an_interruption_is_read_when_etcd_is_back(
    machine, one, breaks_first
):
    """A hold may have been taken just before: its watch is not sure to notice older data."""
    if breaks_first:
        told(machine.broke(AWAY))
    machine.subscribe(ENTRY, one, known=Found(5, (ALPHA,)))
    if not breaks_first:
        told(machine.broke(AWAY))
    assert machine.opened() == [Create(1, ENTRY, None)]
    assert machine.received(WatchCreated(1, 9)) == [Query(ENTRY, Get(ENTRY))]
    machine.read(ENTRY, Found(9, ()))
    assert machine.look(ENTRY, ENTRY, 5)[0] is Standing.GONE


# To wait until it runs.


def test_who_waits_too_long_for_a_watch_to_begin_is_told_and_owed_what_is_there(machine, one):
    machine.subscribe(LOCK, one)
    late = StoreTimeoutError("late")
    told(machine.late(LOCK, late))
    assert one.failures == [(LOCK, late, False)]
    running(machine, LOCK)
    assert one.told == [(LOCK, (Change(True, Holder("alpha", 5, 0xA1)),), True)]


def test_nobody_is_late_whose_watch_runs_or_has_ended(machine):
    running(machine, LOCK)
    assert machine.late(LOCK, StoreTimeoutError("late")) == []
    assert machine.late(ENTRY, StoreTimeoutError("late")) == []


# The end.


def test_the_end_is_told_to_all_and_is_final(machine):
    one, two = running(machine, LOCK, ENTRY)
    closed = DestroyedError("closed")
    assert told(machine.end(closed)) == []
    assert (one.failures, two.failures) == ([(LOCK, closed, True)], [(ENTRY, closed, True)])
    assert (machine.names, machine.settled(LOCK), machine.error(LOCK)) == ([], True, closed)
    assert machine.look(LOCK, ENTRY, 5) == UNKNOWN


def test_what_has_ended_is_asked_for_anew_by_those_who_want_it(machine, one):
    two = Subscriber()
    for each in (one, two):
        machine.subscribe(LOCK, each)
    told(machine.broke(REFUSED))
    machine.subscribe(LOCK, one)
    assert machine.error(LOCK) is None
    running(machine, LOCK)
    assert (len(one.told), len(two.told)) == (1, 0)


def test_why_it_has_ended_is_known_until_all_have_left(machine, one):
    two = Subscriber()
    for each in (one, two):
        machine.subscribe(LOCK, each)
    machine.broke(REFUSED)
    machine.unsubscribe(LOCK, one)
    machine.review(LOCK)
    assert machine.error(LOCK) is REFUSED
    machine.unsubscribe(LOCK, two)
    machine.review(LOCK)
    assert machine.error(LOCK) is None


# All of it together.


class Etcd:
    """Serves a stream as etcd does; what is under way is told when the test wants."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.revision = 1
        self.compacted = 0
        self.keys: dict[bytes, KeyValue] = {}
        self.history: list[Event] = []
        self.watches: dict[int, tuple[bytes, int]] = {}  # name and next revision, by id
        self.replies: list[Any] = []
        self.proxy = rng.random() < 0.5
        self.made = 0

    def change(self) -> None:
        name = b"foo/%x" % self.rng.randrange(1, 6)
        self.revision += 1
        if self.keys.pop(name, None):
            self.history.append(Event(self.revision, name, None))
            return
        kv = KeyValue(name, b"node", self.revision, int(name[4:], 16))
        self.keys[name] = kv
        self.history.append(Event(self.revision, name, kv))

    def create(self, create: Create) -> None:
        if self.proxy:  # its replies may come in any order
            assert not any(isinstance(each, WatchCreated) for each in self.replies)
        watch_id = self.made if self.proxy else create.watch_id
        self.made += 1
        start = create.start or self.revision + 1
        self.replies.append(WatchCreated(watch_id, self.revision))
        if start <= self.compacted:
            self.replies.append(WatchCancelled(watch_id, compacted=True))
        else:
            self.watches[watch_id] = (create.name, start)

    def tell(self) -> None:
        """Has every watch told what it has not been yet."""
        for watch_id, (name, start) in list(self.watches.items()):
            events = tuple(
                event
                for event in self.history
                if event.revision >= start and event.name.startswith(name)
            )
            if events:
                self.replies.append(WatchEvents(watch_id, events))
            self.watches[watch_id] = (name, self.revision + 1)

    def cancel_one(self) -> None:
        if self.watches:
            watch_id = self.rng.choice(list(self.watches))
            del self.watches[watch_id]
            refused = self.rng.random() < 0.3
            self.replies.append(WatchCancelled(watch_id, refused=refused))

    def found(self, request: Any) -> Found:
        name = request.lock if isinstance(request, Read) else request.entry
        keys = tuple(kv for kv in self.keys.values() if kv.name.startswith(name))
        return Found(self.revision, keys)

    def drop(self) -> None:
        self.watches.clear()
        self.replies.clear()
        self.made = 0


class Mirror:
    """Follows who holds the lock by what it is told, as a listener does."""

    interest = None

    def __init__(self, machine: WatchStream) -> None:
        self.holder: Holder | None = None
        self._machine = machine
        self._begun = False

    def watched(self, name: bytes, changes: Sequence[Change], *, synthesised: bool) -> None:
        if not self._begun and not changes:  # what was there already is no change
            self.holder = self._machine.look(name, b"", 0)[1]
        self._begun = True
        for change in changes:
            if change.locked:
                assert self.holder is None or synthesised
                self.holder = change.holder
            else:
                assert change.holder is None or change.holder == self.holder
                self.holder = None

    def watch_failed(self, name: bytes, error: Exception, *, final: bool) -> None:
        if final:  # cancelled too often in a row
            self._begun = False
            self._machine.subscribe(name, self)


@pytest.mark.parametrize("seed", range(150))
def test_whatever_befalls_the_stream_no_change_is_lost_or_told_twice(seed):
    rng = random.Random(seed)
    etcd, machine = Etcd(rng), WatchStream()
    mirror = Mirror(machine)
    names = [LOCK, b"foo/1", b"foo/2", b"foo/3"]
    passing: dict[bytes, Subscriber] = {}
    is_open = False

    def perform(commands: Sequence[Any]) -> None:
        nonlocal is_open
        queue = list(commands)
        while queue:
            match queue.pop(0):
                case Create() as create:
                    etcd.create(create)
                case Cancel(watch_id):
                    etcd.watches.pop(watch_id, None)
                case Query(name, request):
                    for _ in range(rng.randrange(3)):  # while the read is under way
                        etcd.change()
                        etcd.tell()
                    fails = rng.random() < 0.2
                    queue += machine.read(name, AWAY if fails else etcd.found(request))
                case Reopen():
                    etcd.drop()
                    is_open = False
                case command:
                    told([command])

    def come_or_go() -> None:
        name = rng.choice(names)
        if name in passing:
            machine.unsubscribe(name, passing.pop(name))
        else:
            passing[name] = Subscriber()
            machine.subscribe(name, passing[name])
        perform(machine.review(name))

    def compact() -> None:
        etcd.compacted = etcd.revision

    def hear() -> None:
        if etcd.replies:
            perform(machine.received(etcd.replies.pop(0)))

    def connect() -> None:
        nonlocal is_open
        if not is_open:
            is_open = True
            perform(machine.opened())

    def disconnect() -> None:
        if is_open:
            perform(machine.broke(AWAY))

    machine.subscribe(LOCK, mirror)
    steps: list[Callable[[], None]] = [
        *[etcd.change, etcd.tell, hear, hear, hear] * 3,
        *[connect, connect, disconnect, come_or_go, compact, etcd.cancel_one],
    ]
    for _ in range(400):
        rng.choice(steps)()
    for _ in range(20):  # then it settles
        connect()
        perform(machine.review(LOCK))
        while etcd.replies:
            hear()
        etcd.tell()
    holder = min(etcd.keys.values(), key=lambda kv: kv.create_revision, default=None)
    assert machine.look(LOCK, b"", 0)[1] == mirror.holder
    assert (mirror.holder and mirror.holder.token) == (holder and holder.create_revision)
    assert len(etcd.watches) == len(machine.names)
