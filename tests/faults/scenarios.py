"""Small dramas on a real etcd, in which a lock that cuts a corner gets it wrong.

Each brings about, as surely as it can, what a random run meets now and then. A lock in order comes
through all of them without breaking a rule.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread
from time import sleep
from unittest.mock import patch

from actors import LONG, Actor, Stage
from fenced import Fenced
from history import History, now
from proxy import Proxy
from verdict import Limits
from watching import eventually

from microlock.core import tracker

# One etcd on this machine, which no fault is done to. The rules that judge by the time need some.
LIMITS = Limits(notice=1, slack=1, grace=0.5, prolonged=2)
WHILE = 0.5  # seconds; the recorder looks several times in it


def cycle(stage: Stage) -> None:
    """Takes the lock, gives it back, and looks back after a while."""
    p = stage.actor("p")
    p.lock()
    p.claim()
    p.unlock()
    _let_pass(WHILE)


def taken_away(stage: Stage) -> None:
    """The entry of p is deleted by an operator, and q gets the lock; then p, which knows nothing of
    it, unlocks."""
    _taken_away(stage, "q")


def taken_away_among_namesakes(stage: Stage) -> None:
    """The same, and q calls itself as p does."""
    _taken_away(stage, "p")


def _taken_away(stage: Stage, node_of_q: str) -> None:
    with patch.object(tracker, "UNWATCHED", LONG):  # as in the first moments of a hold
        p, q = stage.actor("p"), stage.actor("q", node=node_of_q)
        hold = p.lock()
        assert hold
        stage.delete(f"{stage.key}/{hold.lease_id:x}")
        assert q.lock()
        q.claim()
        p.unlock()
        q.claim()
        stage.recorder.settle()  # what p has done is done before q gives back
        q.unlock()


def expires(stage: Stage) -> None:
    """A hold that nobody renews ends while its process goes on."""
    p = stage.actor("p", ttl=1)
    bystander = stage.actor("q")
    p.lock()
    while p.claim():
        sleep(0.01)
    assert eventually(stage.free)
    _let_pass(1 + LIMITS.slack)
    p.microlock.on("locked", print)  # p is well, but calls nothing that would tell it
    p.listen()
    _let_pass(LIMITS.slack + 0.5)
    p.listen()
    bystander.lock()


def late_replies(stage: Stage) -> None:
    """The reply to a renewal takes long, and no other comes after it. etcd counts the ttl from when
    it got the request."""
    proxy = Proxy(stage.endpoint)
    stage.closes(proxy.close)
    p = stage.actor("p", endpoint=proxy.endpoint, ttl=2, timeout=30)
    locking = Thread(target=p.lock)  # by the connection that the renewal takes
    locking.start()
    locking.join()
    proxy.replies.clear()
    renewing = Thread(target=p.renew)
    renewing.start()
    _let_pass(1.3)
    proxy.let_through()
    renewing.join()
    proxy.swallow()  # or it would be told of the end by the watch
    while p.claim():
        sleep(0.005)
    proxy.reset()


def waiting_in_vain(stage: Stage) -> None:
    """q waits, and gives up."""
    p, q = stage.actor("p"), stage.actor("q")
    p.lock()
    assert q.lock(timeout=0.5) is None
    _let_pass(WHILE)
    p.unlock()


def waiting(stage: Stage) -> None:
    """q waits for p, or so it should."""
    p, q = stage.actor("p"), stage.actor("q")
    p.lock()
    p.claim()
    waiter = Thread(target=lambda: q.lock(timeout=20))
    waiter.start()
    assert eventually(lambda: p.microlock.waiters())
    if eventually(q.claim, within=WHILE):
        p.claim()
        q.claim()
        _let_pass(WHILE)
    p.unlock()
    waiter.join()
    q.claim()
    q.unlock()


def written(stage: Stage) -> None:
    """w writes, and r asks to read meanwhile."""
    w, r = stage.actor("w", kind="WriteLock"), stage.actor("r", kind="ReadLock")
    w.lock()
    _together(r, w)


def full(stage: Stage) -> None:
    """p and q have both places of a semaphore, and r asks for one."""
    p, q, r = (stage.actor(name, kind="Semaphore", limit=2) for name in "pqr")
    p.lock()
    q.lock()
    _together(r, p, q)


def _together(newcomer: Actor, *holders: Actor) -> None:
    """Who holds goes on, whether somebody else gets it too or not."""
    for each in (*holders, newcomer):
        newcomer.lock()
        each.claim()
    _let_pass(WHILE)
    for each in (*holders, newcomer):
        each.claim()
        each.unlock()


def several(stage: Stage) -> None:
    """p and q want the same two keys, in another order each."""
    one, two = f"{stage.key}-1", f"{stage.key}-2"
    p = stage.actor("p", kind="MultiLock", key=one, others=[two])
    q = stage.actor("q", kind="MultiLock", key=two, others=[one])
    for each in (p, q):
        each.lock()
        each.claim()
        _let_pass(WHILE)
        each.unlock()


def no_answer(stage: Stage) -> None:
    """q tries to lock, and hears nothing more from etcd, which has done all it was asked for."""
    proxy = Proxy(stage.endpoint)
    stage.closes(proxy.close)
    q = stage.actor("q", endpoint=proxy.endpoint, node="unheard", timeout=2)
    proxy.withhold_replies_from(b"unheard")
    assert q.lock() is None
    _let_pass(WHILE)
    proxy.reset()
    witness = stage.actor("p")
    witness.lock(timeout=0.2)


def cut_off(stage: Stage) -> None:
    """The lock changes hands while a listener can't reach etcd."""
    proxy = Proxy(stage.endpoint)
    stage.closes(proxy.close)
    p, listener = stage.actor("p"), stage.actor("l", endpoint=proxy.endpoint)
    listener.listen()
    hold = p.lock()
    assert hold
    assert eventually(lambda: listener.was_told("locked", hold.token))
    proxy.cut()
    for _ in range(3):
        p.unlock()
        p.lock()
    proxy.mend()

    def hears() -> bool:
        p.unlock()
        hold = p.lock()
        assert hold
        return eventually(lambda: listener.was_told("locked", hold.token), within=0.2)

    assert eventually(hears)
    p.unlock()
    assert eventually(stage.free)
    _let_pass(LIMITS.grace)


