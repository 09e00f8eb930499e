"""Signals of this process. Its main thread waits for them."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any

# Signals that end a process. They are passed on: the sender means the command too.
ENDING = {
    getattr(signal, name)
    for name in ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM")
    if hasattr(signal, name)
}
_OTHERS = ("SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGTSTP", "SIGCONT", "SIGCHLD")


class Stopped(BaseException):
    """A signal ends this process, after it has cleaned up."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class Signals:
    """Handles the signals of this process, as a context manager.

    In a block of `raised()` signals that end a process raise Stopped, also those that came before
    the block. `wait` returns all other signals, and those that come outside of such a block.

    Attributes:
        before: the handlers before. Ignored signals stay ignored, as under nohup.
    """

    def __init__(self) -> None:
        self.before = {each: _handler(each) for each in ENDING}
        self._raises = False
        self._ending: int | None = None  # the last that came of ENDING
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        os.set_blocking(self._reading, False)

    def __enter__(self) -> Signals:
        self._fd_before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        for signum, before in self.before.items():
            if before is not signal.SIG_IGN:
                signal.signal(signum, self._came)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for signum, before in self.before.items():
            signal.signal(signum, before)
        signal.set_wakeup_fd(self._fd_before)
        os.close(self._reading)
        os.close(self._writing)

    @contextmanager
    def raised(self) -> Iterator[None]:
        self._raises = True
        try:
            if self._ending is not None:
                raise Stopped(self._ending)
            yield
        finally:
            self._raises = False

    def take_all(self) -> None:
        """From now on handles all signals that are passed on to a command, and those of jobs."""
        for signum in (getattr(signal, name) for name in _OTHERS):
            before = self.before.setdefault(signum, _handler(signum))
            if before is not signal.SIG_IGN or signum == signal.SIGCHLD:
                signal.signal(signum, self._came)
        # So this process can write to the terminal while the command has it, and take it back.
        self.before.setdefault(signal.SIGTTOU, _handler(signal.SIGTTOU))
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)

    def wake(self) -> None:
        """Ends the running `wait`, or else the next one. Any thread may call it."""
        with suppress(BlockingIOError, OSError):
            os.write(self._writing, b"\0")

    def wait(self, timeout: float) -> list[int]:
        """Returns the signals that came. If there are none, waits up to `timeout` seconds."""
        if not select.select([self._reading], [], [], timeout)[0]:
            return []
        told = [signum for signum in os.read(self._reading, 4096) if signum]
        if self._ending == signal.SIGHUP and signal.SIGHUP in told:
            self._ending = None  # it may make the command reload its files, and not end it
        return told

    def _came(self, signum: int, frame: FrameType | None) -> None:
        if signum not in ENDING:
            return
        self._ending = signum
        if self._raises:
            self._raises = False  # raise only once
            raise Stopped(signum)


def _handler(signum: int) -> Any:
    return signal.getsignal(signum) or signal.SIG_DFL  # None: a handler that Python did not set
