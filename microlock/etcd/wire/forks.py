"""What a fork must not cut in two: in the child each lock that another thread held stays taken."""

from __future__ import annotations

import os
import threading

# OpenSSL has locks of its own, and each module while it is imported: without this a child could
# never use them. Reentrant, for a signal's handler that forks.
kept_out = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=kept_out.acquire, after_in_parent=kept_out.release, after_in_child=kept_out.release
    )
