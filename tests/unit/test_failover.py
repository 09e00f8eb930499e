"""Whether another try is of use, and which error is told when none is."""

from __future__ import annotations

import pytest

from microlock.core.retry import Trial
from microlock.errors import (
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

DOWN, SLOW = StoreUnavailableError("down"), StoreTimeoutError("slow")
TLS, WEB = StoreTlsError("no TLS"), WrongServerError("a web server")
TOKEN = StoreAuthenticationError("invalid auth token")
FULL, FORBIDDEN = StoreNoSpaceError("full"), StorePermissionError("forbidden")


def after(*failures: StoreError, members: int = 2, login_again: bool = False) -> Trial:
    """What has met these failures, at one member after the other."""
    trial = Trial(members)
    for number, error in enumerate(failures):
        trial.failed(f"etcd{number % members}", error, login_again=login_again)
    return trial


def lost() -> StoreError:
    return StoreTimeoutError("no answer", may_have_happened=True)


@pytest.mark.parametrize("error", [DOWN, SLOW, TLS, WEB], ids=repr)
def test_a_member_that_cannot_be_talked_to_is_left_for_another(error):
    assert Trial(2).failed("etcd0", error, login_again=False)


@pytest.mark.parametrize("error", [TOKEN, FULL, FORBIDDEN, LeaseNotFoundError("gone")], ids=repr)
def test_a_member_that_answers_is_not_left(error):
    assert not Trial(2).failed("etcd0", error, login_again=False)


@pytest.mark.parametrize("error", [DOWN, SLOW, TLS, WEB], ids=repr)
def test_the_other_member_is_tried_whatever_the_first_is(error):
    assert after(error).worth_another_try(ever_answered=False)


@pytest.mark.parametrize("error", [FULL, FORBIDDEN, LeaseNotFoundError("gone")], ids=repr)
def test_a_refusal_is_not_tried_again(error):
    assert not after(error).worth_another_try(ever_answered=True)


def test_a_refusal_after_a_fault_is_not_tried_again():
    assert not after(DOWN, FORBIDDEN).worth_another_try(ever_answered=True)


def test_members_that_never_answered_are_tried_once():
    assert not after(DOWN, DOWN).worth_another_try(ever_answered=False)


def test_members_that_are_slow_are_tried_on():
    assert after(DOWN, SLOW).worth_another_try(ever_answered=False)


def test_members_that_have_answered_before_are_tried_on():
    assert after(DOWN, DOWN, DOWN).worth_another_try(ever_answered=True)


def test_a_request_in_doubt_is_tried_on_though_nobody_ever_answered():
    assert after(lost(), DOWN).worth_another_try(ever_answered=False)


def test_members_that_are_all_wrong_are_tried_once():
    assert not after(TLS, WEB).worth_another_try(ever_answered=True)


def test_a_member_that_is_down_is_tried_on_beside_one_that_is_wrong():
    assert after(TLS, DOWN).worth_another_try(ever_answered=True)


def test_a_token_that_was_refused_is_replaced_once():
    assert after(TOKEN, login_again=True).worth_another_try(ever_answered=True)


def test_a_new_token_that_is_refused_is_the_end():
    assert not after(TOKEN, TOKEN, login_again=True).worth_another_try(ever_answered=True)


def test_a_login_that_is_refused_is_the_end():
    assert not after(TOKEN).worth_another_try(ever_answered=True)


def test_a_login_that_is_refused_after_its_token_was_is_the_end():
    trial = after(TOKEN, login_again=True)
    trial.failed("etcd0", StoreAuthenticationError("authentication failed"), login_again=False)
    assert not trial.worth_another_try(ever_answered=True)


def test_a_round_is_over_when_each_member_has_failed():
    assert [after(*[DOWN] * count).round_over for count in range(4)] == [False, False, True, True]


def test_a_round_of_one_member_is_over_at_its_first_failure():
    assert after(DOWN, members=1).round_over


def test_the_same_member_twice_is_no_round():
    trial = Trial(2)
    trial.failed("etcd0", DOWN, login_again=False)
    trial.failed("etcd0", DOWN, login_again=False)
    assert not trial.round_over


def test_there_is_no_doubt_before_a_request_was_lost():
    assert not after(DOWN).doubt


def test_a_lost_request_stays_a_doubt():
    assert after(lost(), DOWN).doubt


def test_the_last_error_is_told():
    assert after(DOWN, SLOW).verdict() is SLOW


@pytest.mark.parametrize("error", [TLS, WEB], ids=repr)
def test_what_will_not_pass_is_told_before_what_may(error):
    assert after(error, DOWN).verdict() is error


def test_a_refusal_is_told_before_all_others():
    assert after(TLS, FORBIDDEN).verdict() is FORBIDDEN


@pytest.mark.parametrize("last", [StorePermissionError("no"), StoreUnavailableError("down")])
def test_what_is_told_may_have_happened_if_any_request_was_lost(last):
    assert after(lost(), last).verdict().may_have_happened


def test_what_is_told_did_not_happen_if_no_request_was_lost():
    assert not after(DOWN, FORBIDDEN).verdict().may_have_happened
