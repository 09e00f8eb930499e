"""Who of the entries of a lock holds it."""

from __future__ import annotations

import itertools

import pytest

from microlock.core.admission import (
    MUTEX,
    NEAR,
    READER,
    WRITER,
    Admission,
    admitted,
    lock_name,
    rivals_name,
    semaphore,
)
from microlock.core.keys import is_entry, is_prefix, range_of

KINDS = [MUTEX, semaphore(2), semaphore(3), READER, WRITER]
R, W = READER.part, WRITER.part


def hold(admission: Admission, *names: bytes) -> list[bytes]:
    lock = lock_name(b"foo/", admission)
    return [each[4:] for each in admitted(lock, [b"foo/" + each for each in names])]


def readers_writers(kinds: str) -> str:
    """Who holds, of such readers and writers, by their places."""
    names = [(R if each == "r" else W) + b"%x" % place for place, each in enumerate(kinds)]
    held = hold(READER, *names)
    return "".join("x" if name in held else "-" for name in names)


def test_a_mutex_is_held_by_the_oldest():
    assert hold(MUTEX, b"2", b"1", b"3") == [b"2"]


@pytest.mark.parametrize("limit", [2, 3, 5])
def test_a_semaphore_is_held_by_the_oldest_up_to_its_limit(limit):
    names = [b"%x" % each for each in (9, 5, 7, 1)]
    assert hold(semaphore(limit), *names) == names[:limit]


@pytest.mark.parametrize("admission", KINDS)
def test_nobody_holds_a_lock_without_entries(admission):
    assert hold(admission) == []


@pytest.mark.parametrize(
    ("queue", "held"),
    [
        ("r", "x"),
        ("w", "x"),
        ("rrr", "xxx"),
        ("ww", "x-"),
        ("wrr", "x--"),
        ("rrw", "xx-"),
        ("rwr", "x--"),
        ("rrwrwr", "xx----"),
    ],
)
def test_readers_hold_together_up_to_the_first_writer_and_a_writer_alone(queue, held):
    assert readers_writers(queue) == held


def test_a_writer_never_holds_with_anybody_and_the_oldest_always_holds():
    for length in range(1, 7):
        for queue in map("".join, itertools.product("rw", repeat=length)):
            held = readers_writers(queue)
            together = [kind for kind, holds in zip(queue, held, strict=True) if holds == "x"]
            assert held[0] == "x"
            assert "w" not in together or together == ["w"]


def test_whoever_holds_goes_on_when_others_come_or_go():
    for queue in map("".join, itertools.product("rw", repeat=6)):
        names = [(R if each == "r" else W) + b"%x" % place for place, each in enumerate(queue)]
        held = set(hold(READER, *names))
        for gone in range(6):
            left = [name for name in names if name != names[gone]]
            assert held - {names[gone]} <= set(hold(READER, *left))


@pytest.mark.parametrize("admission", KINDS)
def test_what_a_place_is_judged_by_agrees_with_who_holds(admission):
    """The rivals before an entry say the same as all entries do."""
    lock, rivals = lock_name(b"foo/", admission), rivals_name(b"foo/", admission)
    parts = [R, W] if admission.rule == READER.rule else [b""]
    for chosen in itertools.product(parts, repeat=5):
        names = [b"foo/" + part + b"%x" % place for place, part in enumerate(chosen)]
        for place, name in enumerate(names):
            if not name.startswith(b"foo/" + admission.part):
                continue
            before = [each for each in names[:place] if is_entry(rivals, each)]
            assert admission.admits(before) == (name in admitted(lock, names))


@pytest.mark.parametrize("admission", KINDS)
def test_what_is_waited_for_far_from_the_turn_keeps_it_out(admission):
    before = list(range(10))
    behind = admission.behind(before)
    assert behind is None or not admission.admits([behind])


@pytest.mark.parametrize("admission", [MUTEX, READER, WRITER])
def test_far_from_the_turn_one_entry_is_waited_for(admission):
    before = list(range(NEAR + 1))
    assert admission.behind(before) == before[-NEAR]
    assert admission.behind(before[1:]) is None


def test_of_several_holders_any_may_be_the_next_to_end_so_no_one_is_waited_for():
    assert semaphore(2).behind(list(range(10))) is None


@pytest.mark.parametrize("admission", KINDS)
def test_the_last_rivals_that_are_read_say_whether_a_place_is_admitted(admission):
    for many in range(10):
        before = list(range(many))
        assert admission.admits(before[-admission.near :]) == admission.admits(before)


def test_locks_of_other_kinds_on_one_key_are_others():
    names = [lock_name(b"foo/", each) for each in (MUTEX, semaphore(2), semaphore(3), READER)]
    assert len(set(names)) == 4
    assert {range_of(each) for each in names} == {b"foo/"}
    assert all(map(is_prefix, names))


def test_readers_and_writers_are_of_one_lock():
    assert lock_name(b"foo/", READER) == lock_name(b"foo/", WRITER)


def test_a_semaphore_of_one_is_a_mutex():
    assert semaphore(1) is MUTEX


@pytest.mark.parametrize("part", [R, W])
@pytest.mark.parametrize("name", [b"1", b"abc", b"1700000000000000000"])
def test_entries_of_readers_and_writers_are_named_by_leases_or_as_by_go(part, name):
    assert is_entry(lock_name(b"foo/", READER), b"foo/" + part + name)
    assert is_entry(b"foo/" + part, b"foo/" + part + name)


@pytest.mark.parametrize("name", [b"foo/1", b"foo/read/", b"foo/read/x", b"foo/read/1/2", b"bar/1"])
def test_no_other_key_is_an_entry_of_readers_and_writers(name):
    assert not is_entry(lock_name(b"foo/", READER), name)


@pytest.mark.parametrize("name", [b"foo/read/1", b"foo/write/1", b"foo/1700000000000000000"])
def test_readers_and_writers_are_no_entries_of_the_mutex_or_the_semaphore(name):
    assert not is_entry(b"foo/", name)
    assert not is_entry(lock_name(b"foo/", semaphore(2)), name)
