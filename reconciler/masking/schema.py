"""What an engine tells about the tables of a database, as far as masking needs to know.

Written by the engine's introspection, read by :mod:`.coverage`. Engine-neutral: a
``type`` is the engine's own name for people and casts, a ``family`` is what decides
which methods fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Family(StrEnum):
    """Kinds of types that masking tells apart."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    DATE = "date"
    TIME = "time"
    """A point in time: timestamps with and without zone. Times of day are ``OTHER``."""
    BOOLEAN = "boolean"
    BYTES = "bytes"
    JSON = "json"
    UUID = "uuid"
    ENUM = "enum"
    OTHER = "other"


class TableName(NamedTuple):
    """A table within a database."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column as masking sees it.

    ``family`` and the limits are those of the base type of a domain, and of the
    elements of an array. ``length`` is in characters, ``digits`` (precision, scale) in
    decimal digits. ``fixed_length`` columns pad with blanks (``char(n)``).
    """

    name: str
    type: str
    family: Family
    length: int | None = None
    digits: tuple[int, int] | None = None
    integer_bytes: int | None = None
    fixed_length: bool = False
    folds_case: bool = False
    """Values that differ in case are equal (citext, case-insensitive collations): they are masked alike."""
    array: bool = False
    nullable: bool = True
    generated: bool = False
    """Computed by the database from other columns; cannot be written."""
    computed_from: tuple[str, ...] = ()
    """The columns that a generated one is computed from."""
    partition_key: bool = False
    labels: tuple[str, ...] = ()
    """Of an enum, in its order."""


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """``columns`` of a table refer to ``target_columns`` of ``target``, pairwise; ``name`` is None if only declared."""

    columns: tuple[str, ...]
    target: TableName
    target_columns: tuple[str, ...]
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table with rows of its own, or the root of a partition tree.

    ``parents`` are the tables that it is a partition of or inherits from, nearest
    first: a rule for one of them holds here, too.
    """

    name: TableName
    columns: tuple[Column, ...]
    unique: tuple[frozenset[str], ...] = ()
    """Column sets of primary key, unique constraints, unique and exclusion indexes."""
    identifying: tuple[frozenset[str], ...] = ()
    """Those of them that tell any two rows apart: of all rows, by the columns' own values, never NULL."""
    foreign_keys: tuple[ForeignKey, ...] = ()
    parents: tuple[TableName, ...] = ()
    has_rows: bool = True
    """False for the root of a partition tree: only its leaves hold rows."""
    foreign: bool = False
    """Its rows are on another server: nothing here to mask."""
    extension: str | None = None
    """The extension that made it, and that its definition belongs to."""
    estimated_rows: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class View:
    """A view, materialized or not, and the tables that it shows, through other views as well."""

    name: TableName
    tables: tuple[TableName, ...]
    materialized: bool = False


@dataclass(frozen=True, slots=True)
class DatabaseSchema:
    """The tables of users in one database, by name, and those of extensions."""

    database: str
    tables: tuple[Table, ...]
    large_objects: int = 0
    views: tuple[View, ...] = ()
