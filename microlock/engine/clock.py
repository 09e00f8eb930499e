"""The clock that deadlines are measured by.

A lease in etcd goes on while this machine is suspended, and so must the clock. On Linux that is
CLOCK_BOOTTIME (man 2 clock_gettime), on macOS CLOCK_MONOTONIC (man 3 clock_gettime); Python's
time.monotonic stands still there. Never the wall clock.
"""

from __future__ import annotations

import sys
import time
from functools import partial

if hasattr(time, "CLOCK_BOOTTIME"):
    now = partial(time.clock_gettime, time.CLOCK_BOOTTIME)
elif sys.platform == "darwin":
    now = partial(time.clock_gettime, time.CLOCK_MONOTONIC)
else:
    now = time.monotonic  # type: ignore[assignment]
