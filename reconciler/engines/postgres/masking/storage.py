"""In which type a column's values can be computed without running anything that users made.

Called by :mod:`.shape`. A value of a domain has the bytes of one of its base type, and
one of citext those of a text: computed in that type, no CHECK of the domain is run
beside the masking keys. Arrays carry the type of their elements, so those are cast
afterwards. It reads catalogs only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import psycopg

_FIRST_OF_USERS = 16384
_TEXT, _TEXTS = 25, 1009
# Like text: what the server takes as text, and the other way round, byte for byte (citext).
_TYPES = """
WITH RECURSIVE reach(oid) AS (
    SELECT unnest(%s::oid[])
  UNION
    SELECT next FROM reach JOIN pg_type t ON t.oid = reach.oid, unnest(ARRAY[t.typbasetype, t.typelem]) next
    WHERE next <> 0
)
SELECT t.oid::int8, t.typbasetype::int8, t.typtypmod,
    CASE WHEN t.typsubscript = 'pg_catalog.array_subscript_handler'::regproc AND t.typlen = -1
         THEN t.typelem::int8 ELSE 0 END,
    t.typarray::int8, t.oid >= 16384 AND EXISTS (
        SELECT FROM pg_cast WHERE castsource = 'text'::regtype AND casttarget = t.oid AND castmethod = 'b')
FROM reach JOIN pg_type t USING (oid)
"""
_NAMES = """
SELECT format_type(w.type, w.modifier) FROM unnest(%s::oid[], %s::int4[]) WITH ORDINALITY AS w(type, modifier, place)
ORDER BY w.place
"""


@dataclass(frozen=True, slots=True)
class Stored:
    """``type`` (and ``oid``): what values are computed as. ``same``: bytes of it are bytes of the column's own type.

    ``own``: users made that type as well (an enum, a composite).
    """

    type: str
    oid: int
    same: bool
    own: bool


@dataclass(frozen=True, slots=True)
class _Type:
    oid: int
    base: int
    modifier: int
    element: int
    array: int
    like_text: bool


def stored(conn: psycopg.Connection, columns: Iterable[tuple[int, int]]) -> dict[tuple[int, int], Stored]:
    """Return how values of each (type's oid, modifier) are stored."""
    wanted = list(dict.fromkeys(columns))
    rows = conn.execute(_TYPES, [[oid for oid, _ in wanted]]).fetchall()
    types = {row[0]: _Type(*row) for row in rows}
    forms = [_form(types, oid, modifier) for oid, modifier in wanted]
    names = conn.execute(_NAMES, [[form[0] for form in forms], [form[1] for form in forms]]).fetchall()
    return {
        column: Stored(name, oid, same, oid >= _FIRST_OF_USERS)
        for column, (oid, _, same), (name,) in zip(wanted, forms, names, strict=True)
    }


def _form(types: Mapping[int, _Type], oid: int, modifier: int) -> tuple[int, int, bool]:
    base, inner = _base(types, oid, modifier)
    if types[base].like_text:
        return _TEXT, -1, True
    if base < _FIRST_OF_USERS:
        return base, inner, True
    if types[base].element:
        element, inner = _base(types, types[base].element, inner)
        if types[element].like_text:
            return _TEXTS, -1, False
        if element < _FIRST_OF_USERS and types[element].array:
            return types[element].array, inner, False
    return oid, modifier, True


def _base(types: Mapping[int, _Type], oid: int, modifier: int) -> tuple[int, int]:
    while types[oid].base:
        oid, modifier = types[oid].base, types[oid].modifier
    return oid, modifier
