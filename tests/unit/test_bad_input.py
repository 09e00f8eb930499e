"""What a user may pass in by mistake, in one table: each is refused by name, with its value."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

from microlock import (
    EtcdClientRequiredError,
    InvalidArgumentError,
    InvalidTtlError,
    KeyRequiredError,
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
    + [("etcd", value, EtcdClientRequiredError) for value in BAD_CLIENTS],
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
