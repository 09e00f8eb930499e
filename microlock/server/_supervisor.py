"""A process between us and an etcd. It ends that etcd when we close the pipe, or die.

This file is both ends of the pipe. As a module it is our end, `Supervisor`. As a script, which
imports the standard library only, it is the other end:

    argument      the data directory; "" for a temporary one, which is removed at the end
    first line    out: the data directory
    each command  in: the command line of etcd, as JSON; out: its pid
    the end       end of input, the death of the parent (a fork of it may still hold the pipe),
                  or SIGTERM

What etcd prints goes to the script's stderr, our log.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress


class Supervisor:
    """One data directory, with one etcd at a time, which does not outlive this process."""

    def __init__(self, data_dir: str | None) -> None:
        self._temporary = data_dir is None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._log_start = 0  # where the log of the etcd launched last begins
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, data_dir or ""],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            # etcd also reads flags from ETCD_ variables; ours are not meant for it.
            env={k: v for k, v in os.environ.items() if not k.startswith("ETCD_")},
            start_new_session=True,  # so Ctrl-C in the terminal does not reach etcd
        )
        assert self._process.stdin
        assert self._process.stdout
        self._to, self._from = self._process.stdin, self._process.stdout
        self.directory = self._from.readline().removesuffix("\n")

    def launch(self, command: Sequence[str]) -> int | None:
        """Starts etcd. Returns its pid, or None if that failed; then the log says why."""
        self._log_start = os.fstat(self._log.fileno()).st_size
        with suppress(BrokenPipeError):
            self._to.write(json.dumps(command) + "\n")
            self._to.flush()
        return int(self._from.readline() or 0) or None

    def log(self) -> str:
        """The log of etcd, over all launches."""
        return self._read(0)

    def last_words(self) -> str:
        """The first and the last lines of the log, since the last launch."""
        lines = self._read(self._log_start).splitlines()
        return "\n".join(lines if len(lines) <= 20 else [*lines[:3], "...", *lines[-15:]])

    def _read(self, start: int) -> str:
        size = os.fstat(self._log.fileno()).st_size - start
        # pread: etcd writes to the same file, and shares its position.
        return os.pread(self._log.fileno(), size, start).decode(errors="replace")

    def close(self) -> None:
        """Kills etcd if it runs, and removes a temporary directory."""
        with suppress(BrokenPipeError):
            self._to.close()
        self._from.close()
        self._process.wait()
        self._log.close()
        if self._temporary:  # done already, unless the other end was killed
            shutil.rmtree(self.directory, ignore_errors=True)


def main() -> None:
    """The other end: runs etcd until the parent ends it."""
    parent = os.getppid()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, lambda *_: sys.exit())
    directory = sys.argv[1] or tempfile.mkdtemp(prefix="microlock-etcd-")
    etcd = None
    try:
        print(directory, flush=True)
        while os.getppid() == parent:
            # The parent waits for each answer, so stdin's buffer never has a second command.
            if not select.select([sys.stdin], [], [], 1)[0]:
                continue
            command = sys.stdin.readline()
            if not command:
                break
            etcd = subprocess.Popen(json.loads(command), stdin=subprocess.DEVNULL, stdout=2)
            # Reap it at once: to the parent a zombie would look alive.
            threading.Thread(target=etcd.wait, name="reaper", daemon=True).start()
            print(etcd.pid, flush=True)
    finally:
        if etcd is not None:
            etcd.kill()
            etcd.wait()
        if not sys.argv[1]:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
