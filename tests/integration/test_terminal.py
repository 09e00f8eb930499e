"""`microlock run` at a terminal, under a shell with jobs."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
from collections.abc import Iterator
from contextlib import suppress
from shlex import join
from time import monotonic

import pytest
from commands import MICROLOCK, environment, state_of
from conftest import Etcd
from nodes import Make
from watching import DEADLINE, eventually

RUN = join([*MICROLOCK, "run"])
# A shell in the foreground may not be stopped while it starts something.
STAYS = "sleep 600 & echo runs; wait $!"
CTRL_C, CTRL_Z, CTRL_BACKSLASH = "\x03", "\x1a", "\x1c"


class Shell:
    """An interactive `sh` with a terminal of its own."""

    def __init__(self, endpoint: str) -> None:
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            for each in (signal.SIGINT, signal.SIGQUIT):
                signal.signal(each, signal.SIG_DFL)
            os.execve("/bin/sh", ["sh", "-i"], environment(endpoint) | {"PS1": "", "ENV": ""})
        self._said = ""
        self.type("stty -echo\nulimit -c 0\necho ready $((1 + 1))\n")
        self.says("ready 2")

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def line(self, text: str) -> None:
        self.type(f"{text}\n")

    def says(self, pattern: str) -> re.Match[str]:
        """Waits for this, after what was waited for before."""
        end = monotonic() + DEADLINE
        while not (found := re.search(pattern, self._said)):
            ready, _, _ = select.select([self._terminal], [], [], max(0, end - monotonic()))
            assert ready, f"{pattern!r} is not in {self._said!r}"
            self._said += os.read(self._terminal, 4096).decode()
        self._said = self._said[found.end() :]
        return found

    @property
    def foreground(self) -> int:
        """Which group has it."""
        return os.tcgetpgrp(self._terminal)

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        os.close(self._terminal)  # the jobs get SIGHUP
        os.waitpid(self.pid, 0)


@pytest.fixture
def shell(etcd_server: Etcd) -> Iterator[Shell]:
    shell = Shell(etcd_server.endpoint)
    yield shell
    shell.close()


@pytest.mark.parametrize(
    ("typed", "signum"), [(CTRL_C, signal.SIGINT), (CTRL_BACKSLASH, signal.SIGQUIT)]
)
def test_what_is_typed_ends_the_command_and_the_shell_sees_it(
    shell: Shell, make: Make, typed: str, signum: signal.Signals
) -> None:
    foo = make("two")
    shell.line(f"{RUN} {foo.key} -- sh -c 'echo runs; exec sleep 600'")
    shell.says("runs")
    shell.type(typed)
    shell.line("echo status $?")
    shell.says(f"status {128 + signum}")
    assert foo.holder() is None


def test_who_waits_at_a_terminal_learns_for_whom(shell: Shell, make: Make) -> None:
    foo = make("two")
    foo.lock()
    shell.line(f"{RUN} {foo.key} -- echo 'it runs'")
    shell.says(f"microlock: waiting for {foo.key!r}, held by two\r")
    foo.unlock()
    shell.says("it runs")


def test_a_command_reads_from_the_terminal(shell: Shell, key: str) -> None:
    shell.line(f"{RUN} {key} -- sh -c 'echo reads; read line; echo got $line'; echo over")
    shell.says("reads")
    shell.line("it")
    shell.says("got it")
    shell.says("over")


def test_a_stopped_command_goes_on_in_the_background_and_in_the_foreground(
    shell: Shell, make: Make
) -> None:
    foo = make("two")
    shell.line(f"{RUN} {foo.key} -- sh -c \"trap 'exit 7' INT; {STAYS}\"")
    shell.says("runs")
    command = shell.foreground
    shell.type(CTRL_Z)
    shell.says("Stopped")
    assert state_of(command) == "T"
    shell.line("bg")
    assert eventually(lambda: state_of(command) == "S")
    assert shell.foreground == shell.pid
    assert foo.holder()
    shell.line("fg; echo status $?")
    assert eventually(lambda: shell.foreground == command)
    shell.type(CTRL_C)
    shell.says("status 7")
    assert foo.holder() is None


def test_a_command_whose_lock_is_lost_while_it_is_stopped_does_not_go_on(
    shell: Shell, make: Make
) -> None:
    foo = make("two")
    shell.line(f"{RUN} {foo.key} --ttl 1 -- sh -c \"trap 'echo told; exit' TERM; {STAYS}\"")
    shell.says("runs")
    shell.type(CTRL_Z)
    shell.says("Stopped")
    foo.lock(timeout=DEADLINE)
    shell.line("fg; echo status $?")
    shell.says(r"(?s)is lost.*\ntold\r|\ntold\r.*is lost")  # it may be quicker than the message
    shell.says("status 76")


def test_a_command_in_the_background_stops_when_it_reads_and_reads_in_the_foreground(
    shell: Shell, key: str
) -> None:
    shell.line(f"{RUN} {key} -- sh -c 'echo runs; read line; echo got $line' &")
    shell.says("runs")
    assert eventually(lambda: _stopped(shell))
    shell.line("fg; echo over")
    shell.says("microlock")
    shell.line("it")
    shell.says("got it")
    shell.says("over")


def _stopped(shell: Shell) -> bool:
    shell.line("jobs")
    return "Stopped" in shell.says("(Stopped|Running)").group()


def test_a_command_in_a_pipeline_gets_the_terminal_when_it_asks_for_it(
    shell: Shell, key: str
) -> None:
    ask = "read line; echo got $line"
    shell.line(f"{RUN} {key} -- sh -c 'echo asks >&2; {ask}' | cat; echo over")
    shell.says("asks")
    shell.line("it")
    shell.says("got it")
    shell.says("over")


def test_what_is_typed_ends_a_command_in_a_pipeline(shell: Shell, make: Make) -> None:
    foo = make("two")
    shell.line(f"{RUN} {foo.key} -- sh -c 'echo runs >&2; exec sleep 600' | cat; echo over")
    shell.says("runs")
    shell.type(CTRL_C)
    shell.line("echo next")
    shell.says("next")
    assert eventually(lambda: foo.holder() is None)


def test_a_closed_terminal_ends_the_command(shell: Shell, make: Make) -> None:
    foo = make("two")
    shell.line(f"{RUN} {foo.key} -- sh -c 'echo runs; exec sleep 600'")
    shell.says("runs")
    os.close(shell._terminal)
    assert eventually(lambda: foo.holder() is None)
    shell._terminal = os.open("/dev/null", os.O_RDONLY)
