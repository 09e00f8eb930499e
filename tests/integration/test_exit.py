"""The end of a process, of its forks, of a lock that many threads share or that nobody keeps."""

from __future__ import annotations

import gc
import random
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import product
from time import monotonic
from weakref import ref

import pytest
from conftest import Etcd
from ctl import Etcdctl
from nodes import Make, begin, queued
from test_processes import started
from watching import DEADLINE, eventually
from witness import AT_ONCE, at_most, entries

from microlock import (
    AlreadyLockedError,
    DestroyedError,
    LockLostError,
    LockNotOwnedError,
    LossReason,
    Microlock,
    MicrolockError,
    StoreTimeoutError,
    connect,
)

# Seconds for the end of an interpreter: a good second for giving back, and a machine that is busy.
EXIT = 5.0


# Ends that give back

HOLDING = """
import select, time
etcd = connect(endpoint)
foo = Microlock(etcd, key, "one", ttl=30, auto_renew={auto_renew})
foo.lock()


def go_on():
    print(flush=True)
    # Not in a read: of a signal that comes just before it, or to another thread, Python would run
    # the handler only when that read returns.
    while not select.select([sys.stdin], [], [], 0.05)[0]:
        pass
"""

ENDS = {
    "normally": "go_on()",
    "in the block of a `with`": """
foo.unlock()
with foo:
    go_on()
    sys.exit()
""",
    "by an exception": """
sys.excepthook = lambda *_: None
go_on()
raise RuntimeError
""",
    "by sys.exit": "go_on(); sys.exit(3)",
    "by SIGTERM with a handler": """
import signal
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
go_on()
""",
    "by SIGINT": """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.excepthook = lambda *_: None
go_on()
""",
    "while a daemon thread waits": """
bar = Microlock(etcd, key, "two", ttl=30)
stands = threading.Event()
bar.on("waiting", stands.set)
threading.Thread(target=lambda: bar.lock(timeout=None), daemon=True).start()
stands.wait(20)
time.sleep(0.2)  # for the few lines until its place is remembered
go_on()
""",
    "with 50 locks": """
locks = [Microlock(etcd, f"{key}-{i}", "one", ttl=30) for i in range(50)]
for each in locks:
    each.lock()
go_on()
""",
    "with a hold that was extended": "foo.extend(40); go_on()",
    "with a hold that renew() took over": """
del foo
import gc
gc.collect()
foo = Microlock(etcd, key, "one", ttl=30)
foo.renew()
go_on()
""",
    "with a client that a __del__ closes": """
foo.on("locked", lambda: None)
class App:
    def __del__(self, close=etcd.close):
        close()  # when all other threads stand still
app = App()
go_on()
""",
    "with a handler that is stuck": """
entered = threading.Event()
foo.on("renewed", lambda: (entered.set(), threading.Event().wait()))
foo.renew()
entered.wait(20)
go_on()
""",
}

SIGNALS = {"by SIGTERM with a handler": signal.SIGTERM, "by SIGINT": signal.SIGINT}


def end(script: str, endpoint: str, key: str, signum: signal.Signals | None = None) -> float:
    """Runs it to where it goes on, lets it end, and returns how long that took."""
    with started(script, endpoint, key) as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        begun = monotonic()
        if signum is None:
            process.stdin.close()
        else:
            process.send_signal(signum)
        process.wait(2 * DEADLINE)
        return monotonic() - begun


@pytest.mark.parametrize(
    ("way", "auto_renew"),
    [*product(ENDS, [True]), *product(["normally", "by SIGTERM with a handler"], [False])],
)
def test_a_process_that_ends_leaves_no_place_in_any_queue(
    etcd_server: Etcd, etcdctl: Etcdctl, key: str, way: str, auto_renew: bool
) -> None:
    script = HOLDING.format(auto_renew=auto_renew) + ENDS[way]
    end(script, etcd_server.endpoint, key, SIGNALS.get(way))
    assert etcdctl("get", "--prefix", "--keys-only", key).split() == []


def test_a_process_that_is_interrupted_while_it_waits_leaves_no_place(
    etcd_server: Etcd, make: Make, etcdctl: Etcdctl, key: str
) -> None:
    other = make("two")
    other.lock()
    script = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.excepthook = lambda *_: None
foo = Microlock(connect(endpoint), key, "one", ttl=30)
print(flush=True)
foo.lock(timeout=None)
"""
    with started(script, etcd_server.endpoint, key) as process:
        assert queued(other)
        process.send_signal(signal.SIGINT)
        process.wait(DEADLINE)
    assert len(entries(etcdctl, key)) == 1


def test_a_process_that_ends_while_a_daemon_thread_waits_leaves_no_place(
    etcd_server: Etcd, make: Make, etcdctl: Etcdctl, key: str
) -> None:
    other = make("two")
    other.lock()
    script = """
