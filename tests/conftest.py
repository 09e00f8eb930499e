"""What all tests need."""

from __future__ import annotations

import gc
import signal

import pytest


def pytest_configure() -> None:
    """Lets the tests that interrupt work in the background of a shell too, which ignores SIGINT."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> None:
    """What other tests of this process keep is left alone: to look through it all, again and again,
    would stop every thread for seconds."""
    gc.collect()
    gc.freeze()
