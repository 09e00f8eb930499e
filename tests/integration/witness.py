"""What the tests of faults look at: events as they come, and what is stored in etcd."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from watching import DEADLINE, eventually

from microlock import LockEvent, Microlock

# Far below every timeout of a client in these tests, and enough for a machine that is busy.
AT_ONCE = 2.5


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """The block takes no longer than this."""
    started = monotonic()
    yield
    took = monotonic() - started
    assert took < seconds, f"took {took:.2f} s, more than {seconds:g} s"


class Witness:
    """Listens to a lock, and keeps what it is told in order."""

    def __init__(self, lock: Microlock, *names: str) -> None:
        self.events: list[LockEvent] = []
        for name in names:
            lock.on(name, self.events.append)

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.events]

    def saw(self, *names: str, within: float = DEADLINE) -> bool:
        """Whether these events come, all of them before the deadline, and no others."""
        eventually(lambda: len(self.events) >= len(names), within)
        return self.names == list(names)

    def errors(self) -> list[Exception]:
        return [event.error for event in self.events if event.error is not None]


def assert_works(lock: Microlock) -> None:
    """A whole cycle, with the events of the key."""
    witness = Witness(lock, "locked", "unlocked")

    def told() -> list[tuple[str, int | None]]:
        return [(event.name, event.token) for event in witness.events]

    token = lock.lock().token
    holder = lock.holder()
    assert holder
    assert holder.token == token
    assert lock.renew() > 0
    assert lock.extend(30) > 2
    lock.unlock()
    assert lock.holder() is None
    # What happened just before may be told late, by a watch that was there and lags.
    assert eventually(lambda: ("unlocked", token) in told()), witness.events
    assert [each for each in told() if each[1] == token] == [("locked", token), ("unlocked", token)]
    assert not any(event.synthesised for event in witness.events)


def entries(etcdctl: Callable[..., str], key: str) -> list[str]:
    """The names under this lock, as etcdctl reads them."""
    return etcdctl("get", "--prefix", "--keys-only", f"{key}/").split()


def leases(etcdctl: Callable[..., str]) -> list[str]:
    """The leases of the whole etcd."""
    return etcdctl("lease", "list").splitlines()[1:]
