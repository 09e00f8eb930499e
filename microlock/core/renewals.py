"""Which leases are renewed together: all that are due, unless one of them blocks the others.

A store may refuse to renew one lease among many because its user has lost a permission (etcd from
3.5.28 on), and then does not answer for the leases after it. Or one answer never comes. This must
not delay other holds, so such a lease is renewed alone, after the others.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from microlock.core.lease import Lease
from microlock.core.port import Lifetime
from microlock.errors import MicrolockError, StoreError, StorePermissionError

# Seconds for a lease that got no answer when it was last renewed alone: the others wait meanwhile.
_BRIEF = 0.7


@dataclass(frozen=True, slots=True)
class Ask:
    """Renew these in one request, of at most `most` seconds.

    Reply: the `Lifetime` of each lease with an answer, by id, and the error for the others.
    """

    leases: tuple[Lease, ...]
    most: float | None = None


Answer = tuple[dict[int, Lifetime], MicrolockError]


class Renewals:
    """Knows which leases have to be renewed alone."""

    def __init__(self) -> None:
        # Deadlines by lease id; after its deadline a lease no longer matters.
        self._apart: dict[int, float] = {}
        self._silent: dict[int, float] = {}  # those of them without an answer even alone

    def renew(
        self, leases: Sequence[Lease], now: float
    ) -> Generator[Ask, Answer, dict[int, MicrolockError]]:
        """Renews the due leases, the most urgent first.

        Returns the errors of leases that were not renewed, by id. For a lease with neither an
        answer nor an error there was no time: it comes next.
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
                else:  # the culprit is unknown: one by one, then in growing batches
                    together, size = missing + together, 1
            else:
                if not answered:  # no answer for any of them
                    errors |= {each.id: error for each in (*missing, *together)}
                    self._apart.clear()
                if len(batch) > 1:  # if one blocks the others, it is the first
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
    """Whether the error is about one lease, and not about the connection or the login."""
    return isinstance(error, StorePermissionError) or type(error) is StoreError
