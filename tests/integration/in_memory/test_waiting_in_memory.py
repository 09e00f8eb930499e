"""`test_waiting`, on a store in memory."""

from test_waiting import *  # noqa: F403
