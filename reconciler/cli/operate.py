"""``install-service``: what keeps the loop running on a host."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from reconciler.cli.output import DEFAULT_CONFIG, Context, note, write
from reconciler.errors import UnsupportedError


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the program."""
    app.command("install-service")(install_service)


def install_service(
    ctx: typer.Context,
    user: Annotated[bool, typer.Option("--user", help="A unit of this user instead of the system.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the unit, and write nothing.")] = False,
    name: Annotated[str, typer.Option("--name", help="Name of the unit.")] = "reconciler",
) -> int:
    """Write a systemd unit that runs the loop with this configuration."""
    from reconciler.service import service_of
    from reconciler.service import write as write_unit

    context: Context = ctx.obj
    config = context.load_config()
    service = service_of(config, context.config or DEFAULT_CONFIG, program=_program(), user=user, name=_checked(name))
    if dry_run:
        note(f"# {service.file}")
        write(service.text())
        return 0
    changed = write_unit(service)
    note(f"{service.file} {'written' if changed else 'is as it should be'}; next:")
    for step in service.next_steps:
        note(f"  {step}")
    return 0


def _checked(name: str) -> str:
    from reconciler.errors import InputError

    if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
        raise InputError(f"{name!r} is no name of a unit", hint="letters, digits, - and _")
    return name.removesuffix(".service")


def _program() -> Path:
    """Return the program that runs now, as a unit can start it.

    Raises:
        UnsupportedError: it has no file of its own.

    """
    found = shutil.which(sys.argv[0]) or sys.argv[0]
    path = Path(found).absolute()
    if not path.is_file() or not os.access(path, os.X_OK):
        raise UnsupportedError(
            "the program has no file that a unit could start", hint="install it, and run it from there"
        )
    return path
