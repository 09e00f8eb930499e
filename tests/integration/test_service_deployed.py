"""What people start the service with: the page of its documents, the image, compose."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import urlopen
from uuid import uuid4

import pytest
import yaml
from click.testing import CliRunner
from conftest import Etcd
from docker.errors import BuildError, ImageNotFound
from docker_etcd import engine
from etcds import NoEtcdError
from services import DEADLINE, Service, until

from microlock.server import HOST, free_ports
from microlock.service import command
from microlock.service.server import Server

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def _known(versions: dict[str, str], found: re.Match[str]) -> str:
    return versions[found[0]]


def alike(answer: str) -> str:
    """An answer without what is another one each time."""
    return re.sub(r'("version":|"token":|"lease":")[0-9a-f]+', r"\1N", answer)


def test_the_examples_of_the_page_answer_what_it_says(etcd_server: Etcd) -> None:
    page = (ROOT / "docs/service.md").read_text()
    (console,) = re.findall(r"```console\n(.*?)```", page, re.DOTALL)
    examples = re.findall(r"^\$ (curl .*)\n(.*)$", console, re.MULTILINE)
    assert len(examples) == 5
    with closing(Service(etcd_server.endpoint, prefix=f"{uuid4()}/")) as service:
        versions: dict[str, str] = {}  # those of the page, as they are here
        for curl, answer in examples:
            here = curl.replace("localhost:3000", f"{HOST}:{service.port}")
            here = re.sub(r"(?<=\"version\": )\d+", partial(_known, versions), here)
            ran = subprocess.run(here, shell=True, capture_output=True, text=True, timeout=60)
            assert alike(ran.stdout) == alike(answer), curl
            shown = [re.findall(r'"version":(\d+)', each) for each in (answer, ran.stdout)]
            versions |= zip(*shown, strict=True)


def test_compose_starts_the_service_with_options_that_it_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As far as that can be seen without an engine."""
    served: list[Any] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Server, "run", lambda self: served.append(self.config))
    name, *options = COMPOSE["microlock"]["command"].split()
    assert name == command.serve.name
    unset = dict.fromkeys(COMPOSE["microlock"]["environment"], "")
    image = dict(re.findall(r"(MICROLOCK_\w+)=(\S+)", (ROOT / "Dockerfile").read_text()))
    ran = CliRunner().invoke(command.serve, options, env={**unset, **image})
    assert ran.exit_code == 0, ran.output
    (config,) = served
    assert (config.host, config.port) == ("0.0.0.0", 3000)
    assert all(each.startswith("127.0.0.1:") for each in COMPOSE["microlock"]["ports"])
    assert options[-1].split(":")[0] in COMPOSE["microlock"]["depends_on"]


@pytest.fixture
def image() -> Iterator[str]:
    """The image of this source, built by an engine."""
    tag = f"microlock-test-{uuid4().hex[:8]}"
    try:
        with engine() as docker:
            try:
                docker.images.build(path=str(ROOT), tag=tag, rm=True)
            except (BuildError, ImageNotFound) as error:
                pytest.skip(f"the image can't be built here: {error}")
            yield tag
            docker.images.remove(tag, force=True)
    except NoEtcdError as error:
        pytest.skip(f"no Docker engine answers: {error}")


def test_the_image_serves_locks_as_a_user_without_rights(image: str) -> None:
    (port,) = free_ports(1)
    with engine() as docker:
        container = docker.containers.run(
            image, "serve --memory", detach=True, read_only=True, ports={3000: (HOST, port)}
        )
        try:

            def healthy() -> bool:
                try:
                    with urlopen(f"http://{HOST}:{port}/healthz", timeout=DEADLINE) as answer:
                        return bool(answer.status == 200)
                except OSError:
                    return False

            until(healthy, container.logs().decode())
            assert container.exec_run("id -u").output.strip() != b"0"
        finally:
            container.remove(force=True)
