"""A cluster for each test that breaks one; what it has logged is kept if the test fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import etcds
import nemesis
import pytest
from cluster import keep_logs
from conftest import (  # noqa: F401  fixtures and hooks of the integration tests
    FAILED,
    etcd_choice,
    face,
    pytest_runtest_makereport,
    pytest_terminal_summary,
    task_loop,
)
from nemesis import Ground


@pytest.fixture
def break_ground(
    etcd_choice: etcds.Choice,  # noqa: F811
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> Iterator[Callable[..., Ground]]:
    """Makes a ground for one test: `break_ground(separate=True, flags=[...])`."""
    if etcd_choice.tag is not None:
        pytest.skip("a cluster is made of processes, not of containers")
    with ExitStack() as stack:

        def make(**options: Any) -> Ground:
            ground = stack.enter_context(nemesis.ground(etcd_choice.binary, tmp_path, **options))
            stack.callback(keep, ground)
            return ground

        def keep(ground: Ground) -> None:
            if request.node.stash[FAILED]:
                keep_logs(ground.cluster, tmp_path)
                print(f"what etcd has logged is in {tmp_path}")

        yield make
