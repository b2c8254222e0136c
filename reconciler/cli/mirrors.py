"""``forget``: give up what may be left at a primary that is gone for good."""

from __future__ import annotations

from typing import Annotated

import typer

from reconciler.cli.clones import wish


def register(app: typer.Typer) -> None:
    """Add the command of this module to the program."""
    app.command("forget")(forget)


def forget(
    ctx: typer.Context,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="Image whose mirror was removed.")],
) -> int:
    """Give up a replication slot at a primary that is gone for good.

    A mirror that was removed drops its slot at the primary, and tries until the primary answers; status
    shows it. Forgetting ends that. At a primary that still runs, the slot has to be dropped by hand.
    """
    return wish(ctx.obj, "forget", image)
