"""``init``, ``validate``, ``schema`` and ``demo``: commands that need no configured host."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reconciler.cli.output import Output, colours, note, write, write_json


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the program."""
    app.command("init")(init)
    app.command("validate")(validate)
    app.command("schema")(schema)
    app.command("demo")(demo)


def init(directory: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where; default: here.")] = Path()) -> int:
    """Write a starter repository and configuration."""
    from reconciler.cli.starter import write_starter

    for path in write_starter(directory):
        note(f"wrote {path}")
    note(f"next: cd {directory} && reconciler plan && reconciler apply")
    return 0


def validate(
    paths: Annotated[list[Path] | None, typer.Argument(metavar="[PATH]...", help="Files or directories.")] = None,
    output: Annotated[Output, typer.Option("--format", "-o", help="How findings are written.")] = Output.TEXT,
) -> int:
    """Check specs and show every error at once.

    Needs no host, no configuration and no database. A directory is checked as a spec
    repository, together with the files that its specs name.
    """
    from reconciler.spec.diagnostics import render_json, render_text
    from reconciler.validation import validate_paths

    result = validate_paths(tuple(paths or [Path()]))
    if output is Output.JSON:
        write_json(render_json(result.diagnostics))
    elif result.diagnostics:
        write(render_text(result.diagnostics, colour=colours()))
    if output is Output.TEXT:
        note(result.summary)
    return 1 if result.errors else 0


def schema(
    out: Annotated[Path, typer.Option("--out", help="Directory to write to.")] = Path("schemas"),
) -> int:
    """Write the JSON Schemas for editors and CI."""
    from reconciler.schema import write as write_schemas

    for path in write_schemas(out):
        note(f"wrote {path}")
    return 0


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the directory to look around.")] = False,
) -> int:
    """Tell the whole story on a small database.

    In a temporary directory that is removed at the end, with timings and bytes.
    """
    from reconciler.cli.demo import run_demo

    return run_demo(keep=keep)
