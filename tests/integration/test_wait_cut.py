"""A wait that is cut short, at every stage and in every way.

It ends soon; no entry of it is left, or where etcd could not be asked, none beyond its ttl; and
who stands behind it gets the lock.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from random import Random
from time import monotonic, sleep

import pytest
from conftest import Etcd
from nodes import LONG, Make, begin, nodes, queued
from proxy import Proxy
from test_doubt import NODE
from test_processes import started
from watching import DEADLINE, eventually, threads_of_microlock
from witness import AT_ONCE, at_most

from microlock import (
    AlreadyLockedError,
    DestroyedError,
    Hold,
    LockUncertainError,
    Microlock,
    MicrolockError,
    StoreError,
    connect,
    events,
)

TIMEOUT = 2.5  # of the client whose wait is cut
SLACK = 1.5
TTL = 3  # of its entry, to be waited out where etcd could not be reached
GONE = TTL + 3  # when etcd has noticed the end of its lease on a machine that is busy
PATIENCE = 2.5  # of a wait that is cut by its own time
ENOUGH = 20  # of one that is cut otherwise


def line(observer: Microlock) -> list[str | None]:
    """Who holds the lock and who waits, in order."""
    holder = observer.holder()
    return [each.node_id for each in (holder, *observer.waiters()) if each]


def is_destroyed(lock: Microlock) -> bool:
    try:
        lock.on(events.failed, print)  # needs no turn, and no etcd
    except DestroyedError:
        return True
    return False


def signalled(signum: signal.Signals) -> None:
    """Has the main thread interrupted, or its handler called there."""
    signal.pthread_kill(threading.main_thread().ident, signum)  # type: ignore[arg-type]


@dataclass
class Scene:
    """The lock `foo`, whose way to etcd may fail, between a holder and a last one behind it.

    `foo` waits on the main thread, where signals come; what befalls it is done from another.
    """

    proxy: Proxy
    holder: Microlock
    foo: Microlock
    last: Microlock

    def stands(self) -> bool:
        """Whether the entry of `foo` is there, as one sees it whose way is sound."""
        return NODE in line(self.holder)


@pytest.fixture
def scene(etcd_server: Etcd, key: str, make: Make) -> Iterator[Scene]:
    with (
        closing(Proxy(etcd_server.endpoint)) as proxy,
        nodes(proxy.endpoint, key, timeout=TIMEOUT) as make_far,
    ):
        scene = Scene(proxy, make("holder"), make_far(NODE, ttl=TTL), make("last"))
        yield scene
        proxy.reset()


# Stages: what is arranged before lock() is called, and how its stage is reached after that.


def before_the_request(scene: Scene) -> Iterator[None]:
    """The put is on its way, and is to arrive after the cut."""
    scene.holder.unlock()
    scene.foo.lock()
    scene.foo.unlock()  # leaves a lease, so that the very next request is the put
    scene.holder.lock()
    scene.proxy.swallow()
    yield
    sleep(0.3)  # etcd does not see it, and so nobody else does


def before_the_reply(scene: Scene) -> Iterator[None]:
    scene.proxy.withhold_replies_from(NODE.encode())
    yield
    assert eventually(scene.stands)


def in_the_line(scene: Scene) -> Iterator[None]:
    told = threading.Event()
    scene.foo.on(events.waiting, told.set)
    yield
    assert told.wait(DEADLINE)


def at_the_hand_over(scene: Scene) -> Iterator[None]:
    """Its turn has come, and it is about to hear of it."""
    yield from in_the_line(scene)
    scene.proxy.replies.clear()
    scene.holder.unlock()
    assert line(scene.holder) == [NODE]


def in_the_clean_up(scene: Scene) -> Iterator[None]:
    """It has given up once, by an interrupt, and etcd has done as it asked."""
    yield from in_the_line(scene)
    scene.proxy.replies.clear()
    signalled(signal.SIGINT)
    assert eventually(lambda: not scene.stands())


def in_a_clean_up_in_vain(scene: Scene) -> Iterator[None]:
    """It has given up once, by an interrupt, and etcd does not hear of it."""
    yield from in_the_line(scene)
    scene.proxy.swallow()
    signalled(signal.SIGINT)
    sleep(0.3)


Stage = Callable[[Scene], Iterator[None]]
STAGES = [
    before_the_request,
    before_the_reply,
    in_the_line,
    at_the_hand_over,
    in_the_clean_up,
    in_a_clean_up_in_vain,
]
UNHEARD = (before_the_request, in_a_clean_up_in_vain)  # etcd could not be asked


# Cuts


def time_is_over(_: Microlock) -> None:
    """Nothing but the time that was given."""


def interrupt(_: Microlock) -> None:
    signalled(signal.SIGINT)


def destroy(foo: Microlock) -> None:
    with suppress(StoreError, LockUncertainError):  # it says what it could not be sure of
        foo.destroy()


to_destroy: SimpleQueue[Microlock] = SimpleQueue()


def destroy_in_a_signal_handler(foo: Microlock) -> None:
    to_destroy.put(foo)
    signalled(signal.SIGUSR1)


@pytest.fixture(autouse=True)
def signal_handler() -> Iterator[None]:
    before = signal.signal(signal.SIGUSR1, lambda *_: destroy(to_destroy.get_nowait()))
    yield
    signal.signal(signal.SIGUSR1, before)


Cut = Callable[[Microlock], None]
CUTS = [time_is_over, interrupt, destroy, destroy_in_a_signal_handler]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_wait_that_is_cut_ends_soon_and_lets_the_next_one_have_the_lock(
    scene: Scene, stage: Stage, cut: Cut
) -> None:
    scene.holder.lock()
    steps = stage(scene)
    next(steps)
    cut_at: list[float] = []

    def act() -> Future[Hold]:
        assert next(steps, "reached") == "reached"
        behind = begin(partial(scene.last.lock, timeout=LONG))
        assert eventually(lambda: "last" in line(scene.holder))
        cut_at.append(monotonic())
        cut(scene.foo)
        return behind

    began = monotonic()
    acting = begin(act)
    with pytest.raises((MicrolockError, KeyboardInterrupt)):
        scene.foo.lock(timeout=PATIENCE if cut is time_is_over else ENOUGH)
    ended = monotonic()
    behind = acting.result(DEADLINE)
    # A try that is under way has half of the timeout, and the clean-up all of it.
    since, within = (began, PATIENCE) if cut is time_is_over else (cut_at[0], 1.5 * TIMEOUT)
    assert ended - since < within + SLACK
    assert not scene.foo.held
    if stage not in UNHEARD:
        assert eventually(lambda: not scene.stands(), AT_ONCE)
    # What was held back arrives late.
    scene.proxy.let_through()
    if scene.holder.held:
        scene.holder.unlock()
    behind.result(GONE if stage in UNHEARD else AT_ONCE)
    assert eventually(lambda: line(scene.holder) == ["last"], GONE)


@pytest.mark.parametrize("timeout", [0, ENOUGH])
@pytest.mark.parametrize("cut", [destroy, destroy_in_a_signal_handler])
def test_a_lock_that_was_destroyed_before_it_hears_that_it_has_it_is_free(
    scene: Scene, cut: Cut, timeout: float
) -> None:
    scene.foo.holder()  # etcd is known to be there
    scene.proxy.withhold_replies_from(NODE.encode())

    def act() -> None:
        assert eventually(scene.stands)
        cutting = begin(partial(cut, scene.foo))
        assert eventually(lambda: is_destroyed(scene.foo))
        scene.proxy.replies.set()
        cutting.result(DEADLINE)

    acting = begin(act)
    with pytest.raises(DestroyedError):
        scene.foo.lock(timeout=timeout)
    acting.result(DEADLINE)
    assert not scene.foo.held
    assert eventually(lambda: line(scene.holder) == [], AT_ONCE)


# The turn comes at the very moment


@pytest.mark.parametrize("cut", CUTS)
def test_a_cut_at_the_moment_of_the_hand_over_leaves_a_hold_or_nothing(
    make: Make, key: str, cut: Cut
) -> None:
    if cut is time_is_over:  # which takes time, and no signal on the main thread
        with ThreadPoolExecutor(5) as pool:
            keys = [f"{key}-{number}" for number in range(5)]
            list(pool.map(lambda key: cut_at_hand_overs(make, key, cut, 5), keys))
    else:
        cut_at_hand_overs(make, key, cut, 25)


def cut_at_hand_overs(make: Make, key: str, cut: Cut, rounds: int) -> None:
    random = Random(cut.__name__)
    holder = make("holder", key=key)
    # A wait of 0.5 s gives up after 0.45, to clean up.
    timeout, after = (0.5, 0.45) if cut is time_is_over else (ENOUGH, 0.05)
    for _ in range(rounds):
        foo = make("foo", key=key)  # one that was destroyed is of no more use
        holder.lock()
        moment = monotonic() + after

        def act(at: float = moment, foo: Microlock = foo) -> None:
            handing = begin(partial(_at, at + random.uniform(-0.004, 0.004), holder.unlock))
            _at(at + random.uniform(-0.004, 0.004), partial(cut, foo))
            handing.result(DEADLINE)

        acting = begin(act)
        with suppress(AlreadyLockedError, DestroyedError, KeyboardInterrupt):
            foo.lock(timeout=timeout)
            acting.result(DEADLINE)
            sleep(0.001)  # or the interrupt could come behind the block
        acting.result(DEADLINE)
        if foo.held:
            foo.unlock()
        assert eventually(lambda: line(holder) == [], AT_ONCE)


def _at(moment: float, call: Callable[[], object]) -> None:
    sleep(max(0.0, moment - monotonic()))
    call()


# Handlers


@pytest.mark.parametrize("event", [events.waiting, events.unlocked, events.locked, events.acquired])
def test_destroy_in_a_handler_ends_the_wait_and_lets_the_next_one_have_the_lock(
    make: Make, event: str
) -> None:
    holder, foo, last = make("holder"), make("foo"), make("last")
    holder.lock()
    foo.on(event, foo.destroy)
    waiting = begin(partial(foo.lock, timeout=LONG))
    assert eventually(lambda: holder.waiters() or waiting.done())
    behind = begin(partial(last.lock, timeout=LONG))
    assert eventually(lambda: "last" in line(holder))
    holder.unlock()
    error = waiting.exception(AT_ONCE)
    assert error is None or isinstance(error, DestroyedError)  # it had the lock, or did not
    behind.result(AT_ONCE)
    assert line(holder) == ["last"]


# Processes

WAITS = f"""
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
foo = Microlock(connect(endpoint), key, "foo", ttl={TTL})
"""


def test_ctrl_c_ends_a_wait_and_nothing_is_left_of_it(
    etcd_server: Etcd, key: str, make: Make
) -> None:
    script = """
