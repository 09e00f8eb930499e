"""A command that runs while a lock is held."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from time import monotonic

import click

from microlock import events
from microlock.cli.child import Child, Program, start
from microlock.cli.guard import Guard
from microlock.cli.signals import ENDING, Signals, Stopped
from microlock.cli.terminal import Terminal, stop_job
from microlock.engine.client import Client
from microlock.errors import LockLostError, MicrolockError
from microlock.events import LockEvent
from microlock.lock import Lock

# Seconds between two checks whether a group has ended, which no signal reports.
_NAP = 0.05
# Seconds that etcd has to answer after a loss, when nothing important is left to tell it.
_FAREWELL = 0.5


def say(text: object) -> None:
    """Prints one line to standard error, if that is writable."""
    with suppress(OSError):
        click.echo(f"microlock: {text}", err=True)


@contextmanager
def ended(lock: Lock, client: Client) -> Iterator[None]:
    """Destroys the lock after the block. If etcd does not answer, the lock ends with its ttl."""
    try:
        yield
    finally:
        _quietly(lock, client, lock.destroy)


def run_holding(
    lock: Lock,
    client: Client,
    program: Program,
    names: Sequence[str],
    *,
    grace: float,
    signals: Signals,
) -> int | None:
    """Runs a command under a held lock, and then gives the lock back.

    If the lock is lost, or can't be given back, the client gets a short timeout, so that the end
    of the lock and of the client does not wait for an etcd that is away.

    Args:
        client: the client of the lock.
        names: the names of the lock, which the command gets as MICROLOCK_KEY.
        grace: seconds that the command has to end when the lock is lost.

    Returns the exit status of the command; None if the lock was lost before it was given back.

    Raises:
        NotFoundError, NotExecutableError: the command can't be run.
        Stopped: the command was killed by this signal.
    """
    status, lost = _run(lock, program, names, grace, signals)
    try:
        if not lost:
            _quietly(lock, client, lock.unlock)
    except LockLostError as error:
        say(error)
        lost = True
    if lost:
        client.timeout = min(client.timeout, _FAREWELL)
    if status < 0 and not lost:
        raise Stopped(-status)
    return None if lost else status


def _run(
    lock: Lock, program: Program, names: Sequence[str], grace: float, signals: Signals
) -> tuple[int, bool]:
    lock.check()
    ours = {"MICROLOCK_TOKEN": f"{lock.token}", "MICROLOCK_KEY": "\n".join(names)}
    with ExitStack() as stack:
        terminal = Terminal()
        stack.callback(terminal.close)
        guard = stack.enter_context(Guard())
        signals.take_all()
        lock.on(events.lost, signals.wake)
        lock.on(events.suspended, _suspended)
        child = start(
            program,
            os.environ | ours,
            before=signals.before,
            guard=guard.pipe,
            terminal=terminal.to_give,
        )
        stack.callback(terminal.give_back, child.group)
        running = _Running(lock, child, terminal, grace)
        while not running.over:
            for signum in signals.wait(running.patience):
                running.passed_on(signum)
        assert running.status is not None
        return running.status, running.lost


def _suspended(event: LockEvent) -> None:
    say(f"{event.key!r} could not be renewed, and stays held until its ttl ends: {event.error}")


class _Running:
    """The command, from its start to the end of its group.

    Attributes:
        status: the exit status of its process; None: the process has not ended.
        lost: whether the lock is lost.
    """

    def __init__(self, lock: Lock, child: Child, terminal: Terminal, grace: float) -> None:
        self.status: int | None = None
        self.lost = False
        self._lock = lock
        self._child = child
        self._terminal = terminal
        self._grace = grace
        self._told = False  # it got a signal that ends a process
        self._kill_at = math.inf

    @property
    def over(self) -> bool:
        """Checks the lock and the process. Returns whether the command has ended."""
        self._look_at_lock()
        self._look_at_process()
        if self.status is not None and self._kill_at == math.inf:
            if self.status >= 0 and not self._told:
                return True  # its background processes go on, as in a shell
            self._end()  # the rest of its group
        if killed := monotonic() >= self._kill_at:
            self._child.signal(signal.SIGKILL)
        return self.status is not None and (killed or not self._child.alive)

    @property
    def patience(self) -> float:
        """Seconds until the next check, if nothing happens."""
        if self._kill_at == math.inf:
            return max(_NAP, min(self._lock.remaining, 3600.0))
        left = self._kill_at - monotonic()
        return max(_NAP, left) if self.status is None else _NAP

    def passed_on(self, signum: int) -> None:
        """Passes a signal that this process got on to the command."""
        if signum == signal.SIGCHLD:
            return
        if signum == signal.SIGCONT:
            self._go_on()
            return
        self._told |= signum in ENDING
        self._child.signal(signum)

    def _look_at_lock(self) -> None:
        if self.lost or self._lock.held:
            return
        self.lost = True
        reason = self._lock.lost_reason
        why = f", {reason.value}" if reason else ""
        self._end()
        say(f"{self._lock.key!r} is lost{why}: the command gets SIGTERM")

    def _look_at_process(self) -> None:
        while self.status is None and (change := self._child.change()):
            what, number = change
            if what == "ended":
                self.status = number
            elif self._terminal.fd is not None and not self.lost:
                self._stopped(number)

    def _stopped(self, signum: int) -> None:
        """The command has stopped: stops this process too, so that the shell sees a stopped job.

        Without a terminal there is no such shell.
        """
        if signum in (signal.SIGTTIN, signal.SIGTTOU) and self._terminal.ours:
            self._terminal.give(self._child.group)  # it needs the terminal, which is free
        else:
            self._terminal.give_back(self._child.group)
            stop_job(signum)
        self._go_on()

    def _go_on(self) -> None:
        """Continues the command, unless the lock was lost meanwhile: then it is ended."""
        self._look_at_lock()
        if self._terminal.to_give is not None:
            self._terminal.give(self._child.group)
        self._child.signal(signal.SIGCONT)

    def _end(self) -> None:
        self._child.signal(signal.SIGTERM)
        self._child.signal(signal.SIGCONT)  # a stopped process could not end
        self._kill_at = monotonic() + self._grace


def _quietly(lock: Lock, client: Client, act: Callable[[], object]) -> None:
    """Prints the first error other than a loss: the lock is then free when its ttl is over."""
    try:
        act()
    except LockLostError:
        raise
    except MicrolockError as error:
        if client.timeout:
            say(f"{lock.key!r} may stay locked until its ttl ends: {error.args[0]}")
        client.timeout = 0.0  # etcd was asked once, and is not asked again
