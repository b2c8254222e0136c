"""Each method as SQL: the value that a column gets, over the row ``t`` of its table.

Called by :mod:`.rewrite`. An expression computes what :mod:`reconciler.masking.values` does,
on a connection that :func:`.keys.with_keys` opened. What SQL cannot say, or only slowly,
is computed by that module itself (:mod:`.computed`): here it is None.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, cast

from reconciler.engines.mysql.link import quoted, text
from reconciler.engines.mysql.masking import moves, permutations
from reconciler.engines.mysql.masking.computed import column_of
from reconciler.engines.mysql.masking.keys import DIGEST, TEXT, assigned, digest, folded, number, once
from reconciler.masking import fakes, values
from reconciler.masking.schema import Family
from reconciler.masking.vocabulary import EMAIL_TOKEN, as_text, gives_null_a_value, name_of, pattern_places
from reconciler.spec import masking_policy as spec

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconciler.masking.assignment import ColumnMasking, TableMasking
    from reconciler.masking.schema import Column

_IN_SQL = frozenset({"hash", "email", "fake", "pattern", "partial"})
_UUID = (
    "LEFT({0}, 8), '-', SUBSTR({0}, 9, 4), '-4', SUBSTR({0}, 14, 3), '-8', SUBSTR({0}, 18, 3), '-', SUBSTR({0}, 21, 12)"
)
"""Digits of a hash in the form of :func:`reconciler.masking.values.uuid_digits`."""
_MOVING = (spec.ShiftDays, spec.Shift, spec.Noise, spec.Bucket)


def express(masking: ColumnMasking, table: TableMasking) -> str | None:
    """Return what a column gets in rows that its rule selects; None if that is not for SQL to compute."""
    method, column = masking.method, masking.column
    value = f"t.{quoted(column.name)}"
    if method == "null":
        return "NULL"
    if isinstance(method, spec.Fixed):
        fixed = _fixed(method, column)
        return f"IF({value} IS NULL, NULL, {fixed})" if method.keep_null else fixed
    if isinstance(method, _MOVING):
        source = _source(masking, table)
        return None if source is None else moves.masked(method, value, column, source, masking.key)
    if method == "preserve" and _signed(column):
        return permutations.integer(f"CAST({value} AS SIGNED)", masking.key)
    if name_of(method) not in _IN_SQL:
        return None
    return _of_text(masking, value) if column.family is Family.TEXT else _hash_of_type(masking, value)


def canonical(value: str, column: Column) -> str | None:
    """Return the text that stands for a value, as :func:`reconciler.masking.keyed.canonical` does; NULL for NULL."""
    match column.family:
        case Family.TEXT:
            plain = f"CONVERT({value} USING utf8mb4)"
            return folded(plain) if column.folds_case else plain
        case Family.INTEGER | Family.DATE | Family.UUID | Family.ENUM:
            return f"CONVERT({value} USING utf8mb4)"
        case Family.NUMBER if column.digits is not None:
            plain = f"CONVERT({value} USING utf8mb4)"
            zeros = f"TRIM(TRAILING '.' FROM TRIM(TRAILING '0' FROM {plain}))" if column.digits[1] else plain
            return f"IF({value} = 0, '0', {zeros})"
        case Family.TIME:
            plain = f"CONVERT({value} USING utf8mb4)"
            return f"IF(MICROSECOND({value}) = 0, LEFT({plain}, 19), TRIM(TRAILING '0' FROM {plain}))"
        case Family.BYTES:
            return f"LOWER(HEX({value}))"
        case _:
            return None


def _signed(column: Column) -> bool:
    """Tell whether a column's numbers all fit 64 bits with a sign."""
    big = "bigint" in column.type and "unsigned" in column.type
    return column.family is Family.INTEGER and not big


def _source(masking: ColumnMasking, table: TableMasking) -> str | None:
    """Return the text that decides how far a value moves: its own, or another column's."""
    by = getattr(masking.method, "by", None)
    if by is None:
        return canonical(f"t.{quoted(masking.column.name)}", masking.column)
    other = next((one for one in table.table.columns if one.name == by), None)
    found = canonical(f"t.{quoted(by)}", other) if other is not None else None
    return None if found is None else f"COALESCE({found}, '')"


def _fixed(method: spec.Fixed, column: Column) -> str:
    if column.family is Family.JSON:
        return text(json.dumps(method.fixed, ensure_ascii=False))
    if column.family is Family.BYTES:
        return f"0x{as_text(method.fixed).encode().hex()}" if as_text(method.fixed) else "''"
    if column.family in {Family.INTEGER, Family.NUMBER}:
        return format(Decimal(str(method.fixed)), "f")
    return text(as_text(method.fixed))


