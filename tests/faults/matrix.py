"""What a caller gets when something goes wrong: each fault with each call. Only data; the tests of
test_matrix.py hold it against a cluster.

    python tests/faults/matrix.py    # writes the table into docs/faults.md
"""

from __future__ import annotations

import enum
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "faults.md"
BEGIN, END = (
    "<!-- The table is made by tests/faults/matrix.py. -->\n",
    "<!-- End of the table. -->\n",
)


class Outcome(enum.Enum):
    """How a call ends, or what becomes of a hold or a listener."""

    DONE = "done"
    NOTHING_LEFT = "`StoreUnavailableError`, nothing left"
    STANDS = "`StoreUnavailableError`, still held"
    UNCERTAIN = "`LockUncertainError`"
    NO_SPACE = "`StoreNoSpaceError`, nothing left"
    NO_SPACE_STANDS = "`StoreNoSpaceError`, still held"
    LOST = "`LockLostError`"
    KEPT = "kept"
    LOST_IN_TIME = "lost, reported in time"
    TOLD = "each once"
    SYNTHESISED = "`synthesised`"


CALLS = {
    "try": "`lock()`",
    "wait": "`lock(timeout=...)`",
    "renew": "`renew()`",
    "auto_renew": "`auto_renew`",
    "unlock": "`unlock()`",
    "extend": "`extend()`",
    "watch": "`locked`, `unlocked`",
}

FAULTS = {
    "kill_leader": "the leader is killed",
    "kill_connected": "the connected member is killed",
    "restart_all": "all members are killed and restarted",
    "pause_leader": "the connected leader is paused for 3 ttls",
    "pause_client": "the process of the client is paused for 2 ttls",
    "partition_leader": "the connected leader is cut off from the other members",
    "partition_client": "the client is cut off from all members",
    "black_hole": "the connected member takes requests and never answers",
    "drop_requests": "no request reaches etcd",
    "drop_replies": "no reply comes back",
    "late_replies": "replies come 1 s late",
    "reset": "all connections break during the call",
    "loss": "20 % of the packets are lost",
    "slow_disk": "each write to disk takes 0.3 s longer",
    "no_space": "the database is full",
    "compaction": "the client is disconnected, and etcd compacts what it misses",
    "token_expiry": "the token of the user has expired",
    "suspend": "the machine is suspended for 2 ttls",
    "wall_clock": "the wall clock jumps forward or back",
}

_O = Outcome


def _row(
    try_: Outcome,
    wait: Outcome,
    renew: Outcome,
    auto_renew: Outcome | tuple[Outcome, ...],
    unlock: Outcome,
    extend: Outcome,
    watch: Outcome = _O.TOLD,
) -> dict[str, tuple[Outcome, ...]]:
    row = (try_, wait, renew, auto_renew, unlock, extend, watch)
    cells = [each if isinstance(each, tuple) else (each,) for each in row]
    return dict(zip(CALLS, cells, strict=True))


_LIVED_THROUGH = _row(_O.DONE, _O.DONE, _O.DONE, _O.KEPT, _O.DONE, _O.DONE)
_OUTLASTED = _row(_O.DONE, _O.DONE, _O.LOST, _O.LOST_IN_TIME, _O.DONE, _O.LOST)
# `unlock()` is uncertain if a connection was there to send it on.
_CUT_OFF = _row(
    *(_O.NOTHING_LEFT, _O.UNCERTAIN, _O.STANDS, _O.LOST_IN_TIME),
    *((_O.UNCERTAIN, _O.STANDS), _O.STANDS),
)

# Several outcomes in one cell: which one it is depends on the moment, or on the version of etcd.
TABLE: dict[str, dict[str, tuple[Outcome, ...]]] = {
    **dict.fromkeys(FAULTS, _LIVED_THROUGH),
    # Kept from etcd 3.4.31 and 3.5.13 on.
    "pause_leader": _LIVED_THROUGH | {"auto_renew": (_O.KEPT, _O.LOST_IN_TIME)},
    "pause_client": _OUTLASTED,
    "suspend": _OUTLASTED | {"unlock": (_O.LOST,)},
    "partition_client": _CUT_OFF,
    # The watch still tells that it is the first; done if the lease was renewed a moment ago.
    "drop_requests": _CUT_OFF | {"wait": (_O.UNCERTAIN, _O.DONE)},
    "drop_replies": _CUT_OFF | {"try": (_O.UNCERTAIN,)},
    "no_space": _LIVED_THROUGH | {"try": (_O.NO_SPACE,), "extend": (_O.NO_SPACE_STANDS,)},
    "compaction": _LIVED_THROUGH | {"watch": (_O.SYNTHESISED,)},
}


def markdown() -> str:
    """The table as it is in the document: faults with the same outcomes share a row."""
    lines = [f"| fault | {' | '.join(CALLS.values())} |", "|---" * (len(CALLS) + 1) + "|"]
    rows: dict[tuple[str, ...], list[str]] = {}
    for fault, description in FAULTS.items():
        cells = tuple(" or ".join(each.value for each in TABLE[fault][call]) for call in CALLS)
        rows.setdefault(cells, []).append(description)
    for cells, faults in rows.items():
        lines.append(f"| {'<br>'.join(faults)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def documented() -> str:
    """The table that the document has."""
    return DOCUMENT.read_text().partition(BEGIN)[2].partition(END)[0]


def main() -> None:
    before, begin, rest = DOCUMENT.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin
    assert end
    DOCUMENT.write_text(before + begin + markdown() + end + after)


if __name__ == "__main__":
    main()
