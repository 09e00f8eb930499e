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
# Python ignores these; a command does not expect that.
_DEFAULT = ("SIGPIPE", "SIGXFSZ")


class NotExecutableError(click.ClickException):
    """The command can't be run, for a reason of its own."""

    exit_code = NOT_EXECUTABLE

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name}: {why}")


class NotFoundError(NotExecutableError):
    """There is no such command."""

    exit_code = NOT_FOUND


@dataclass(frozen=True)
class Program:
    """What is to be run: its file, and its arguments from its name on."""

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
    """A command that runs, and all that is in its group.

    Attributes:
        group: the number of its process and of the group.
    """

    def __init__(self, pid: int) -> None:
        self.group = pid

    def change(self) -> tuple[str, int] | None:
        """What has become of its process: ("stopped", signal), or ("ended", status), below 0 for
        a signal; None: it goes on."""
        pid, status = os.waitpid(self.group, os.WNOHANG | os.WUNTRACED)
        if pid == 0:
            return None
        if os.WIFSTOPPED(status):
            return "stopped", os.WSTOPSIG(status)
        return "ended", os.waitstatus_to_exitcode(status)

    def signal(self, signum: int) -> None:
        """Sends a signal to the whole group."""
        # Of another user, after sudo: it hears of the end of its input, or of nothing.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.group, signum)

    @property
    def alive(self) -> bool:
        """Whether anything is left of the group, when its process has ended."""
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
        environment: the variables it gets.
        before: what it is to do at each signal: what was ignored is ignored.
        guard: where to write the number of the group.
        terminal: whose foreground it is to have.

    Raises NotFoundError, NotExecutableError.
    """
    reading, writing = os.pipe()
    parent = os.getpid()
    # What is meant for the command may come before it is one: it waits until then.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            number = errno.EINVAL
            try:
                os.setpgid(0, 0)
                if terminal is not None:
                    with suppress(OSError):  # it is gone
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
        failed = pipe.read()  # nothing, once it is a command
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
        # A script that does not say whose it is, as shells take it.
        os.execve("/bin/sh", ["sh", program.path, *program.arguments[1:]], environment)


def _dying() -> Callable[[], object]:
    if not sys.platform.startswith("linux"):
        return lambda: None
    prctl = ctypes.CDLL(None).prctl  # looked up here: after a fork, little may be done
    kill = ctypes.c_ulong(signal.SIGKILL)
    return lambda: prctl(_PR_SET_PDEATHSIG, kill)


_die = _dying() if os.name == "posix" else lambda: None


def _die_with(parent: int) -> None:
    """Has the kernel kill this process when its parent dies, where it can."""
    _die()
    if os.getppid() != parent:  # it is dead already
        os.kill(os.getpid(), signal.SIGKILL)
