"""`test_handlers`, on a store in memory."""

from test_handlers import *  # noqa: F403
