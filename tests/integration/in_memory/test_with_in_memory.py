"""`test_with`, on a store in memory."""

from test_with import *  # noqa: F403
