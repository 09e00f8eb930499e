"""What the tests of the lock share: waiting for a condition, and noting events."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic, sleep

from microlock import LockEvent, Microlock

DEADLINE = 20.0


def eventually(condition: Callable[[], object], within: float = DEADLINE) -> bool:
    """Whether the condition comes true within so many seconds."""
    began = monotonic()
    while not condition():
        waited = monotonic() - began
        if waited > within:
            return False
        sleep(min(0.005 + waited / 20, 0.05))  # what takes long is not looked at all the time
    return True


class Recorder:
    """Notes what a lock tells of these events, and on which threads."""

    def __init__(self, lock: Microlock, *names: str) -> None:
        self.events: list[LockEvent] = []
        self.threads: set[threading.Thread] = set()
        self._noted = threading.Condition()
        for name in names or ("locked", "unlocked"):
            lock.on(name, self._note)

    def _note(self, event: LockEvent) -> None:
        with self._noted:
            self.events.append(event)
            self.threads.add(threading.current_thread())
            self._noted.notify_all()

    def wait_for(self, count: int, within: float = DEADLINE) -> list[LockEvent]:
        """All that was noted, once there are `count`, or after so many seconds."""
        with self._noted:
            self._noted.wait_for(lambda: len(self.events) >= count, within)
            return list(self.events)

    def told(self, count: int) -> list[tuple[str, int | None]]:
        """The name and the token of all that was noted, once there are `count`."""
        return [(event.name, event.token) for event in self.wait_for(count)]


def threads_of_microlock() -> set[threading.Thread]:
    """The background threads that are running, of all clients; without those that make the calls
    of the main thread, which are there whenever it calls."""
    names = ("microlock-watch", "microlock-renewal", "microlock-handlers")
    return {each for each in threading.enumerate() if each.name in names}
