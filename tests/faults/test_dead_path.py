"""A connection dies without a word, as when a firewall forgets it, while new ones work."""

from __future__ import annotations

import sys
from collections.abc import Callable

import network
import pytest
from nemesis import Ground
from witness import Witness

from microlock import Microlock, State, connect


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only pings notice it")
def test_a_hold_with_a_ttl_of_5_s_is_kept_when_all_connections_to_its_only_member_are_forgotten(
    break_ground: Callable[..., Ground],
) -> None:
    if reason := network.why_not():
        pytest.skip(reason)
    ground = break_ground(separate=True)
    assert ground.network
    with connect(ground.cluster.endpoints[0]) as etcd:
        foo = Microlock(etcd, "foo", "node-a", ttl=5, auto_renew=True)
        witness = Witness(foo, "renewed", "suspended", "lost", "unlocked")
        foo.lock()
        assert witness.saw("renewed")
        ground.network.forget(0)
        assert witness.saw("renewed", "suspended", "renewed")
        assert foo.state is State.HELD
        foo.unlock()  # the watch is there again, too
        assert witness.saw("renewed", "suspended", "renewed", "unlocked")
