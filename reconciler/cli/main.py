"""The program ``reconciler``: its commands and its exit codes.

Imports here are the price of every command, also of ``--help``: the modules behind a
command are imported when it runs.
"""

from __future__ import annotations

import gc
import io
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from reconciler.cli import attest, classify, clones, inspect, interruption, mirrors, operate, passes, quarantine, specs
from reconciler.cli.output import Context, LogFormat, fail, note
from reconciler.errors import ReconcilerError

gc.set_threshold(20_000)  # imports make thousands of objects that stay; looking for garbage among them finds none
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")  # else it reads the metadata of every installed package

app = typer.Typer(
    name="reconciler",
    help="Keep database images and clones as the YAML files of a git repository say.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        print(version("reconciler"))  # noqa: T201 - the result of the command
        raise typer.Exit


@app.callback()
def options(
    ctx: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Host configuration [default: $RECONCILER_CONFIG, then ./reconciler.yaml]"),
    ] = None,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Say more on stderr.")] = False,
    log_format: Annotated[
        LogFormat, typer.Option("--log-format", help="How log lines are written: for people, or as JSON.")
    ] = LogFormat.TEXT,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Keep database images and clones as the YAML files of a git repository say."""
    del version
    named = config or (Path(value) if (value := os.environ.get("RECONCILER_CONFIG")) else None)
    ctx.obj = Context(config=named, verbose=verbose, json_logs=log_format is LogFormat.JSON)


for module in (specs, passes, inspect, clones, classify, attest, quarantine, mirrors, operate):
    module.register(app)


def main() -> None:
    """Run the program; usage errors and failures end with exit code 1, an interruption with 130."""
    interruption.note_interrupts()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names are of any script, and terminals not always
            stream.reconfigure(errors="backslashreplace")
    try:
        code = app(_with_optional_values(sys.argv[1:]), standalone_mode=False)
        sys.stdout.flush()
    except (typer.Abort, KeyboardInterrupt):
        interruption.end()
    except Exception as error:
        if interruption.interrupted():
            interruption.end()
        if not _explained(error):
            raise
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _give_output_up() -> None:
    """Let what is still buffered go nowhere: the interpreter would try again at exit, and complain in its own way."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explained(error: Exception) -> bool:
    """Tell what went wrong; return False for an error that nobody foresaw."""
    match error:
        case typer.TyperException():
            show = getattr(error, "show", None)  # usage errors know how to show the usage
            if show is not None:
                show()
            else:
                note(f"error: {error.message}")
        case ReconcilerError():
            fail(error)
        case BrokenPipeError():
            _give_output_up()
        case OSError() if error.filename is None:  # of standard output
            note(f"error: {error.strerror or error}")
            _give_output_up()
        case OSError():  # of a file that the command line names
            note(f"error: {error.filename}: {error.strerror}")
        case _:
            return False
    return True


def _with_optional_values(words: list[str]) -> list[str]:
    """Give ``--approve`` its value when it stands alone: typer's options either always or never have one."""
    following = [*words, "-"][1:]
    return [
        f"{word}=any" if word == "--approve" and after.startswith("-") else word
        for word, after in zip(words, following, strict=True)
    ]
