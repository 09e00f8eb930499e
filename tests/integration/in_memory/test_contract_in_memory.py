"""`test_contract`, on a store in memory."""

from test_contract import *  # noqa: F403
