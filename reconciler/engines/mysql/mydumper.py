"""Directories of mydumper: which files they have, and in which order they are run.

Called by :mod:`.logical`. Names say what a file is (its manual, "Files"); every statement
of one ends with a semicolon at the end of a line, also those with bodies, so that is what
ends one here. Pure but for reading names and the end of ``metadata``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from reconciler.engines import files
from reconciler.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

METADATA = "metadata"
DELIMITER = b";\n"
_ENDED = "Finished dump at"
_PACKED = re.compile(r"\.(?:gz|zst|lz4|bz2|xz)\Z")
_KINDS = (
    re.compile(r"(?P<database>.+)-schema-create\.sql"),
    re.compile(r"(?P<database>[^.]+)\..+-schema(?:-sequence)?\.sql"),
    re.compile(r"(?P<database>[^.]+)\.(?!.*-schema(?:-[a-z]+)?\.sql\Z).+\.sql"),
    re.compile(r"(?P<database>.+)-schema-post\.sql"),
    re.compile(r"(?P<database>[^.]+)\..+-schema-view\.sql"),
    re.compile(r"(?P<database>[^.]+)\..+-schema-triggers\.sql"),
)
"""In the order in which they are run: views may call functions, and triggers must not see the rows coming."""
_DATA_FILE = re.compile(r".*\.(?:dat|csv)")


class Part(NamedTuple):
    """One file, and the database that its statements are for."""

    kind: int
    database: str
    path: Path

    @property
    def makes_database(self) -> bool:
        """Whether it is the one that makes its database."""
        return self.kind == 0


def is_directory(path: Path) -> bool:
    """Tell whether a directory is one of mydumper's."""
    return (path / METADATA).is_file() or (path / f"{METADATA}.partial").is_file()


def parts(path: Path) -> list[Part]:
    """Return the files to run, in their order.

    Raises:
        SourceError: it is not complete, or has rows in files that only a server could read.

    """
    if _ENDED not in (files.read_small(path / METADATA) or ""):
        raise SourceError(f"{path} is not complete: its {METADATA} does not say when the dump was finished")
    found = []
    for file in sorted(path.iterdir()):
        name = _PACKED.sub("", file.name)
        if _DATA_FILE.fullmatch(name) is not None:
            raise SourceError(f"{file} is to be read by LOAD DATA, which reads files of the server", hint="dump as SQL")
        for kind, pattern in enumerate(_KINDS):
            matched = pattern.fullmatch(name)
            if matched is not None:
                found.append(Part(kind, matched["database"], file))
                break
    return sorted(found)
