"""A command in a process group of its own."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

import click

from microlock.cli.statuses import NOT_EXECUTABLE, NOT_FOUND

_PR_SET_PDEATHSIG = 1
# Python ignores these signals; a command expects their default.
_DEFAULT = ("SIGPIPE", "SIGXFSZ")


class NotExecutableError(click.ClickException):
    """The command exists, but can't be run."""

    exit_code = NOT_EXECUTABLE

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name}: {why}")


class NotFoundError(NotExecutableError):
    """The command does not exist."""

    exit_code = NOT_FOUND


@dataclass(frozen=True)
class Program:
    """A program to run: its file, and its arguments, beginning with its name."""

    path: str
    arguments: list[str]


def find(arguments: list[str]) -> Program:
    """Looks for the command, as a shell does.

    Raises NotFoundError, NotExecutableError.
    """
    name = arguments[0]
    if path := shutil.which(name):
        return Program(path, arguments)
    if os.path.isdir(name) and os.sep in name:
        raise NotExecutableError(name, "is a directory")
    if shutil.which(name, mode=os.F_OK):
        raise NotExecutableError(name, "permission denied")
    raise NotFoundError(name, "command not found")


class Child:
    """A running command, and its process group.

    Attributes:
        group: the id of its process, and of the group.
    """

    def __init__(self, pid: int) -> None:
        self.group = pid

    def change(self) -> tuple[str, int] | None:
        """A new state of its process: ("stopped", signal) or ("ended", status). A status below 0
        is a signal. None: no change."""
        pid, status = os.waitpid(self.group, os.WNOHANG | os.WUNTRACED)
        if pid == 0:
            return None
        if os.WIFSTOPPED(status):
            return "stopped", os.WSTOPSIG(status)
        return "ended", os.waitstatus_to_exitcode(status)

    def signal(self, signum: int) -> None:
        """Sends a signal to the whole group."""
        # After sudo it belongs to another user, and gets no signals from us: only the end of its
        # input may end it.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.group, signum)

    @property
    def alive(self) -> bool:
        """Whether a process of the group is left, after the command itself has ended."""
        try:
            os.killpg(self.group, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True


def start(
    program: Program,
    environment: Mapping[str, str],
    *,
    before: Mapping[int, object],
    guard: int,
    terminal: int | None,
) -> Child:
    """Runs it in a group of its own.

    Args:
        environment: the environment variables of the command.
        before: the handlers that the signals had. The command ignores what was ignored.
        guard: the pipe that gets the id of the group.
        terminal: the terminal that gets the group as its foreground; None: none.

    Raises NotFoundError, NotExecutableError.
    """
    reading, writing = os.pipe()
    parent = os.getpid()
    # A signal may come before the child has become the command: it is blocked until then.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            number = errno.EINVAL
            try:
                os.setpgid(0, 0)
                if terminal is not None:
                    with suppress(OSError):  # the terminal is gone
                        os.tcsetpgrp(terminal, os.getpid())
                os.write(guard, b"%d\n" % os.getpid())
                _die_with(parent)
                _handle(before)
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                _become(program, environment)
            except OSError as error:
                number = error.errno or number
            finally:
                os.write(writing, b"%d" % number)
                os._exit(NOT_FOUND)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        failed = pipe.read()  # empty if exec succeeded, which closes the pipe
    if failed:
        os.waitpid(pid, 0)
        number = int(failed)
        kind = NotFoundError if number == errno.ENOENT else NotExecutableError
        raise kind(program.arguments[0], os.strerror(number).lower())
    return Child(pid)


def _handle(before: Mapping[int, object]) -> None:
    for signum, handler in before.items():
        ignored = handler is signal.SIG_IGN
        signal.signal(signum, signal.SIG_IGN if ignored else signal.SIG_DFL)
    for name in _DEFAULT:
        signal.signal(getattr(signal, name), signal.SIG_DFL)


def _become(program: Program, environment: Mapping[str, str]) -> NoReturn:
    try:
        os.execve(program.path, program.arguments, environment)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        # A script without a #! line: run it with sh, as a shell does.
        os.execve("/bin/sh", ["sh", program.path, *program.arguments[1:]], environment)


def _dying() -> Callable[[], object]:
    if not sys.platform.startswith("linux"):
        return lambda: None
    prctl = ctypes.CDLL(None).prctl  # looked up here: after a fork, little is allowed
    kill = ctypes.c_ulong(signal.SIGKILL)
    return lambda: prctl(_PR_SET_PDEATHSIG, kill)


_die = _dying() if os.name == "posix" else lambda: None


def _die_with(parent: int) -> None:
    """Asks the kernel to kill this process when its parent dies (Linux only)."""
    _die()
    if os.getppid() != parent:  # the parent is dead already
        os.kill(os.getpid(), signal.SIGKILL)
