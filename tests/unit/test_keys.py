"""Names in etcd, and what a user may pass in."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

import pytest

from microlock.core.keys import (
    MAX_NAME_BYTES,
    MAX_WAIT,
    check_bool,
    check_duration,
    check_int,
    check_key,
    check_node_id,
    check_prefix,
    check_seconds,
    check_ttl,
    check_wait,
    entries_prefix,
    entry_name,
    is_entry,
    is_prefix,
    lock_of,
    range_end,
    range_start,
)
from microlock.errors import (
    InvalidArgumentError,
    InvalidTtlError,
    KeyRequiredError,
    NodeIdRequiredError,
)

# What is refused by which error, by the argument: a word after its name tells those apart that
# share it.
CHECKS: dict[str, tuple[Callable[[Any], Any], type[InvalidArgumentError]]] = {
    "key": (check_key, KeyRequiredError),
    "node_id": (check_node_id, NodeIdRequiredError),
    "ttl": (check_ttl, InvalidTtlError),
    "timeout": (partial(check_duration, "timeout"), InvalidArgumentError),
    "timeout of a wait": (check_wait, InvalidArgumentError),
    "interval": (partial(check_seconds, "interval"), InvalidArgumentError),
    "retries": (lambda value: check_int("retries", value, 0), InvalidArgumentError),
    "token": (lambda value: check_int("token", value, 1), InvalidArgumentError),
    "prefix": (check_prefix, InvalidArgumentError),
    "auto_renew": (partial(check_bool, "auto_renew"), InvalidArgumentError),
}
BAD_NAMES = {
    "": "empty",
    "nul\0inside": r"'nul\x00inside'",
    "x" * 5120: "5120",
    "\ud800": r"'\ud800'",
    "half \udfff a pair": r"'half \udfff a pair'",
    None: "None",
    5: "5",
    b"bytes": "b'bytes'",
    ("a", "tuple"): "('a', 'tuple')",
}
BAD_TTLS = {
    0: "0",
    -1: "-1",
    -0.5: "-0.5",
    math.nan: "nan",
    math.inf: "inf",
    True: "True",
    "5": "'5'",
    None: "None",
    1e10: "10000000000.0",
    9_000_000_001: "9000000001",
    10**400: "1000000",
    10**5000: "",
    Fraction(-1, 3): "Fraction(-1, 3)",
    5j: "5j",
}
BAD_SECONDS = {
    -1: "-1",
    -0.5: "-0.5",
    math.nan: "nan",
    math.inf: "inf",
    True: "True",
    "5": "'5'",
    10**400: "1000000",
}
BAD_WAITS = {**BAD_SECONDS, MAX_WAIT + 1: "1000000001"}
BAD_TIMEOUTS = {**BAD_WAITS, 0: "0"}
NONE = {None: "None"}
BAD_RETRIES = {-1: "-1", 1.5: "1.5", True: "True", "5": "'5'", **NONE}
BAD_TOKENS = {**BAD_RETRIES, 0: "0"}
BAD_BOOLS = {0: "0", 1: "1", "yes": "'yes'", **NONE}
# The table of all that is refused: argument, value, what the error shows of it.
BAD = [
    *(("key", value, shown) for value, shown in BAD_NAMES.items()),
    *(("node_id", value, shown) for value, shown in BAD_NAMES.items()),
    *(("ttl", value, shown) for value, shown in BAD_TTLS.items()),
    *(("timeout", value, shown) for value, shown in {**BAD_TIMEOUTS, **NONE}.items()),
    *(("timeout of a wait", value, shown) for value, shown in BAD_WAITS.items()),
    *(("interval", value, shown) for value, shown in {**BAD_WAITS, **NONE}.items()),
    *(("retries", value, shown) for value, shown in BAD_RETRIES.items()),
    *(("token", value, shown) for value, shown in BAD_TOKENS.items()),
    *(("prefix", value, shown) for value, shown in BAD_NAMES.items() if value != ""),
    *(("auto_renew", value, shown) for value, shown in BAD_BOOLS.items()),
]
bad_input = pytest.mark.parametrize(
    ("argument", "value", "shown"),
    BAD,
    ids=[f"{argument}-{number}" for number, (argument, *_) in enumerate(BAD)],
)


@bad_input
def test_bad_input_is_refused_by_the_error_of_its_argument(argument, value, shown):
    check, error = CHECKS[argument]
    with pytest.raises(InvalidArgumentError) as raised:
        check(value)
    assert type(raised.value) is error


@bad_input
def test_the_error_of_bad_input_names_the_argument_and_shows_the_value(argument, value, shown):
    check, _ = CHECKS[argument]
    with pytest.raises(InvalidArgumentError) as raised:
        check(value)
    assert str(raised.value).startswith(f"{argument.split()[0]} ")
    assert shown in str(raised.value)


@bad_input
def test_the_error_of_bad_input_is_short(argument, value, shown):
    check, _ = CHECKS[argument]
    with pytest.raises(InvalidArgumentError) as raised:
        check(value)
    assert len(str(raised.value)) < 200


@bad_input
def test_the_error_of_bad_input_can_be_written_anywhere(argument, value, shown):
    check, _ = CHECKS[argument]
    with pytest.raises(InvalidArgumentError) as raised:
        check(value)
    assert str(raised.value).isascii()


@pytest.mark.parametrize(
    ("ttl", "seconds"),
    [
        (1, 1),
        (0.2, 1),
        (1e-300, 1),
        (2.5, 3),
        (3.0, 3),
        (Fraction(7, 2), 4),
        (9_000_000_000, 9_000_000_000),
        (9e9, 9_000_000_000),
    ],
)
def test_a_ttl_is_whole_seconds_rounded_up(ttl, seconds):
    assert check_ttl(ttl) == seconds


def test_a_ttl_is_an_int_whatever_was_given():
    assert type(check_ttl(3.0)) is int


@pytest.mark.parametrize(("timeout", "seconds"), [(1, 1.0), (0.2, 0.2), (Fraction(1, 4), 0.25)])
def test_a_timeout_is_seconds_as_they_are(timeout, seconds):
    assert check_duration("timeout", timeout) == seconds


@pytest.mark.parametrize("check", [check_wait, partial(check_seconds, "interval")])
@pytest.mark.parametrize(
    ("given", "seconds"),
    [(0, 0.0), (0.2, 0.2), (Fraction(1, 4), 0.25), (MAX_WAIT, MAX_WAIT)],
)
def test_a_time_to_wait_is_seconds_as_they_are_and_may_be_none_at_all(check, given, seconds):
    assert check(given) == seconds


def test_threads_can_wait_as_long_as_a_user_may_ask_for():
    assert MAX_WAIT < threading.TIMEOUT_MAX


def test_no_time_to_wait_is_a_time_without_an_end():
    assert check_wait(None) is None


@pytest.mark.parametrize("retries", [0, 1, 10**30])
def test_retries_are_a_number_as_it_is(retries):
    assert check_int("retries", retries, 0) == retries


@pytest.mark.parametrize("token", [1, 2**63 - 1])
def test_a_token_is_a_number_as_it_is(token):
    assert check_int("token", token, 1) == token


@pytest.mark.parametrize("answer", [True, False])
def test_a_yes_or_no_is_taken_as_it_is(answer):
    assert check_bool("auto_renew", answer) is answer


@pytest.mark.parametrize("prefix", ["", "jobs/", " ", "schlüssel", "x" * MAX_NAME_BYTES])
def test_a_prefix_is_taken_as_it_is_and_may_be_empty(prefix):
    assert check_prefix(prefix) == prefix


@pytest.mark.parametrize("name", ["a", "jobs/nightly", " ", "schlüssel", "x" * MAX_NAME_BYTES])
@pytest.mark.parametrize("check", [check_key, check_node_id])
def test_a_name_is_taken_as_utf_8(check, name):
    assert check(name) == name.encode()


@pytest.mark.parametrize("check", [check_key, check_node_id])
def test_the_length_of_a_name_is_counted_in_bytes(check):
    with pytest.raises(InvalidArgumentError):
        check("ü" * (MAX_NAME_BYTES // 2 + 1))


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        (b"foo/1", True),
        (b"foo/694d9b4b2f1ac5a9", True),
        (b"foo/694D9B4B2F1AC5A9", True),
        (b"foo/694d9b4b2f1ac5a9f", False),
        (b"foo/", False),
        (b"foo", False),
        (b"foo/xyz", False),
        (b"foo/1g", False),
        (b"foo/1\n", False),
        (b"foo/-1", False),
        (b"foo/0x1", False),
        (b"foo/bar/1", False),
        (b"foo//1", False),
        (b"foobar/1", False),
        (b"a/foo/1", False),
    ],
)
def test_an_entry_is_the_prefix_and_1_to_16_hex_digits(name, answer):
    assert is_entry(b"foo/", name) is answer


@pytest.mark.parametrize("lease_id", [1, 0xABC, 2**63 - 1])
def test_the_name_of_an_entry_is_one(lease_id):
    assert is_entry(b"foo/", entry_name(b"foo/", lease_id))


def test_an_entry_is_named_in_lowercase_hex_without_padding():
    assert entry_name(b"foo/", 0xABC) == b"foo/abc"


@pytest.mark.parametrize("name", [b"foo/", b"foo/1", b"foo/\xff\xff"])
def test_the_range_of_a_lock_has_all_names_that_begin_with_its_prefix(name):
    prefix = entries_prefix(b"foo")
    assert prefix <= name < range_end(prefix)


@pytest.mark.parametrize("name", [b"foo", b"foo.", b"foo0", b"foobar/1"])
def test_the_range_of_a_lock_has_no_other_names(name):
    prefix = entries_prefix(b"foo")
    assert not prefix <= name < range_end(prefix)


def test_all_keys_of_etcd_are_in_the_range_of_no_prefix():
    # "If both key and range_end are '\0', then range represents all keys": etcd's rpc.proto
    assert (range_start(b""), range_end(b"")) == (b"\0", b"\0")


def test_a_range_begins_with_its_prefix():
    assert range_start(b"foo/") == b"foo/"


@pytest.mark.parametrize("prefix", ["a", "\x7f", "schlüsselü", "\uffff", "\U0010ffff"])
def test_the_range_of_any_prefix_has_the_names_that_begin_with_it_and_no_others(prefix):
    first = prefix.encode()
    assert first <= first + b"\xf4\x8f\xbf\xbf" < range_end(first)
    assert not range_end(first).startswith(first)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        (b"foo/1", b"foo/"),
        (b"foo/694d9b4b2f1ac5a9", b"foo/"),
        (b"foo/bar/1", b"foo/bar/"),
        (b"foo//1", b"foo//"),
        (b"/foo/1", b"/foo/"),
        (b"foo/bar", None),
        (b"foo/", None),
        (b"foo", None),
        (b"1", None),
        (b"/1", None),
        (b"foo/1\n", None),
        (b"", None),
    ],
)
def test_a_key_is_an_entry_of_the_lock_that_it_is_named_after(name, prefix):
    assert lock_of(name) == prefix


@pytest.mark.parametrize("key", ["a", "jobs/nightly", "1/2", "/"])
def test_the_lock_of_an_entry_is_the_one_that_named_it(key):
    prefix = entries_prefix(key.encode())
    assert lock_of(entry_name(prefix, 0xABC)) == prefix


@pytest.mark.parametrize("key", ["a", "jobs/nightly", "1/2", "/", "foo/a1"])
def test_where_the_entries_of_a_lock_begin_is_a_prefix_and_an_entry_is_none(key):
    prefix = entries_prefix(key.encode())
    assert (is_prefix(prefix), is_prefix(entry_name(prefix, 0xABC))) == (True, False)
