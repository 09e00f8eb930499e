"""The clock that deadlines are measured by.

Linux's CLOCK_MONOTONIC stands still while the machine is suspended, and a lease in etcd does not:
CLOCK_BOOTTIME counts that time too (man 2 clock_gettime). Never the wall clock.
"""

from __future__ import annotations

import time

if hasattr(time, "CLOCK_BOOTTIME"):

    def now() -> float:
        """Seconds since some moment in the past; never goes back, never stands still."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

else:
    now = time.monotonic