import time
foo = Microlock(connect(endpoint), key, "one", ttl=30)
threading.Thread(target=lambda: foo.lock(timeout=None), daemon=True).start()
while not foo.waiters():
    time.sleep(0.01)
time.sleep(0.2)  # by now the thread knows that it stands there
print(flush=True)
sys.stdin.readline()
"""
    end(script, etcd_server.endpoint, key)
    assert len(entries(etcdctl, key)) == 1


def test_the_next_in_the_queue_gets_the_lock_of_a_process_that_ends(
    etcd_server: Etcd, make: Make, key: str
) -> None:
    two = make("two")
    script = HOLDING.format(auto_renew=True) + "go_on()"
    with started(script, etcd_server.endpoint, key) as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        waiting = begin(lambda: two.lock(timeout=DEADLINE))
        assert queued(two)
        process.stdin.close()
        with at_most(EXIT):
            waiting.result(DEADLINE)


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("fault", ["kill", "pause"])
def test_a_process_ends_soon_though_etcd_does_not_answer(
    own_etcd: Callable[..., Etcd], fault: str, waits: bool
) -> None:
    etcd = own_etcd()
    waiting = ENDS["while a daemon thread waits"] if waits else "go_on()"
    script = HOLDING.format(auto_renew=True) + waiting
    with started(script, etcd.endpoint, "foo") as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        getattr(etcd, fault)()
        begun = monotonic()
        process.stdin.close()
        process.wait(2 * DEADLINE)
        assert monotonic() - begun < EXIT
        if fault == "pause":
            etcd.resume()


# Ends that can not give back


@pytest.mark.parametrize("way", ["os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_a_process_that_is_cut_short_leaves_its_hold_to_the_ttl(
    etcd_server: Etcd, make: Make, key: str, way: str
) -> None:
    other = make("two")
    script = HOLDING.format(auto_renew=True).replace("ttl=30", "ttl=2") + f"go_on(); {way}"
    end(script, etcd_server.endpoint, key)
    holder = other.holder()
    assert holder
    assert holder.node_id == "one"
    assert eventually(lambda: other.holder() is None, 2 + 3)


# Forks

FORKING = """
import time
etcd = connect(endpoint)
foo = Microlock(etcd, key, "one", ttl=30, auto_renew=True)
foo.lock()


def exit_code(child):
    deadline = time.monotonic() + 20
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, 9)
            return "it hangs"
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(ended[1])
"""


def run(script: str, endpoint: str, key: str) -> list[str]:
    """Runs it to its end; returns the lines that it prints."""
    with started(script, endpoint, key) as process:
        output, _ = process.communicate(timeout=3 * DEADLINE)
    assert process.returncode == 0
    return output.splitlines()


def test_a_forked_child_that_exits_leaves_the_hold_of_the_parent(
    etcd_server: Etcd, key: str
) -> None:
    script = f"""{FORKING}
child = os.fork()
if not child:
    sys.exit()
print(exit_code(child), foo.held, foo.holder().token == foo.token, foo.renew() > 0)
"""
    assert run(script, etcd_server.endpoint, key) == ["0 True True True"]


def test_a_forked_child_that_exits_in_the_block_of_the_parent_leaves_its_hold(
    etcd_server: Etcd, key: str
) -> None:
    script = f"""{FORKING}
foo.unlock()
with foo:
    child = os.fork()
    if not child:
        sys.exit(7)
    print(exit_code(child), foo.held, foo.holder().token == foo.token)
print(foo.holder())
"""
    assert run(script, etcd_server.endpoint, key) == ["7 True True", "None"]


def test_a_forked_child_that_exits_leaves_the_place_of_a_waiting_thread(
    etcd_server: Etcd, key: str
) -> None:
    script = f"""{FORKING}
bar = Microlock(etcd, key, "two", ttl=30)
waiting = threading.Thread(target=lambda: bar.lock(timeout=20))
waiting.start()
while not foo.waiters():
    time.sleep(0.01)
(place,) = foo.waiters()
child = os.fork()
if not child:
    os.close(0)
    sys.stdout.flush()
    # As the end of a program, without the thread that is not here to be joined.
    import atexit
    atexit._run_exitfuncs()
    os._exit(0)
print(exit_code(child), foo.waiters() == [place])
foo.unlock()
waiting.join()
print(bar.token == place.token)
"""
    assert run(script, etcd_server.endpoint, key) == ["0 True", "True"]


def test_a_forked_child_of_a_busy_holder_holds_nothing(etcd_server: Etcd, key: str) -> None:
    script = f"""{FORKING}
busy = [Microlock(etcd, f"{{key}}-{{i}}", "one", ttl=30, auto_renew=True) for i in range(4)]
over = threading.Event()


def work(lock):
    while not over.is_set():
        with lock:
            lock.renew()


