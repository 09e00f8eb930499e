"""Loops of asyncio that a call would stop. asyncio itself is never imported: where it is not, no
loop runs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import suppress

log = logging.getLogger("microlock")

_first: Iterator[bool] = iter((True,))  # any thread may ask


def warn_of_waiting() -> None:
    """Warns, once, if this thread runs a loop: a call that waits on it stops the whole loop."""
    if _running() and next(_first, False):
        log.warning(
            "a lock() that waits was called on the thread of a running event loop, which stands "
            "still meanwhile: microlock.asyncio waits without that"
        )


def _running() -> bool:
    with suppress(AttributeError, RuntimeError):  # it is being imported; no loop runs
        return "asyncio" in sys.modules and bool(sys.modules["asyncio"].get_running_loop())
    return False
