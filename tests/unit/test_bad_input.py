"""What a user may pass in by mistake, in one table: each is refused by name, with its value."""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import Enum
from typing import Any

import pytest

import microlock.asyncio
from microlock import (
    ClientRequiredError,
    Guard,
    InvalidArgumentError,
    InvalidTtlError,
    KeyRequiredError,
    LockManager,
    Microlock,
    NodeIdRequiredError,
    connect,
)
from microlock.etcd.client import EtcdClient

BAD_NAMES = ["", None, 5, b"foo", True, "a\0b", "x" * 5 * 1024, "\ud800", ["foo"]]
BAD_TTLS = [0, -1, math.nan, math.inf, -math.inf, True, "5", None, 1e10, 10**400, 1j, [5]]
BAD_CLIENTS = [None, object(), "localhost:2379", 5, EtcdClient]


@pytest.fixture
def etcd() -> Iterator[EtcdClient]:
    with connect("127.0.0.1:1") as client:  # nothing is sent, so nothing need be there
        yield client


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [("key", value, KeyRequiredError) for value in BAD_NAMES]
    + [("node_id", value, NodeIdRequiredError) for value in BAD_NAMES]
    + [("ttl", value, InvalidTtlError) for value in BAD_TTLS]
    + [("etcd", value, ClientRequiredError) for value in BAD_CLIENTS],
    ids=lambda value: ascii(value).partition(" at 0x")[0][:24],
)
def test_bad_input_is_refused_by_name_and_shown(
    etcd: EtcdClient, argument: str, value: Any, error: type[InvalidArgumentError]
) -> None:
    good: dict[str, Any] = {"etcd": etcd, "key": "foo", "node_id": "me", "ttl": 5}
    with pytest.raises(error) as raised:
        Microlock(**good | {argument: value})
    assert isinstance(raised.value, ValueError)
    assert str(raised.value).startswith(argument)
    shown = ascii(value) if isinstance(value, str) else repr(value)
    assert value == "" or shown[:40] in str(raised.value)


@pytest.mark.parametrize(("ttl", "granted"), [(0.2, 1), (1, 1), (2.5, 3), (9_000_000_000, 9e9)])
def test_a_ttl_is_rounded_up_to_whole_seconds(etcd: EtcdClient, ttl: float, granted: int) -> None:
    assert Microlock(etcd, "foo", "me", ttl=ttl).ttl == granted


@pytest.mark.parametrize("timeout", [True, False, "5", -1, math.nan, math.inf, [1]])
def test_a_bad_timeout_of_lock_is_refused_by_name(etcd: EtcdClient, timeout: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^timeout"):
        Microlock(etcd, "foo", "me").lock(timeout=timeout)


@pytest.mark.parametrize("retries", [True, -1, 1.5, "3", None])
def test_bad_retries_are_refused_by_name(etcd: EtcdClient, retries: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^retries"):
        Microlock(etcd, "foo", "me").lock(retries=retries)


@pytest.mark.parametrize("interval", [True, -1, "3", None, math.nan, math.inf])
def test_a_bad_interval_is_refused_by_name(etcd: EtcdClient, interval: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^interval"):
        Microlock(etcd, "foo", "me").lock(retries=1, interval=interval)


@pytest.mark.parametrize("timeout", [5, 0.1, None])
def test_retries_and_a_timeout_exclude_each_other(etcd: EtcdClient, timeout: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"retries .* timeout="):
        Microlock(etcd, "foo", "me").lock(timeout=timeout, retries=3)


@pytest.mark.parametrize("max_hold", [True, 0, -1, "5", math.nan, math.inf])
def test_a_bad_max_hold_is_refused_by_name(etcd: EtcdClient, max_hold: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^max_hold"):
        Microlock(etcd, "foo", "me", auto_renew=True, max_hold=max_hold)


@pytest.mark.parametrize("auto_renew", [None, 1, "yes"])
def test_a_bad_auto_renew_is_refused_by_name(etcd: EtcdClient, auto_renew: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^auto_renew"):
        Microlock(etcd, "foo", "me", auto_renew=auto_renew)


@pytest.mark.parametrize("timeout", [True, "5", -1, math.nan, math.inf])
def test_a_bad_timeout_for_with_is_refused_by_name(etcd: EtcdClient, timeout: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^timeout"):
        Microlock(etcd, "foo", "me", timeout=timeout)


class Job(str, Enum):
    """Its members are str, and `str()` of one gives another than its value."""

    IMPORT = "import"


def test_a_name_is_its_value_and_not_what_str_makes_of_it(etcd: EtcdClient) -> None:
    foo = Microlock(etcd, Job.IMPORT, Job.IMPORT)
    jobs = LockManager(etcd, Job.IMPORT, prefix=Job.IMPORT)
    assert (foo.key, foo.node_id, foo._core.names.prefix) == ("import", "import", b"import/")
    assert (jobs.create(Job.IMPORT).key, jobs.create("a").node_id) == ("importimport", "import")


@pytest.mark.parametrize("data", [{"put": {"a": {"secret": 1}}}, {"put": ["secret"]}])
def test_an_error_of_a_transaction_shows_no_data(etcd: EtcdClient, data: Any) -> None:
    with pytest.raises(InvalidArgumentError) as told:
        etcd.transaction(Guard(b"foo/1", 5, "foo", "one"), **data)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize("face", [microlock, microlock.asyncio], ids=lambda face: face.__name__)
@pytest.mark.parametrize("name", ["Semaphore", "MultiLock", "LockManager"])
def test_missing_arguments_are_those_of_the_class_that_was_called(face: Any, name: str) -> None:
    with pytest.raises(TypeError, match=rf"^{name}\.__init__\(\) missing"):
        getattr(face, name)()
