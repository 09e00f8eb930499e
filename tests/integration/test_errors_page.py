"""Each situation of docs/errors.md prints what the page shows."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import etcds
import pytest
from mishaps import MISHAPS, Scene

PAGE = (Path(__file__).parents[2] / "docs/errors.md").read_text()
SECTIONS = dict(re.findall(r"^### ([^\n]*)\n\n(.*?)(?=\n#|\Z)", PAGE, re.MULTILINE | re.DOTALL))
SHOWN = {
    title: re.match(r"```text\n(.*?)\n```", text, re.DOTALL)[1] for title, text in SECTIONS.items()
}


@pytest.fixture(scope="module")
def scene(etcd_choice: etcds.Choice) -> Iterator[Scene]:
    if etcd_choice.tag is not None:
        pytest.skip("the etcds of the scene are processes, not containers")
    with closing(Scene(etcd_choice.binary)) as scene:
        yield scene


def alike(text: str) -> str:
    """Without what depends on the OpenSSL of this Python, the Go of this etcd, and the moment."""
    text = re.sub(r"the server says: [^;]*;", "the server says: ...;", text)
    text = re.sub(r"uses TLS \(.*\)", "uses TLS", text)
    text = re.sub(r"(suspended: .* token \d+|locked for up to a ttl): .*", r"\1", text)
    return text.replace("StoreTimeoutError", "StoreUnavailableError")  # its kind, by what was last


def test_the_page_has_every_situation() -> None:
    assert list(SHOWN) == list(dict.fromkeys(title for title, _ in MISHAPS))
    for title, case in MISHAPS:
        assert case in SECTIONS[title]


@pytest.mark.parametrize(("title", "case"), MISHAPS)
def test_what_the_page_shows_is_printed(scene: Scene, title: str, case: str) -> None:
    assert alike(MISHAPS[title, case](scene)) == alike(SHOWN[title])


@pytest.mark.parametrize("title", SHOWN)
def test_a_message_takes_three_lines_of_a_terminal_at_most(title: str) -> None:
    for line in SHOWN[title].splitlines():
        assert len(textwrap.wrap(line, 100)) <= 3
