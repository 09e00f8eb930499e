"""A watch that goes on at a member which has not yet what was told already."""

from __future__ import annotations

from pathlib import Path

import disk
import etcds
import nemesis
import pytest
from witness import Witness

from microlock import Microlock, connect

CYCLES = 5


def test_a_watch_that_moves_to_a_member_that_lags_misses_nothing(
    etcd_choice: etcds.Choice, tmp_path: Path
) -> None:
    if reason := disk.why_not():
        pytest.skip(reason)
    with nemesis.ground(etcd_choice.binary, tmp_path) as ground:
        leader = ground.cluster.leader()
        laggard = (leader + 1) % 3
        member = ground.cluster.members[laggard]
        assert member.pid
        ways = [ground.ways[leader].endpoint, ground.ways[laggard].endpoint]
        with connect(ways) as etcd, connect(ground.cluster.endpoints[leader]) as other:
            ours = Microlock(etcd, "foo", "node-a", 60)
            witness = Witness(ours, "locked", "unlocked")
            theirs = Microlock(other, "foo", "node-b", 60)
            tokens = []

            def cycles() -> None:
                for _ in range(CYCLES):
                    tokens.append(theirs.lock().token)
                    theirs.unlock()

            # It is the last to write things down, and tells of nothing before.
            with disk.slow_disk(member.pid, 0.5):
                cycles()
                assert witness.saw(*["locked", "unlocked"] * CYCLES), witness.events
                ground.ways[leader].cut()
                cycles()
                assert witness.saw(*["locked", "unlocked"] * 2 * CYCLES), witness.events
            assert [event.token for event in witness.events[::2]] == tokens
            assert not any(event.synthesised for event in witness.events)