threads = [threading.Thread(target=work, args=(lock,)) for lock in busy]
for thread in threads:
    thread.start()


def body():
    return (
        [lock.held for lock in (foo, *busy)],
        foo.state.name,
        foo.lost_reason.name,
        foo.lost.wait(1),
        {{raised(call) for lock in (foo, *busy) for call in (
            lock.lock, lambda: lock.lock(timeout=1), lock.__enter__, lock.renew, lock.unlock,
            lambda: lock.extend(5),
        )}},
        [raised(foo.check), raised(foo.guard)],
        [raised(call) for call in (
            lambda: LockManager(etcd, "two").lock(key), lambda: LockManager(etcd, "two").locks(),
        )],
    )


print(*{{in_a_child(body) for _ in range(20)}}, sep="\\n")
print(foo.held, foo.renew() > 0)
over.set()
for thread in threads:
    thread.join()
"""
    told = (
        [False] * 5,
        "LOST",
        LossReason.FORKED.name,
        True,
        {"ForkedError"},
        ["LockLostError", "LockLostError"],
        ["ForkedError", "ForkedError"],
    )
    assert run(script, etcd_server.endpoint, key) == [repr(told), "True True"]


def test_forked_children_of_a_busy_holder_exit_without_a_hang(etcd_server: Etcd, key: str) -> None:
    script = f"""{FORKING}
other = Microlock(etcd, key + "-2", "one", ttl=30, auto_renew=True)
over = threading.Event()


def work():
    while not over.is_set():
        with other:
            pass


thread = threading.Thread(target=work, daemon=True)
thread.start()
codes = set()
for _ in range(20):
    child = os.fork()
    if not child:
        sys.exit(7)
    codes.add(exit_code(child))
over.set()
thread.join()
print(codes, foo.held, foo.holder().token == foo.token)
"""
    assert run(script, etcd_server.endpoint, key) == ["{7} True True"]


def test_processes_of_multiprocessing_hold_nothing_and_give_nothing_back(
    etcd_server: Etcd, key: str
) -> None:
    script = f"""{FORKING}
def body(queue):
    queue.put((foo.held, foo.state.name, foo.lost_reason.name, raised(foo.lock)))

fork = multiprocessing.get_context("fork")
queue = fork.SimpleQueue()
children = [fork.Process(target=body, args=(queue,)) for _ in range(3)]
for child in children:
    child.start()
print({{queue.get() for _ in children}})
for child in children:
    child.join(20)
