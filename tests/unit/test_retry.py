"""Another try, at the next member, within the time; and which error is raised when none is of use.

It awaits what is made by hand: a clock that these tests turn, and members that they answer for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pytest

from microlock.core.port import (
    Get,
    Grant,
    KeepAlive,
    KeepAlives,
    Leave,
    Read,
    Request,
    Revoke,
    Transaction,
)
from microlock.core.retry import Budget, Members, persist
from microlock.engine.drive import finished
from microlock.errors import (
    DestroyedError,
    LeaseNotFoundError,
    StoreAuthenticationError,
    StoreError,
    StoreNoSpaceError,
    StorePermissionError,
    StoreTimeoutError,
    StoreTlsError,
    StoreUnavailableError,
    WrongServerError,
)

START = 100.0
PUT = Leave(b"foo/1", 5)
ONCE = [Grant(1, 5), Transaction(b"foo/1", 5, (), ())]
REFUSALS = [
    LeaseNotFoundError,
    StoreAuthenticationError,
    StoreError,
    StoreNoSpaceError,
    StorePermissionError,
]
ELSEWHERE = [StoreUnavailableError, StoreTimeoutError, StoreTlsError, WrongServerError]


def down() -> StoreError:
    return StoreUnavailableError("down")


def slow() -> StoreError:
    return StoreTimeoutError("slow")


def lost() -> StoreError:
    return StoreTimeoutError("no answer", may_have_happened=True)


class Attempt(NamedTuple):
    member: str
    timeout: float
    repeated: bool


class Call:
    """One call, driven to its end.

    Args:
        replies: what the attempts meet, one after the other; the last one is met for ever.
        members: how many there are: a, b, c and so on.
        takes: seconds of each attempt, if it has so many.
        oversleeps: seconds that each pause is longer than asked for.

    Attributes:
        attempts, pauses: what was asked for.
        reply: what the call returned; or
        error: what it raised.
        now: when it ended.
    """

    def __init__(
        self,
        request: Request = PUT,
        *replies: Any,
        members: int | Members = 2,
        answered: bool = True,
        seconds: float = 10.0,
        budget: Budget | None = None,
        takes: float = 0.0,
        patience: float = 10.0,
        jitter: Callable[[int], float] = lambda attempts: 0.1,
        oversleeps: float = 0.0,
    ) -> None:
        self.attempts: list[Attempt] = []
        self.pauses: list[float] = []
        self.reply: Any = None
        self.error: BaseException | None = None
        self.now = START
        if isinstance(members, int):
            members = Members("abcdefgh"[:members], answered=lambda: answered)
        budget = budget or Budget(START + seconds, START + seconds)
        to_come = list(replies)

        async def attempt(member: str, request: Request, *, timeout: float, repeated: bool) -> Any:
            self.attempts.append(Attempt(member, timeout, repeated))
            self.now += min(takes, timeout)
            reply = to_come.pop(0) if len(to_come) > 1 else to_come[0]
            if isinstance(reply, type):  # a new error for each attempt
                reply = reply("no")
            if isinstance(reply, Exception):
                raise reply
            return reply

        async def pause(seconds: float) -> None:
            self.pauses.append(seconds)
            self.now += seconds + oversleeps

        options = {"attempt": attempt, "pause": pause, "now": lambda: self.now}
        options |= {"patience": patience, "jitter": jitter}
        try:
            self.reply = finished(persist, request, members, budget, **options)
        except Exception as error:  # noqa: BLE001  it is what the tests look at
            self.error = error

    @property
    def asked(self) -> str:
        return "".join(each.member for each in self.attempts)


# An answer


def test_an_answer_is_returned():
    assert Call(PUT, "answer").reply == "answer"


def test_an_answer_after_failures_is_returned():
    call = Call(PUT, down(), down(), "answer")
    assert (call.reply, call.asked) == ("answer", "aba")


def test_the_next_call_asks_the_member_that_answered():
    members = Members("abc", answered=lambda: True)
    Call(PUT, down(), "answer", members=members)
    assert Call(PUT, "answer", members=members).asked == "b"


def test_after_the_last_member_comes_the_first():
    assert Call(PUT, down(), down(), down(), down(), "answer", members=3).asked == "abcab"


def test_a_failure_that_another_call_has_noted_leaves_the_next_member_alone():
    members = Members("abc", answered=lambda: True)
    members.move_on("a")
    members.move_on("a")
    assert members.current == "b"


def test_a_store_without_members_can_be_made():
    assert str(Members((), answered=lambda: False)) == ""


# Whether another try is of use


@pytest.mark.parametrize("error", ELSEWHERE)
def test_a_member_that_cannot_be_talked_to_is_left_for_another(error):
    assert Call(PUT, error, "answer", answered=False).asked == "ab"


@pytest.mark.parametrize("error", REFUSALS)
def test_a_refusal_is_not_tried_again(error):
    call = Call(PUT, error, "answer")
    assert (type(call.error), call.asked) == (error, "a")


def test_a_refusal_after_a_fault_is_not_tried_again():
    assert Call(PUT, down(), StorePermissionError("no"), "answer").asked == "ab"


def test_members_that_never_answered_are_tried_once():
    assert Call(PUT, StoreUnavailableError, answered=False).asked == "ab"


def test_members_that_are_slow_are_tried_on():
    assert Call(PUT, down(), slow(), "answer", answered=False).asked == "aba"


def test_members_that_have_answered_before_are_tried_on():
    assert Call(PUT, down(), down(), down(), "answer").asked == "abab"


def test_a_request_in_doubt_is_tried_on_though_nobody_ever_answered():
    assert Call(PUT, lost(), down(), "answer", answered=False).asked == "aba"


def test_members_that_are_all_wrong_are_tried_once():
    assert Call(PUT, StoreTlsError, WrongServerError).asked == "ab"


def test_a_member_that_is_down_is_tried_on_beside_one_that_is_wrong():
    assert Call(PUT, StoreTlsError, down(), "answer").asked == "aba"


@pytest.mark.parametrize("request_", ONCE, ids=repr)
def test_what_goes_once_is_not_repeated_in_doubt(request_):
    assert Call(request_, lost(), "answer").asked == "a"


@pytest.mark.parametrize("request_", ONCE, ids=repr)
def test_what_goes_once_is_sent_again_where_it_certainly_did_not_go(request_):
    assert Call(request_, down(), "answer").reply == "answer"


# Doubt


def test_an_attempt_knows_that_an_earlier_copy_may_be_applied_yet():
    call = Call(PUT, down(), lost(), down(), "answer")
    assert [each.repeated for each in call.attempts] == [False, False, True, True]


@pytest.mark.parametrize("last", [StorePermissionError, WrongServerError])
def test_what_is_raised_may_have_happened_if_any_copy_was_lost(last):
    assert Call(PUT, lost(), last, last).error.may_have_happened


def test_what_is_raised_did_not_happen_if_no_copy_was_lost():
    assert not Call(PUT, down(), StorePermissionError("no")).error.may_have_happened


@pytest.mark.parametrize(
    "request_", [Get(b"foo"), Read(b"foo/"), KeepAlive(1), KeepAlives((1, 2))], ids=repr
)
def test_what_changes_nothing_is_as_if_it_had_not_happened(request_):
    assert not Call(request_, lost(), StorePermissionError("no")).error.may_have_happened


# Time


def test_each_attempt_leaves_time_for_others():
    call = Call(PUT, lost(), lost(), lost(), "answer", members=3, seconds=8.0)
    assert call.attempts[0].timeout == 2.0


def test_an_attempt_has_the_time_of_a_busy_machine_if_there_is_so_much():
    assert Call(PUT, "answer", seconds=0.4).attempts[0].timeout == pytest.approx(0.3)


@pytest.mark.parametrize("request_", [KeepAlive(1), KeepAlives((1, 2))])
def test_a_renewal_has_the_time_that_a_proxy_takes_to_pass_it_on(request_):
    call = Call(request_, "answer", seconds=1.5, members=3)
    assert call.attempts[0].timeout == pytest.approx(0.7)


def test_an_attempt_has_no_more_time_than_there_is():
    assert Call(PUT, "answer", seconds=0.1).attempts[0].timeout == pytest.approx(0.1)


def test_an_attempt_has_no_more_time_than_a_call_may_take():
    assert Call(PUT, "answer", members=1, patience=3.0).attempts[0].timeout == 1.5


def test_tries_end_with_the_time():
    call = Call(PUT, StoreUnavailableError, seconds=5.0, takes=0.9)
    assert call.now - START < 5.0
    assert call.now - START > 3.0


def test_nothing_is_sent_after_a_pause_that_was_overslept():
    call = Call(PUT, down(), down(), "answer", seconds=5.0, oversleeps=60.0)
    assert (str(call.error), call.asked) == ("down; a failed too", "ab")


def test_a_pause_that_does_not_fit_is_not_made():
    call = Call(PUT, StoreUnavailableError, seconds=5.0, jitter=lambda attempts: 5.0)
    assert (call.pauses, call.asked) == ([], "ab")


def test_undoing_has_the_time_that_was_kept_back_for_it():
    budget = Budget(START - 1, START + 4)
    assert Call(Revoke(1), "answer", members=1, budget=budget).attempts[0].timeout == 2.0


def test_undoing_that_begins_late_has_a_moment_still():
    late = Budget(START - 2, START - 1)
    assert Call(Revoke(1), "answer", budget=late).attempts[0].timeout == pytest.approx(0.25)


def test_undoing_that_begins_late_has_no_more_than_a_call_may_take():
    late = Budget(START - 2, START - 1)
    call = Call(Revoke(1), "answer", budget=late, patience=0.1)
    assert call.attempts[0].timeout == pytest.approx(0.1)


@pytest.mark.parametrize(("seconds", "kept"), [(2.0, 0.5), (4.0, 1.0), (60.0, 1.0)])
def test_the_last_of_the_time_is_kept_for_undoing(seconds, kept):
    budget = Budget.of(START, seconds)
    assert (budget.work, budget.end) == (START + seconds - kept, START + seconds)


# Pauses


def test_there_is_no_pause_before_each_member_has_failed_once():
    assert Call(PUT, down(), down(), "answer", members=3).pauses == []


def test_a_pause_comes_when_each_member_has_failed_once():
    assert Call(PUT, down(), down(), "answer").pauses == [0.1]


def test_a_round_of_one_member_is_over_at_its_first_failure():
    assert Call(PUT, down(), "answer", members=1).pauses == [0.1]


def test_a_pause_is_as_long_as_the_jitter_says_for_so_many_attempts():
    def jitter(attempts: int) -> float:
        return attempts / 10

    call = Call(PUT, down(), down(), down(), down(), "answer", jitter=jitter)
    assert call.pauses == [0.2, 0.3, 0.4]


def test_no_pause_is_none():
    call = Call(PUT, down(), down(), "answer", jitter=lambda attempts: 0.0)
    assert (call.pauses, call.reply) == ([], "answer")


# Stopped


def stopping(after: int) -> Callable[[], None]:
    """Ends the call when it was asked so many times."""
    left = iter(range(after))

    def stop() -> None:
        if next(left, None) is None:
            raise DestroyedError("destroyed")

    return stop


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_call_that_is_stopped_makes_no_further_attempt(after):
    call = Call(PUT, StoreUnavailableError, budget=Budget.of(START, 10, stopping(after)))
    assert (type(call.error), len(call.attempts)) == (DestroyedError, after)


def test_undoing_is_not_stopped():
    assert Call(Revoke(1), "answer", budget=Budget.of(START, 10, stopping(0))).reply == "answer"


# What is raised


def assert_says(error: BaseException | None, kind: type[Exception], text: str) -> None:
    assert (type(error), str(error)) == (kind, text)


def test_the_last_error_is_raised_and_names_the_other_members():
    call = Call(PUT, down(), slow(), seconds=0.01)
    assert_says(call.error, StoreTimeoutError, "slow; a failed too")


def test_of_many_members_three_are_named():
    call = Call(PUT, StoreUnavailableError, members=6, answered=False)
    assert_says(call.error, StoreUnavailableError, "no; a, b, c and 2 more failed too")


@pytest.mark.parametrize("error", [StoreTlsError, WrongServerError])
def test_what_will_not_pass_is_raised_before_what_may(error):
    call = Call(PUT, error("wrong"), down(), seconds=0.01)
    assert_says(call.error, error, "wrong; b failed too")


@pytest.mark.parametrize("error", [StoreTlsError, WrongServerError])
def test_what_will_not_pass_is_raised_though_the_time_is_over_in_the_next_attempt(error):
    call = Call(PUT, lost(), error("wrong"), slow(), members=1)
    assert type(call.error) is error
    assert str(call.error) == "wrong"
    assert call.error.may_have_happened


def test_a_refusal_is_raised_before_all_others():
    call = Call(PUT, StoreTlsError("wrong"), StorePermissionError("no"))
    assert_says(call.error, StorePermissionError, "no")


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_without_time_nothing_is_sent_and_the_members_are_named(seconds):
    call = Call(PUT, "answer", seconds=seconds)
    assert call.attempts == []
    assert_says(call.error, StoreTimeoutError, "no time was left to ask a, b")
    assert not call.error.may_have_happened


def after(members: Members, replies: Iterable[Any]) -> Call:
    """A call without time, after one that met these."""
    Call(PUT, *replies, members=members, seconds=0.01)
    return Call(PUT, "answer", members=members, seconds=0.0)


def test_without_time_what_was_the_matter_before_is_said():
    call = after(Members("a", answered=lambda: True), [down()])
    assert_says(
        call.error, StoreTimeoutError, "no time was left to ask a; the last error was: down"
    )


def test_without_time_nothing_is_said_of_a_trouble_that_is_over():
    call = after(Members("ab", answered=lambda: True), [down(), "answer"])
    assert_says(call.error, StoreTimeoutError, "no time was left to ask a, b")
