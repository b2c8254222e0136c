"""What commands share: the context, results on stdout, everything else on stderr."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, cast

from reconciler.errors import SpecError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import TextIO

    from reconciler.errors import ReconcilerError
    from reconciler.host import Host
    from reconciler.spec.config import Config
    from reconciler.spec.diagnostics import Diagnostic

DEFAULT_CONFIG = Path("reconciler.yaml")


class Output(StrEnum):
    """How a result is written."""

    TEXT = "text"
    JSON = "json"


class LogFormat(StrEnum):
    """How log records are written."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Context:
    """The options that stand before the command."""

    config: Path | None
    verbose: bool
    json_logs: bool = False

    def host(self, *, writes: bool = False) -> AbstractContextManager[Host]:
        """Open this host as its configuration says.

        Raises:
            ConfigError: the configuration is missing or invalid.

        """
        from reconciler.host import open_host
        from reconciler.status.logging import configure

        configure(json=self.json_logs, verbose=self.verbose)
        return open_host(self.load_config(), writes=writes)

    def load_config(self) -> Config:
        """Read the host's configuration.

        Raises:
            ConfigError: it is missing or invalid.

        """
        from reconciler.spec.loader import load_config

        return load_config(self.config or DEFAULT_CONFIG)


def write(text: str) -> None:
    """Write a result."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


def write_json(document: object) -> None:
    """Write a result as JSON."""
    import json

    write(json.dumps(document, indent=2, ensure_ascii=not sys.stdout.encoding.lower().startswith("utf")))


def note(text: str) -> None:
    """Tell something that is not the result."""
    sys.stderr.write(text + "\n")


def fail(error: ReconcilerError) -> None:
    """Show an error: what is wrong, and what to do."""
    colour = colours(sys.stderr)
    head = "\x1b[31merror:\x1b[0m" if colour else "error:"
    if isinstance(error, SpecError) and error.diagnostics:
        from reconciler.spec.diagnostics import render_text

        note(render_text(cast("tuple[Diagnostic, ...]", error.diagnostics), colour=colour))
    note(f"{head} {error.message}")
    if error.hint:
        note(f"  help: {error.hint}")


def columns() -> int | None:
    """Return how wide the terminal is that the result goes to; None where it goes elsewhere: nothing is cut there."""
    import shutil

    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def colours(stream: TextIO | None = None) -> bool:
    """Whether the result, or what goes to ``stream``, goes to a terminal that shows colours."""
    import os

    return (stream or sys.stdout).isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
