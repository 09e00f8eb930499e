"""Commands of the form `microlock run NAME... -- COMMAND [ARGUMENT]...`."""

from __future__ import annotations

import os
from typing import Any

import click

from microlock.cli.number import Number
from microlock.core.keys import MAX_WAIT


class RunsCommand(click.Command):
    """Everything after the first `--` becomes the parameter `command`, unchanged."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        left = super().parse_args(ctx, args[:end])
        if not ctx.resilient_parsing:
            if not hasattr(os, "fork"):
                raise click.UsageError("needs Linux, macOS or another Unix", ctx)
            if not args[end + 1 :]:
                raise click.UsageError("the command is missing: give it after --", ctx)
        ctx.params["command"] = args[end + 1 :]
        return left

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "-- COMMAND [ARGUMENT]..."]


def grace_option(command: Any) -> Any:
    return click.option(
        "--grace",
        type=Number(0, MAX_WAIT),
        default=5.0,
        metavar="SECONDS",
        show_default=True,
        help="Time between SIGTERM and SIGKILL when the lock is lost.",
    )(command)
