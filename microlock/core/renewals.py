"""Which leases are renewed together: all that are due, as long as none of them is in the way.

A store may refuse to renew one lease of many, whose user has lost a permission (etcd from 3.5.28
on), and it says nothing then of those after it. Or one answer never comes. No other hold is to be
late for that: such a lease is asked for alone, and after the others.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from microlock.core.lease import Lease
from microlock.core.port import Lifetime
from microlock.errors import MicrolockError, StoreError, StorePermissionError

# Seconds that a lease may keep the others waiting which had no answer when it was asked for alone.
_BRIEF = 0.7


@dataclass(frozen=True, slots=True)
class Ask:
    """Renew these in one request, which may take so many seconds at the most.

    Reply: the `Lifetime` of each that has an answer, by its id, and the error for the others.
    """

    leases: tuple[Lease, ...]
    most: float | None = None


Answer = tuple[dict[int, Lifetime], MicrolockError]


class Renewals:
    """Knows which leases are to be asked for alone."""

    def __init__(self) -> None:
        # By their ids; each with its deadline, after which it does not matter.
        self._apart: dict[int, float] = {}
        self._silent: dict[int, float] = {}  # of these: without an answer even alone

    def renew(
        self, leases: Sequence[Lease], now: float
    ) -> Generator[Ask, Answer, dict[int, MicrolockError]]:
        """Renews what is due, the most urgent first.

        Returns what is to be told to those that were not renewed, by their ids. For those that are
        neither there nor have an answer was no time: they are the next.
        """
        for of in (self._apart, self._silent):
            for lease_id in [each for each, until in of.items() if until <= now]:
                del of[lease_id]
        together = [each for each in leases if each.id not in self._apart]
        alone = [each for each in leases if each.id in self._apart]
        errors: dict[int, MicrolockError] = {}
        size, asked, answered = len(together), bool(together), False
        while together:
            batch, together = together[:size], together[size:]
            lifetimes, error = yield Ask(tuple(batch))
            answered |= bool(lifetimes)
            missing = [each for each in batch if each.id not in lifetimes]
            if not missing:
                size *= 2
            elif is_refusal(error):
                answered = True
                if len(batch) == 1:
                    self._set_apart(batch[0])
                    errors[batch[0].id] = error
                else:  # one by one, then more and more: nobody knows which it was
                    together, size = missing + together, 1
            else:
                if not answered:  # a silence, for all
                    errors |= {each.id: error for each in (*missing, *together)}
                    self._apart.clear()
                if len(batch) > 1:  # where one is in the way, it is the first
                    self._set_apart(missing[0])
                break
        for each in alone:
            if asked and not answered:
                errors[each.id] = error
                continue
            lifetimes, error = yield Ask((each,), _BRIEF if each.id in self._silent else None)
            asked, answered = True, bool(lifetimes) or is_refusal(error)
            if lifetimes:
                self._apart.pop(each.id, None)
                self._silent.pop(each.id, None)
            else:
                errors[each.id] = error
            if not answered:
                self._silent[each.id] = each.deadline
        return errors

    def _set_apart(self, lease: Lease) -> None:
        self._apart[lease.id] = lease.deadline


def is_refusal(error: MicrolockError) -> bool:
    """Whether it is about one lease, and not about how the store can be reached or who calls."""
    return isinstance(error, StorePermissionError) or type(error) is StoreError
