"""Which etcd the integration tests choose, told without Docker and without an etcd."""

from __future__ import annotations

from pathlib import Path

import pytest
from etcds import NEWEST, Choice, NoEtcdError, choose

from microlock.server import EtcdServerError

WHEEL, OTHER, BROKEN = Path("/wheel/etcd"), Path("/usr/bin/etcd"), Path("/bin/false")
VERSIONS = {WHEEL: "3.5.1", OTHER: "3.4.23"}


class Machine:
    """A machine with these images, and a registry that has those to pull."""

    def __init__(
        self,
        images: list[str] | None,
        *,
        registry: tuple[str, ...] = (),
        binaries: tuple[Path | None, ...] = (WHEEL, None, OTHER),
    ) -> None:
        self.images = images  # None: no engine answers
        self.registry = registry
        self.binaries = binaries
        self.pulled: list[str] = []

    def choose(self, wanted: str) -> Choice:
        places = ("wheel", "$ETCD_BIN", "PATH")
        return choose(
            wanted,
            local_tags=self._local_tags,
            pull=self._pull,
            binaries=list(zip(places, self.binaries, strict=False)),
            version=self._version,
        )

    def _local_tags(self) -> list[str]:
        if self.images is None:
            raise NoEtcdError("no engine answers")
        return self.images

    def _pull(self, tag: str) -> None:
        if tag not in self.registry:
            raise NoEtcdError(f"{tag} cannot be pulled")
        self.pulled.append(tag)

    def _version(self, binary: Path) -> str:
        if binary not in VERSIONS:
            raise EtcdServerError("does not run")
        return VERSIONS[binary]


def test_without_a_wish_docker_is_not_asked() -> None:
    assert Machine(["v3.5.1"]).choose("") == Choice()


def test_a_full_version_takes_exactly_that_image() -> None:
    assert Machine(["v3.5.10", "v3.5.1"]).choose("v3.5.1") == Choice(tag="v3.5.1")


def test_a_minor_version_takes_the_newest_image_that_is_here() -> None:
    assert Machine(["v3.5.9", "v3.5.10", "v3.6.1"]).choose("v3.5") == Choice(tag="v3.5.10")


def test_3_5_is_not_taken_for_3_50() -> None:
    machine = Machine(["v3.50.1"], registry=(NEWEST["v3.5"],))
    assert machine.choose("v3.5") == Choice(tag=NEWEST["v3.5"])


def test_the_v_may_be_left_out() -> None:
    assert Machine(["v3.5.1"]).choose("3.5") == Choice(tag="v3.5.1")


def test_tags_that_are_no_release_are_passed_over() -> None:
    assert Machine(["latest", "v3.5.2-arm64", "v3.5.1"]).choose("v3.5") == Choice(tag="v3.5.1")


@pytest.mark.parametrize("minor", NEWEST)
def test_a_minor_version_pulls_the_newest_one_known(minor: str) -> None:
    machine = Machine([], registry=tuple(NEWEST.values()))
    machine.choose(minor)
    assert machine.pulled == [NEWEST[minor]]


def test_an_image_comes_before_a_binary() -> None:
    assert Machine(["v3.5.1"]).choose("v3.5.1") == Choice(tag="v3.5.1")


@pytest.mark.parametrize("images", [None, []], ids=["no engine", "no image"])
@pytest.mark.parametrize(("wanted", "binary"), [("v3.5", WHEEL), ("v3.4", OTHER)])
def test_without_docker_the_binary_whose_version_fits_is_taken(
    images: list[str] | None, wanted: str, binary: Path
) -> None:
    assert Machine(images).choose(wanted) == Choice(binary=binary)


def test_a_binary_that_does_not_run_is_passed_over() -> None:
    assert Machine(None, binaries=(None, BROKEN, OTHER)).choose("v3.4") == Choice(binary=OTHER)


def test_when_nothing_fits_the_error_says_all_that_was_tried() -> None:
    machine = Machine([], binaries=(WHEEL, BROKEN, None))
    with pytest.raises(NoEtcdError) as caught:
        machine.choose("v3.6.2")
    assert str(caught.value).splitlines() == [
        "ETCD_VERSION=v3.6.2: there is no such etcd. Tried",
        "  Docker: v3.6.2 cannot be pulled",
        "  wheel: /wheel/etcd is v3.5.1",
        "  $ETCD_BIN: does not run",
        "  PATH: none",
    ]


@pytest.mark.parametrize("wanted", ["latest", "3", "v3.x", "v3.5.1.2", "v2.3", "v3.5;"])
def test_what_is_no_version_is_refused(wanted: str) -> None:
    with pytest.raises(NoEtcdError, match="no version such as"):
        Machine(["latest"]).choose(wanted)
