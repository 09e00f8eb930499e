"""A lock that a fork waits for: in the child, a lock that another thread held stays taken."""

from __future__ import annotations

import os
import threading

# OpenSSL has its own locks, and so has each module while it is imported: if another thread held one
# during a fork, the child could never take it. Reentrant, for a signal handler that forks.
kept_out = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=kept_out.acquire, after_in_parent=kept_out.release, after_in_child=kept_out.release
    )