def _of_text(masking: ColumnMasking, value: str) -> str:
    """Return the masked text: an empty one stays empty, NULL is NULL or what the method gives it."""
    written = _WRITERS[name_of(masking.method)](masking)
    for_null = "NULL"
    if not masking.keep_null and gives_null_a_value(masking.method):
        for_null = once(TEXT, "''", written)
    plain = assigned(TEXT, str(canonical(value, column_of(masking))))
    return f"IF({plain} IS NULL, {for_null}, IF(LENGTH({TEXT}) = 0, {TEXT}, {written}))"


def _hash_of_type(masking: ColumnMasking, value: str) -> str:
    plain = canonical(value, masking.column)
    if not masking.keep_null:
        plain = f"COALESCE({plain}, '')"
    hashed = digest(str(plain), masking.key, "hash")
    if masking.column.family is Family.UUID:
        return once(DIGEST, hashed, f"CONCAT({_UUID.format(DIGEST)})")
    length = (values.hash_options(masking.method).length + 1) // 2
    cut = f"UNHEX(LEFT({hashed}, {2 * length}))"
    return f"IF(LENGTH({value}) = 0, {value}, {cut})"


def _hash(masking: ColumnMasking) -> str:
    options = values.hash_options(masking.method)
    digits = f"LEFT({digest(TEXT, masking.key, 'hash')}, {options.length})"
    return f"CONCAT({text(options.prefix)}, {digits})" if options.prefix else digits


def _email(masking: ColumnMasking) -> str:
    domain, length = values.domain_of(masking.method), masking.column.length
    room = None if length is None else max(0, length - EMAIL_TOKEN - len(domain) - 2)
    parts = [f"LEFT({DIGEST}, {EMAIL_TOKEN})", text(f"@{domain}")]
    if room != 0:
        name = _word(fakes.Word(fakes.DEFAULT_LOCALE, "login", values.NAME_BYTE))
        parts = [name if room is None else f"LEFT({name}, {room})", "'.'", *parts]
    return once(DIGEST, digest(TEXT, masking.key, "email"), f"CONCAT({', '.join(parts)})")


def _fake(masking: ColumnMasking) -> str:
    method = cast("spec.Fake", masking.method)
    whole = f"CONCAT({', '.join(map(_part, values.fake_parts(method)))})"
    if masking.column.length is not None:
        whole = f"RTRIM(LEFT({whole}, {masking.column.length}))"
    return once(DIGEST, digest(TEXT, masking.key, f"fake/{method.fake}"), whole)


def _part(part: fakes.Part) -> str:
    if isinstance(part, fakes.Word):
        return _word(part)
    if isinstance(part, str):
        return text(part)
    return _filled(tuple((character, character in "#%?") for character in part.template), part.at)


def _word(word: fakes.Word) -> str:
    words = fakes.words(word.locale, word.list)
    return f"ELT(1 + MOD({number(word.at, fakes.WORD_BYTES)}, {len(words)}), {', '.join(map(text, words))})"


def _pattern(masking: ColumnMasking) -> str:
    places = pattern_places(cast("spec.Pattern", masking.method).pattern)
    return once(DIGEST, digest(TEXT, masking.key, "pattern"), _filled(places, 0))


def _filled(places: tuple[tuple[str, bool], ...], at: int) -> str:
    """Return a template whose places take consecutive bytes of the hash."""
    parts: list[str] = []
    for character, place in places:
        parts.append(_FILL[character].format(number(at, 1)) if place else text(character))
        at += place
    return f"CONCAT({', '.join(parts)})"


_FILL = {"#": "MOD({}, 10)", "%": "1 + MOD({}, 9)", "?": "CHAR(65 + MOD({}, 26) USING utf8mb4)"}


def _partial(masking: ColumnMasking) -> str:
    options = cast("spec.Partial", masking.method).partial
    kept, mask = options.first + options.last, text(options.mask)
    middle = f"REPEAT({mask}, CHAR_LENGTH({TEXT}) - {kept})"
    return (
        f"IF(CHAR_LENGTH({TEXT}) <= {kept}, REPEAT({mask}, CHAR_LENGTH({TEXT})),"
        f" CONCAT(LEFT({TEXT}, {options.first}), {middle}, RIGHT({TEXT}, {options.last})))"
    )


_WRITERS: dict[str, Callable[[ColumnMasking], str]] = {
    "hash": _hash,
    "email": _email,
    "fake": _fake,
    "pattern": _pattern,
    "partial": _partial,
}
