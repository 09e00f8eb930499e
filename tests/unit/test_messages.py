"""What is sent to etcd for each request, and what its reply says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest

from microlock.core.port import (
    Enter,
    Entered,
    Get,
    Grant,
    Join,
    Joined,
    KeepAlive,
    KeepAlives,
    KeyValue,
    Leave,
    Left,
    Move,
    Moved,
    Read,
    ReadAll,
    Request,
    Revoke,
    TimeToLive,
    Transaction,
)
from microlock.etcd import messages
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.messages import OLDEST, decode, encode

ENTER = Enter(b"foo/", b"foo/1", b"alpha", 1)
JOIN = Join(b"foo/", b"foo/1", b"alpha", 1, near=2)
LEAVE = Leave(b"foo/1", 9)
MOVE = Move(b"foo/1", b"alpha", 9, 1, 2)
MINE = KeyValue(b"foo/1", b"alpha", 9, 1)
BETA, GAMMA = KeyValue(b"foo/2", b"beta", 5, 2), KeyValue(b"foo/3", b"", 7, 3)
NESTED = KeyValue(b"foo/bar/4", b"beta", 3, 4)
BARE = KeyValue(b"foo/1", b"theirs", 4, 0)


def reply(*reads: tuple[KeyValue, ...], succeeded: bool = False) -> pb.TxnResponse:
    """etcd's reply to a transaction that did something at revision 9, and then read."""
    ranges = [
        {
            "response_range": {
                "kvs": [
                    {
                        "key": kv.name,
                        "value": kv.value,
                        "create_revision": kv.create_revision,
                        "lease": kv.lease_id,
                    }
                    for kv in found
                ]
            }
        }
        for found in reads
    ]
    put: list[dict[str, Any]] = [{"response_put": {}}] if succeeded else []
    return pb.TxnResponse(succeeded=succeeded, header={"revision": 9}, responses=put + ranges)


def answer(request: Any, *reads: tuple[KeyValue, ...], succeeded: bool = False) -> Any:
    return decode(request, reply(*reads, succeeded=succeeded), 3.0, 4.0, repeated=True)


@pytest.mark.parametrize(
    ("found", "entered"),
    [
        ((BETA, MINE), Entered(9, (), 4.0, True)),
        ((NESTED, BETA, GAMMA), Entered(None, (BETA, GAMMA), 4.0, True, since=9)),
        ((NESTED,), Entered(None, (), 4.0, True, since=9)),
        ((BARE,), Entered(None, (), 4.0, True, since=9)),
        ((BETA,) * OLDEST, Entered(None, (BETA,) * OLDEST, 4.0, True)),
    ],
    ids=["an earlier copy has put it", "another's", "nested", "without a lease", "more"],
)
def test_an_enter_that_put_nothing_tells_who_is_there(found, entered):
    assert answer(ENTER, found) == entered


def test_an_enter_that_put_the_entry_tells_its_revision():
    assert answer(ENTER, succeeded=True) == Entered(9, (), 4.0, True)


@pytest.mark.parametrize(
    ("oldest", "newest", "before"),
    [
        (MINE, (MINE,), ()),
        (BETA, (MINE, GAMMA, BETA), (BETA, GAMMA)),
        (BETA, (MINE, GAMMA), (BETA, GAMMA)),
        (BETA, (MINE, NESTED), (BETA,)),
        (NESTED, (MINE, NESTED), ()),
        (NESTED, (MINE, GAMMA), None),
    ],
    ids=["alone", "few", "far", "behind a nested name", "nested", "hidden"],
)
def test_a_join_that_put_the_entry_tells_who_is_before_it(oldest, newest, before):
    joined = answer(JOIN, (oldest,), newest, succeeded=True)
    assert joined == Joined(9, before, 4.0, True)


@pytest.mark.parametrize(
    ("found", "joined"),
    [
        ((NESTED, BETA, GAMMA, MINE), Joined(9, (BETA, GAMMA), 4.0, True)),
        ((MINE, KeyValue(b"foo/5", b"", 11, 5)), Joined(9, (), 4.0, True)),
        ((BARE, BETA), Joined(None, (), 4.0, True)),
    ],
    ids=["behind others", "before another", "without a lease"],
)
def test_a_join_that_put_nothing_tells_where_the_entry_stands(found, joined):
    assert answer(JOIN, found) == joined


