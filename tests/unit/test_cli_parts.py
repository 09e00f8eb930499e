"""Parts of `microlock run` and `microlock elect`, in this process."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import ItemsView, Iterator
from time import sleep

import pytest

pytest.importorskip("fcntl", reason="needs a Unix")

from microlock import Microlock
from microlock.cli.child import NotFoundError, find, start
from microlock.cli.guard import Guard
from microlock.cli.holding import ended, run_holding
from microlock.cli.signals import Signals, Stopped
from microlock.testing import MemoryStore

# The guard.


@pytest.fixture
def group() -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own."""
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as process:
        yield process
        process.kill()


def test_a_block_that_ends_by_an_error_takes_the_command_with_it(
    group: subprocess.Popen[bytes],
) -> None:
    with pytest.raises(OSError, match="no space"), Guard() as guard:  # noqa: PT012
        os.write(guard.pipe, b"%d\n" % group.pid)
        raise OSError("no space")
    assert group.wait(60) == -signal.SIGKILL


@pytest.mark.parametrize("error", [None, NotFoundError("foo", "command not found")])
def test_a_group_is_left_alone_when_its_command_has_ended_or_never_was(
    group: subprocess.Popen[bytes], error: Exception | None
) -> None:
    try:
        with Guard() as guard:
            os.write(guard.pipe, b"%d\n" % group.pid)
            if error:
                raise error
    except NotFoundError:
        pass
    assert group.poll() is None


def test_what_is_typed_or_sent_to_our_group_does_not_reach_the_guard() -> None:
    with Guard() as guard:
        assert os.getsid(guard._shell.pid) != os.getsid(0)


# The end of a lock while etcd is away.


@pytest.mark.parametrize(
    ("lost", "status", "most", "lines"), [(False, 0, 5, 1), (True, None, 1, 0)]
)
def test_the_end_of_a_lock_asks_an_etcd_that_is_away_once(
    lost: bool,
    status: int | None,
    most: float,
    lines: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("microlock.cli.holding._run", lambda *_: (0, lost))
    with MemoryStore() as store, Signals() as signals:
        client = store.connect(timeout=5)
        foo = Microlock(client, "foo", "me", 60)
        foo.lock()
        program = find(["true"])
        with store.unavailable():
            if lost:
                store.advance(60)
            began = store.clock.now()
            with ended(foo, client):
                got = run_holding(foo, client, program, ["foo"], grace=5, signals=signals)
            client.close()
        assert got == status
        assert store.clock.now() - began <= most
    assert capsys.readouterr().err.count("\n") == lines


# Signals that end a process.


@pytest.fixture
def signals() -> Iterator[Signals]:
    with Signals() as signals:
        yield signals


def test_a_signal_that_came_before_the_block_ends_it(signals: Signals) -> None:
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Stopped) as stopped, signals.raised():
        pytest.fail("it runs")
    assert stopped.value.signum == signal.SIGTERM


def test_a_signal_that_was_told_ends_the_next_block(signals: Signals) -> None:
    signal.raise_signal(signal.SIGTERM)
    assert signals.wait(0) == [signal.SIGTERM]
    with pytest.raises(Stopped), signals.raised():
        pytest.fail("it runs")


def test_a_hangup_that_was_told_ends_nothing(signals: Signals) -> None:
    signal.raise_signal(signal.SIGHUP)
    assert signals.wait(0) == [signal.SIGHUP]
    with signals.raised():
        pass


# A command that starts.


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_signal_that_comes_before_the_command_is_one_is_for_the_command() -> None:
    class Comes(dict[int, object]):
        def items(self) -> ItemsView[int, object]:
            os.kill(os.getpid(), signal.SIGTERM)  # read by the new process alone
            return super().items()

    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with Guard() as guard:
            handlers = Comes({signal.SIGTERM: before})
            child = start(find(["true"]), {}, before=handlers, guard=guard.pipe, terminal=None)
            while not (change := child.change()):
                sleep(0.01)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert change == ("ended", -signal.SIGTERM)
