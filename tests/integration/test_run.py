"""`microlock run` and `microlock elect`, as processes."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from subprocess import Popen
from time import sleep

import pytest
from commands import Start, ended, environment, line_of, processes, state_of
from conftest import Etcd
from ctl import Etcdctl
from nodes import Make, queued
from watching import DEADLINE, eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

# Goes on until it is told to end: and so does what it has started, which is not told to wait for.
TWO = "sleep 600 & echo $$ $!; wait"


@pytest.fixture
def start(etcd_server: Etcd) -> Iterator[Start]:
    with processes(etcd_server.endpoint) as start:
        yield start


def pids(process: Popen[str]) -> list[int]:
    """What the command says first."""
    return [int(pid) for pid in line_of(process).split()]


def all_gone(numbers: list[int]) -> bool:
    return eventually(lambda: not any(map(state_of, numbers)))


# The command gets, and gives back, what it would without a lock.


def test_a_command_has_the_token_of_the_hold_and_the_names(start: Start, make: Make) -> None:
    foo, bar = make("two"), make("two", key="bar")
    script = 'echo $MICROLOCK_TOKEN "$MICROLOCK_KEY"; read line; echo $line'
    runner = start("run", foo.key, bar.key, "--node-id", "me", "--", "sh", "-c", script)
    said = line_of(runner)
    holder = foo.holder()
    assert holder
    assert said == f"{holder.token} {foo.key}"
    assert line_of(runner) == bar.key
    assert holder.node_id == "me"
    assert bar.holder() == holder
    assert ended(runner) == (0, "\n", "")
    assert foo.holder() is bar.holder() is None


def test_stdin_output_and_the_exit_status_pass_through(start: Start, key: str) -> None:
    runner = start("run", key, "--", "sh", "-c", "cat; echo oh >&2; exit 3")
    out, err = runner.communicate("what it reads\n", timeout=DEADLINE)
    assert (runner.returncode, out, err) == (3, "what it reads\n", "oh\n")


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGKILL])
def test_who_runs_a_killed_command_dies_of_the_same_signal(
    start: Start, key: str, signum: signal.Signals
) -> None:
    runner = start("run", key, "--", "sh", "-c", f"kill -{signum:d} $$")
    assert ended(runner) == (-signum, "", "")


SIGNALS_AND_FILES = "grep Sig /proc/self/status; ls /proc/self/fd | wc -l"


def test_a_command_has_the_signals_and_the_files_that_it_would_have(
    start: Start, key: str, etcd_server: Etcd
) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does

    script = ["sh", "-c", SIGNALS_AND_FILES]
    runner = start("run", key, "--", *script, preexec_fn=ignore)
    bare = Popen(
        script,
        text=True,
        stdin=-1,
        stdout=-1,
        stderr=-1,
        preexec_fn=ignore,
        env=environment(etcd_server.endpoint),
    )
    assert ended(runner) == ended(bare)


def test_what_a_command_leaves_in_the_background_goes_on(start: Start, key: str) -> None:
    runner = start("run", key, "--", "sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!")
    (left,) = pids(runner)
    try:
        assert ended(runner) == (0, "", "")
        assert state_of(left)
    finally:
        os.kill(left, signal.SIGKILL)


@pytest.mark.parametrize(
    ("command", "status", "why"),
    [
        ("no-such-command", 127, "command not found"),
        ("/etc/passwd", 126, "permission denied"),
        ("/etc", 126, "is a directory"),
    ],
)
def test_for_a_command_that_can_not_run_etcd_is_not_asked(
    command: str, status: int, why: str
) -> None:
    with processes("localhost:1") as start:
        runner = start("run", "foo", "--", command)
        assert ended(runner) == (status, "", f"microlock: {command}: {why}\n")


def test_a_script_that_names_no_interpreter_is_run_by_sh(
    start: Start, key: str, tmp_path: Path
) -> None:
    script, broken = tmp_path / "script", tmp_path / "broken"
    script.write_text('echo "$0" "$1"')
    broken.write_text("#!/no/such/interpreter")
    for each in (script, broken):
        each.chmod(0o755)
    assert ended(start("run", key, "--", str(script), "a b")) == (0, f"{script} a b\n", "")
    status, _, err = ended(start("run", key, "--", str(broken)))
    assert (status, err) == (127, f"microlock: {broken}: no such file or directory\n")


# It never starts unheld.


def test_a_command_does_not_start_while_somebody_else_holds_the_lock(
    start: Start, make: Make, tmp_path: Path
) -> None:
    foo, started = make("two"), tmp_path / "started"
    foo.lock()
    command = ("--", "touch", str(started))
    one = start("run", foo.key, "--no-wait", *command)
    other = start("run", foo.key, "--wait", "0.2", "--conflict-exit-code", "0", *command)
    assert ended(one) == (75, "", f"microlock: {foo.key!r} is locked by two\n")
    assert ended(other) == (0, "", "")
    assert not started.exists()


def test_who_waits_runs_its_command_in_its_turn(start: Start, make: Make) -> None:
    foo = make("two")
    foo.lock()
    runner = start("run", foo.key, "--", "echo", "it is my turn")
    assert queued(foo)
    foo.unlock()
    assert ended(runner) == (0, "it is my turn\n", "")


def test_etcd_that_does_not_answer_is_one_line_and_69() -> None:
    with processes("localhost:1") as start:
        status, _, err = ended(start("run", "foo", "--", "true"))
    assert status == 69
    assert err.startswith("microlock: 'foo': no connection to localhost:1")
    assert err.count("\n") == 1


def test_of_many_that_run_in_parallel_no_two_run_at_once(
    start: Start, key: str, tmp_path: Path
) -> None:
    script = f"mkdir {tmp_path}/alone && echo in && sleep 0.01 && rmdir {tmp_path}/alone"
    runners = [start("run", key, "--", "sh", "-c", script) for _ in range(8)]
    assert [ended(runner) for runner in runners] == [(0, "in\n", "")] * 8


def test_a_job_that_three_machines_start_runs_once_for_each_slot(start: Start, make: Make) -> None:
    job = make("two")
    command = ("--min-hold", "60", "--no-wait", "--conflict-exit-code", "0", "--", "echo", "done")
    assert ended(start("run", job.key, *command)) == (0, "done\n", "")
    assert job.holder()
    assert ended(start("run", job.key, *command)) == (0, "", "")
    assert ended(start("run", job.key, *command)) == (0, "", "")


# Signals.


def test_signals_are_passed_on_to_the_whole_group(start: Start, make: Make) -> None:
    foo = make("two")
    script = """
    trap 'echo outer' USR1
    trap 'exit 4' TERM
    sh -c 'trap "echo inner" USR1; echo ready; while :; do sleep 0.02; done' &
    while :; do sleep 0.02; done
    """
    runner = start("run", foo.key, "--", "sh", "-c", script)
    assert line_of(runner) == "ready"
    runner.send_signal(signal.SIGUSR1)
    assert sorted([line_of(runner), line_of(runner)]) == ["inner", "outer"]
    runner.send_signal(signal.SIGTERM)
    assert ended(runner)[0] == 4
    assert foo.holder() is None


@pytest.mark.parametrize(
    ("first_does", "status"),
    [("exec sleep 600", -signal.SIGTERM), ("trap 'exit 4' TERM; wait", 4)],
    ids=["dies", "exits"],
)
def test_the_lock_is_held_until_all_have_ended_that_were_told_to(
    start: Start, make: Make, tmp_path: Path, first_does: str, status: int
) -> None:
    foo, go_on = make("two"), tmp_path / "go on"
    slow = f"""
    trap 'while ! [ -e "{go_on}" ]; do sleep 0.02; done; exit' TERM
    echo $$
    while :; do sleep 0.02; done
    """
    (tmp_path / "slow").write_text(slow)
    runner = start("run", foo.key, "--", "sh", "-c", f"sh '{tmp_path}/slow' & {first_does}")
    (child,) = pids(runner)
    first = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
    runner.send_signal(signal.SIGTERM)
    assert all_gone([first])
    assert foo.holder()
    go_on.touch()
    assert ended(runner)[0] == status
    assert foo.holder() is None
    assert not state_of(child)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_who_is_told_to_end_while_it_waits_leaves_the_queue(
    start: Start, make: Make, signum: signal.Signals
) -> None:
    foo = make("two")
    foo.lock()
    runner = start("run", foo.key, "--", "echo", "never")
    assert queued(foo)
    runner.send_signal(signum)
    assert ended(runner) == (-signum, "", "")
    assert foo.waiters() == []


# A lost lock.


def test_the_group_of_a_lost_lock_is_told_to_end_and_the_status_is_76(
    start: Start, make: Make, etcdctl: Etcdctl
) -> None:
    foo = make("two")
    script = """
    trap 'echo outer; exit 0' TERM
    sh -c 'trap "echo inner; exit" TERM; echo ready; while :; do sleep 0.02; done' &
    while :; do sleep 0.02; done
    """
    runner = start("run", foo.key, "--", "sh", "-c", script)
    assert line_of(runner) == "ready"
    holder = foo.holder()
    assert holder
    etcdctl("lease", "revoke", f"{holder.lease_id:x}")
    status, out, err = ended(runner)
    assert status == 76
    assert sorted(out.split()) == ["inner", "outer"]
    ours = [line for line in err.splitlines() if line.startswith("microlock")]
    why = "the entry is gone from etcd: the command gets SIGTERM"
    assert ours == [f"microlock: {foo.key!r} is lost, {why}"]


def test_a_group_that_does_not_end_is_killed_after_the_grace(start: Start, make: Make) -> None:
    foo = make("two")
    deaf = "trap '' TERM; sleep 600 & echo $$ $!; wait; wait"
    runner = start("run", foo.key, "--grace", "0.3", "--", "sh", "-c", deaf)
    group = pids(runner)
    assert ended(start("break", foo.key, "--yes"))[0] == 0
    assert ended(runner)[0] == 76
    assert all_gone(group)


def test_a_lost_lock_ends_the_command_where_nothing_can_be_said(
    start: Start, make: Make, etcdctl: Etcdctl
) -> None:
    foo = make("two")
    script = "trap 'echo told; exit' TERM; echo ready; while :; do sleep 0.02; done"
    with open("/dev/full", "w") as full:
        runner = start("run", foo.key, "--", "sh", "-c", script, stderr=full)
    assert line_of(runner) == "ready"
    holder = foo.holder()
    assert holder
    etcdctl("lease", "revoke", f"{holder.lease_id:x}")
    out, _ = runner.communicate(timeout=DEADLINE)
    assert (runner.returncode, out) == (76, "told\n")


def test_a_command_that_is_stopped_hears_that_the_lock_is_lost(
    start: Start, make: Make, etcdctl: Etcdctl
) -> None:
    foo = make("two")
    script = "trap 'echo told; exit' TERM; echo $$; kill -STOP $$; while :; do sleep 0.02; done"
    # Without a terminal, where it would be stopped itself.
    arguments = ("run", foo.key, "--grace", "60", "--", "sh", "-c", script)
    runner = start(*arguments, start_new_session=True)
    (command,) = pids(runner)
    assert eventually(lambda: state_of(command) == "T")
    holder = foo.holder()
    assert holder
    etcdctl("lease", "revoke", f"{holder.lease_id:x}")
    assert ended(runner)[:2] == (76, "told\n")


def test_when_etcd_is_gone_for_a_ttl_the_command_is_told_to_end(
    own_etcd: Callable[..., Etcd],
) -> None:
    etcd = own_etcd()
    with processes(etcd.endpoint) as start:
        short = ("--ttl", "1", "--timeout", "1")
        runner = start("run", "foo", *short, "--", "sh", "-c", TWO)
        group = pids(runner)
        etcd.kill()
        status, _, err = ended(runner)
    assert status == 76
    assert "could not be renewed" in err
    assert "is lost, the deadline passed" in err
    assert all_gone(group)


# A runner that is killed.


def test_a_killed_runner_takes_the_whole_group_of_its_command_with_it(
    start: Start, key: str
) -> None:
    runner = start("run", key, "--", "sh", "-c", TWO)
    group = pids(runner)
    runner.kill()
    runner.wait(DEADLINE)
    assert all_gone(group)


def test_where_the_guard_is_killed_too_the_kernel_kills_the_command(start: Start, key: str) -> None:
    runner = start("run", key, "--", "sh", "-c", "echo $$; exec sleep 600")
    (command,) = pids(runner)
    children = Path(f"/proc/{runner.pid}/task/{runner.pid}/children").read_text().split()
    (guard,) = {int(pid) for pid in children} - {command}
    os.kill(guard, signal.SIGKILL)
    runner.kill()
    runner.wait(DEADLINE)
    assert all_gone([command])


def test_a_runner_that_is_killed_at_any_moment_leaves_no_command(
    start: Start, key: str, tmp_path: Path, etcd_server: Etcd
) -> None:
    when, mark = random.Random(7), str(tmp_path / "mark")

    def marked() -> list[int]:
        found = []
        for each in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if f"PATH_OF_TEST={mark}".encode() in each.read_bytes():
                    found.append(int(each.parts[2]))
        return [pid for pid in found if state_of(pid)]

    env = environment(etcd_server.endpoint) | {"PATH_OF_TEST": mark}
    for _ in range(8):
        runner = start("run", key, "--ttl", "1", "--", "sleep", "600", env=env)
        sleep(when.uniform(0.1, 0.6))
        runner.kill()
        runner.wait(DEADLINE)
    assert eventually(lambda: not marked())


# elect


def test_a_leader_that_is_broken_leads_again_until_its_command_ends(
    start: Start, make: Make
) -> None:
    foo = make("two")
    script = "echo $MICROLOCK_TOKEN; read line; exit 5"
    runner = start("elect", foo.key, "--value", "10.0.0.1", "--", "sh", "-c", script)
    first = int(line_of(runner))
    holder = foo.holder()
    assert holder
    assert (holder.token, holder.value) == (first, b"10.0.0.1")
    assert ended(start("break", foo.key, "--yes"))[0] == 0
    assert int(line_of(runner)) > first
    out, _ = runner.communicate("\n", timeout=DEADLINE)
    assert (runner.returncode, out) == (5, "")
    assert foo.holder() is None


def test_a_leader_stands_again_when_etcd_is_back(own_etcd: Callable[..., Etcd]) -> None:
    etcd = own_etcd()
    with processes(etcd.endpoint) as start:
        command = ("--ttl", "1", "--timeout", "1", "--", "sh", "-c", "echo led; sleep 600")
        runner = start("elect", "foo", *command)
        assert line_of(runner) == "led"
        etcd.kill()
        assert runner.stderr
        while "gets SIGTERM" not in runner.stderr.readline():
            pass
        etcd.start()
        assert line_of(runner) == "led"
        runner.send_signal(signal.SIGTERM)
        assert ended(runner)[0] == -signal.SIGTERM


def test_who_is_told_to_end_does_not_stand_again_when_the_lock_is_lost_meanwhile(
    start: Start, make: Make, etcdctl: Etcdctl
) -> None:
    foo = make("two")
    script = "trap 'echo told; read line; exit' TERM; echo led; while :; do sleep 0.02; done"
    runner = start("elect", foo.key, "--", "sh", "-c", script)
    assert line_of(runner) == "led"
    holder = foo.holder()
    assert holder
    runner.send_signal(signal.SIGTERM)
    assert line_of(runner) == "told"
    etcdctl("lease", "revoke", f"{holder.lease_id:x}")
    assert runner.stderr
    while "is lost" not in runner.stderr.readline():
        pass
    out, _ = runner.communicate("\n", timeout=DEADLINE)
    assert (runner.returncode, "led" in out) == (-signal.SIGTERM, False)
