"""The foreground of the terminal.

The command has it while it runs, and gets what is typed, also Ctrl-C and Ctrl-Z. While the command
is stopped, the shell that started this process has it.
"""

from __future__ import annotations

import os
import signal
import stat
from contextlib import suppress


class Terminal:
    """The terminal of this process, if it has one.

    Attributes:
        fd: its file descriptor; None: there is no terminal.
    """

    def __init__(self) -> None:
        self.fd: int | None = None
        with suppress(OSError):
            self.fd = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        # Others of this job, such as a pager in a pipeline, may need the foreground. Then the
        # command gets it only when it reads from the terminal, or changes its settings.
        self._gives = os.isatty(0) and not _is_pipe(1)

    def close(self) -> None:
        if self.fd is not None:
            os.close(self.fd)

    @property
    def ours(self) -> bool:
        """Whether this process, or another of its pipeline, has the foreground."""
        with suppress(OSError):  # the terminal is gone
            return self.fd is not None and os.tcgetpgrp(self.fd) == os.getpgrp()
        return False

    @property
    def to_give(self) -> int | None:
        """The terminal whose foreground a command gets when it starts or continues."""
        return self.fd if self._gives and self.ours else None

    def give(self, group: int) -> None:
        """Gives the foreground to a group that asks for it, now and whenever it continues."""
        self._gives = True
        self._move(group)

    def give_back(self, group: int) -> None:
        """Takes the foreground back, if the group has it."""
        with suppress(OSError):
            if self.fd is not None and os.tcgetpgrp(self.fd) == group:
                self._move(os.getpgrp())

    def _move(self, group: int) -> None:
        if self.fd is not None:
            with suppress(OSError):
                os.tcsetpgrp(self.fd, group)


def stop_job(signum: int) -> None:
    """Stops this process and its pipeline by the signal that stopped the command.

    They stop until a shell continues them. If there is no shell that could, nothing happens.
    """
    signum = signal.SIGTSTP if signum == signal.SIGSTOP else signum
    before = signal.signal(signum, signal.SIG_DFL)
    os.killpg(os.getpgrp(), signum)
    signal.signal(signum, before)


def _is_pipe(fd: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(fd).st_mode)
    except OSError:
        return False
