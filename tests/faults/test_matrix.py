"""Each fault with each call, on a cluster: what docs/faults.md says of it is what happens, by
either face, while a client of threads is there too."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import matrix
import pytest
from cells import CELLS
from faces import BOTH_FACES
from nemesis import Ground
from scene import Scene
from situations import SITUATIONS

NAMES = [(fault, call) for fault in matrix.FAULTS for call in matrix.CALLS]


@BOTH_FACES
@pytest.mark.parametrize(("fault", "call"), NAMES, ids=["-".join(each) for each in NAMES])
def test_a_caller_gets_what_the_table_says(
    fault: str,
    call: str,
    break_ground: Callable[..., Ground],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    situation = SITUATIONS[fault]
    if reason := situation.why_not():
        pytest.skip(reason)
    ground = break_ground(fast=situation.fast, separate=situation.separate, flags=situation.flags)
    with closing(Scene(situation, ground, call, monkeypatch)) as scene:
        outcome = CELLS[call](scene)
        assert outcome in matrix.TABLE[fault][call]
        scene.assert_works()
        scene.assert_leaves_nothing()


def test_the_table_in_the_document_is_this_one() -> None:
    assert matrix.documented() == matrix.markdown(), "run `python tests/faults/matrix.py`"
