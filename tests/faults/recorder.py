"""Noting every change in etcd, by other means than those under test: `etcdctl watch`.

One watch through each endpoint: whichever tells of a revision first is believed, so that a member
that is down, cut off or slow neither hides a change nor makes it look later than it was.

What a watch tells may still be late, by an election or on a busy machine. So each member is also
asked for its revision all the time, which shuts in between two answers when a change happened,
whenever it is noted.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

import requests
from history import Changed, History, Looked, now

from microlock.server import find_binary

_PAUSE = 0.1  # seconds until a watch that has ended is begun again
_LOOK = 0.15  # seconds between two looks at a member
_PATIENCE = 1.0  # seconds for its answer


class Recorder:
    """Writes the changes of the keys with this prefix, from etcd's first revision on, to
    `etcd.jsonl` in the directory `run`.

    Args:
        inside: what to run the watch of each endpoint with, so that it is on the machine of its
            member and no partition cuts it off.

    Attributes:
        revision: of the last change noted.
        failures: why a watch did not go on. Another may have.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        run: Path,
        *,
        prefix: str = "",
        inside: Sequence[Sequence[str]] | None = None,
    ) -> None:
        theirs = {name: value for name, value in os.environ.items() if name[:4] != "ETCD"}
        self._env = theirs | {"ETCDCTL_API": "3"}
        self._etcdctl = str(find_binary("etcdctl"))
        self._prefix = prefix
        self._endpoints = list(endpoints)
        self._history = History(run / "etcd.jsonl")
        self._closed = threading.Event()
        self._noted = threading.Condition()
        # Under the lock of the condition:
        self.revision = 0
        self.failures: list[str] = []
        self._watches: dict[str, subprocess.Popen[str]] = {}
        self._threads = [
            threading.Thread(target=self._record, args=each, name="recorder", daemon=True)
            for each in zip(endpoints, inside or [()] * len(endpoints), strict=True)
        ]
        self._threads += [
            threading.Thread(target=self._look, args=(each,), name="looks", daemon=True)
            for each in endpoints
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def finish(self, *, within: float = 20) -> None:
        """Ends when all that has happened is noted, or raises TimeoutError."""
        self.settle(within=within)
        self.close()

    def settle(self, *, within: float = 20) -> None:
        """Waits until all that has happened is noted, or raises TimeoutError."""
        everywhere = ",".join(self._endpoints)
        put = self._command(everywhere, "put", f"{self._prefix}settled", "now", "-w", "json")
        run = subprocess.run(put, env=self._env, timeout=within, check=True, stdout=subprocess.PIPE)
        revision = json.loads(run.stdout)["header"]["revision"]
        with self._noted:
            if not self._noted.wait_for(lambda: self.revision >= revision, within):
                raise TimeoutError(f"revision {revision} was not noted: {self.failures}")

    def close(self) -> None:
        """Twice is fine."""
        self._closed.set()
        with self._noted:
            watches = list(self._watches.values())
        for watch in watches:
            watch.kill()
        for thread in self._threads:
            thread.join(timeout=10)
            assert not thread.is_alive()
        self._history.close()

    def _record(self, endpoint: str, inside: Sequence[str]) -> None:
        while not self._closed.wait(_PAUSE):
            with self._noted:
                if self._closed.is_set():
                    return
                since = self.revision + 1
                command = self._command(
                    *(endpoint, "watch", "--prefix", self._prefix),
                    *(f"--rev={since}", "-w", "json"),
                )
                watch = self._watches[endpoint] = subprocess.Popen(
                    [*inside, *command],
                    env=self._env,
                    text=True,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
            with watch:
                assert watch.stdout
                for line in watch.stdout:
                    with suppress(json.JSONDecodeError):  # killed in the middle of a line
                        self._take(json.loads(line), now())
                watch.kill()

    def _look(self, endpoint: str) -> None:
        with requests.Session() as session:
            while not self._closed.wait(_LOOK):
                since = now()
                with suppress(requests.RequestException, KeyError, ValueError):
                    # Linearizable, as reads are by default: it is as of now, not of this member.
                    reply = session.post(
                        f"http://{endpoint}/v3/kv/range", json={"key": "AA=="}, timeout=_PATIENCE
                    ).json()
                    revision = int(reply["header"]["revision"])
                    self._history.note(Looked(now(), since, revision))

    def _take(self, reply: dict[str, Any], at: float) -> None:
        events = reply.get("Events") or ()
        with self._noted:
            if compacted := reply.get("CompactRevision"):
                # Another watch may yet tell of what is gone for this one; if none does, it begins
                # there again for ever, and nothing is passed over.
                self.failures.append(f"compacted up to {compacted}, noted {self.revision}")
            for revision, together in groupby(events, lambda each: each["kv"]["mod_revision"]):
                if revision > self.revision:
                    for event in together:
                        self._history.note(_changed(event, at))
                    self.revision = revision
            self._noted.notify_all()

    def _command(self, endpoint: str, *arguments: str) -> list[str]:
        return [self._etcdctl, f"--endpoints={endpoint}", *arguments]


def _changed(event: dict[str, Any], at: float) -> Changed:
    kv = event["kv"]
    deleted = event.get("type") == 1
    return Changed(
        at=at,
        revision=kv["mod_revision"],
        name=_text(kv["key"]),
        created=None if deleted else kv["create_revision"],
        lease=kv.get("lease", 0),
        value=_text(kv.get("value", "")),
    )


def _text(encoded: str) -> str:
    return base64.b64decode(encoded).decode(errors="backslashreplace")
