"""The checker of runs under faults: each rule finds the history that breaks it, and no other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from checker import Limits, Report, Rule, check
from history import (
    Called,
    Changed,
    Claimed,
    Deaf,
    Ended,
    Fault,
    History,
    Listens,
    Looked,
    Record,
    Returned,
    Stalled,
    Told,
    Written,
)

TTL = 10
LAG = 0.5  # the last look before a change
LIMITS = Limits(notice=1, slack=1, grace=1, prolonged=1)


class Script:
    """A history, written line by line; the moments are given in seconds."""

    def __init__(self, key: str = "foo", limit: int = 1) -> None:
        self.files: dict[str, list[Record]] = defaultdict(list)
        self.key = key
        self.limit = limit
        self.looks: list[Looked] = []
        self._calls = 0

    # etcd

    def put(
        self,
        at: float,
        revision: int,
        lease: int,
        *,
        node: str = "p",
        created: int = 0,
        under: str = "",
    ) -> None:
        """`created` is for an entry that is there already; `lease` names it, or is the new one."""
        name = f"{under or self.key}/{created or lease:x}"
        created = created or revision
        self.files["etcd"].append(Changed(at, revision, name, created, lease, node))

    def move(self, at: float, revision: int, token: int, born: int, lease: int) -> None:
        name = f"{self.key}/{born:x}"
        self.files["etcd"].append(Changed(at, revision, name, token, lease, "p"))

    def delete(self, at: float, revision: int, lease: int, *, under: str = "") -> None:
        name = f"{under or self.key}/{lease:x}"
        self.files["etcd"].append(Changed(at, revision, name, None, 0, ""))

    def look(self, since: float, at: float, revision: int) -> None:
        """Instead of one shortly before each change, and one at the end."""
        self.looks.append(Looked(at, since, revision))

    # processes; the node and the process are called the same, if nothing else is said

    def call(
        self,
        who: str,
        op: str,
        since: float,
        until: float | None,
        *,
        error: str | None = None,
        token: int | None = None,
        lease: int | None = None,
        lock: int = 1,
        node: str | None = None,
        within: float | None = 5,
        ttl: int = TTL,
        others: tuple[str, ...] = (),
    ) -> None:
        self._calls += 1
        about = lock, op, self.key, node or who, within, ttl
        limit = self.limit
        called = Called(since, self._calls, *about, limit=limit, others=others)
        self.files[who].append(called)
        if until is not None:
            granted = ttl if token else None
            self.files[who].append(Returned(until, self._calls, error, token, lease, granted))

    def lock(
        self, who: str, since: float, until: float, token: int, lease: int, **fields: object
    ) -> None:
        self.call(who, "lock", since, until, token=token, lease=lease, **fields)  # type: ignore[arg-type]

    def unlock(self, who: str, since: float, until: float, **fields: object) -> None:
        self.call(who, "unlock", since, until, **fields)  # type: ignore[arg-type]

    def claim(self, who: str, at: float, token: int, *, lock: int = 1) -> None:
        self.files[who].append(Claimed(at, at, lock, self.key, token, 1.0))

    def told(self, who: str, at: float, event: str, token: int | None, **fields: object) -> None:
        lock = fields.pop("lock", 1)
        self.files[who].append(Told(at, lock, event, self.key, token, **fields))  # type: ignore[arg-type]

    def listens(self, who: str, at: float, *, lock: int = 1) -> None:
        self.files[who].append(Listens(at, lock, self.key, self.limit))

    def deaf(self, who: str, at: float, *, lock: int = 1) -> None:
        self.files[who].append(Deaf(at, lock))

    def ends(self, at: float, *who: str) -> None:
        for each in who:
            self.files[each].append(Ended(at))

    def write(self, at: float, who: str, token: int, *, accepted: bool = True) -> None:
        self.files["store"].append(Written(at, who, self.key, token, accepted))

    def fault(self, since: float, until: float, name: str) -> None:
        self.files["faults"].append(Fault(since, until, name))

    # and what comes of it

    def drop(self, who: str, unwanted: Callable[[Record], bool]) -> None:
        self.files[who] = [record for record in self.files[who] if not unwanted(record)]

    def records(self) -> dict[str, list[Record]]:
        files = {
            name: records if name == "etcd" else sorted(records, key=lambda record: record.at)
            for name, records in self.files.items()
        }
        changes = [each for each in files.get("etcd", ()) if isinstance(each, Changed)]
        if changes:
            end = max(each.at for records in files.values() for each in records)
            looks = [Looked(each.at, each.at - LAG, each.revision - 1) for each in changes]
            looks.append(Looked(end, end - LAG, max(each.revision for each in changes)))
            files["etcd"] = [*files["etcd"], *(self.looks or looks)]
        return files

    def report(self, limits: Limits = LIMITS) -> Report:
        return check(self.records(), limits)

    @property
    def broken(self) -> set[Rule]:
        return self.report().rules


@pytest.fixture
def two() -> Script:
    """In order: p holds, q waits for it and holds, l listens.

    p: 10 to 20, token 2, lease 0xa; q: 20 to 30, token 3, lease 0xb. All goes on until 60.
    """
    script = Script()
    script.listens("l", 1)
    script.lock("p", 10, 10.2, 2, 0xA)
    script.put(10.1, 2, 0xA)
    script.lock("q", 11, 20.2, 3, 0xB, within=20)
    script.put(11.1, 3, 0xB, node="q")
    script.call("r", "lock", 12, 12.2, error="AlreadyLockedError")
    script.claim("p", 11, 2)
    script.call("p", "renew", 12, 12.1)
    script.claim("p", 19, 2)
    script.write(19, "p", 2)
    script.unlock("p", 20, 20.1)
    script.delete(20.1, 4, 0xA)
    script.claim("q", 21, 3)
    script.write(22, "q", 3)
    script.write(22, "p", 2, accepted=False)
    script.call("q", "renew", 25, 25.1)
    script.claim("q", 29, 3)
    script.unlock("q", 30, 30.1)
    script.delete(30.1, 5, 0xB)
    told = [(10.1, "locked", 2), (20.1, "unlocked", 2), (20.1, "locked", 3), (30.1, "unlocked", 3)]
    for at, event, token in told:
        script.told("l", at + 0.1, event, token)
    script.ends(60, "p", "q", "r", "l")
    return script


@pytest.fixture
def one() -> Script:
    """p holds from 10 on, token 2, lease 0xa, and somebody else goes on until 60."""
    script = Script()
    script.lock("p", 10, 10.2, 2, 0xA)
    script.put(10.1, 2, 0xA)
    script.call("z", "lock", 59, 59.1, error="StoreUnavailableError", node="z")
    script.ends(60, "z")
    return script


def test_a_run_in_order_breaks_no_rule(two: Script) -> None:
    report = two.report()
    assert not report.violations, str(report)
    assert report.operations["lock", "ok"] == 2
    assert report.operations["lock", "AlreadyLockedError"] == 1
    assert report.counts["holds"] == 2
    assert report.counts["stale writes refused"] == 1


def test_a_run_is_read_from_its_files(two: Script, tmp_path: Path) -> None:
    for name, records in two.records().items():
        history = History(tmp_path / f"{name}.jsonl")
        for record in records:
            history.note(record)
        history.close()
    assert not check(tmp_path, LIMITS).violations


# Something must have happened.


def test_a_history_of_nothing_fails(tmp_path: Path) -> None:
    assert check({}).rules == {Rule.NOTHING}
    assert check(tmp_path).rules == {Rule.NOTHING}


def test_a_history_without_changes_in_etcd_fails(two: Script) -> None:
    del two.files["etcd"]
    assert Rule.NOTHING in two.broken


def test_a_history_in_which_nobody_got_a_lock_fails() -> None:
    script = Script()
    script.put(1, 2, 0xA, node="somebody else")
    script.call("p", "lock", 2, 2.1, error="AlreadyLockedError")
    assert script.broken == {Rule.NOTHING}


# The recorder.


def test_a_recorder_that_missed_the_beginning_of_an_entry_is_not_believed(two: Script) -> None:
    two.files["etcd"] = [
        replace(each, created=1) if isinstance(each, Changed) and each.revision == 2 else each
        for each in two.files["etcd"]
    ]
    assert Rule.RECORDER in two.broken


def test_a_recorder_that_notes_an_old_revision_is_not_believed(two: Script) -> None:
    two.files["etcd"].append(two.files["etcd"][0])
    assert Rule.RECORDER in two.broken


def test_a_recorder_that_never_looked_is_not_believed(one: Script) -> None:
    assert check(one.files, LIMITS).rules == {Rule.RECORDER}


def test_a_change_that_is_noted_late_breaks_no_rule(one: Script) -> None:
    one.drop("etcd", lambda each: True)
    one.files["etcd"].append(Changed(17, 2, "foo/a", 2, 0xA, "p"))
    one.look(10, 10.05, 1)
    assert not one.broken


def test_a_change_that_is_noted_late_happened_before_the_look_that_saw_it(one: Script) -> None:
    one.delete(30, 3, 0xA)
    one.look(20.1, 20.2, 2)
    one.look(20.2, 20.3, 3)
    one.told("p", 20.5, "lost", 2)
    one.claim("p", 20.4, 2)
    assert one.broken == {Rule.CLAIM}


def test_a_look_that_was_on_its_way_while_something_happened_tells_nothing_of_it(
    one: Script,
) -> None:
    one.delete(30, 3, 0xA)
    one.look(20.1, 29, 2)
    one.look(20.2, 29, 3)
    one.told("p", 20.5, "lost", 2)
    one.claim("p", 20.4, 2)
    assert not one.broken


# Tokens.


def test_two_holds_of_one_token_are_found(two: Script) -> None:
    two.lock("r", 32, 32.2, 3, 0xB, node="q")
    assert Rule.TOKEN in two.broken


def test_a_token_that_is_no_create_revision_is_found(one: Script) -> None:
    one.lock("q", 12, 12.2, 7, 0xC)
    assert one.broken == {Rule.TOKEN}


def test_a_token_of_another_entry_is_found(one: Script) -> None:
    one.lock("q", 12, 12.2, 2, 0xC)
    assert Rule.TOKEN in one.broken


def test_a_token_that_falls_in_real_time_is_found(two: Script) -> None:
    """As if etcd had been put back: the later call has the lower token."""
    two.lock("r", 40, 40.2, 1, 0xC, node="r")
    two.files["etcd"].insert(0, Changed(0.5, 1, "foo/c", 1, 0xC, "r"))
    two.files["etcd"].insert(1, Changed(0.6, 1, "foo/c", None, 0, ""))
    assert Rule.TOKEN in two.broken


# The order of the queue.


def test_a_hold_taken_while_an_older_entry_is_there_is_found(one: Script) -> None:
    one.lock("q", 12, 12.2, 3, 0xB)
    one.put(12.1, 3, 0xB, node="q")
    assert one.broken == {Rule.ORDER, Rule.REIGN}


def test_a_hold_begun_before_its_turn_is_found(two: Script) -> None:
    """q returns while p waits in front of it, though nobody claims anything."""
    two.drop("q", lambda each: isinstance(each, Returned) and each.token == 3)
    two.files["q"].append(Returned(15, 2, None, 3, 0xB, TTL))
    assert two.broken == {Rule.ORDER}


def test_an_entry_without_a_lease_is_none(one: Script) -> None:
    one.files["etcd"].insert(0, Changed(0.5, 1, "foo/1", 1, 0, "a user's own key"))
    assert not one.broken


def test_an_entry_of_a_nested_lock_is_none_of_the_outer(one: Script) -> None:
    one.files["etcd"].insert(0, Changed(0.5, 1, "foo/bar/1", 1, 7, "somebody else"))
    one.files["etcd"].insert(0, Changed(0.5, 1, "foo/0123456789abcdef0", 1, 7, "too long"))
    one.listens("z", 1)
    one.told("z", 10.2, "locked", 2)
    assert not one.broken


def test_a_nested_lock_has_its_own_queue(two: Script) -> None:
    nested = Script("foo/bar")
    nested.lock("n", 25, 25.2, 5, 0xD)
    nested.put(25.1, 5, 0xD, node="n")
    # etcd counts the revisions of all keys in one order.
    two.files["etcd"][-1:] = [*nested.files["etcd"], Changed(30.1, 6, "foo/b", None, 0, "")]
    two.files["n"] = nested.files["n"]
    assert not two.broken


def test_an_older_entry_of_somebody_unknown_counts_too() -> None:
    script = Script()
    script.put(1, 2, 0xF, node="")  # as Go's and etcdctl's
    script.lock("p", 10, 10.2, 3, 0xA)
    script.put(10.1, 3, 0xA)
    script.ends(60, "p")
    assert script.broken == {Rule.ORDER, Rule.REIGN}


# Claims.


def test_held_after_the_entry_expired_is_found(one: Script) -> None:
    one.delete(20.3, 3, 0xA)
    one.told("p", 20.5, "lost", 2)
    one.claim("p", 20.4, 2)
    assert one.broken == {Rule.CLAIM}


def test_held_until_the_moment_of_the_deletion_is_in_order(one: Script) -> None:
    one.delete(20.3, 3, 0xA)
    one.told("p", 20.5, "lost", 2)
    one.claim("p", 20.3, 2)
    assert not one.broken


def test_held_after_the_own_unlock_is_found(one: Script) -> None:
    one.unlock("p", 12, 12.2)
    one.delete(12.1, 3, 0xA)
    one.claim("p", 12.3, 2)
    assert one.broken == {Rule.CLAIM}


@pytest.mark.parametrize(("late", "broken"), [(0.9, set()), (1.1, {Rule.CLAIM})])
def test_held_after_an_end_from_outside_is_allowed_for_so_long(
    one: Script, late: float, broken: set[Rule]
) -> None:
    one.fault(14.9, 15, "delete foo/a")
    one.delete(15, 3, 0xA)
    one.claim("p", 15 + late, 2)
    one.told("p", 16.5, "lost", 2)
    report = one.report()
    assert report.rules == broken
    if not broken:
        assert report.counts["holds claimed after they were ended from outside"] == 1
        assert report.longest["claim after an end from outside"] == pytest.approx(late)


def test_a_process_that_stood_still_may_claim_that_much_longer(one: Script) -> None:
    one.fault(14.9, 15, "delete foo/a")
    one.delete(15, 3, 0xA)
    one.files["p"].append(Stalled(17.5, 15.2))
    one.claim("p", 17.6, 2)
    one.told("p", 17.7, "lost", 2)
    assert not one.broken
    one.claim("p", 18.4, 2)
    assert one.broken == {Rule.CLAIM}


def test_a_fault_of_etcd_allows_a_late_notice(one: Script) -> None:
    """The lease was lost though it had been renewed in the background."""
    one.fault(17, 22, "pause_leader")
    one.delete(22, 3, 0xA)
    one.claim("p", 22.5, 2)
    one.told("p", 22.6, "lost", 2)
    assert not one.broken


def test_held_without_an_entry_is_found(one: Script) -> None:
    one.claim("p", 12, 99)
    assert one.broken == {Rule.CLAIM}


def test_two_objects_that_hold_at_a_time_are_found(two: Script) -> None:
    two.claim("q", 18, 3)
    assert Rule.OVERLAP in two.broken


def test_two_objects_of_one_process_and_node_that_hold_at_a_time_are_found(two: Script) -> None:
    two.drop("q", lambda each: True)
    two.lock("p", 11, 20.2, 3, 0xB, lock=2, node="q", within=20)
    two.claim("p", 18, 3, lock=2)
    two.claim("p", 21, 3, lock=2)
    assert Rule.OVERLAP in two.broken


def test_an_overlap_after_an_end_from_outside_is_allowed_for_so_long(one: Script) -> None:
    one.fault(14.9, 15, "revoke a")
    one.delete(15, 3, 0xA)
    one.lock("q", 15.1, 15.3, 4, 0xB)
    one.put(15.2, 4, 0xB, node="q")
    one.claim("q", 15.4, 4)
    one.claim("q", 16, 4)
    one.claim("p", 12, 2)
    one.claim("p", 15.6, 2)
    one.told("p", 15.7, "lost", 2)
    report = one.report()
    assert not report.violations, str(report)
    assert report.longest["overlap after an end from outside"] == pytest.approx(0.2)
    assert one.report(replace(LIMITS, notice=0.1)).rules == {Rule.CLAIM, Rule.OVERLAP}


def test_one_who_speaks_for_the_node_may_claim_the_same_hold(one: Script) -> None:
    one.call("p", "renew", 11, 11.1, lock=2)
    one.claim("p", 12, 2)
    one.claim("p", 12, 2, lock=2)
    one.claim("p", 14, 2)
    one.claim("p", 14, 2, lock=2)
    assert not one.broken


# The store.


def test_a_stale_write_that_was_accepted_is_found(two: Script) -> None:
    two.write(23, "p", 2)
    assert two.broken == {Rule.STORE}


def test_a_write_refused_for_no_reason_is_found(two: Script) -> None:
    two.write(23, "q", 3, accepted=False)
    assert two.broken == {Rule.STORE}


# How holds end.


def test_a_hold_ended_by_nobody_is_found(one: Script) -> None:
    one.delete(15, 3, 0xA)
    one.told("p", 15.1, "lost", 2)
    one.files["p"].append(Ended(60))
    assert one.broken == {Rule.ENDED}


def test_a_hold_ended_by_another_object_of_the_node_is_found(one: Script) -> None:
    """The other one had a hold of its own before: it does not speak for the node."""
    one.call("p", "lock", 5, 5.1, lock=2, error="AlreadyLockedError")
    one.unlock("p", 14.9, 15.1, lock=2)
    one.delete(15, 3, 0xA)
    one.told("p", 15.2, "lost", 2)
    assert one.broken == {Rule.ENDED}


def test_an_object_that_never_locked_may_end_the_hold_of_its_node(one: Script) -> None:
    one.unlock("p", 14.9, 15.1, lock=2)
    one.delete(15, 3, 0xA)
    one.told("p", 15.2, "lost", 2)
    assert not one.broken


def test_a_hold_that_was_extended_ends_by_its_new_ttl(one: Script) -> None:
    one.call("p", "extend", 11, 11.2, ttl=2)
    one.move(11.1, 3, 2, 0xA, 0xC)
    one.delete(13.2, 4, 0xA)
    one.told("p", 13, "lost", 2)
    one.files["p"].append(Ended(60))
    assert not one.broken


def test_an_extension_keeps_place_and_token(two: Script) -> None:
    two.call("p", "extend", 13, 13.2, ttl=20)
    two.files["etcd"] = [
        *two.files["etcd"][:2],
        Changed(13.1, 4, "foo/a", 2, 0xC, "p"),
        *(replace(each, revision=each.revision + 1) for each in two.files["etcd"][2:]),
    ]
    assert not two.broken


def test_a_loss_that_nobody_was_told_of_is_found(one: Script) -> None:
    one.delete(20.3, 3, 0xA)
    one.files["p"] += [*(Listens(at, 9, "other") for at in (31, 40)), Ended(60)]
    assert one.broken == {Rule.UNNOTICED}


@pytest.mark.parametrize("op", ["renew", "unlock"])
def test_a_loss_that_a_call_has_raised_was_noticed(one: Script, op: str) -> None:
    one.delete(20.3, 3, 0xA)
    one.call("p", op, 21, 21.1, error="LockLostError")
    one.files["p"].append(Ended(60))
    report = one.report()
    assert not report.violations, str(report)
    assert report.longest["notice of a loss after the entry's end"] == pytest.approx(0.8)


def test_a_process_that_was_killed_need_not_notice(one: Script) -> None:
    one.delete(20.3, 3, 0xA)
    one.lock("q", 20.5, 20.7, 4, 0xB)
    one.put(20.6, 4, 0xB, node="q")
    report = one.report()
    assert not report.violations, str(report)
    assert report.counts["holders killed"] == 2
    assert report.longest["hold after its process was killed"] == pytest.approx(20.3 - 10.2)
    assert report.longest["wait for a lock whose holder was killed"] == pytest.approx(0.2)


def test_a_process_that_was_paused_may_notice_when_it_goes_on(one: Script) -> None:
    one.fault(12, 40, "pause p")
    one.delete(20.3, 3, 0xA)
    one.told("p", 40.5, "lost", 2)
    one.files["p"].append(Ended(60))
    assert not one.broken


# Losses.


def test_a_loss_told_twice_is_found(one: Script) -> None:
    one.delete(20.3, 3, 0xA)
    one.told("p", 20.4, "lost", 2)
    one.told("p", 20.5, "lost", 2)
    assert one.broken == {Rule.LOST}


def test_a_loss_before_the_deadline_of_an_entry_that_is_there_is_found(one: Script) -> None:
    one.told("p", 12, "lost", 2)
    one.delete(20.3, 3, 0xA)
    assert one.broken == {Rule.LOST}


def test_a_loss_at_the_deadline_needs_no_word_of_etcd(one: Script) -> None:
    one.told("p", 19.9, "lost", 2)
    one.delete(22, 3, 0xA)
    assert not one.broken


def test_a_loss_after_the_own_unlock_is_found(one: Script) -> None:
    one.unlock("p", 12, 12.2)
    one.delete(12.1, 3, 0xA)
    one.told("p", 12.3, "lost", 2)
    assert one.broken == {Rule.LOST}


# Changes of the holder.


def _told(event: str, token: int) -> Callable[[Record], bool]:
    return lambda each: isinstance(each, Told) and (each.event, each.token) == (event, token)


@pytest.mark.parametrize(
    ("event", "token"), [("locked", 2), ("unlocked", 2), ("locked", 3), ("unlocked", 3)]
)
def test_a_change_that_was_not_told_is_found(two: Script, event: str, token: int) -> None:
    two.drop("l", _told(event, token))
    assert Rule.MISSED in two.broken


def test_a_listener_that_was_told_nothing_is_found(two: Script) -> None:
    two.drop("l", lambda each: isinstance(each, Told))
    assert two.broken == {Rule.MISSED}


def test_a_change_told_twice_is_found(two: Script) -> None:
    two.told("l", 20.3, "locked", 3)
    assert two.broken == {Rule.TOLD}


def test_a_change_told_out_of_order_is_found(two: Script) -> None:
    two.drop("l", _told("unlocked", 2))
    two.told("l", 20.4, "unlocked", 2)
    assert Rule.TOLD in two.broken


def test_a_change_that_never_happened_is_found(two: Script) -> None:
    two.told("l", 40, "locked", 9)
    assert two.broken == {Rule.TOLD}


def test_what_happened_before_somebody_listened_need_not_be_told(two: Script) -> None:
    two.listens("r", 15)
    for at, event, token in [(20.2, "unlocked", 2), (20.2, "locked", 3), (30.2, "unlocked", 3)]:
        two.told("r", at, event, token)
    assert not two.broken


def test_what_is_told_after_the_end_does_not_count(two: Script) -> None:
    two.listens("r", 15)
    two.deaf("r", 16)
    two.told("r", 20, "locked", 99)
    assert not two.broken


def test_the_last_changes_before_the_end_may_be_missing(two: Script) -> None:
    two.drop("l", lambda each: _told("unlocked", 3)(each) or isinstance(each, Ended))
    two.deaf("l", 31)
    assert not two.broken


def test_a_process_that_was_killed_may_miss_the_end_but_nothing_before(two: Script) -> None:
    two.drop("l", lambda each: _told("unlocked", 3)(each) or isinstance(each, Ended))
    assert not two.broken
    two.drop("l", _told("unlocked", 2))
    assert two.broken == {Rule.TOLD, Rule.MISSED}


def test_a_synthesised_change_stands_for_what_nobody_could_know(two: Script) -> None:
    """p and q come and go unseen; then r holds."""
    two.drop("l", lambda each: isinstance(each, Told) and each.at > 15)
    two.lock("r", 40, 40.2, 6, 0xC)
    two.put(40.1, 6, 0xC, node="r")
    two.told("l", 41, "unlocked", 2, synthesised=True)
    two.told("l", 41, "locked", 6, synthesised=True)
    assert not two.broken


def test_a_lock_found_free_may_have_been_held_meanwhile(two: Script) -> None:
    two.drop("l", lambda each: isinstance(each, Told) and each.at > 15)
    two.told("l", 35, "unlocked", 2, synthesised=True)
    two.lock("r", 40, 40.2, 6, 0xC)
    two.put(40.1, 6, 0xC, node="r")
    two.told("l", 40.2, "locked", 6)
    assert not two.broken


def test_a_lock_found_free_that_was_free_before_needs_a_compaction(two: Script) -> None:
    """Nothing can be told: it was free, and is free."""
    two.drop("l", lambda each: isinstance(each, Told))
    two.listens("r", 0.1)
    two.told("r", 0.2, "unlocked", None, synthesised=True)
    two.drop("l", lambda each: True)
    two.lock("s", 40, 40.2, 6, 0xC)
    two.put(40.1, 6, 0xC, node="s")
    two.told("r", 40.2, "locked", 6)
    assert not two.broken
    two.unlock("s", 45, 45.2)
    two.delete(45.1, 7, 0xC)
    two.told("r", 45.2, "unlocked", 6)
    two.lock("s", 50, 50.2, 8, 0xD)
    two.put(50.1, 8, 0xD, node="s")
    two.unlock("s", 51, 51.2)
    two.delete(51.1, 9, 0xD)
    two.lock("s", 52, 52.2, 10, 0xE)
    two.put(52.1, 10, 0xE, node="s")
    two.told("r", 52.2, "locked", 10)
    assert two.broken == {Rule.MISSED}
    two.fault(49, 52, "compaction")
    assert not two.broken


def test_a_lock_found_free_at_last_that_was_free_before_needs_a_compaction(two: Script) -> None:
    two.lock("r", 40, 40.2, 6, 0xC)
    two.put(40.1, 6, 0xC, node="r")
    two.unlock("r", 45, 45.2)
    two.delete(45.1, 7, 0xC)
    assert two.broken == {Rule.MISSED}
    two.fault(39, 44, "compaction")
    assert not two.broken


def test_a_lock_found_held_at_last_is_told_whatever_was_compacted(two: Script) -> None:
    two.lock("r", 40, 40.2, 6, 0xC)
    two.put(40.1, 6, 0xC, node="r")
    two.fault(39, 44, "compaction")
    assert two.broken == {Rule.MISSED}


def test_a_synthesised_change_must_fit_to_what_was_told(two: Script) -> None:
    two.drop("l", lambda each: isinstance(each, Told) and each.at > 15)
    two.told("l", 25, "locked", 3, synthesised=True)  # and who had it before?
    two.told("l", 30.2, "unlocked", 3)
    assert Rule.TOLD in two.broken


# What is left behind.


def _leave(script: Script, error: str, *, until: float | None) -> None:
    """r fails at 13, and its entry is there until then, or for ever."""
    script.call("r", "lock", 12, 13, error=error)
    script.put(12.5, 3, 0xC, node="r")
    if until is not None:
        script.delete(until, 4, 0xC)


@pytest.mark.parametrize("error", ["AlreadyLockedError", "StoreTimeoutError"])
@pytest.mark.parametrize("until", [14, None])
def test_an_entry_of_a_call_that_failed_is_found(
    one: Script, error: str, until: float | None
) -> None:
    _leave(one, error, until=until)
    assert one.broken == {Rule.LEFT}


def test_an_entry_that_was_gone_when_the_call_failed_is_in_order(one: Script) -> None:
    _leave(one, "AlreadyLockedError", until=13)
    assert not one.broken


@pytest.mark.parametrize(("until", "broken"), [(24, set()), (25, {Rule.LEFT}), (None, {Rule.LEFT})])
def test_an_entry_in_doubt_may_stand_for_its_ttl(
    one: Script, until: float | None, broken: set[Rule]
) -> None:
    _leave(one, "LockUncertainError", until=until)
    assert one.broken == broken


@pytest.mark.parametrize(("until", "broken"), [(27, set()), (28, {Rule.LEFT})])
def test_each_election_starts_the_lease_of_an_entry_in_doubt_again(
    one: Script, until: float, broken: set[Rule]
) -> None:
    one.fault(14, 16, "kill_leader")
    _leave(one, "LockUncertainError", until=until)
    assert one.broken == broken


def test_an_entry_that_appears_after_its_call_failed_is_found(one: Script) -> None:
    one.call("r", "lock", 12, 13, error="StoreTimeoutError")
    one.put(14, 3, 0xC, node="r")
    one.delete(24, 4, 0xC)
    assert one.broken == {Rule.LEFT}


def test_an_entry_of_a_process_that_was_killed_in_its_call_is_in_order(one: Script) -> None:
    one.call("r", "lock", 12, None)
    one.put(12.5, 3, 0xC, node="r")
    assert not one.broken


def test_another_object_of_the_node_may_have_made_the_entry(one: Script) -> None:
    _leave(one, "AlreadyLockedError", until=14)
    one.call("r", "lock", 12.2, 14, error="AlreadyLockedError", lock=2)
    assert not one.broken


def test_an_object_is_known_by_the_lease_of_its_holds(one: Script) -> None:
    """The call of the other object of the node does not excuse it: the lease was not its own."""
    one.unlock("p", 11, 11.2)
    one.delete(11.1, 3, 0xA)
    one.call("p", "lock", 12, 13, error="StoreTimeoutError")
    one.put(12.5, 4, 0xA)
    one.delete(20, 5, 0xA)
    one.call("p", "lock", 12.2, 20.1, error="StoreTimeoutError", lock=2, within=10)
    assert one.broken == {Rule.LEFT}


def test_an_entry_that_an_unlock_left_is_found(one: Script) -> None:
    one.unlock("p", 12, 12.1)
    one.delete(20, 3, 0xA)
    assert one.broken == {Rule.LEFT}


def test_entries_of_others_are_nobody_s_fault(two: Script) -> None:
    two.put(40, 6, 0xC, node="somebody else")
    report = two.report()
    assert report.rules == {Rule.MISSED}, "of the listener, which hears of others too"
    assert report.counts["entries of others"] == 1


# Time.


def test_a_call_that_takes_too_long_is_found(two: Script) -> None:
    two.call("r", "renew", 40, 46.1, error="StoreTimeoutError", within=5)
    assert two.broken == {Rule.TIME}


def test_a_pause_of_the_process_does_not_count(two: Script) -> None:
    two.call("r", "renew", 40, 46.1, error="StoreTimeoutError", within=5)
    two.fault(41, 44, "pause r")
    assert not two.broken


def test_nor_does_a_time_in_which_the_machine_let_it_starve(two: Script) -> None:
    two.call("r", "renew", 40, 46.1, error="StoreTimeoutError", within=5)
    two.files["r"].append(Stalled(44, 41))
    assert not two.broken


def test_a_time_counts_once_that_was_both(two: Script) -> None:
    two.call("r", "renew", 40, 47.5, error="StoreTimeoutError", within=5)
    two.fault(41, 41.9, "pause r")
    two.files["r"].append(Stalled(41.9, 41.1))
    assert two.broken == {Rule.TIME}


def test_a_call_without_a_return_is_found(two: Script) -> None:
    two.call("r", "destroy", 40, None)
    assert two.broken == {Rule.TIME}


def test_a_process_that_was_killed_need_not_return(two: Script) -> None:
    two.call("r", "destroy", 58, None)
    two.drop("r", lambda each: isinstance(each, Ended))
    assert not two.broken


def test_a_process_that_went_on_long_after_a_call_was_due_is_found(two: Script) -> None:
    two.call("r", "destroy", 40, None)
    two.drop("r", lambda each: isinstance(each, Ended))
    two.listens("r", 50, lock=2)
    two.told("r", 50, "locked", 99, lock=3)
    assert two.broken == {Rule.TIME}


# Several at a time, and several in one.


def held(script: Script, *nodes: tuple[str, int, str], until: float = 20) -> Script:
    """Nodes that hold `foo` from 10 on, one after the other, each as a reader or writer or none."""
    for token, (who, lease, under) in enumerate(nodes, 2):
        script.lock(who, 10 + token / 10, 10.05 + token / 10, token, lease)
        script.put(10.02 + token / 10, token, lease, node=who, under=under)
        script.claim(who, 11, token)
        script.claim(who, until - 1, token)
        script.unlock(who, until, until + 0.1)
    for token, (_, lease, under) in enumerate(nodes, 2):
        script.delete(until + 0.05 + token / 100, 20 + token, lease, under=under)
    script.ends(60, *(who for who, _, _ in nodes))
    return script


P, Q, R = ("p", 0xA, ""), ("q", 0xB, ""), ("r", 0xC, "")


def role(node: tuple[str, int, str], name: str) -> tuple[str, int, str]:
    return (*node[:2], f"foo/{name}")


def test_as_many_as_the_limit_may_hold_a_semaphore() -> None:
    assert held(Script(limit=3), P, Q, R).broken == set()


@pytest.mark.parametrize("limit", [1, 2])
def test_one_more_than_the_limit_is_found(limit: int) -> None:
    nodes = (P, Q, R)[: limit + 1]
    assert held(Script(limit=limit), *nodes).broken == {Rule.ORDER, Rule.OVERLAP}


def test_readers_may_read_together_and_a_writer_only_alone() -> None:
    assert held(Script(), role(P, "read"), role(Q, "read")).broken == set()
    for one, two in (("read", "write"), ("write", "read"), ("write", "write")):
        script = held(Script(), role(P, one), role(Q, two))
        assert script.broken == {Rule.ORDER, Rule.OVERLAP}, (one, two)


def test_a_reader_waits_for_an_older_writer() -> None:
    script = held(Script(), role(P, "read"))
    script.put(30, 30, 0xD, node="somebody", under="foo/write")
    script.lock("p", 31, 32, 31, 0xA)
    script.put(31.5, 31, 0xA, under="foo/read")
    assert script.broken == {Rule.ORDER, Rule.REIGN}


@pytest.mark.parametrize("token", [2, 3])
def test_several_keys_have_one_token(token: int) -> None:
    script = Script()
    script.lock("p", 10, 10.2, 2, 0xA, others=("bar",))
    script.put(10.1, 2, 0xA)
    script.put(10.1, token, 0xA, under="bar")
    assert script.broken == (set() if token == 2 else {Rule.TOKEN})


def test_several_keys_are_held_by_the_first_in_each_queue() -> None:
    script = Script()
    script.put(9, 2, 0xB, node="q", under="bar")
    script.lock("p", 10, 10.2, 3, 0xA, others=("bar",))
    script.put(10.1, 3, 0xA)
    script.put(10.1, 3, 0xA, under="bar")
    script.ends(60, "p")
    assert script.broken == {Rule.ORDER, Rule.REIGN}


def test_what_is_left_of_one_of_several_keys_is_found() -> None:
    script = Script()
    script.lock("p", 10, 10.2, 2, 0xA, others=("bar",))
    for under in ("foo", "bar"):
        script.put(10.1, 2, 0xA, under=under)
    script.unlock("p", 20, 20.1)
    script.delete(20.05, 3, 0xA)
    script.ends(60, "p")
    assert script.broken == {Rule.LEFT}


@pytest.mark.parametrize(("at", "broken"), [(18.93, set()), (18.8, {Rule.ENDED})])
def test_from_its_deadline_on_an_owner_ends_what_is_left_of_several_keys(
    at: float, broken: set[Rule]
) -> None:
    """The lease ends at 19 at the earliest, and is counted on until 0.1 s before."""
    script = Script()
    script.lock("p", 10, 10.2, 2, 0xA, others=("bar",))
    for under in ("foo", "bar"):
        script.put(10.1, 2, 0xA, under=under)
    for under in ("foo", "bar"):
        script.delete(at, 3, 0xA, under=under)
    script.told("p", 18.92, "lost", 2, reason="EXPIRED")
    script.ends(60, "p")
    assert script.broken == broken


@pytest.fixture
def crowd() -> Script:
    """p, q and r hold a semaphore of 2 one after the other, q the longest; l listens."""
    script = Script(limit=2)
    script.listens("l", 1)
    for token, (who, lease, _) in enumerate((P, Q), 2):
        script.lock(who, 10, 10.5, token, lease)
        script.put(10 + token / 10, token, lease, node=who)
        script.told("l", 11, "locked", token)
    script.lock("r", 12, 20.2, 4, 0xC, within=20)
    script.put(12.1, 4, 0xC, node="r")
    script.unlock("p", 20, 20.2)
    script.delete(20.1, 5, 0xA)
    script.told("l", 20.3, "unlocked", 2)
    script.told("l", 20.3, "locked", 4)
    script.unlock("r", 30, 30.2)
    script.delete(30.1, 6, 0xC)
    script.told("l", 30.3, "unlocked", 4)
    script.ends(60, "p", "q", "r", "l")
    return script


def test_several_holders_may_go_in_any_order(crowd: Script) -> None:
    assert crowd.broken == set()


@pytest.mark.parametrize(
    ("event", "token"), [("locked", 3), ("unlocked", 2), ("locked", 4), ("unlocked", 4)]
)
def test_a_change_among_several_holders_that_was_not_told_is_found(
    crowd: Script, event: str, token: int
) -> None:
    crowd.drop("l", lambda each: isinstance(each, Told) and _says(each, event, token))
    assert crowd.broken == {Rule.MISSED}


def _says(told: Told, event: str, token: int) -> bool:
    return (told.event, told.token) == (event, token)


def test_a_change_among_several_holders_that_is_told_twice_or_never_was_is_found(
    crowd: Script,
) -> None:
    crowd.told("l", 40, "unlocked", 4)
    assert crowd.broken == {Rule.TOLD}
    crowd.told("l", 41, "unlocked", 7)
    assert crowd.broken == {Rule.TOLD}


@pytest.mark.parametrize("fault", ["compaction", "reset"])
def test_what_nobody_could_know_of_several_holders_is_excused(crowd: Script, fault: str) -> None:
    """The hold of r came and went while nobody watched, and q is there still."""
    crowd.fault(19, 31, fault)
    crowd.drop("l", lambda each: isinstance(each, Told) and each.at > 20)
    crowd.told("l", 31, "unlocked", 2, synthesised=True)
    crowd.put(32, 8, 0xD, node="s")
    crowd.told("l", 32.1, "locked", 8)
    assert crowd.broken == set()


def test_a_look_that_leaves_out_what_has_changed_is_found(crowd: Script) -> None:
    crowd.drop("l", lambda each: isinstance(each, Told) and each.at > 20)
    crowd.put(32, 8, 0xD, node="s")
    crowd.told("l", 31, "locked", 4, synthesised=True)
    crowd.told("l", 32.1, "locked", 8)
    assert crowd.broken == {Rule.MISSED}
