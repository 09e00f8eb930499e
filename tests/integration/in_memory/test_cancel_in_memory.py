"""`test_cancel`, on a store in memory."""

from test_cancel import *  # noqa: F403
