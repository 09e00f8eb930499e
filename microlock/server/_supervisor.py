"""The process between us and an etcd: when we let go of it, or die, it ends that etcd.

This file is both ends of the pipe. As a module it is our end, `Supervisor`. As a script, with
nothing but the standard library, it is the other one:

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
    """One data directory, and one etcd at a time in it, none of which outlives this process."""

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
            # etcd also takes flags from variables; those around us are not meant for it.
            env={k: v for k, v in os.environ.items() if not k.startswith("ETCD_")},
            start_new_session=True,  # Ctrl-C in the terminal is for us alone
        )
        assert self._process.stdin
        assert self._process.stdout
        self._to, self._from = self._process.stdin, self._process.stdout
        self.directory = self._from.readline().removesuffix("\n")

    def launch(self, command: Sequence[str]) -> int | None:
        """Starts etcd; its pid, or None when that failed: the log says why."""
        self._log_start = os.fstat(self._log.fileno()).st_size
        with suppress(BrokenPipeError):
            self._to.write(json.dumps(command) + "\n")
            self._to.flush()
        return int(self._from.readline() or 0) or None

    def log(self) -> str:
        """What etcd has logged, over all launches."""
        return self._read(0)

    def last_words(self) -> str:
        """What the etcd launched last has logged: the first lines and the last ones."""
        lines = self._read(self._log_start).splitlines()
        return "\n".join(lines if len(lines) <= 20 else [*lines[:3], "...", *lines[-15:]])

    def _read(self, start: int) -> str:
        size = os.fstat(self._log.fileno()).st_size - start
        # pread: the position in the file is shared with etcd, which writes there.
        return os.pread(self._log.fileno(), size, start).decode(errors="replace")

    def close(self) -> None:
        """Ends etcd with SIGKILL, if it runs, and removes a temporary directory."""
        with suppress(BrokenPipeError):
            self._to.close()
        self._from.close()
        self._process.wait()
        self._log.close()
        if self._temporary:  # done already, unless the other end was killed
            shutil.rmtree(self.directory, ignore_errors=True)


def main() -> None:
    """The other end: runs etcd for as long as the parent wants it."""
    parent = os.getppid()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, lambda *_: sys.exit())
    directory = sys.argv[1] or tempfile.mkdtemp(prefix="microlock-etcd-")
    etcd = None
    try:
        print(directory, flush=True)
        while os.getppid() == parent:
            # The parent waits for each answer: no command hides in the buffer behind another.
            if not select.select([sys.stdin], [], [], 1)[0]:
                continue
            command = sys.stdin.readline()
            if not command:
                break
            etcd = subprocess.Popen(json.loads(command), stdin=subprocess.DEVNULL, stdout=2)
            # Reaped at once: a zombie would look alive to the parent.
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