try:
    foo.lock(timeout=None)
except KeyboardInterrupt:
    print("interrupted", foo.held, flush=True)
sys.stdin.readline()
"""
    holder = make("holder")
    holder.lock()
    with started(WAITS + script, etcd_server.endpoint, key) as process:
        assert process.stdout
        assert queued(holder)
        process.send_signal(signal.SIGINT)
        with at_most(AT_ONCE):
            assert process.stdout.readline() == "interrupted False\n"
        assert line(holder) == ["holder"]


def test_ctrl_c_ends_a_program_that_waits_and_nothing_is_left_of_it(
    etcd_server: Etcd, key: str, make: Make
) -> None:
    holder = make("holder")
    holder.lock()
    script = "sys.excepthook = lambda *_: None\nfoo.lock(timeout=None)"
    with started(WAITS + script, etcd_server.endpoint, key) as process:
        assert queued(holder)
        process.send_signal(signal.SIGINT)
        assert process.wait(AT_ONCE) != 0
        assert line(holder) == ["holder"]


def test_a_waiter_that_was_killed_holds_nobody_up_beyond_its_ttl(
    etcd_server: Etcd, key: str, make: Make
) -> None:
    holder, last = make("holder"), make("last")
    holder.lock()
    with started(WAITS + "foo.lock(timeout=None)", etcd_server.endpoint, key) as process:
        assert queued(holder)
        behind = begin(partial(last.lock, timeout=LONG))
        assert queued(holder, 2)
        process.kill()
        process.wait(DEADLINE)
    holder.unlock()
    behind.result(GONE)
    assert line(holder) == ["last"]


# Threads that a wait starts, or shares

THREADS = ["microlock-watch", "microlock-renewal", "microlock-handlers"]


@pytest.mark.parametrize("moment", ["before it runs", "when it runs"])
@pytest.mark.parametrize("name", THREADS)
def test_an_interrupt_while_a_thread_starts_leaves_one_of_a_kind_for_the_next_wait(
    etcd_server: Etcd,
    key: str,
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    moment: str,
) -> None:
    holder = make("holder")
    holder.on(events.unlocked, print)  # all the threads of this one run before the others start
    holder.lock()
    before = threads_of_microlock()
    start = threading.Thread.start
    interrupted: list[threading.Thread] = []

    def start_and_interrupt(thread: threading.Thread) -> None:
        strikes = thread.name == name and not interrupted
        if not (strikes and moment == "before it runs"):
            start(thread)
        if strikes:
            interrupted.append(thread)
            raise KeyboardInterrupt

    with connect(etcd_server.endpoint) as etcd:
        foo = Microlock(etcd, key, "foo", LONG)
        foo.on(events.waiting, print)
        monkeypatch.setattr(threading.Thread, "start", start_and_interrupt)
        with pytest.raises(KeyboardInterrupt):
            foo.lock(timeout=LONG)
        with pytest.raises(AlreadyLockedError):
            foo.lock(timeout=0.5)
        names = sorted(thread.name for thread in threads_of_microlock() - before)
        assert set(THREADS) <= set(names)
        assert len(names) == len(set(names)), names
        foo.destroy()


@pytest.mark.parametrize("name", THREADS)
def test_destroy_in_a_signal_handler_while_a_thread_starts_ends_the_wait(
    etcd_server: Etcd, key: str, make: Make, name: str
) -> None:
    """In a process of its own, since what it finds is that nothing goes on."""
    script = f"""
