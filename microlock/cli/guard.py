"""Who ends the command when the process that holds the lock is killed.

A shell waits for the end of a pipe that this process alone can write to, and kills the group of
processes that it was told of last. On Linux the kernel kills the command itself besides, as
`child` asks for.
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
        pipe: to be told the group, as a line: by the command itself, before it becomes one.
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
                start_new_session=True,  # what is sent to our group, or typed, is not for it
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
            # What is left of the group is left alone.
            with suppress(BrokenPipeError):  # somebody has killed it
                os.write(self.pipe, b"\n")
        os.close(self.pipe)
        self._shell.wait()
