"""From a type of PostgreSQL to what masking wants to know of it: family, limits, whether equal values look alike.

Called by :mod:`.introspect`. It knows the catalog's encoding of type modifiers and
looks through domains and arrays, in any nesting.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from reconciler.masking.schema import Family

if TYPE_CHECKING:
    from collections.abc import Mapping

_FAMILIES = {
    "text": Family.TEXT,
    "varchar": Family.TEXT,
    "bpchar": Family.TEXT,
    "name": Family.TEXT,
    "int2": Family.INTEGER,
    "int4": Family.INTEGER,
    "int8": Family.INTEGER,
    "numeric": Family.NUMBER,
    "float4": Family.NUMBER,
    "float8": Family.NUMBER,
    "date": Family.DATE,
    "timestamp": Family.TIME,
    "timestamptz": Family.TIME,
    "bool": Family.BOOLEAN,
    "bytea": Family.BYTES,
    "json": Family.JSON,
    "jsonb": Family.JSON,
    "uuid": Family.UUID,
}
_INTEGER_BYTES = {"int2": 2, "int4": 4, "int8": 8}
_NAME_LENGTH = 63
_HEADER = 4
"""What modifiers of text and numeric have on top (VARHDRSZ)."""


class TypeRow(NamedTuple):
    """A row of pg_type. ``base`` and ``element`` are 0 for what is no domain, no array."""

    oid: int
    name: str
    kind: str
    built_in: bool
    base: int
    modifier: int
    not_null: bool
    element: int
    labels: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The part of :class:`~reconciler.masking.schema.Column` that a type decides."""

    family: Family = Family.OTHER
    length: int | None = None
    digits: tuple[int, int] | None = None
    integer_bytes: int | None = None
    fixed_length: bool = False
    folds_case: bool = False
    array: bool = False
    not_null: bool = False
    labels: tuple[str, ...] = ()


def describe(types: Mapping[int, TypeRow], oid: int, modifier: int) -> Form:
    """Return what ``oid`` is, with a column's or domain's ``modifier`` (-1: none)."""
    row = types[oid]
    if row.base:
        below = describe(types, row.base, row.modifier)
        return replace(below, not_null=below.not_null or row.not_null)
    if row.element:
        return replace(describe(types, row.element, modifier), array=True, not_null=False)
    return _plain(row, modifier)


def _plain(row: TypeRow, modifier: int) -> Form:
    if row.kind == "e":
        return Form(family=Family.ENUM, labels=tuple(row.labels))
    if row.name == "citext" and not row.built_in:
        return Form(family=Family.TEXT, folds_case=True)
    if not row.built_in:
        return Form()
    return Form(
        family=_FAMILIES.get(row.name, Family.OTHER),
        length=_length(row.name, modifier),
        digits=_digits(modifier) if row.name == "numeric" and modifier >= _HEADER else None,
        integer_bytes=_INTEGER_BYTES.get(row.name),
        fixed_length=row.name == "bpchar",
    )


def _length(name: str, modifier: int) -> int | None:
    if name == "name":
        return _NAME_LENGTH
    return modifier - _HEADER if name in {"varchar", "bpchar"} and modifier >= _HEADER else None


def _digits(modifier: int) -> tuple[int, int]:
    """Return precision and scale; the scale is a signed number of 11 bits (since version 15 it may be negative)."""
    packed = modifier - _HEADER
    return packed >> 16 & 0xFFFF, ((packed & 0x7FF) ^ 1024) - 1024
