"""What all tests need."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Lets the tests that interrupt work in the background of a shell too, which ignores SIGINT."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
