"""The decisions of a lock: try, wait, release, renew, extend, and settling what is in doubt.

Each flow is a generator: it yields a request, receives the reply (or the error is thrown into it),
and returns the outcome. It knows no thread, no clock and no network, so a test can walk every
branch, and both faces can drive it.

A doubt is a request whose reply was lost: the store may apply it seconds later, even after a read
that did not see it. So a flow reports "not done" only after it has revoked the lease, and never
uses a lease in doubt for another hold.
"""

from microlock.core.flows.keeping import adopt, extend, find, release, remove, renew, seek
from microlock.core.flows.settling import Flow, discard
from microlock.core.flows.taking import try_lock, wait

__all__ = [
    "Flow",
    "adopt",
    "discard",
    "extend",
    "find",
    "release",
    "remove",
    "renew",
    "seek",
    "try_lock",
    "wait",
]
