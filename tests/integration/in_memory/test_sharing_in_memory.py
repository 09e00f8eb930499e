"""`test_sharing`, on a store in memory."""

from test_sharing import *  # noqa: F403
