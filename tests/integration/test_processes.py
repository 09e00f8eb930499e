"""The lock in processes that fork, are stopped, or end with a lock in their hands.

The code runs in processes of its own: a fork of the test run would take its threads along.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic

import pytest
from conftest import Etcd
from watching import DEADLINE, eventually

from microlock import Microlock, connect

PRELUDE = """
import multiprocessing, os, sys, threading, warnings
import microlock
from microlock import *

# Python 3.12 and later warn that threads and fork do not go together, which is what this is about.
warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork")
endpoint, key = sys.argv[1:]


def in_a_child(body):
    'Runs it in a fork and returns what it printed of itself.'
    read, write = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.write(write, repr(body()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child ended with {status}"
    return text


def raised(call):
    try:
        call()
    except MicrolockError as error:
        return type(error).__name__


def listening(lock):
    'Counts the events of the key; returns a function that waits for so many.'
    events, noted = [], threading.Condition()

    def note(event):
        with noted:
            events.append(event.name)
            noted.notify_all()

    lock.on("locked", note)
    lock.on("unlocked", note)

    def wait_for(count):
        with noted:
            noted.wait_for(lambda: len(events) >= count, 20)
            return list(events)

    return wait_for
"""


@pytest.fixture
def other(etcd_server: Etcd, key: str) -> Iterator[Microlock]:
    """A lock of this process, on the same key."""
    with connect(etcd_server.endpoint) as etcd:
        lock = Microlock(etcd, key, "other", 60)
        yield lock
        lock.destroy()


@pytest.fixture
def run(etcd_server: Etcd, key: str) -> Callable[[str], list[str]]:
    """Runs a script to its end, and returns the lines it prints."""

    def run(script: str) -> list[str]:
        return subprocess.run(
            [sys.executable, "-c", PRELUDE + script, etcd_server.endpoint, key],
            stdout=subprocess.PIPE,
            text=True,
            timeout=2 * DEADLINE,
            check=True,
        ).stdout.splitlines()

    return run


@contextmanager
def started(script: str, endpoint: str, key: str) -> Iterator[subprocess.Popen[str]]:
    """A script that goes on when a line is written to it."""
    with (
        subprocess.Popen(
            [sys.executable, "-c", PRELUDE + script, endpoint, key],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
        ExitStack() as stack,
    ):
        stack.callback(process.kill)
        yield process


# os.fork()


def test_a_forked_child_holds_nothing(run: Callable[[str], list[str]]) -> None:
    assert run("""
with connect(endpoint) as etcd:
    lock = Microlock(etcd, key, "one", ttl=60)
    lock.lock()
    print(in_a_child(lambda: (lock.held, lock.token, lock.remaining, lock.state.name,
                              lock.lost_reason.name)))
    lock.destroy()
""") == ["(False, None, 0.0, 'LOST', 'FORKED')"]


@pytest.mark.parametrize("took", [True, False], ids=["held", "never locked"])
def test_every_call_raises_in_a_forked_child(run: Callable[[str], list[str]], took: bool) -> None:
    (line,) = run(f"""
with connect(endpoint) as etcd:
    lock = Microlock(etcd, key, "one", ttl=60)
    if {took}:
        lock.lock()
    else:
        lock.holder()
    print(in_a_child(lambda: [raised(call) for call in (
        lock.lock, lock.unlock, lock.renew, lambda: lock.extend(5), lock.holder, lock.waiters,
        lambda: lock.on("locked", print), lambda: Microlock(etcd, key, "two").lock(),
    )]))
    lock.destroy()
""")
    assert line == repr(["ForkedError"] * 8)


def test_destroy_and_close_in_a_forked_child_leave_the_parents_hold(
    run: Callable[[str], list[str]],
) -> None:
    assert run("""
with connect(endpoint) as etcd:
    lock = Microlock(etcd, key, "one", ttl=60)
    wait_for = listening(lock)
    token = lock.lock().token
    in_a_child(lambda: (lock.destroy(), etcd.close()))
    print(lock.renew() > 0, lock.holder().token == token)
    lock.unlock()
    print(wait_for(2))
    lock.destroy()
""") == ["True True", "['locked', 'unlocked']"]


def test_the_parent_goes_on_after_a_fork(run: Callable[[str], list[str]]) -> None:
    assert run("""
with connect(endpoint) as etcd:
    lock = Microlock(etcd, key, "one", ttl=60)
    wait_for = listening(lock)
    lock.lock()
    in_a_child(lambda: raised(lock.unlock))
    print(lock.held, lock.renew() > 0)
    lock.unlock()
    print(lock.lock().token > 0, lock.held)
    print(wait_for(3))
    lock.destroy()
""") == ["True True", "True True", "['locked', 'unlocked', 'locked']"]


def test_a_forked_child_can_connect_anew(run: Callable[[str], list[str]], other: Microlock) -> None:
    lines = run("""
def body():
    with connect(endpoint) as etcd:
        mine = Microlock(etcd, key, "child", ttl=60)
        wait_for = listening(mine)
        refused = raised(mine.lock)
        mine.destroy()
        free = Microlock(etcd, key + "-child", "child", ttl=60)
        wait_for = listening(free)
        free.lock()
        held = free.held
        free.unlock()
        events = wait_for(2)
        free.destroy()
        return refused, held, events

with connect(endpoint) as etcd:
    lock = Microlock(etcd, key, "parent", ttl=60)
    wait_for = listening(lock)
    lock.lock()
    print(in_a_child(body))
    print(lock.renew() > 0)
    lock.destroy()
""")
    assert lines == ["('AlreadyLockedError', True, ['locked', 'unlocked'])", "True"]


@pytest.mark.parametrize("kind", ["etcd3", "pyetcd"])
def test_a_lock_on_a_lent_client_holds_nothing_in_a_forked_child(
    run: Callable[[str], list[str]], kind: str
) -> None:
    assert run(f"""
host, _, port = endpoint.rpartition(":")
if "{kind}" == "etcd3":
    etcd = microlock.etcd3.client(host=host, port=int(port))
else:
    import pyetcd
    etcd = pyetcd.client(host=host, port=int(port))
lock = Microlock(etcd, key, "one", ttl=60)
lock.lock()
print(in_a_child(lambda: (lock.held, raised(lock.unlock), raised(lock.renew))))
lock.unlock()
lock.destroy()
etcd.close()
""") == ["(False, 'ForkedError', 'ForkedError')"]


def test_multiprocessing_forks_a_process_with_listeners(run: Callable[[str], list[str]]) -> None:
    assert run("""
def body(queue):
    queue.put((lock.held, raised(lock.unlock)))

with connect(endpoint) as etcd:
    lock = Microlock(etcd, key, "one", ttl=60)
    wait_for = listening(lock)
    lock.lock()
    wait_for(1)
    fork = multiprocessing.get_context("fork")
    queue = fork.SimpleQueue()
    child = fork.Process(target=body, args=(queue,))
    child.start()
    print(queue.get())
    child.join(20)
    print(child.exitcode)
    lock.unlock()
    print(wait_for(2))
    lock.destroy()
""") == ["(False, 'ForkedError')", "0", "['locked', 'unlocked']"]


def test_a_forked_child_that_ends_as_python_does_does_not_hang(
    run: Callable[[str], list[str]],
) -> None:
    assert run("""
etcd = connect(endpoint)
lock = Microlock(etcd, key, "one", ttl=60)
wait_for = listening(lock)
lock.lock()
wait_for(1)
child = os.fork()
if not child:
    sys.exit()
import time
deadline = time.monotonic() + 10
while os.waitpid(child, os.WNOHANG) == (0, 0):
    if time.monotonic() > deadline:
        os.kill(child, 9)
        print("it hangs")
        break
    time.sleep(0.01)
print(lock.held, lock.holder().node_id)
lock.destroy()
etcd.close()
""") == ["True one"]


# SIGSTOP


def test_a_holder_that_was_stopped_beyond_its_ttl_holds_nothing_at_the_first_look(
    etcd_server: Etcd, key: str, other: Microlock
) -> None:
    script = """
etcd = connect(endpoint)
lock = Microlock(etcd, key, "one", ttl=1)
print(lock.lock().token, flush=True)
sys.stdin.readline()
print(lock.held, lock.state.name, lock.lost_reason.name, raised(lock.renew), raised(lock.unlock))
"""
    with started(script, etcd_server.endpoint, key) as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        os.kill(process.pid, signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        assert eventually(lambda: other.holder() is None)
        hold = other.lock()
        process.stdin.write("\n")
        process.stdin.flush()
        os.kill(process.pid, signal.SIGCONT)
        line = process.stdout.readline()
    assert line == "False LOST EXPIRED LockLostError LockLostError\n"
    assert other.renew() > 0
    assert other.token == hold.token


def test_a_watcher_that_was_stopped_misses_nothing(
    etcd_server: Etcd, key: str, other: Microlock
) -> None:
    script = """
etcd = connect(endpoint)
lock = Microlock(etcd, key, "one")
wait_for = listening(lock)
print(flush=True)
print(*wait_for(6), flush=True)
"""
    with started(script, etcd_server.endpoint, key) as process:
        assert process.stdout
        process.stdout.readline()
        os.kill(process.pid, signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        for _ in range(3):
            other.lock()
            other.unlock()
        os.kill(process.pid, signal.SIGCONT)
        assert process.stdout.readline().split() == ["locked", "unlocked"] * 3


# The end of the interpreter

ENDS = {
    "with a lock held and listeners on": """
lock = Microlock(connect(endpoint), key, "one", ttl=60)
wait_for = listening(lock)
lock.lock()
wait_for(1)
""",
    "with a handler that is stuck": """
lock = Microlock(connect(endpoint), key, "one", ttl=60)
entered = threading.Event()
lock.on("locked", lambda: (entered.set(), threading.Event().wait()))
lock.lock()
entered.wait(20)
""",
    "with a lent client": """
host, _, port = endpoint.rpartition(":")
lock = Microlock(microlock.etcd3.client(host=host, port=int(port)), key, "one", ttl=60)
wait_for = listening(lock)
lock.lock()
wait_for(1)
""",
    "by an exception": """
import contextlib
lock = Microlock(connect(endpoint), key, "one", ttl=60)
wait_for = listening(lock)
lock.lock()
wait_for(1)
sys.excepthook = lambda *_: os.write(1, b"")
""",
}


@pytest.mark.parametrize("end", ENDS)
def test_the_interpreter_ends_within_2_seconds(etcd_server: Etcd, key: str, end: str) -> None:
    raises = "\nraise RuntimeError" if end == "by an exception" else ""
    script = f"{ENDS[end]}\nprint(flush=True){raises}"
    with started(script, etcd_server.endpoint, key) as process:
        assert process.stdout
        process.stdout.readline()
        begun = monotonic()
        status = process.wait(DEADLINE)
        took = monotonic() - begun
    assert took < 2
    assert status == bool(raises)


def test_the_interpreter_ends_within_2_seconds_while_etcd_is_paused(
    own_etcd: Callable[..., Etcd], key: str
) -> None:
    etcd = own_etcd()
    script = """
lock = Microlock(connect(endpoint), key, "one", ttl=60)
wait_for = listening(lock)
lock.lock()
wait_for(1)
print(flush=True)
sys.stdin.readline()
"""
    with started(script, etcd.endpoint, key) as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        etcd.pause()
        begun = monotonic()
        process.stdin.close()
        status = process.wait(DEADLINE)
        took = monotonic() - begun
        etcd.resume()
    assert (status, took < 2) == (0, True)
