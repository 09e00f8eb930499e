"""Checks the arguments and the reply of `Client.transaction`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from microlock.core.hold import Guard
from microlock.core.port import Transaction
from microlock.errors import InvalidArgumentError, LockLostError, LossReason


def checked(guard: object, put: object, delete: object) -> Transaction:
    """The transaction for the arguments of `Client.transaction`.

    Raises InvalidArgumentError, whose text contains none of the data.
    """
    if not isinstance(guard, Guard):
        raise InvalidArgumentError(f"guard must be what guard() returns, not {guard!r}")
    if not isinstance(put, Mapping):
        raise InvalidArgumentError(f"put must map keys to values, but is {_kind(put)}")
    if isinstance(delete, str | bytes) or not isinstance(delete, Iterable):
        raise InvalidArgumentError(f"delete must be a list of keys, but is {_kind(delete)}")
    puts = tuple((_key(key), _bytes("put", value)) for key, value in put.items())
    deletes = tuple(_key(key) for key in delete)
    return Transaction(guard.key, guard.revision, puts, deletes, guard.others)


def committed(guard: Guard, revision: int | None) -> int:
    """The store's reply, or LockLostError."""
    if revision is None:  # given back, or lost
        raise LockLostError(guard.lock, guard.node_id, LossReason.DELETED)
    return revision


def _key(key: object) -> bytes:
    encoded = _bytes("a key", key)
    if not encoded:
        raise InvalidArgumentError("a key must not be empty")
    return encoded


def _kind(value: object) -> str:
    """All that an error may say about the data."""
    return f"of type {type(value).__name__}"


def _bytes(what: str, value: object) -> bytes:
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise InvalidArgumentError(f"{what} cannot be encoded as UTF-8") from error
    if isinstance(value, bytes):
        return value
    raise InvalidArgumentError(f"{what} must be str or bytes, but is {_kind(value)}")
