"""A hook of MkDocs: what pages link to outside of docs/ becomes a part of the site, as text."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

LINK = re.compile(r"(?<=\]\()((?:\.\./)+[^)#\s]+)(?:#[^)\s]*)?(?=\))")


def outside(page: str, link: str) -> str | None:
    """The path in the repository of what a page of docs/ links to, if that is not in docs/."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    return None if path.startswith("docs/") else path


def copied(path: str) -> str:
    """Where it is on the site; browsers show a .txt."""
    return f"repository/{path}.txt"


def on_files(files: Files, *, config: Any) -> Files:
    root = Path(config.config_file_path).parent
    linked = {
        path
        for page in files.documentation_pages()
        for link in LINK.findall(page.content_string)
        if (path := outside(page.src_uri, link))
    }
    for path in sorted(linked):
        files.append(File.generated(config, copied(path), abs_src_path=str(root / path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    here = posixpath.dirname(page.file.src_uri)

    def on_site(link: re.Match[str]) -> str:
        path = outside(page.file.src_uri, link[1])
        return posixpath.relpath(copied(path), here or ".") if path else link[0]

    return LINK.sub(on_site, markdown)
