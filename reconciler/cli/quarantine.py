"""``quarantine``: let nothing be made of a snapshot any more, or let it again."""

from __future__ import annotations

from typing import Annotated

import typer

from reconciler.cli.clones import wish


def register(app: typer.Typer) -> None:
    """Add the command of this module to the program."""
    app.command("quarantine")(quarantine)


def quarantine(
    ctx: typer.Context,
    snapshot: Annotated[str, typer.Argument(metavar="SNAPSHOT", help="Id of a snapshot.")],
    reason: Annotated[str, typer.Option("--reason", help="Why, for whoever meets it.")] = "",
    release: Annotated[bool, typer.Option("--release", help="End the quarantine.")] = False,
) -> int:
    """Let nothing be made of a snapshot any more, and stop its clones.

    Their data stays, as does the snapshot, until it is released. Git can say the same:
    `quarantine` in the spec of its image.
    """
    return wish(ctx.obj, "release" if release else "quarantine", snapshot, note=reason)
