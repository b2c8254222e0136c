"""Declared types as masking sees them.

Used by :mod:`.introspect`. SQLite takes any name for a type and keeps any value in any
column (https://sqlite.org/datatype3.html); what people mean by ``NVARCHAR(40)`` or
``DATETIME`` decides which methods fit, and lengths count, so that a value becomes the
same as in a product that enforces them. What a row really holds is for :mod:`.cells`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from reconciler.masking.schema import Family

_TYPE = re.compile(r"\s*(?P<words>[^(]*?)\s*(?:\(\s*(?P<first>\d+)\s*(?:,\s*(?P<second>\d+)\s*)?\))?\s*")
_INTEGERS = {"TINYINT": 2, "SMALLINT": 2, "INT2": 2, "MEDIUMINT": 4, "INT4": 4, "INTEGER": 8, "INT": 8}
_WHOLE: tuple[tuple[str, Family], ...] = (
    ("UUID", Family.UUID),
    ("GUID", Family.UUID),
    ("UNIQUEIDENTIFIER", Family.UUID),
    ("JSON", Family.JSON),
    ("JSONB", Family.JSON),
    ("DATE", Family.DATE),
    ("TIME", Family.OTHER),
)
_PARTS: tuple[tuple[str, Family], ...] = (
    ("BOOL", Family.BOOLEAN),
    ("TIMESTAMP", Family.TIME),
    ("DATETIME", Family.TIME),
    ("INT", Family.INTEGER),
    ("CHAR", Family.TEXT),
    ("CLOB", Family.TEXT),
    ("TEXT", Family.TEXT),
    ("STRING", Family.TEXT),
    ("CITEXT", Family.TEXT),
    ("BLOB", Family.BYTES),
    ("BINARY", Family.BYTES),
    ("REAL", Family.NUMBER),
    ("FLOA", Family.NUMBER),
    ("DOUB", Family.NUMBER),
    ("NUMERIC", Family.NUMBER),
    ("DECIMAL", Family.NUMBER),
    ("MONEY", Family.NUMBER),
)


@dataclass(frozen=True, slots=True)
class Kind:
    """What a declared type says."""

    family: Family
    length: int | None = None
    digits: tuple[int, int] | None = None
    integer_bytes: int | None = None


def kind_of(declared: str) -> Kind:
    """Return what a declared type says; without one a column is taken for text."""
    found = _TYPE.fullmatch(declared)
    words = (found["words"] if found is not None else declared).upper()
    first = int(found["first"]) if found is not None and found["first"] else None
    second = int(found["second"]) if found is not None and found["second"] else 0
    family = _family(words)
    if family is Family.INTEGER:
        return Kind(family, integer_bytes=_INTEGERS.get(words, 8))
    if family is Family.TEXT:
        return Kind(family, length=first)
    if family is Family.NUMBER and first is not None and not words.startswith(("REAL", "FLOA", "DOUB")):
        return Kind(family, digits=(first, second))
    return Kind(family)


def _family(words: str) -> Family:
    if not words or words == "ANY":
        return Family.TEXT
    whole = next((family for name, family in _WHOLE if words == name), None)
    return whole or next((family for part, family in _PARTS if part in words), Family.OTHER)
