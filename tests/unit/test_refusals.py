"""What follows when etcd refuses who calls; decided by what was sent and what was said alone."""

from __future__ import annotations

import pytest

from microlock.errors import StoreAuthenticationError, StoreUnavailableError
from microlock.etcd.refusals import Refusals, Then, too_late
from microlock.etcd.wire import Metadata

NOBODY: Metadata = ()
SIMPLE: Metadata = (("token", "aZbYcX.12"),)
JWT: Metadata = (("token", "head.body.signature"),)
OLD = StoreAuthenticationError("etcd at etcd0:2379: etcdserver: revision of auth store is old")
OLD_34 = StoreAuthenticationError("etcd at etcd0:2379: auth: revision in header is old")
UNKNOWN = StoreAuthenticationError("etcd at etcd0:2379: etcdserver: invalid auth token")
NEEDED = StoreAuthenticationError("etcd at etcd0:2379: etcdserver: user name is empty")


@pytest.mark.parametrize(
    ("error", "sent", "then"),
    [
        (OLD, SIMPLE, Then.AGAIN),
        (OLD_34, SIMPLE, Then.AGAIN),
        (OLD, JWT, Then.ANEW),
        (UNKNOWN, SIMPLE, Then.ANEW),
        (UNKNOWN, JWT, Then.ANEW),
        (NEEDED, NOBODY, Then.ANEW),
    ],
)
def test_what_follows_the_first_refusal(error, sent, then):
    assert Refusals().then(error, sent, fresh=False) is then


def test_the_third_new_token_that_etcd_does_not_know_is_the_last():
    refusals = Refusals()
    assert refusals.then(UNKNOWN, SIMPLE, fresh=False) is Then.ANEW  # one from before
    then = [refusals.then(UNKNOWN, SIMPLE, fresh=True) for _ in range(3)]
    assert then == [Then.ANEW, Then.ANEW, Then.FINAL]


@pytest.mark.parametrize("sent", [SIMPLE, JWT])
def test_changes_of_users_and_roles_are_never_the_last(sent):
    refusals = Refusals()
    then = [refusals.then(OLD, sent, fresh=True) for _ in range(100)]
    assert Then.FINAL not in then
    assert refusals.count == 100


def test_a_token_that_etcd_knows_makes_the_row_begin_anew():
    refusals = Refusals()
    said = [UNKNOWN, UNKNOWN, OLD, UNKNOWN, UNKNOWN]
    assert Then.FINAL not in [refusals.then(each, SIMPLE, fresh=True) for each in said]


def test_what_had_no_time_for_another_try_is_passing_and_did_not_happen():
    error = too_late(OLD)
    assert type(error) is StoreUnavailableError
    assert (str(error), error.may_have_happened) == (str(OLD), False)
