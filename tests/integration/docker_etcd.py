"""An etcd in a Docker container, with the methods of `EtcdServer`.

As a script this file is a watchdog: it removes the container that its argument names as soon as
its input ends, so a test run leaves none behind, however it ends.
"""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import docker
from docker.errors import DockerException, NotFound
from etcds import NoEtcdError

from microlock.server import FAST, HOST, START_TIMEOUT, EtcdServerError, free_ports, healthy

IMAGE = "quay.io/coreos/etcd"


@contextmanager
def engine() -> Iterator[Any]:
    """A client of the Docker engine.

    Raises:
        NoEtcdError: it does not answer, or refuses.
    """
    refusal = ""
    try:
        with closing(docker.from_env()) as client:
            yield client
    except DockerException as exc:
        refusal = str(exc)
    if refusal:
        # The SDK leaves a socket open when no engine answers; the garbage collector would report
        # it in the middle of some test.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        raise NoEtcdError(refusal)


def local_tags() -> list[str]:
    """The tags of the images of etcd that the engine has."""
    with engine() as client:
        names = [name for image in client.images.list(IMAGE) for name in image.tags]
    return [name.rpartition(":")[2] for name in names]


def pull(tag: str) -> None:
    """Fetches the image with this tag."""
    with engine() as client:
        client.images.pull(IMAGE, tag)


class DockerEtcd:
    """One etcd in a container, which ends with this object and with this process."""

    def __init__(self, tag: str, *, fast: bool = False, flags: Sequence[str] = ()) -> None:
        self.version = tag.removeprefix("v")
        self._port, self._health_port = free_ports(2)
        self._name = f"microlock-test-{uuid.uuid4().hex[:12]}"
        self._watchdog = subprocess.Popen(
            [sys.executable, __file__, self._name],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the test run, which then ends the watchdog
        )
        tls = any(flag.startswith("--cert-file") for flag in flags)
        client_url = f"{'https' if tls else 'http'}://0.0.0.0:2379"
        files = [Path(file) for flag in flags for file in re.findall(r"=(/[^,]+)", flag)]
        try:
            with engine() as client:
                client.containers.create(
                    f"{IMAGE}:{tag}",
                    [
                        "/usr/local/bin/etcd",
                        "--data-dir=/etcd-data",
                        f"--listen-client-urls={client_url}",
                        f"--advertise-client-urls={client_url}",
                        "--listen-metrics-urls=http://0.0.0.0:2381",
                        *(FAST if fast else ()),
                        *flags,
                    ],
                    name=self._name,
                    ports={
                        "2379/tcp": (HOST, self._port),
                        "2381/tcp": (HOST, self._health_port),
                    },
                    volumes={str(file): {"bind": str(file), "mode": "ro"} for file in files},
                )
        except BaseException:
            self.close()
            raise

    @property
    def endpoint(self) -> str:
        """Where clients connect, `host:port`."""
        return f"{HOST}:{self._port}"

    def start(self) -> None:
        """Starts etcd, also again after `kill()` or `stop()`; returns when it is healthy."""
        with self._container() as container:
            container.start()
            deadline = monotonic() + START_TIMEOUT
            while not healthy(self._health_port):
                if monotonic() > deadline:
                    log = container.logs(tail=15).decode()
                    raise EtcdServerError(f"{self._name} is not healthy:\n{log}")
                sleep(0.01)

    def stop(self) -> None:
        """Ends etcd in good order; its data stays."""
        with self._container() as container:
            if container.status == "paused":
                container.unpause()
            container.stop(timeout=5)

    def kill(self) -> None:
        """Ends etcd as a crash would; its data stays."""
        with self._container() as container:
            if container.status in ("running", "paused"):
                container.kill()
                container.wait(timeout=10)

    def pause(self) -> None:
        """Freezes etcd."""
        with self._container() as container:
            container.pause()

    def resume(self) -> None:
        """Lets a frozen etcd go on."""
        with self._container() as container:
            container.unpause()

    def close(self) -> None:
        """Removes the container. Twice is fine."""
        assert self._watchdog.stdin
        self._watchdog.stdin.close()
        if self._watchdog.wait(timeout=30):
            raise EtcdServerError(f"container {self._name} could not be removed")

    @contextmanager
    def _container(self) -> Iterator[Any]:
        with engine() as client:
            yield client.containers.get(self._name)


def watch_over(name: str) -> None:
    """Removes the container when the input ends; one more look if it is still being made."""
    sys.stdin.read()
    with engine() as client:
        for pause in (1, 0):
            try:
                client.containers.get(name).remove(force=True, v=True)
            except NotFound:
                sleep(pause)
            else:
                return


if __name__ == "__main__":
    watch_over(sys.argv[1])
