"""The decisions of a lock: try, wait, release, renew, extend, and settling what is in doubt.

Each flow is a generator: it yields a request, is sent the reply (or thrown the error), and returns
what came of it. It knows no thread, no clock and no network, so that every branch can be walked
by a test, and other faces than the blocking one can drive it.

A doubt is a request whose reply was lost: the store may apply it seconds later, even after a read
that did not see it. So nothing is reported as not done before its lease is revoked, and a lease
with a doubt on it is never used for another hold.
"""

from microlock.core.flows.keeping import adopt, extend, release, remove, renew, seek
from microlock.core.flows.settling import Flow, discard
from microlock.core.flows.taking import try_lock, wait

__all__ = [
    "Flow",
    "adopt",
    "discard",
    "extend",
    "release",
    "remove",
    "renew",
    "seek",
    "try_lock",
    "wait",
]
