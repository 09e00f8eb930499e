"""Names in etcd, and the checks of what a user passes in.

An entry of the lock `foo` is named `foo/<lease id in lowercase hex, no padding>`, the layout of
Go's clientv3/concurrency, `etcdctl lock` and jetcd. A nested lock, `foo/bar`, has its entries in
the same range, `foo/bar/<hex>`; `is_entry` tells them apart.

Readers and writers of `foo` have theirs in `foo/read/` and `foo/write/`, where Go's RWMutex has its
own too, named by the nanoseconds of its clock.
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from microlock.core.admission import MUTEX, Admission, lock_name, rivals_name, split
from microlock.errors import (
    InvalidArgumentError,
    InvalidTtlError,
    KeyRequiredError,
    NodeIdRequiredError,
)

MAX_NAME_BYTES = 4096
# etcd takes 1.5 MiB in a request.
MAX_VALUE_BYTES = 1024 * 1024
# Each takes three operations of a transaction, of which etcd allows 128 (--max-txn-ops).
MAX_KEYS = 42
# etcd refuses more: MaxLeaseTTL in server/lease/lessor.go.
MAX_TTL = 9_000_000_000
# Threads can't wait for much longer: threading.TIMEOUT_MAX.
MAX_WAIT = 1_000_000_000

# The abstract type comes last: it is slow to check.
_NUMBERS = (int, float, numbers.Real)

_LEASE_ID = re.compile(rb"[0-9a-fA-F]{1,16}")
_NANOSECONDS = re.compile(rb"[0-9]{19}")


def check_key(key: object) -> bytes:
    """Returns the key as UTF-8, or raises KeyRequiredError."""
    return _name("key", key, KeyRequiredError)


def check_prefix(prefix: object) -> str:
    """Returns the prefix of keys, which may be empty, or raises InvalidArgumentError."""
    return _name("prefix", prefix, InvalidArgumentError).decode() if prefix != "" else ""


def check_node_id(node_id: object) -> bytes:
    """Returns the node id as UTF-8, or raises NodeIdRequiredError."""
    return _name("node_id", node_id, NodeIdRequiredError)


def check_keys(keys: object) -> tuple[str, ...]:
    """Returns the keys without repetition, or raises KeyRequiredError."""
    if isinstance(keys, str | bytes) or not isinstance(keys, Iterable):
        raise KeyRequiredError(f"keys must be an iterable of str, not {_shown(keys)}")
    found = tuple(dict.fromkeys(check_key(key).decode() for key in keys))
    if not 1 <= len(found) <= MAX_KEYS:
        raise KeyRequiredError(
            f"keys must be 1 to {MAX_KEYS} different names, as many as fit into one transaction of "
            f"etcd, not {len(found)}"
        )
    return found


def _name(argument: str, value: object, error: type[InvalidArgumentError]) -> bytes:
    if not isinstance(value, str):
        raise error(f"{argument} must be a str, not {_shown(value)}")
    if not value:
        raise error(f"{argument} must not be empty")
    if "\0" in value:
        raise error(f"{argument} must not contain NUL: {_shown(value)}")
    try:
        encoded = value.encode()
    except UnicodeEncodeError as exc:
        raise error(f"{argument} cannot be encoded as UTF-8: {_shown(value)}") from exc
    if len(encoded) > MAX_NAME_BYTES:
        raise error(
            f"{argument} is {len(encoded)} bytes of UTF-8, more than {MAX_NAME_BYTES}: "
            f"{_shown(value)}"
        )
    return encoded


def check_ttl(ttl: object) -> int:
    """Returns the ttl in whole seconds, rounded up, or raises InvalidTtlError."""
    seconds = _seconds("ttl", ttl, InvalidTtlError)
    if not 0 < seconds <= MAX_TTL:
        raise InvalidTtlError(f"ttl must be in 0 < ttl <= {MAX_TTL} seconds, not {_shown(ttl)}")
    return math.ceil(seconds)


def check_duration(argument: str, value: object) -> float:
    """Returns more than 0, and MAX_WAIT seconds at most, or raises InvalidArgumentError."""
    seconds = _seconds(argument, value, InvalidArgumentError)
    if not 0 < seconds <= MAX_WAIT:
        raise InvalidArgumentError(
            f"{argument} must be more than 0 seconds, and {MAX_WAIT} at most, not {_shown(value)}"
        )
    return seconds


def check_wait(timeout: object) -> float | None:
    """Returns 0 to MAX_WAIT seconds, or None for no end, or raises InvalidArgumentError."""
    if timeout is None:
        return None
    return check_seconds("timeout", timeout, ", or None to wait for ever")


def check_seconds(argument: str, value: object, otherwise: str = "") -> float:
    """Returns 0 to MAX_WAIT seconds, or raises InvalidArgumentError."""
    seconds = _seconds(argument, value, InvalidArgumentError)
    if not 0 <= seconds <= MAX_WAIT:
        raise InvalidArgumentError(
            f"{argument} must be 0 to {MAX_WAIT} seconds{otherwise}, not {_shown(value)}"
        )
    return seconds


def check_value(value: object) -> bytes:
    """Returns bytes, or a str as UTF-8, or raises InvalidArgumentError."""
    try:
        encoded = value.encode() if isinstance(value, str) else value
    except UnicodeEncodeError as exc:
        raise InvalidArgumentError("value cannot be encoded as UTF-8") from exc
    if not isinstance(encoded, bytes):
        raise InvalidArgumentError(f"value must be str or bytes, not {_shown(value)}")
    if len(encoded) > MAX_VALUE_BYTES:
        raise InvalidArgumentError(f"value is {len(encoded)} bytes, more than {MAX_VALUE_BYTES}")
    return encoded


def check_int(argument: str, value: object, least: int) -> int:
    """Returns an int of `least` or more, or raises InvalidArgumentError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidArgumentError(
            f"{argument} must be an int of {least} or more, not {_shown(value)}"
        )
    return value


