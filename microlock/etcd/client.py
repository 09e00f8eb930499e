"""etcd's client: what `connect()` returns, for any number of locks and threads of one process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from microlock.core.hold import Guard
from microlock.core.retry import Budget
from microlock.engine import clock
from microlock.engine.client import Client
from microlock.errors import InvalidArgumentError, LockLostError, LossReason
from microlock.etcd.login import Given, Identity
from microlock.etcd.messages import Transaction
from microlock.etcd.store import EtcdStore
from microlock.etcd.wire import Wire


class EtcdClient(Client):
    """What `connect()` returns: for any number of locks and threads of one process.

    Use it as a context manager, `with` or `async with`, or call `close()` or `aclose()`. After
    `os.fork()` the child needs its own.

    Attributes:
        timeout: seconds that each call of a lock may take.
    """

    def __init__(
        self, wires: Sequence[Wire], *, timeout: float, identity: Identity | None = None
    ) -> None:
        super().__init__(EtcdStore(wires, identity or Given()), timeout=timeout)

    def transaction(
        self,
        guard: Guard,
        *,
        put: Mapping[str, str | bytes] | Mapping[bytes, str | bytes] = MappingProxyType({}),
        delete: Iterable[str | bytes] = (),
    ) -> int:
        """Changes keys of yours if the lock is still held: all of it, or nothing.

        Args:
            guard: what `Microlock.guard()` returned.
            put: values by their keys.
            delete: keys.

        Returns:
            etcd's revision after it.

        Raises:
            LockLostError: the hold of the guard has ended. Nothing was changed.
            StoreError: etcd refused or can't be reached. If `may_have_happened`, it was done, or
                will be as long as the hold stands: it is sent once only.
            DestroyedError, ForkedError: the client can't be used any more, or not here.
            InvalidArgumentError: an argument is wrong.
        """
        if not isinstance(guard, Guard):
            raise InvalidArgumentError(f"guard must be what guard() returns, not {guard!r}")
        if not isinstance(put, Mapping):
            raise InvalidArgumentError(f"put must be values by their keys, not a {_kind(put)}")
        if isinstance(delete, str | bytes) or not isinstance(delete, Iterable):
            raise InvalidArgumentError(f"delete must be a list of keys, not a {_kind(delete)}")
        puts = tuple((_key(key), _bytes("put", value)) for key, value in put.items())
        deletes = tuple(_key(key) for key in delete)
        transaction = Transaction(guard.key, guard.revision, puts, deletes)
        revision: int | None = self.perform(transaction, Budget.of(clock.now(), self.timeout))
        if revision is None:  # given back, or lost
            raise LockLostError(guard.lock, guard.node_id, LossReason.DELETED)
        return revision


def _key(key: object) -> bytes:
    encoded = _bytes("a key", key)
    if not encoded:
        raise InvalidArgumentError("a key must not be empty")
    return encoded


def _kind(value: object) -> str:
    """All that an error tells of data."""
    return type(value).__name__


def _bytes(what: str, value: object) -> bytes:
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise InvalidArgumentError(f"{what} cannot be encoded as UTF-8") from error
    if isinstance(value, bytes):
        return value
    raise InvalidArgumentError(f"{what} must be str or bytes, not a {_kind(value)}")
