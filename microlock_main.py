"""The start of the command `microlock`.

A module of its own: to import anything of microlock imports all of it, which takes most of the time
that a command needs to start.
"""

from __future__ import annotations

import signal


def main() -> None:
    """Runs the command line; ends the process. Until it runs, Ctrl-C ends the process silently."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from microlock.__main__ import main

    main()
