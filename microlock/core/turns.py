"""Turns of the calls on one object: one at a time, in the order of asking.

A call that wants to hold the lock also waits until the object holds nothing, so threads and tasks
that share an object take turns on it. Other calls do not stand behind those.
"""

from __future__ import annotations

import enum
from typing import Protocol

from microlock.core.hold import Event


class Kind(enum.Enum):
    """What a call waits for."""

    ACT = "its turn, but not while another call waits in the queue of the lock"
    HOLD = "its turn, and that the object holds nothing"
    END = "its turn, whatever it takes"


class Ticket:
    """One call that has its turn, or waits for it.

    Args:
        owner: the thread or task that calls.
        woken: set when it is to look again.
        waits: whether `cancel()` ends it.
    """

    __slots__ = ("cancelled", "kind", "owner", "paused", "waits", "woken")

    def __init__(self, kind: Kind, owner: object, woken: Event, *, waits: bool) -> None:
        self.kind = kind
        self.owner = owner
        self.woken = woken
        self.waits = waits
        self.cancelled = False
        self.paused = False  # it will ask again


class Holding(Protocol):
    @property
    def free(self) -> bool:
        """Whether it holds nothing."""


class Turns:
    """A mutex that is given in the order of asking.

    Each line leaves what the next one needs: an interrupt may come in between.
    """

    __slots__ = ("_lock", "current", "tickets")

    def __init__(self, lock: Holding) -> None:
        self.tickets: list[Ticket] = []  # in the order of asking
        self.current: Ticket | None = None  # whose turn it is
        self._lock = lock

    def ask(self, ticket: Ticket) -> None:
        """Waits for a turn; it may come at once."""
        self.tickets = [*self.tickets, ticket]
        self.pass_on()

    def give(self, ticket: Ticket) -> None:
        """Ends its turn, or its wait for one."""
        self.tickets = [each for each in self.tickets if each is not ticket]
        ticket.paused = False
        if ticket is self.current:
            self.current = None
        self.pass_on()

    def pause(self, ticket: Ticket) -> None:
        """It has no turn and asks for none, but can be woken and cancelled, until `give`."""
        ticket.paused = True
        ticket.woken.clear()
        self.tickets = [*self.tickets, ticket]

    def pass_on(self) -> None:
        """Gives the turn to the first that can have it, if it is nobody's."""
        if self.current or not self.tickets:
            return
        # A signal's handler may call in the middle of a call that waits on the same thread.
        innermost = {ticket.owner: ticket for ticket in self.tickets}
        for ticket in self.tickets:
            can = ticket.kind is not Kind.HOLD or self._lock.free
            if can and not ticket.paused and innermost[ticket.owner] is ticket:
                ticket.woken.set()
                self.current = ticket
                return

    def wake(self) -> None:
        """Has all look again."""
        for ticket in self.tickets:
            ticket.woken.set()

    def cancel(self) -> None:
        """Ends the waits for the lock."""
        for ticket in self.tickets:
            ticket.cancelled |= ticket.waits
        self.wake()
