"""`etcdctl`, which is not ours."""

from __future__ import annotations

import os
import subprocess
from subprocess import Popen

from microlock.server import find_binary


class Etcdctl:
    """`etcdctl` on one etcd: a call runs it to its end, `start()` leaves it running."""

    def __init__(self, endpoint: str) -> None:
        self._command = [str(find_binary("etcdctl")), f"--endpoints={endpoint}"]
        theirs = {name: value for name, value in os.environ.items() if name[:4] != "ETCD"}
        self._env = theirs | {"ETCDCTL_API": "3"}

    def __call__(self, *arguments: str, timeout: float = 20) -> str:
        """What it prints; CalledProcessError when it fails."""
        return subprocess.run(
            [*self._command, *arguments],
            env=self._env,
            timeout=timeout,
            check=True,
            text=True,
            stdout=subprocess.PIPE,
        ).stdout

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """The running process, with its output to read: `with etcdctl.start("lock", "foo")`."""
        return subprocess.Popen(
            [*self._command, *arguments], env=self._env, text=True, stdout=subprocess.PIPE
        )


def taken(process: Popen[str]) -> str:
    """The entry that etcdctl holds the lock by, once it does."""
    assert process.stdout
    return process.stdout.readline().strip()
