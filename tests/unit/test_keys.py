"""Names in etcd, and what a user may pass in."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from microlock.errors import (
    InvalidArgumentError,
    InvalidTtlError,
    KeyRequiredError,
    NodeIdRequiredError,
)
from microlock.keys import (
    MAX_NAME_BYTES,
    check_key,
    check_node_id,
    check_timeout,
    check_ttl,
    entries_prefix,
    entry_name,
    is_entry,
    range_end,
)

CHECKS = {
    "key": (check_key, KeyRequiredError),
    "node_id": (check_node_id, NodeIdRequiredError),
    "ttl": (check_ttl, InvalidTtlError),
    "timeout": (check_timeout, InvalidArgumentError),
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
BAD_TIMEOUTS = {0: "0", -1: "-1", math.nan: "nan", math.inf: "inf", True: "True", "5": "'5'"}
# The table of all that is refused: argument, value, what the error shows of it.
BAD = [
    *(("key", value, shown) for value, shown in BAD_NAMES.items()),
    *(("node_id", value, shown) for value, shown in BAD_NAMES.items()),
    *(("ttl", value, shown) for value, shown in BAD_TTLS.items()),
    *(("timeout", value, shown) for value, shown in [*BAD_TIMEOUTS.items(), (None, "None")]),
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
    assert str(raised.value).startswith(f"{argument} ")
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
    assert check_timeout(timeout) == seconds


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
