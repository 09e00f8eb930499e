"""Kills the command when the process that holds the lock is killed.

A shell reads a pipe that only this process keeps open for writing. When the pipe ends, the shell
kills the process group whose id it read last. On Linux the kernel also kills the command itself, as
`child` asks it to.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from types import TracebackType

from microlock.cli.child import NotExecutableError

_SCRIPT = """
while read -r group; do last=$group; done
[ -z "$last" ] || kill -s KILL -- "-$last"
"""


class Guard:
    """Kills the group of the command if this process is killed, or its block ends by an error.

    Attributes:
        pipe: gets the id of the group, as a line. The child writes it before it becomes the
            command.
    """

    def __init__(self) -> None:
        reading, self.pipe = os.pipe()
        try:
            self._shell = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT],
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,  # signals to our group, and Ctrl-C, don't reach it
            )
        finally:
            os.close(reading)

    def __enter__(self) -> Guard:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None or issubclass(kind, NotExecutableError):
            # An empty line: what is left of the group is not killed.
            with suppress(BrokenPipeError):  # somebody has killed the shell
                os.write(self.pipe, b"\n")
        os.close(self.pipe)
        self._shell.wait()
