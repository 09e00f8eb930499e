"""The types of options that are numbers."""

from __future__ import annotations

from typing import Any

import click


class Number(click.ParamType):  # type: ignore[type-arg]  # not generic in older click
    """A number in a range, which --help does not show; not NaN."""

    name = "number"
    _kind: Any = click.FloatRange

    def __init__(self, least: float, most: float | None = None, *, min_open: bool = False) -> None:
        self._range = self._kind(least, most, min_open=min_open)
        self._range.name = self.name  # for its messages

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number: float = self._range.convert(value, param, ctx)
        if number != number:  # NaN
            self.fail(f"{value!r} is not a valid {self.name}.", param, ctx)
        return number


class Integer(Number):
    """An integer in a range, which --help does not show."""

    name = "integer"
    _kind = click.IntRange
