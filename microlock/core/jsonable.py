"""Locks as objects of JSON: what `microlock status --json` and the service tell of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from microlock.core.queue import Holder, LockStatus


def lock_object(
    lock: LockStatus, seconds_left: Mapping[int, int | None] | None = None
) -> dict[str, Any]:
    """A lock, with all who hold it and wait for it.

    Args:
        seconds_left: of their leases, if it is to be told.
    """

    def place(holder: Holder) -> dict[str, Any]:
        shown = place_object(holder)
        if seconds_left is not None:
            shown["seconds_left"] = seconds_left[holder.lease_id]
        return shown

    return {
        "key": lock.name,
        "kind": lock.kind,
        "holders": [*map(place, lock.holders)],
        "waiters": [*map(place, lock.waiters)],
    }


def place_object(holder: Holder) -> dict[str, Any]:
    """A holder or waiter."""
    return {
        "node_id": holder.node_id,
        "role": holder.role,
        "token": holder.token,
        "lease": format(holder.lease_id, "x"),
    }
