"""`microlock`, and `python -m microlock`: the command line."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Runs the command line; ends the process."""
    try:
        from microlock.cli.program import program
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.exit("microlock: the command line needs click: pip install 'microlock[cli]'")
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # of `microlock_main`
        signal.signal(signal.SIGINT, signal.default_int_handler)
    program(prog_name="microlock")


if __name__ == "__main__":
    main()
