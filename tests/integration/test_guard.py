"""Writes that etcd itself refuses once the hold they belong to has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from clients import CLIENTS, python_etcd3
from conftest import Etcd
from ctl import Etcdctl
from faces import BOTH_FACES, ONLY_THREADS, Microlock
from proxy import Proxy
from watching import DEADLINE, eventually
from witness import AT_ONCE, at_most

from microlock import (
    AlreadyLockedError,
    DestroyedError,
    EtcdClient,
    Guard,
    InvalidArgumentError,
    LockLostError,
    LockNotOwnedError,
    LossReason,
    StoreError,
    connect,
)

pytestmark = BOTH_FACES

LONG = 60  # no test takes so long
TIMEOUT = 3.0  # of a client whose replies are lost
SLACK = 1.5
# In no request but that of the transaction.
MARK = "value-that-marks-the-transaction"

Write = Callable[[Guard, Mapping[str, str], Sequence[str]], bool]
Stored = Callable[[], dict[str, str]]


@pytest.fixture
def data(prefix: str) -> str:
    """Where the keys are that are written under the lock."""
    return f"{prefix}data/"


@pytest.fixture(scope="module")
def etcd(etcd_server: Etcd) -> Iterator[EtcdClient]:
    with connect(etcd_server.endpoint) as client:
        yield client


@pytest.fixture(scope="module")
def reader(etcd_server: Etcd) -> Iterator[Any]:
    """A client of python-etcd3, which tells more of a key than etcdctl prints."""
    with closing(python_etcd3(etcd_server.endpoint)) as client:
        yield client


@pytest.fixture
def stored(reader: Any, data: str) -> Stored:
    """What is written, without the prefix."""
    return lambda: {
        about.key.decode().removeprefix(data): value.decode()
        for value, about in reader.get_prefix(data)
    }


@pytest.fixture
def foo(etcd: EtcdClient, key: str) -> Iterator[Microlock]:
    lock = Microlock(etcd, key, "one", LONG)
    yield lock
    lock.destroy()


@pytest.fixture
def other(etcd: EtcdClient, key: str) -> Iterator[Microlock]:
    lock = Microlock(etcd, key, "two", LONG)
    yield lock
    lock.destroy()


@pytest.fixture(scope="module", params=list(CLIENTS))
def writer(request: pytest.FixtureRequest, etcd_server: Etcd) -> Iterator[Any]:
    with closing(CLIENTS[request.param](etcd_server.endpoint)) as client:
        yield client


@pytest.fixture
def write(writer: Any, data: str) -> Write:
    """Puts and deletes under a guard, with any client; returns whether it was done."""

    def write(guard: Guard, put: Mapping[str, str], delete: Sequence[str] = ()) -> bool:
        puts = {f"{data}{name}": value for name, value in put.items()}
        deletes = [f"{data}{name}" for name in delete]
        if isinstance(writer, EtcdClient):
            try:
                writer.transaction(guard, put=puts, delete=deletes)
            except LockLostError:
                return False
            return True
        made = writer.transactions
        done, _ = writer.transaction(
            compare=[made.create(guard.key) == guard.revision],
            success=[made.put(name, value) for name, value in puts.items()]
            + [made.delete(name) for name in deletes],
            failure=[],
        )
        return bool(done)

    return write


# A hold that stands, and holds that have ended


def test_a_write_under_a_live_guard_is_done(foo: Microlock, write: Write, stored: Stored) -> None:
    foo.lock()
    assert write(foo.guard(), {"a": "1"}, ())
    assert stored() == {"a": "1"}


def test_several_puts_and_deletes_are_done_together(
    foo: Microlock, write: Write, stored: Stored
) -> None:
    foo.lock()
    write(foo.guard(), {"a": "1", "b": "2", "c": "3"}, ())
    assert write(foo.guard(), {"a": "4", "d": "5"}, ["b", "c"])
    assert stored() == {"a": "4", "d": "5"}


def expire(foo: Microlock, other: Microlock, _: Etcdctl) -> None:
    foo.extend(1)
    assert eventually(lambda: other.holder() is None)


def delete(foo: Microlock, _: Microlock, etcdctl: Etcdctl) -> None:
    assert etcdctl("del", foo.guard().key.decode()).strip() == "1"


def hand_over(foo: Microlock, other: Microlock, _: Etcdctl) -> None:
    foo.unlock()
    other.lock()


def take_again(foo: Microlock, _: Microlock, __: Etcdctl) -> None:
    foo.unlock()
    foo.lock()


ENDS: dict[str, Callable[[Microlock, Microlock, Etcdctl], None]] = {
    "unlocked": lambda foo, *_: foo.unlock(),
    "destroyed": lambda foo, *_: foo.destroy(),
    "expired": expire,
    "deleted": delete,
    "taken by another": hand_over,
    "taken again": take_again,
}


@pytest.mark.parametrize("end", ENDS)
def test_a_write_under_a_hold_that_has_ended_changes_nothing(
    foo: Microlock, other: Microlock, etcdctl: Etcdctl, write: Write, stored: Stored, end: str
) -> None:
    foo.lock()
    guard = foo.guard()
    assert write(guard, {"a": "1", "b": "2"}, ())
    ENDS[end](foo, other, etcdctl)
    assert not write(guard, {"a": "3", "c": "4"}, ["b"])
    assert stored() == {"a": "1", "b": "2"}


def test_a_hold_taken_again_has_a_guard_of_the_same_key_and_another_revision(
    foo: Microlock,
) -> None:
    foo.lock()
    before = foo.guard()
    foo.unlock()
    foo.lock()  # under the same lease
    after = foo.guard()
    assert after.key == before.key
    assert after.revision > before.revision


def test_the_next_holders_writes_are_done(
    foo: Microlock, other: Microlock, write: Write, stored: Stored
) -> None:
    foo.lock()
    foo.unlock()
    other.lock()
    assert write(other.guard(), {"a": "1"}, ())
    assert stored() == {"a": "1"}


# guard()


def test_the_guard_is_the_entry_and_the_token(foo: Microlock, key: str) -> None:
    hold = foo.lock()
    assert foo.guard() == Guard(f"{key}/{hold.lease_id:x}".encode(), hold.token, key, "one")


def test_the_guard_survives_renew(foo: Microlock, etcd: EtcdClient, data: str) -> None:
    foo.lock()
    guard = foo.guard()
    foo.renew()
    assert foo.guard() == guard
    assert etcd.transaction(guard, put={data: "1"})


def test_the_guard_survives_extend(foo: Microlock, etcd: EtcdClient, data: str) -> None:
    foo.lock()
    guard = foo.guard()
    foo.extend(2 * LONG)
    assert foo.guard() == guard
    assert etcd.transaction(guard, put={data: "1"})


def test_a_hold_that_was_taken_over_by_its_node_has_the_same_guard(
    foo: Microlock, etcd: EtcdClient, key: str
) -> None:
    foo.lock()
    restarted = Microlock(etcd, key, "one", LONG)
    restarted.renew()
    assert restarted.guard() == foo.guard()
    restarted.destroy()


def refuse(foo: Microlock, other: Microlock) -> None:
    other.lock()
    with pytest.raises(AlreadyLockedError):
        foo.lock()


@pytest.mark.parametrize(
    "prepare",
    [
        lambda foo, _: None,
        lambda foo, _: (foo.lock(), foo.unlock()),
        refuse,
    ],
    ids=["never locked", "unlocked", "refused"],
)
def test_guard_raises_when_nothing_is_held(
    foo: Microlock, other: Microlock, prepare: Callable[[Microlock, Microlock], object]
) -> None:
    prepare(foo, other)
    with pytest.raises(LockNotOwnedError) as caught:
        foo.guard()
    assert not isinstance(caught.value, LockLostError)


def test_a_destroyed_lock_has_no_guard(foo: Microlock) -> None:
    foo.lock()
    foo.destroy()
    with pytest.raises(DestroyedError):
        foo.guard()


@pytest.mark.parametrize(
    ("end", "reason"), [("expired", LossReason.EXPIRED), ("deleted", LossReason.DELETED)]
)
def test_guard_raises_why_the_hold_was_lost(
    foo: Microlock, other: Microlock, etcdctl: Etcdctl, end: str, reason: LossReason
) -> None:
    foo.lock()
    ENDS[end](foo, other, etcdctl)
    assert foo.lost.wait(DEADLINE)
    with pytest.raises(LockLostError) as caught:
        foo.guard()
    assert caught.value.reason is reason


# EtcdClient.transaction()


@ONLY_THREADS
def test_transaction_returns_the_revision_of_the_change(
    foo: Microlock, etcd: EtcdClient, reader: Any, data: str
) -> None:
    foo.lock()
    revision = etcd.transaction(foo.guard(), put={data: "1"})
    _, about = reader.get(data)
    assert about.mod_revision == revision


@ONLY_THREADS
def test_transaction_says_whose_hold_has_ended(foo: Microlock, etcd: EtcdClient, key: str) -> None:
    foo.lock()
    guard = foo.guard()
    foo.unlock()
    with pytest.raises(LockLostError) as caught:
        etcd.transaction(guard)
    assert (caught.value.key, caught.value.node_id) == (key, "one")
    assert caught.value.reason is LossReason.DELETED


@ONLY_THREADS
def test_transaction_without_a_change_asks_whether_the_hold_stands(
    foo: Microlock, etcd: EtcdClient
) -> None:
    foo.lock()
    guard = foo.guard()
    assert etcd.transaction(guard) >= guard.revision
    foo.unlock()
    with pytest.raises(LockLostError):
        etcd.transaction(guard)


@ONLY_THREADS
def test_transaction_takes_str_and_bytes(
    foo: Microlock, etcd: EtcdClient, reader: Any, data: str
) -> None:
    foo.lock()
    text, raw = f"{data}grüße", f"{data}raw".encode()
    etcd.transaction(foo.guard(), put={text: "ünïcödé", raw: b"\xff\x00"})
    assert reader.get(text)[0] == "ünïcödé".encode()
    assert reader.get(raw)[0] == b"\xff\x00"
    etcd.transaction(foo.guard(), delete=(each for each in (text, raw)))
    assert reader.get(text)[0] is reader.get(raw)[0] is None


@ONLY_THREADS
def test_a_key_of_the_user_may_have_a_nul(
    foo: Microlock, etcd: EtcdClient, stored: Stored, data: str
) -> None:
    """Unlike the name of a lock: to etcd it is a byte as any other."""
    foo.lock()
    etcd.transaction(foo.guard(), put={f"{data}a": "1", f"{data}a\0": "2", f"{data}a\0b": "3"})
    etcd.transaction(foo.guard(), delete=[f"{data}a\0"])
    assert stored() == {"a": "1", "a\0b": "3"}


@ONLY_THREADS
def test_deleting_a_key_that_is_not_there_is_done(
    foo: Microlock, etcd: EtcdClient, stored: Stored, data: str
) -> None:
    foo.lock()
    etcd.transaction(foo.guard(), put={f"{data}a": "1"}, delete=[f"{data}b"])
    assert stored() == {"a": "1"}


@ONLY_THREADS
def test_one_key_can_not_be_put_and_deleted_at_once(
    foo: Microlock, etcd: EtcdClient, stored: Stored, data: str
) -> None:
    foo.lock()
    with pytest.raises(StoreError, match="duplicate key") as caught:
        etcd.transaction(foo.guard(), put={f"{data}a": "1"}, delete=[f"{data}a"])
    assert not caught.value.may_have_happened
    assert stored() == {}


@ONLY_THREADS
def test_a_hold_of_one_client_guards_the_writes_of_another(
    foo: Microlock, etcd_server: Etcd, stored: Stored, data: str
) -> None:
    foo.lock()
    with connect(etcd_server.endpoint) as other_etcd:
        other_etcd.transaction(foo.guard(), put={f"{data}a": "1"})
    assert stored() == {"a": "1"}


@ONLY_THREADS
def test_transaction_of_a_closed_client_raises(foo: Microlock, etcd_server: Etcd) -> None:
    foo.lock()
    with connect(etcd_server.endpoint) as other_etcd:
        pass
    with pytest.raises(DestroyedError):
        other_etcd.transaction(foo.guard())


@ONLY_THREADS
@pytest.mark.parametrize("guard", [None, "foo", (b"foo/1", 1), 5])
def test_a_bad_guard_is_refused_by_name(etcd: EtcdClient, guard: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^guard"):
        etcd.transaction(guard)


@ONLY_THREADS
def test_a_hold_is_not_a_guard(foo: Microlock, etcd: EtcdClient) -> None:
    hold: Any = foo.lock()
    with pytest.raises(InvalidArgumentError, match=r"^guard"):
        etcd.transaction(hold)


@ONLY_THREADS
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"put": {"": "1"}}, "key"),
        ({"put": {b"": "1"}}, "key"),
        ({"put": {5: "1"}}, "key"),
        ({"put": {None: "1"}}, "key"),
        ({"put": {"\ud800": "1"}}, "key"),
        ({"put": {"a": 5}}, "put"),
        ({"put": {"a": None}}, "put"),
        ({"put": {"a": ["1"]}}, "put"),
        ({"put": {"a": "\ud800"}}, "put"),
        ({"put": ["a"]}, "put"),
        ({"put": "a"}, "put"),
        ({"delete": [""]}, "key"),
        ({"delete": [5]}, "key"),
        ({"delete": [None]}, "key"),
        ({"delete": 5}, "delete"),
    ],
    ids=ascii,
)
def test_bad_puts_and_deletes_are_refused_by_name(
    foo: Microlock, etcd: EtcdClient, arguments: dict[str, Any], named: str
) -> None:
    foo.lock()
    with pytest.raises(InvalidArgumentError, match=named):
        etcd.transaction(foo.guard(), **arguments)


@ONLY_THREADS
def test_a_str_is_not_taken_for_keys_of_one_letter(foo: Microlock, etcd: EtcdClient) -> None:
    """`delete="ab"` for `delete=["ab"]`: the keys "a" and "b" would be gone."""
    foo.lock()
    with pytest.raises(InvalidArgumentError, match="delete"):
        etcd.transaction(foo.guard(), delete="\1\2")


# No answer


@pytest.fixture
def proxy(etcd_server: Etcd) -> Iterator[Proxy]:
    with closing(Proxy(etcd_server.endpoint)) as way:
        yield way


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as workers:
        yield workers


@ONLY_THREADS
def test_a_transaction_without_an_answer_may_have_happened(
    foo: Microlock, proxy: Proxy, stored: Stored, data: str
) -> None:
    foo.lock()
    with connect(proxy.endpoint, timeout=TIMEOUT) as etcd:
        proxy.withhold_replies_from(MARK.encode())
        with at_most(TIMEOUT + SLACK), pytest.raises(StoreError) as caught:
            etcd.transaction(foo.guard(), put={f"{data}a": MARK})
    assert caught.value.may_have_happened
    assert stored() == {"a": MARK}


@ONLY_THREADS
def test_a_transaction_without_an_answer_is_not_repeated(
    foo: Microlock, proxy: Proxy, reader: Any, data: str
) -> None:
    foo.lock()

    def writes() -> int:
        _, about = reader.get(data)
        return about.version if about else 0

    with connect(proxy.endpoint, timeout=TIMEOUT) as etcd:
        proxy.withhold_replies_from(MARK.encode())
        with pytest.raises(StoreError):
            etcd.transaction(foo.guard(), put={data: MARK})
        assert not eventually(lambda: writes() > 1, within=0.5)
    assert writes() == 1


@ONLY_THREADS
def test_a_transaction_whose_connection_broke_is_not_repeated(
    foo: Microlock, proxy: Proxy, reader: Any, data: str, pool: ThreadPoolExecutor
) -> None:
    foo.lock()
    with connect(proxy.endpoint, timeout=10) as etcd:
        proxy.withhold_replies_from(MARK.encode())
        writing = pool.submit(etcd.transaction, foo.guard(), put={data: MARK})
        assert eventually(lambda: reader.get(data)[0])
        proxy.reset()  # and etcd can be reached again
        with at_most(AT_ONCE), pytest.raises(StoreError) as caught:
            writing.result()
    assert caught.value.may_have_happened
    assert reader.get(data)[1].version == 1


@pytest.fixture
def unreachable(etcd_server: Etcd) -> Iterator[tuple[Proxy, EtcdClient]]:
    """A client that was connected, and knows that it no longer is."""
    with (
        closing(Proxy(etcd_server.endpoint)) as proxy,
        connect(proxy.endpoint, timeout=TIMEOUT) as etcd,
    ):
        lock = Microlock(etcd, "nothing", "one")
        lock.holder()
        proxy.cut()
        with pytest.raises(StoreError):
            lock.holder()
        yield proxy, etcd


@ONLY_THREADS
def test_a_transaction_that_was_not_sent_did_not_happen(
    foo: Microlock, unreachable: tuple[Proxy, EtcdClient], stored: Stored, data: str
) -> None:
    foo.lock()
    _, etcd = unreachable
    with at_most(TIMEOUT + SLACK), pytest.raises(StoreError) as caught:
        etcd.transaction(foo.guard(), put={f"{data}a": "1"})
    assert not caught.value.may_have_happened
    assert stored() == {}


@ONLY_THREADS
def test_a_transaction_that_was_not_sent_is_tried_again(
    foo: Microlock,
    unreachable: tuple[Proxy, EtcdClient],
    stored: Stored,
    data: str,
    pool: ThreadPoolExecutor,
) -> None:
    foo.lock()
    proxy, etcd = unreachable
    writing = pool.submit(etcd.transaction, foo.guard(), put={f"{data}a": "1"})
    assert not eventually(writing.done, within=0.2)
    proxy.mend()
    assert writing.result() > 0
    assert stored() == {"a": "1"}