start = threading.Thread.start

def start_and_signal(thread):
    start(thread)
    if thread.name == {name!r}:
        signal.raise_signal(signal.SIGUSR1)

threading.Thread.start = start_and_signal
signal.signal(signal.SIGUSR1, lambda *_: foo.destroy())
foo.on("waiting", lambda: None)
print(raised(lambda: foo.lock(timeout={LONG})), flush=True)
sys.stdin.readline()
"""
    holder = make("holder")
    holder.lock()
    with started(WAITS + script, etcd_server.endpoint, key) as process:
        assert process.stdout
        assert begin(process.stdout.readline).result(DEADLINE) == "DestroyedError\n"
        assert line(holder) == ["holder"]


def test_destroy_in_a_signal_handler_just_before_the_waiting_begins_ends_it(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, foo = make("holder"), make("foo")
    holder.lock()
    with pytest.raises(AlreadyLockedError):
        foo.lock(timeout=0.5)  # so that all threads run, and only the wait for the turn is left
    struck: list[threading.Thread] = []

    class Struck(SimpleQueue):  # type: ignore[type-arg]
        """What a thread waits at; the first time the main thread is about to, a signal comes."""

        def get(self, block: bool = True, timeout: float | None = None) -> object:
            if threading.current_thread() is threading.main_thread() and not struck:
                struck.append(threading.current_thread())
                to_destroy.put(foo)
                signal.raise_signal(signal.SIGUSR1)
            return super().get(block, timeout)

    monkeypatch.setattr("microlock.engine.clock.SimpleQueue", Struck)
    with at_most(AT_ONCE), pytest.raises(DestroyedError):
        foo.lock(timeout=2 * AT_ONCE)
    assert struck


def test_an_interrupted_call_leaves_a_client_that_serves_other_threads(
    etcd_server: Etcd, key: str
) -> None:
    """In a process of its own, since what it finds is that nothing goes on."""
    script = """
def interrupt():
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

for round in range(20):
    timer = threading.Timer(0.001 * (round % 7 + 1), interrupt)
    try:
        timer.start()
        while True:
            foo.lock(timeout=5)
            foo.unlock()
    except KeyboardInterrupt:
        timer.join()
    if foo.held:
        foo.unlock()
    called = threading.Thread(target=foo.holder, daemon=True)
    called.start()
    called.join(8)
    if called.is_alive():
        print("a call hangs after interrupt", round + 1, flush=True)
        os._exit(1)
print("done", flush=True)
"""
    with started(WAITS + script, etcd_server.endpoint, key) as process:
        assert process.stdout
        assert process.stdout.readline() == "done\n"
