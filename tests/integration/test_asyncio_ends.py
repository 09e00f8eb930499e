"""The end of a loop, of a task, of a process, in the middle of a call and with a lock held.

Loops that end are in processes of their own, where every warning is shown.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from conftest import Etcd
from ctl import Etcdctl
from watching import DEADLINE, eventually
from witness import entries

PRELUDE = """
import asyncio, gc, logging, os, signal, sys, threading, time, warnings
import microlock
from microlock import *
from microlock.asyncio import Microlock

logging.getLogger("asyncio").setLevel(logging.ERROR)  # not what is slow on a busy machine
endpoint, key = sys.argv[1:]
etcd = connect(endpoint)
foo = Microlock(etcd, key, "one", ttl=30, timeout=10)
bar = microlock.Microlock(connect(endpoint), key, "two", ttl=30)


def eventually(condition):
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def ended(*begun, turns=None):
    'A loop that is closed with these tasks pending, after so many turns, or 0.3 s.'
    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(each) for each in begun]
    if turns is None:
        loop.run_until_complete(asyncio.sleep(0.3))
    else:
        for _ in range(turns):
            loop.call_soon(loop.stop)
            loop.run_forever()
    for each in tasks:
        each._log_destroy_pending = False  # asyncio would say so, rightly
    loop.close()


async def cycle():
    async with foo:
        pass


def usable():
    asyncio.run(cycle())
    return bar.holder() is None


def forever():
    return asyncio.Event().wait()
"""
# What is left open by a loop that nobody has shut down.
UNCLOSED = 'warnings.filterwarnings("ignore", "unclosed", ResourceWarning)\n'
# And what is said of the tasks of ours and of asyncio that are dropped with it.
QUIET = f"""{UNCLOSED}
logging.getLogger("asyncio").setLevel(logging.CRITICAL)
sys.unraisablehook = lambda _: None
"""


@pytest.fixture
def run(etcd_server: Etcd, key: str) -> Callable[..., list[str]]:
    """Runs a script to its end, and returns the lines it prints."""

    def run(script: str, *, before: str = "", close: bool = True) -> list[str]:
        script = PRELUDE + before + script
        if close:
            script += "\nbar._host.client.close(); etcd.close(); gc.collect()"
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "error", "-c", script, etcd_server.endpoint, key],
            capture_output=True,
            text=True,
            timeout=2 * DEADLINE,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    return run


Run = Callable[..., list[str]]


# asyncio.run


def test_one_client_serves_loop_after_loop_and_leaves_no_thread_and_no_socket(run: Run) -> None:
    assert run("""
def left():
    return sorted(each.name for each in threading.enumerate()), len(os.listdir("/proc/self/fd"))

asyncio.run(cycle())
before = left()
for _ in range(20):
    asyncio.run(cycle())
after = left()
print(after == before or (before, after))
""") == ["True"]


def test_tasks_that_are_pending_when_asyncio_run_ends_give_back_what_they_have(run: Run) -> None:
    assert run("""
async def main():
    async def holds():
        async with foo:
            await forever()

    tasks = [asyncio.create_task(holds()), asyncio.create_task(foo.lock(timeout=None))]
    await asyncio.sleep(0.2)
    print(len(tasks), bar.holder().node_id)

asyncio.run(main())
print(bar.holder())
bar.lock()


async def queue():
    waits = asyncio.create_task(foo.lock(timeout=None))
    await asyncio.sleep(0.2)
    print(len(bar.waiters()), waits.done())

asyncio.run(queue())
print(bar.waiters())
bar.unlock()
print(usable())
""") == ["2 one", "None", "1 False", "[]", "True"]


@pytest.mark.parametrize("late", [0, 0.2])
def test_a_generator_that_asyncio_run_closes_gives_its_lock_back(run: Run, late: float) -> None:
    assert run(f"""
async def numbers():
    async with foo:
        try:
            yield 1
        finally:
            await asyncio.sleep({late})

async def main():
    async for each in numbers_:
        break

numbers_ = numbers()
asyncio.run(main())
print(bar.holder(), foo.held)
""") == ["None False"]


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill")
@pytest.mark.parametrize("call", ["foo.lock(timeout=None)", "foo.destroy()", "block()"])
def test_ctrl_c_in_asyncio_run_leaves_nothing(run: Run, call: str) -> None:
    script = f"""
signal.signal(signal.SIGINT, signal.default_int_handler)

async def block():
    async with foo:
        await forever()

async def main():
    asyncio.get_running_loop().call_later(0.3, os.kill, os.getpid(), signal.SIGINT)
    await {call}
    await forever()

if "timeout" in {call!r}:
    bar.lock()
try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted", [each.node_id for each in bar.waiters()])
"""
    assert run(script) == ["interrupted []"]


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill")
def test_ctrl_c_twice_ends_the_undoing_no_later_than_its_time(run: Run) -> None:
    script = """
signal.signal(signal.SIGINT, signal.default_int_handler)

async def main():
    for seconds in (0.3, 0.3):
        asyncio.get_running_loop().call_later(seconds, os.kill, os.getpid(), signal.SIGINT)
    await foo.lock(timeout=None)