def paused(stage: Stage) -> None:
    """p is paused for longer than its ttl; q has written when it goes on, and writes."""
    q = stage.actor("q")
    with subprocess.Popen(
        [sys.executable, __file__, stage.endpoint, str(stage.run), stage.key, str(stage.fenced)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as p:
        try:
            assert p.stdin
            assert p.stdout
            assert p.stdout.readline() == "held\n"
            with stage.fault("pause p"):
                p.send_signal(signal.SIGSTOP)
                hold = q.lock(timeout=20)
                assert hold
                q.claim()
                stage.store.write("q", stage.key, hold.token)
                p.send_signal(signal.SIGCONT)
            p.communicate("write\n", timeout=20)
            assert p.returncode == 0
        finally:
            p.kill()
    q.unlock()


def _paused_process(endpoint: str, run: Path, key: str, fenced: bool) -> None:
    p = Actor(History(run / "p.jsonl"), endpoint, key, "p", ttl=1)
    hold = p.lock()
    assert hold
    if p.claim():  # it asks, as it should, and is paused right after that
        print("held", flush=True)
        sys.stdin.readline()
        Fenced(run / "store.db", fenced=fenced).write("p", key, hold.token)
    p.unlock()
    p.note_ended()


def _let_pass(seconds: float) -> None:
    """What a rule judges by the time needs it to pass."""
    until = now() + seconds + 0.1
    while now() < until:
        sleep(0.05)


if __name__ == "__main__":
    _paused_process(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4] == "True")
