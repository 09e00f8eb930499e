"""A member that falls silent in the middle of a wait."""

from __future__ import annotations

from collections.abc import Callable
from time import sleep

import nemesis
import pytest
from nemesis import Ground
from nodes import begin, queued

from microlock import Microlock, connect

TTL = 6


@pytest.mark.parametrize("idle", [0.5, 3.5])
def test_a_hand_over_waits_for_no_ping_where_a_renewal_had_no_answer(
    break_ground: Callable[..., Ground], idle: float
) -> None:
    ground = break_ground()
    ground.near = (ground.cluster.leader() + 1) % 3
    with connect(ground.endpoints) as near, connect(ground.cluster.endpoints) as far:
        theirs, ours = Microlock(far, "foo", "b", 60), Microlock(near, "foo", "a", TTL)
        theirs.lock()
        waiting = begin(lambda: ours.lock(timeout=25))
        assert queued(theirs)
        sleep(idle)  # the watch tells nothing meanwhile
        with nemesis.black_hole(ground):
            theirs.unlock()
            # A third of the ttl, an attempt, another member. A ping would take 6 s and 3 s.
            assert waiting.result(TTL / 3 + 3).token
        ours.unlock()
