"""Loops of asyncio that a call would stop. asyncio itself is never imported: where it is not, no
loop runs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator

log = logging.getLogger("microlock")

_first: Iterator[bool] = iter((True,))  # any thread may ask


def warn_of_waiting() -> None:
    """Warns, once, if this thread runs a loop: a call that waits on it stops the whole loop."""
    if _running() and next(_first, False):
        log.warning(
            "a waiting lock() blocks the event loop that runs on this thread: use microlock.asyncio"
        )


def _running() -> bool:
    # Of asyncio's __all__. Unlike get_running_loop it raises nothing, which an interrupt could hit
    # while it is handled.
    get = getattr(sys.modules.get("asyncio"), "_get_running_loop", None)
    return get is not None and get() is not None
