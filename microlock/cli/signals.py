"""Signals of this process, to be waited for on its main thread."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any

# Those that end a process, of which whoever sends one to this process means the command too.
ENDING = {
    getattr(signal, name)
    for name in ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM")
    if hasattr(signal, name)
}
_OTHERS = ("SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGTSTP", "SIGCONT", "SIGCHLD")


class Stopped(BaseException):
    """A signal has come that ends this process, and nothing is left behind."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class Signals:
    """Takes the signals of this process, as a context manager.

    In a block of `raised()` those that end a process raise Stopped, as do those that came before
    it. All others, and those that come outside of such a block, are told by `wait`.

    Attributes:
        before: what was done at each signal; what was ignored still is, as under nohup.
    """

    def __init__(self) -> None:
        self.before = {each: _handler(each) for each in ENDING}
        self._raises = False
        self._ending: int | None = None  # what came of those that end a process
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
        """From here on all signals that a command may get come here, and those that stop a job."""
        for signum in (getattr(signal, name) for name in _OTHERS):
            before = self.before.setdefault(signum, _handler(signum))
            if before is not signal.SIG_IGN or signum == signal.SIGCHLD:
                signal.signal(signum, self._came)
        # To write to a terminal that the command has, and to take it back.
        self.before.setdefault(signal.SIGTTOU, _handler(signal.SIGTTOU))
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)

    def wake(self) -> None:
        """Ends a `wait`, or the next one; from any thread."""
        with suppress(BlockingIOError, OSError):
            os.write(self._writing, b"\0")

    def wait(self, timeout: float) -> list[int]:
        """The signals that came, or came within so many seconds."""
        if not select.select([self._reading], [], [], timeout)[0]:
            return []
        told = [signum for signum in os.read(self._reading, 4096) if signum]
        if self._ending == signal.SIGHUP and signal.SIGHUP in told:
            self._ending = None  # the command may read its files again at it, and go on
        return told

    def _came(self, signum: int, frame: FrameType | None) -> None:
        if signum not in ENDING:
            return
        self._ending = signum
        if self._raises:
            self._raises = False  # once is enough
            raise Stopped(signum)


def _handler(signum: int) -> Any:
    return signal.getsignal(signum) or signal.SIG_DFL  # None: one that is not Python's