def check_bool(argument: str, value: object) -> bool:
    """Returns it, or raises InvalidArgumentError."""
    if not isinstance(value, bool):
        raise InvalidArgumentError(f"{argument} must be True or False, not {_shown(value)}")
    return value


def _seconds(argument: str, value: object, error: type[InvalidArgumentError]) -> float:
    if isinstance(value, bool) or not isinstance(value, _NUMBERS):
        raise error(f"{argument} must be a number of seconds, not {_shown(value)}")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _shown(value: object) -> str:
    try:
        text = ascii(value)
    except ValueError:  # an int of more digits than Python prints
        return f"an {type(value).__name__} too long to show"
    return text if len(text) <= 80 else f"{text[:77]}..."


def entries_prefix(key: bytes) -> bytes:
    """The prefix of all entries of a lock."""
    return key + b"/"


def is_prefix(name: bytes) -> bool:
    """Whether this names a lock, and not an entry."""
    return name.endswith(b"/") or b"\0" in name


def range_of(name: bytes) -> bytes:
    """The prefix of the names of all entries of a lock; for an entry, its name."""
    return name.partition(b"\0")[0]


def range_end(prefix: bytes) -> bytes:
    """The end of the range of all keys with this prefix, which is UTF-8."""
    if not prefix:
        return b"\0"  # for etcd: no end
    return prefix[:-1] + bytes([prefix[-1] + 1])  # UTF-8 has no byte 255


def range_start(prefix: bytes) -> bytes:
    """The start of that range."""
    return prefix or b"\0"


def entry_name(prefix: bytes, lease_id: int) -> bytes:
    """The name of the entry that is first put under this lease."""
    return prefix + format(lease_id, "x").encode()


def lock_of(name: bytes) -> bytes | None:
    """The prefix of the lock that this key belongs to, if its name is that of an entry."""
    key, slash, _ = name.rpartition(b"/")
    return key + slash if key and is_entry(key + slash, name) else None


def is_entry(lock: bytes, name: bytes) -> bool:
    """Whether the name is an entry of this lock, and not of one nested in it."""
    if b"\0" not in lock:  # fast, since there may be many entries
        return _is_in(lock, name)
    prefix, admissions = split(lock)
    return any(_is_in(prefix + each.part, name) for each in admissions)


def _is_in(prefix: bytes, name: bytes) -> bool:
    if not name.startswith(prefix):
        return False
    if _LEASE_ID.fullmatch(name, len(prefix)):
        return True
    shared = prefix.endswith((b"/read/", b"/write/"))
    return shared and _NANOSECONDS.fullmatch(name, len(prefix)) is not None


@dataclass(frozen=True, slots=True)
class Names:
    """The names for one lock object: of its lock, of its node, and of its rivals.

    Attributes:
        prefix: the prefix of the names of its entries.
        value: the value of its entries.
        lock: the name of the whole lock; see `core.admission`.
        rivals: the lock whose entries are its rivals.
        others: more locks, all mutexes, that are taken together with it.
    """

    key: str
    node_id: str
    prefix: bytes
    value: bytes
    lock: bytes
    rivals: bytes
    admission: Admission
    others: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, key: object, node_id: object, admission: Admission = MUTEX) -> Names:
        """Checks both; raises KeyRequiredError or NodeIdRequiredError."""
        name, value = check_key(key), check_node_id(node_id)
        prefix = entries_prefix(name)
        return cls(
            _plain(key, name),
            _plain(node_id, value),
            prefix + admission.part,
            value,
            lock_name(prefix, admission),
            rivals_name(prefix, admission),
            admission,
        )

    @classmethod
    def of_all(cls, keys: object, node_id: object) -> Names:
        """The names for several mutexes that are taken together."""
        first, *others = check_keys(keys)
        key = ", ".join((first, *others))
        prefixes = (entries_prefix(check_key(each)) for each in others)
        return replace(cls.of(first, node_id), key=key, others=tuple(prefixes))

    @property
    def locks(self) -> tuple[bytes, ...]:
        return (self.lock, *self.others)

    def of_lock(self, lock: bytes) -> str:
        """The key of one of them."""
        return range_of(lock)[:-1].decode() if self.others else self.key


def _plain(given: object, encoded: bytes) -> str:
    # Not str(): for the member of an enum that is its name. A plain str stays the same object,
    # which saves memory for many locks of one node.
    return given if type(given) is str else encoded.decode()
