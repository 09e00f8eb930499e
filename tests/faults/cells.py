"""The calls of the matrix: each is made while a fault is there, and says how it went."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic, sleep

from matrix import Outcome
from nodes import begin, queued
from scene import SLACK, Scene
from watching import DEADLINE, eventually
from witness import Witness

from microlock import (
    LockLostError,
    LockUncertainError,
    Microlock,
    MicrolockError,
    State,
    StoreNoSpaceError,
    StoreUnavailableError,
)

# A silent member is found out by a ping after 6 s that has no answer for 3 s.
WAITS = 15.0
CUT_SHORT = 1.5  # where nobody can be reached


def ended(error: MicrolockError | None, *, held: bool) -> Outcome:
    """How a call ended, in the words of the table. `held`: it was about a hold."""
    if error is None:
        return Outcome.DONE
    if isinstance(error, LockUncertainError):
        return Outcome.UNCERTAIN
    if isinstance(error, LockLostError):
        return Outcome.LOST
    if isinstance(error, StoreNoSpaceError):
        return Outcome.NO_SPACE_STANDS if held else Outcome.NO_SPACE
    if isinstance(error, StoreUnavailableError):
        return Outcome.STANDS if held else Outcome.NOTHING_LEFT
    raise error


@dataclass(frozen=True)
class Ran:
    """A call that has ended, and the seconds it took."""

    error: MicrolockError | None
    took: float


def run(call: Callable[[], object]) -> Ran:
    begun = monotonic()
    try:
        call()
    except MicrolockError as error:
        return Ran(error, monotonic() - begun)
    return Ran(None, monotonic() - begun)


def short(scene: Scene, call: Callable[[], object], *, held: bool = False) -> Outcome:
    """One that does not wait, begun in the fault."""
    with scene.fault() as last:
        running = begin(lambda: run(call))
        last(running.done)
        assert scene.situation.lasts is not None or running.done()
    ran = running.result(DEADLINE)
    assert ran.took < scene.situation.timeout + SLACK
    outcome = ended(ran.error, held=held)
    if outcome in (Outcome.STANDS, Outcome.NO_SPACE_STANDS):
        assert scene.foo.held
        assert scene.foo.renew() > 0
    scene.assert_told_the_truth(ran.error)
    return outcome


def try_(scene: Scene) -> Outcome:
    return short(scene, scene.foo.lock)


def renew(scene: Scene) -> Outcome:
    scene.foo.lock()
    return short(scene, scene.foo.renew, held=True)


def unlock(scene: Scene) -> Outcome:
    scene.foo.lock()
    return short(scene, scene.foo.unlock, held=True)


def extend(scene: Scene) -> Outcome:
    scene.foo.lock()
    return short(scene, lambda: scene.foo.extend(scene.situation.ttl + 1), held=True)


def wait(scene: Scene) -> Outcome:
    """It stands in the queue when the fault begins. The holder leaves in it, or after it."""
    situation, foo, theirs = scene.situation, scene.foo, scene.theirs
    timeout = CUT_SHORT if situation.cut_off else WAITS
    Witness(foo, "unlocked")  # its watch is open from here on
    theirs.lock()
    running = begin(lambda: run(lambda: foo.lock(timeout=timeout)))
    assert queued(theirs)
    with scene.fault() as last:
        if situation.leaves:
            theirs.unlock()
        last(running.done)
        assert situation.lasts is not None or not situation.leaves or running.done()
    if not situation.leaves:
        theirs.unlock()
    ran = running.result(DEADLINE)
    assert ran.took < timeout + SLACK
    scene.assert_told_the_truth(ran.error)
    return ended(ran.error, held=False)


class Looking:
    """Looks at a hold again and again, until it is told to end."""

    def __init__(self, foo: Microlock) -> None:
        self.held_at = 0.0  # the last time that it was
        self.woke_at = 0.0  # when this process last stood still until
        self.lost_at = 0.0  # when that was told
        self._foo = foo
        foo.on("lost", self._note)
        self._ends = False
        self._looked = begin(self._look)
        assert eventually(lambda: self.held_at)

    def _note(self) -> None:
        self.lost_at = monotonic()

    def _look(self) -> None:
        last = monotonic()
        while not self._ends:
            last, before = monotonic(), last
            if last - before > SLACK:
                self.woke_at = last
            if self._foo.held:
                self.held_at = last
            sleep(0.01)

    def end(self) -> None:
        self._ends = True
        self._looked.result(DEADLINE)

    @property
    def told_after(self) -> float:
        """Seconds from the end of the hold, or of the pause in which it ended, to the event."""
        return self.lost_at - max(self.held_at, self.woke_at)


def auto_renew(scene: Scene) -> Outcome:
    """A fault that lasts does so for longer than the hold would without a renewal."""
    foo = scene.foo
    token = foo.lock().token
    renewed, lost = Witness(foo, "renewed"), Witness(foo, "lost")
    looking = Looking(foo)
    with scene.fault() as last:
        so_far = len(renewed.events)
        last(
            lambda: len(renewed.events) > so_far + 1 or lost.events,
            max(1.2, scene.situation.floor),
        )
    so_far = len(renewed.events)
    assert eventually(lambda: len(renewed.events) > so_far or lost.events)
    looking.end()
    scene.assert_told_the_truth(None)
    if foo.held:
        assert (foo.state, foo.token, lost.events) == (State.HELD, token, [])
        return Outcome.KEPT
    assert (foo.state, lost.names) == (State.LOST, ["lost"])
    assert looking.told_after < SLACK
    return Outcome.LOST_IN_TIME


def watch(scene: Scene) -> Outcome:
    """Others take the lock and give it back before the fault, in it and after it."""
    situation, theirs = scene.situation, scene.theirs
    witness = Witness(scene.foo, "locked", "unlocked")

    def told() -> bool:
        return len(witness.events) >= 2 * len(tokens) - theirs.held

    tokens = [theirs.lock().token]
    if situation.stands_still or (situation.separate and situation.cut_off):
        theirs.unlock()
        with scene.fault() as last, scene.elsewhere() as process:
            last(lambda: process.poll() is not None)
            assert process.stdout
            tokens.append(int(process.stdout.read()))
    else:
        assert told() or not situation.compacts or eventually(told)
        with scene.fault() as last:
            if situation.leaves:
                theirs.unlock()
            if situation.others:
                tokens.append(theirs.lock().token)
            last(lambda: situation.cut_off or told())
            assert situation.cut_off or situation.lasts is not None or told()
        assert not situation.compacts or eventually(told)
        if theirs.held:
            theirs.unlock()
    tokens.append(theirs.lock().token)
    theirs.unlock()
    eventually(told)
    pairs = [(name, token) for token in tokens for name in ("locked", "unlocked")]
    assert [(event.name, event.token) for event in witness.events] == pairs
    synthesised = [event.synthesised for event in witness.events]
    if not any(synthesised):
        return Outcome.TOLD
    assert synthesised == [False, True, True, False, False, False]  # those in the fault
    return Outcome.SYNTHESISED


CELLS: dict[str, Callable[[Scene], Outcome]] = {
    "try": try_,
    "wait": wait,
    "renew": renew,
    "auto_renew": auto_renew,
    "unlock": unlock,
    "extend": extend,
    "watch": watch,
}
