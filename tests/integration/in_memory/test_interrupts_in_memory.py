"""`test_interrupts`, on a store in memory."""

from test_interrupts import *  # noqa: F403
