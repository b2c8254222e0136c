"""What a build has learnt about itself, kept beside its data until ``finish`` moves it into the manifest.

Called by the other modules of this package. Small texts only: names of databases, the
layout of files, never a value of a row.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from reconciler.engines import files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reconciler.engines.base import BuildWork

FILE = "build.json"


def read(work: BuildWork) -> dict[str, str]:
    """Return what was noted so far."""
    text = files.read_small(work.directory / FILE)
    return {} if text is None else {str(key): str(value) for key, value in json.loads(text).items()}


def add(work: BuildWork, facts: Mapping[str, str]) -> None:
    """Add to the notes."""
    files.write_file(work.directory, FILE, json.dumps(read(work) | dict(facts), sort_keys=True), None)


def replace(work: BuildWork, facts: Mapping[str, str]) -> None:
    """Begin the notes anew."""
    files.write_file(work.directory, FILE, json.dumps(dict(facts), sort_keys=True), None)


def add_line(work: BuildWork, name: str, line: str) -> None:
    """Add a line to a note of several."""
    before = read(work).get(name)
    add(work, {name: line if before is None else f"{before}\n{line}"})


def lines(facts: Mapping[str, str], name: str) -> tuple[str, ...]:
    """Return the lines of a note."""
    return tuple(line for line in facts.get(name, "").split("\n") if line)
