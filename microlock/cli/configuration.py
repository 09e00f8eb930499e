"""Options from a file: a section [microlock] for those of etcd, and a section for each command."""

from __future__ import annotations

from configparser import ConfigParser, Error, SectionProxy
from typing import Any

import click

GENERAL = "microlock"


def read(context: click.Context, parameter: click.Parameter, path: str | None) -> str | None:
    """Makes the values of the file the defaults of the command that runs."""
    if path is None:
        return None
    parser = ConfigParser(interpolation=None)
    try:
        with open(path, encoding="utf-8") as file:
            parser.read_file(file)
    except (OSError, UnicodeDecodeError, Error) as error:
        first_line = str(error).partition("\n")[0]
        raise click.UsageError(f"--config {path}: {first_line}", context) from None
    command = context.command.name or ""
    commands = getattr(context.find_root().command, "commands", [command])
    if wrong := {*parser.sections()} - {GENERAL, *commands}:
        raise click.UsageError(f"--config {path}: unknown section [{min(wrong)}]", context)
    options = {each.name: each for each in context.command.params if each.name}
    general = {name for name, each in options.items() if getattr(each, "of_etcd", False)}
    defaults: dict[str, Any] = {}
    for name, known in ((GENERAL, general), (command, {*options} - general)):
        if name in parser:
            defaults |= _checked(context, path, parser[name], known)
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


def _checked(
    context: click.Context, path: str, section: SectionProxy, known: set[str]
) -> dict[str, str]:
    found = {name.replace("-", "_"): value for name, value in section.items()}
    if wrong := found.keys() - known:
        text = f"--config {path}: [{section.name}] has no option {min(wrong).replace('_', '-')}"
        raise click.UsageError(text, context)
    return found