print([child.exitcode for child in children], foo.held, foo.holder().token == foo.token)
"""
    assert run(script, etcd_server.endpoint, key) == [
        "{(False, 'LOST', 'FORKED', 'ForkedError')}",
        "[0, 0, 0] True True",
    ]


# One object, many threads


class Melee:
    """Threads that do at random what a lock can do, all with one object.

    Attributes:
        unexpected: what a call raised that it does not say it may.
        beside: how often the object was held while another node had the lock.
        tokens: of the holds that were taken, by whom.
    """

    def __init__(self, foo: Microlock, *others: Microlock) -> None:
        self.unexpected: list[BaseException] = []
        self.beside = 0
        self.tokens: list[int] = []
        self._foo = foo
        self._over = threading.Event()
        self._threads = [begin(lambda seed=seed: self._act(seed)) for seed in range(20)]
        self._threads += [begin(lambda other=other: self._contend(other)) for other in others]

    def end(self) -> None:
        self._over.set()
        with suppress(MicrolockError):
            self._foo.unlock()  # the others may wait for it
        for each in self._threads:
            each.result(DEADLINE)

    def _act(self, seed: int) -> None:
        chance, foo = random.Random(seed), self._foo
        calls: list[tuple[Callable[[], object], tuple[type[MicrolockError], ...]]] = [
            (lambda: self._take(0), (AlreadyLockedError,)),
            # Another thread's call may take longer than this one is to wait for.
            (lambda: self._take(chance.uniform(0.5, 2)), (AlreadyLockedError, StoreTimeoutError)),
            (foo.unlock, (LockNotOwnedError,)),
            (foo.renew, (LockNotOwnedError,)),
            (lambda: foo.extend(chance.randint(20, 60)), (LockNotOwnedError,)),
            (foo.check, (LockNotOwnedError,)),
            (lambda: (foo.held, foo.token, foo.remaining, foo.state, foo.hold), ()),
        ]
        # The pause lets others have the interpreter.
        while not self._over.wait(chance.uniform(0, 0.01)):
            call, expected = chance.choice(calls)
            try:
                call()
            except (*expected, DestroyedError) as error:
                if isinstance(error, LockLostError):
                    self.unexpected.append(error)
                if isinstance(error, DestroyedError):
                    return
            except BaseException as error:  # noqa: BLE001  it is what is looked for
                self.unexpected.append(error)

    def _take(self, timeout: float) -> None:
        self.tokens.append(self._foo.lock(timeout=timeout).token)

    def _contend(self, other: Microlock) -> None:
        while not self._over.is_set():
            try:
                hold = other.lock(timeout=5)
            except AlreadyLockedError:
                continue
            self.tokens.append(hold.token)
            for _ in range(20):
                self.beside += self._foo.held
            other.unlock()


@pytest.mark.parametrize("auto_renew", [False, True])
def test_threads_that_share_an_object_have_one_hold_at_a_time(make: Make, auto_renew: bool) -> None:
    foo = make(auto_renew=auto_renew)
    melee = Melee(foo, make("two"), make("three"))
    assert eventually(lambda: len(melee.tokens) > 150, 3 * DEADLINE)
    melee.end()
    assert melee.beside == 0
    assert len(set(melee.tokens)) == len(melee.tokens)


@pytest.mark.parametrize("auto_renew", [False, True])
def test_threads_that_share_an_object_see_documented_errors_alone(
    make: Make, auto_renew: bool
) -> None:
    melee = Melee(make(auto_renew=auto_renew), make("two"))
    assert eventually(lambda: len(melee.tokens) > 150, 3 * DEADLINE)
    melee.end()
    assert melee.unexpected == []


def test_destroy_ends_what_threads_do_with_an_object_and_leaves_nothing(
    make: Make, etcdctl: Etcdctl, key: str
) -> None:
    for _ in range(5):
        foo = make(auto_renew=True)
        melee = Melee(foo)
        assert eventually(lambda melee=melee: len(melee.tokens) > 10)
        destroying = [begin(foo.destroy) for _ in range(3)]
        with at_most(DEADLINE):
            for each in destroying:
                each.result(DEADLINE)
            melee.end()
        assert melee.unexpected == []
        assert entries(etcdctl, key) == []


# What nobody keeps


def test_a_lock_that_nobody_keeps_while_a_thread_waits_in_it_gets_its_turn_and_ends(
    make: Make, etcd_server: Etcd, key: str
) -> None:
    two = make("two")
    two.lock()
    with connect(etcd_server.endpoint) as etcd:
        abandoned = Microlock(etcd, key, "one", 2, auto_renew=True)
        waiting = begin(lambda lock=abandoned: lock.lock(timeout=DEADLINE))
        assert queued(two)
        gone = ref(abandoned)
        del abandoned
        gc.collect()
        two.unlock()
        assert waiting.result(DEADLINE).token
        assert eventually(lambda: (gc.collect(), gone() is None)[1])
        assert eventually(lambda: two.holder() is None, 2 + 3)


def test_a_held_lock_that_nobody_keeps_is_given_back_at_once(
    make: Make, etcd_server: Etcd, key: str
) -> None:
    two = make("two")
    with connect(etcd_server.endpoint) as etcd:
        for _ in range(10):
            hold = Microlock(etcd, key, "one", 60).lock()
            gc.collect()
            assert two.lock(timeout=AT_ONCE).token > hold.token
            two.unlock()


def test_a_hundred_abandoned_locks_leave_no_thread_behind(etcd_server: Etcd, prefix: str) -> None:
    before = threading.active_count()
    with connect(etcd_server.endpoint) as etcd:
        for i in range(100):
            lock = Microlock(etcd, f"{prefix}{i}", "one", 2, auto_renew=True)
            lock.on("unlocked", print)
            lock.lock()
        del lock
        gc.collect()
    del etcd  # what makes the calls of the main thread ends with the client
    gc.collect()
    assert eventually(lambda: threading.active_count() <= before)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_signal_is_left_to_the_threads_of_the_program(etcd_server: Etcd, key: str) -> None:
    """One that another thread takes does not wake a main thread in `time.sleep()`."""
    script = """
import os, signal, threading
from pathlib import Path

block, callers = signal.pthread_sigmask, set()

def noting(*args):
    callers.add(threading.current_thread())
    return block(*args)

signal.pthread_sigmask = noting

def takes(task):
    status = (task / "status").read_text()
    (blocked,) = [line for line in status.splitlines() if "SigBlk" in line]
    return not int(blocked.split()[1], 16) >> (signal.SIGTERM - 1) & 1

etcd = connect(endpoint)
foo = Microlock(etcd, key, "foo", ttl=60, auto_renew=True)
foo.on("unlocked", print)
foo.lock()
handlers = {t.native_id for t in threading.enumerate() if t.name == "microlock-handlers"}
main = threading.main_thread()
taking = {int(task.name) for task in Path("/proc/self/task").iterdir() if takes(task)}
print(taking - handlers == {main.native_id}, main not in callers, flush=True)
foo.destroy()
"""
    with started(script, etcd_server.endpoint, key) as process:
        assert process.stdout
        assert process.stdout.readline() == "True True\n"
