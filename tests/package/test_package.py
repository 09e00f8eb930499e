"""What ships: the wheel and the sdist of dist/, in empty environments. `make dist` runs these."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
(WHEEL,) = (ROOT / "dist").glob("*.whl")
(SDIST,) = (ROOT / "dist").glob("*.tar.gz")
# What git has and a user of the sdist has no need of.
LEFT_OUT = {".gitignore"}


def installed(where: Path, extras: str = "") -> Path:
    """The directory of the programs of a new environment with the wheel and nothing else."""
    subprocess.run([sys.executable, "-m", "venv", where], check=True)
    pip = [where / "bin/python", "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    subprocess.run([*pip, f"{WHEEL}{extras}"], check=True)
    return where / "bin"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def with_all(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(tmp_path_factory.mktemp("all"), "[all]")


def run(program: Path, *arguments: str, status: int = 0) -> str:
    """What it prints; in a directory that has no microlock of its own, without our variables."""
    environment = {name: value for name, value in os.environ.items() if "PYTHON" not in name}
    environment["PATH"] = f"{program.parent}:{os.environ['PATH']}"
    ran = subprocess.run(
        [program, *arguments],
        cwd=program.parents[1],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == status, ran.stderr
    return ran.stdout + ran.stderr


LOCK = """
from microlock import Microlock, connect
with connect({endpoint!r}) as etcd, Microlock(etcd, "foo", "node-a", ttl=5) as foo:
    print("held", foo.held)
"""

LOCK_AWAITED = """
import asyncio
from microlock.asyncio import Microlock, connect
async def main():
    async with connect({endpoint!r}) as etcd, Microlock(etcd, "foo", "node-a", ttl=5) as foo:
        print("awaited", foo.held)
asyncio.run(main())
"""

ON_ETCD = f"""
import subprocess
from microlock.server import EtcdServer
with EtcdServer(fast=True) as server:
    exec({LOCK!r}.format(endpoint=server.endpoint))
    exec({LOCK_AWAITED!r}.format(endpoint=server.endpoint))
    command = ["microlock", "run", "foo", "--etcd", server.endpoint, "--", "echo", "under the lock"]
    print(subprocess.run(command, check=True, capture_output=True, text=True).stdout, end="")
"""


def test_the_wheel_alone_is_a_lock(plain: Path) -> None:
    assert run(plain / "python", "-W", "error", "-c", LOCK.format(endpoint="memory://")) == (
        "held True\n"
    )


def test_the_command_line_without_its_extra_says_what_to_install(plain: Path) -> None:
    assert "pip install 'microlock[cli]'" in run(plain / "microlock", "status", status=1)


def test_the_extra_all_brings_an_etcd_the_command_line_and_the_service(with_all: Path) -> None:
    printed = run(with_all / "python", "-W", "error", "-c", ON_ETCD)
    assert printed == "held True\nawaited True\nunder the lock\n"
    assert "--memory" in run(with_all / "microlock", "serve", "--help")
    run(
        with_all / "python",
        "-W",
        "error",
        "-c",
        "import microlock.telemetry, microlock.service.app",
    )


def test_the_wheel_has_every_file_of_the_package() -> None:
    tracked = git("microlock", "microlock_main.py", "pytest_microlock.py")
    assert {
        name for name in zipfile.ZipFile(WHEEL).namelist() if "dist-info" not in name
    } == tracked


def test_the_sdist_has_every_file_of_the_repository() -> None:
    with tarfile.open(SDIST) as sdist:
        names = {member.name.partition("/")[2] for member in sdist if member.isfile()}
    assert git(".") - names == LEFT_OUT


def git(*paths: str) -> set[str]:
    """The files that git has there."""
    command = ["git", "-C", ROOT, "ls-files", *paths]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_the_metadata_name_the_licence_and_each_extra_that_the_pages_name() -> None:
    wheel = zipfile.ZipFile(WHEEL)
    (name,) = (name for name in wheel.namelist() if name.endswith("dist-info/METADATA"))
    metadata = Parser().parsestr(wheel.read(name).decode())
    assert metadata["License-Expression"] == "MIT"
    assert metadata["License-File"] == "LICENSE"
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    assert metadata["Version"] == setup["metadata"]["version"]
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    text = "".join(page.read_text() for page in pages)
    named = {
        extra
        for extras in re.findall(r"(?:microlock|\.)\[([\w,]+)\]", text)
        for extra in extras.split(",")
    }
    assert named <= set(metadata.get_all("Provides-Extra"))
