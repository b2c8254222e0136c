"""``init``, ``validate``, ``schema`` and ``demo``: commands that need no configured host."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reconciler.cli.output import colours, note, write, write_json
from reconciler.errors import InputError

if TYPE_CHECKING:
    from reconciler.validation import Result


class Findings(StrEnum):
    """How findings are written."""

    TEXT = "text"
    JSON = "json"
    GITHUB = "github"
    SARIF = "sarif"


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the program."""
    app.command("init")(init)
    app.command("validate")(validate)
    app.command("explain")(explain)
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
    output: Annotated[Findings, typer.Option("--format", "-o", help="How findings are written.")] = Findings.TEXT,
) -> int:
    """Check specs and show every error at once.

    Needs no host, no configuration and no database. A directory is checked as a spec
    repository, together with the files that its specs name.
    """
    from reconciler.validation import validate_paths

    rooted = output in (Findings.TEXT, Findings.JSON)  # others look files up in the checkout
    result = validate_paths(tuple(paths or [Path()]), rooted=rooted)
    _write_findings(result, output)
    if output in (Findings.TEXT, Findings.GITHUB):
        note(result.summary)
    return 1 if result.errors else 0


def _write_findings(result: Result, output: Findings) -> None:
    found = result.diagnostics
    match output:
        case Findings.JSON:
            from reconciler.spec.diagnostics import render_json

            write_json(render_json(found))
        case Findings.SARIF:
            from reconciler.spec.sarif import render_sarif

            write_json(render_sarif(found))
        case Findings.GITHUB:
            from reconciler.spec.github import render_github, render_summary

            if found:
                write(render_github(found))
            if summary := os.environ.get("GITHUB_STEP_SUMMARY"):  # where a step of a workflow adds its own
                with Path(summary).open("a", encoding="utf-8") as stream:
                    stream.write(render_summary(found, f"Specs: {result.summary}"))
        case Findings.TEXT:
            from reconciler.spec.diagnostics import render_text

            if found:
                write(render_text(found, colour=colours()))


def explain(code: Annotated[str, typer.Argument(metavar="CODE", help="Such as R012.")]) -> int:
    """Say what the code of a finding means, what to do, and show an example."""
    from reconciler.spec.codes import CODES
    from reconciler.spec.suggest import did_you_mean, one_of

    known = CODES.get(code.upper())
    if known is None:
        raise InputError(f"there is no code {code}", hint=did_you_mean(code.upper(), CODES) or one_of(CODES))
    parts = [f"{code.upper()}  {known.meaning}", known.advice]
    if known.example:
        parts += ["For example:", "\n".join(f"    {line}" for line in known.example.splitlines())]
    write("\n\n".join(parts))
    return 0


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