bar.lock()
try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted")
print(eventually(lambda: not bar.waiters()))
bar.unlock()
print(usable())
"""
    # Python 3.10 closes the loop at once then.
    assert run(script, before=QUIET) == ["interrupted", "True", "True"]


# Loops that are closed, tasks that are dropped


def test_a_wait_whose_loop_was_closed_leaves_the_queue_at_its_turn(run: Run) -> None:
    script = """
bar.lock()
ended(foo.lock(timeout=None))
print(len(bar.waiters()))
bar.unlock()
print(eventually(lambda: bar.holder() is None))
print(usable())
"""
    assert run(script, before=UNCLOSED) == ["1", "True", "True"]


def test_calls_whose_loop_was_closed_free_the_object_for_the_next_loop(run: Run) -> None:
    script = """
asyncio.run(foo.lock())
ended(foo.unlock(), foo.lock(timeout=None), turns=2)
began = time.monotonic()
print(usable(), time.monotonic() - began < 3)
"""
    assert run(script, before=QUIET) == ["True True"]


@pytest.mark.parametrize("block", ["foo", "foo.bound()"])
def test_a_block_whose_loop_was_closed_gives_its_lock_back(run: Run, block: str) -> None:
    script = f"""
async def holds():
    async with {block}:
        await forever()

ended(holds())
gc.collect()
print(eventually(lambda: bar.holder() is None))
print(usable())
"""
    assert run(script, before=QUIET) == ["True", "True"]


@pytest.mark.parametrize("call", ["lock", "unlock", "renew", "destroy"])
def test_a_call_whose_loop_was_closed_is_undone_or_finished_when_its_client_is_used_again(
    run: Run, call: str
) -> None:
    script = f"""
for turns in range(5):
    foo = Microlock(etcd, f"{{key}}/{{turns}}", "one", ttl=30)
    bar = microlock.Microlock(bar._host.client, foo.key, "two", ttl=30)
    if {call!r} != "lock":
        asyncio.run(foo.lock())
    ended(foo.{call}(), turns=turns)
    gc.collect()
    asyncio.run(Microlock(etcd, "other", "one").holder())
    if {call!r} == "renew":
        asyncio.run(foo.unlock())
    elif turns == 0:  # it never began
        asyncio.run(foo.destroy())
    print(eventually(lambda: bar.holder() is None))
"""
    quiet = QUIET + 'warnings.filterwarnings("ignore", ".*never awaited", RuntimeWarning)\n'
    assert run(script, before=quiet) == ["True"] * 5


def test_close_ends_a_client_whose_loop_was_closed_with_a_wait_in_it(run: Run) -> None:
    script = """
bar.lock()
ended(foo.lock(timeout=None))
etcd.close()
print("closed")
"""
    assert run(script, before=UNCLOSED) == ["closed"]


# The process


@pytest.mark.parametrize("held", ["held", "waiting"])
def test_an_interpreter_that_exits_leaves_nothing(
    run: Run, etcdctl: Etcdctl, key: str, held: str
) -> None:
    script = f"""
if {held!r} == "waiting":
    bar.lock()
    thread = threading.Thread(target=lambda: asyncio.run(foo.lock(timeout=None)), daemon=True)
    thread.start()
    eventually(lambda: bar.waiters())
    bar.unlock()
    eventually(lambda: foo.held)
else:
    asyncio.run(foo.lock())
print(bar.holder().node_id)
bar._host.client.close()
"""
    assert run(script, before=UNCLOSED, close=False) == ["one"]
    assert eventually(lambda: not entries(etcdctl, key))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="os.fork")
def test_the_child_of_a_fork_in_a_loop_holds_nothing_and_may_run_a_loop_of_its_own(
    run: Run,
) -> None:
    assert run("""
warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
foo.on("acquired", lambda: None)


async def in_the_child():
    assert not foo.held
    assert foo.state.name == "LOST"
    for call in (foo.lock, foo.unlock, foo.renew, foo.holder):
        try:
            await call()
        except ForkedError:
            pass
        else:
            raise AssertionError(call)
    await foo.destroy()
    async with connect(endpoint) as its_own:
        child = Microlock(its_own, key, "child", ttl=30)
        try:
            await child.lock()
        except AlreadyLockedError as error:
            assert error.holder.node_id == "one"
        async with Microlock(its_own, key + "/other", "child", ttl=30):
            pass


async def main():
    async with foo:
        child = os.fork()
        if not child:
            status = 1
            try:
                asyncio.run(in_the_child())
                status = 0
            finally:
                os._exit(status)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        print(status, foo.held, (await foo.holder()).node_id)

asyncio.run(main())
""") == ["0 True one"]


# Handlers


def test_a_slow_handler_is_cancelled_with_its_loop(run: Run) -> None:
    assert run("""
async def slow(event):
    try:
        await asyncio.sleep(60)
    finally:
        print("cancelled in", event.name)

for name in ("acquired", "released", "unlocked"):
    foo.on(name, slow)

async def main():
    async def holds():
        async with foo:
            await forever()

    asyncio.create_task(holds())
    await asyncio.sleep(0.2)

asyncio.run(main())
print(bar.holder())
""")[-1:] == ["None"]


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill")
def test_ctrl_c_in_a_handler_is_not_its_error(run: Run) -> None:
    assert run("""
signal.signal(signal.SIGINT, signal.default_int_handler)


def interrupted():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)

foo.on("acquired", interrupted)

async def main():
    async with foo:
        await asyncio.sleep(5)

try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted", bar.holder())
""") == ["interrupted None"]
