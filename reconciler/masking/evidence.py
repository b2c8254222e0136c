"""What a search of files has found, and what an engine has proved: values that are handed on.

Made by :mod:`.leaks` and by the proofs of engines; ``apply`` puts what they count into the
attestation. Ids of values are in them, and never their text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from reconciler.masking.matcher import is_control

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from reconciler.masking.matcher import Matcher, ValueId


@dataclass(frozen=True, slots=True, kw_only=True)
class FileScan:
    """One file, by its path relative to the volume. ``searched``: else only its digest was taken.

    ``left_out`` bytes of a file that was searched were not, as they are in the base.
    ``sha256`` is as in :mod:`.digests`, ``pieces`` what it is of in a large file.
    """

    path: str
    size: int
    sha256: str
    searched: bool
    found: frozenset[ValueId] = field(default=frozenset(), repr=False)
    left_out: int = 0
    pieces: bytes = field(default=b"", repr=False)
    stamp: tuple[int, int] | None = None
    """Time of change and inode, by which an unchanged file is recognised; None when that is not certain."""


@dataclass(frozen=True, slots=True)
class Hit:
    """So many distinct values of a column are in this file."""

    path: str
    values: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnScan:
    """One column: of ``drawn`` originals ``searched`` were long enough; where they were found.

    ``controls`` masked values were looked for, and ``controls_found`` of them found. Without
    any the column's storage is blind to a search of bytes: SQL has to prove it.
    """

    place: str
    drawn: int
    searched: int
    controls: int
    controls_found: int
    hits: tuple[Hit, ...] = ()

    @property
    def blind(self) -> bool:
        """Whether a search of bytes says nothing of this column, though it had something to look for."""
        return self.controls_found == 0 and self.searched > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What was read and found. ``full``: every file was searched, none left out as unchanged since an earlier scan."""

    files: tuple[FileScan, ...]
    columns: tuple[ColumnScan, ...]
    full: bool
    patterns: int

    @property
    def digests(self) -> Mapping[str, str]:
        """SHA-256, as in :mod:`.digests`, of every file by its path relative to the volume."""
        return {file.path: file.sha256 for file in self.files}

    @property
    def pieces(self) -> Mapping[str, bytes]:
        """Digests of the pieces of large files."""
        return {file.path: file.pieces for file in self.files if file.pieces}

    @property
    def found(self) -> frozenset[ValueId]:
        """Originals that are in some file."""
        return frozenset(value for file in self.files for value in file.found if not is_control(value))

    @property
    def searched_files(self) -> int:
        """How many files were searched."""
        return sum(file.searched for file in self.files)

    @property
    def searched_bytes(self) -> int:
        """How much was searched."""
        return sum(file.size - file.left_out for file in self.files if file.searched)

    @property
    def skipped_bytes(self) -> int:
        """How much was left out as unchanged."""
        return sum(file.left_out if file.searched else file.size for file in self.files)

    @property
    def holding(self) -> tuple[str, ...]:
        """Paths of the files in which anything was found: masked values, or originals that may be there."""
        return tuple(file.path for file in self.files if file.found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A sealed volume whose files were searched, and found to hold nothing of what was looked for.

    ``digests`` (SHA-256 by path relative to the volume) are of those files alone that need
    not be searched again while they have the same content. Whether they have is decided by
    the digest; what lies in ``directory`` only says when to expect it.
    """

    directory: Path
    digests: Mapping[str, str] = field(repr=False)
    begun_at: datetime | None = None
    """Before the base itself was begun. A file with the same inode, size and time, which is older than
    that, was written to in neither since they were one: its digest is known without reading it."""
    wiped: int | None = None
    """Version of the wiping (:class:`Wiped`) that all files of ``digests`` went through; None: of none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiped:
    """What was wiped from a build: rows that its source had removed, in so many ``pages``.

    ``version`` is that of the engine's wiping. ``full``: every page was read; else
    ``same_bytes`` were not, which are as in the snapshot that the build was compared with.
    """

    version: int
    full: bool
    pages: int
    read_bytes: int
    same_bytes: int = 0


Accepted = Mapping[str, frozenset["ValueId"]]
"""Originals that may be in a file, by its path: the engine's proof has a reason for each."""
NOTHING: Accepted = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Exposure:
    """``values`` of the ``drawn`` originals of ``place`` are also in ``column``, which is not masked.

    ``decided``: because a rule keeps it; else because nothing decides about it.
    """

    place: str
    column: str
    values: int
    drawn: int
    decided: bool
    catalog: bool = False
    """It is a catalog of the database: a name, a comment, the body of a function."""

    def __str__(self) -> str:
        why = "which a rule keeps" if self.decided else "which no rule names"
        why = "a catalog of the database" if self.catalog else why
        return f"{self.column}, {why}, has {self.values} of {self.drawn} originals of {self.place}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What an engine has proved while its server ran, for the scan after that and for the attestation.

    ``accepted``: originals that may be in a file. ``excluded``: how many those are, by
    reason; with those that are too short to be looked for in files. ``exposed`` says
    more of those that columns hold which are not masked, to be told. ``scan`` and
    ``matcher`` save the next scan from reading and compiling again; of ``base`` it may
    leave out what is as it was.
    """

    accepted: Accepted = field(repr=False)
    excluded: Mapping[str, int]
    exposed: tuple[Exposure, ...]
    scan: Scan
    matcher: Matcher
    base: Base | None = None
    packed: tuple[str, ...] = ()
    """First files of the tables in whose compressed values something was found that may be there."""