@pytest.mark.parametrize("done", [True, False])
def test_a_leave_tells_whether_it_has_deleted_the_entry(done):
    assert answer(LEAVE, succeeded=done) == Left(done, 4.0, True)


def test_a_move_that_did_nothing_tells_what_is_there():
    assert answer(MOVE, (BARE,)) == Moved(False, BARE, 4.0, True)
    assert answer(MOVE, ()) == Moved(False, None, 4.0, True)


def test_a_move_that_was_done_tells_of_nothing_else():
    assert answer(MOVE, succeeded=True) == Moved(True, None, 4.0, True)


def test_a_users_transaction_tells_its_revision_or_that_the_entry_does_not_stand():
    transaction = Transaction(b"foo/1", 9, ((b"key", b"value"),), ())
    assert answer(transaction, succeeded=True) == 9
    assert answer(transaction) is None


def test_a_read_tells_of_entries_alone_and_of_no_more_than_asked_for():
    found = pb.RangeResponse(kvs=reply((NESTED, BETA, GAMMA)).responses[0].response_range.kvs)
    assert decode(Read(b"foo/", 1), found, 3.0, 4.0, repeated=False).keys == (BETA,)
    assert decode(Read(b"foo/"), found, 3.0, 4.0, repeated=False).keys == (BETA, GAMMA)


@pytest.mark.parametrize(
    ("limit", "sent"), [(0, 0), (1, OLDEST), (OLDEST + 1, OLDEST + 1), (10**30, 2**63 - 1)]
)
def test_a_read_with_a_limit_sees_behind_some_nested_names(limit, sent):
    _, message, _ = encode(Read(b"foo/", limit))
    assert message.limit == sent


@pytest.mark.parametrize(
    ("request_", "guards", "writes"),
    [(ENTER, 1, 1), (JOIN, 1, 1), (LEAVE, 1, 1), (MOVE, 2, 1)],
    ids=["enter", "join", "leave", "move"],
)
def test_each_change_is_one_guarded_write_in_one_transaction(request_, guards, writes):
    method, message, _ = encode(request_)
    assert method == messages.TXN
    assert len(message.compare) == guards
    assert sum(not part.HasField("request_range") for part in message.success) == writes
    assert all(part.HasField("request_range") for part in message.failure)


REQUESTS = [
    Grant(1, 5),
    KeepAlive(1),
    KeepAlives((1,)),
    Revoke(1),
    TimeToLive(1),
    ENTER,
    replace(ENTER, others=((b"bar/", b"bar/1"),)),
    replace(ENTER, limit=2, since=7),
    JOIN,
    replace(JOIN, others=((b"bar/", b"bar/1"),)),
    LEAVE,
    replace(LEAVE, others=(b"bar/1",)),
    MOVE,
    replace(MOVE, others=(b"bar/1",)),
    Read(b"foo/"),
    Get(b"foo/1"),
    Get(b"foo/1", (b"bar/1",)),
    ReadAll(b"foo"),
    Transaction(b"foo/1", 9, ((b"key", b"value"),), ()),
    Transaction(b"foo/1", 9, (), (b"key",)),
    Transaction(b"foo/1", 9, (), ()),
    Transaction(b"foo/1", 9, (), (), (b"bar/1",)),
]


def test_these_are_all_requests_that_there_are():
    assert {type(each) for each in REQUESTS} == {*get_args(Request), Transaction}


@pytest.mark.parametrize("request_", REQUESTS, ids=repr)
def test_no_transaction_only_reads_for_its_end_in_the_middle_would_end_an_old_etcd(request_):
    method, message, _ = encode(request_) or (None, None, None)
    if method == messages.TXN:
        parts = [*message.success, *message.failure]
        assert any(
            part.HasField("request_put") or part.HasField("request_delete_range") for part in parts
        )


def test_a_move_asks_for_the_old_lease_for_a_late_copy_must_not_move_the_entry_back():
    _, message, _ = encode(MOVE)
    created, under = message.compare
    assert (created.create_revision, under.lease) == (9, 1)
    assert message.success[0].request_put.lease == 2


def test_a_join_asks_that_the_entry_is_not_there_for_a_late_copy_must_not_move_it_back():
    _, message, _ = encode(JOIN)
    (created,) = message.compare
    assert (created.key, created.create_revision) == (b"foo/1", 0)
    assert created.target == pb.Compare.CREATE
