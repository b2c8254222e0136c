"""Facts about methods: what each is called, promises and fits, and what to write where it does not fit.

Asked by coverage before anything is masked, by engines, and by the proofs afterwards. It
knows types and limits of columns, never values; results are computed by
:mod:`.values` and by the engines.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING
from uuid import UUID

from reconciler.masking import fakes, json_paths
from reconciler.masking.keyed import VERSION as VERSION  # noqa: PLC0414 - part of every image's spec digest
from reconciler.masking.schema import Column, Family
from reconciler.spec import masking_policy as spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from reconciler.spec.masking_policy import Column as Method

UNIQUE_HASH_DIGITS = 16
"""64 bits: two of 100 million values collide with a chance of 1 to 3,700, and the index would tell."""
UNIQUE_PATTERN_SIZE = 16**UNIQUE_HASH_DIGITS
EMAIL_TOKEN = 16
"""Hexadecimal digits of an address: 64 bits; the name in front of them only adds to that."""
PATTERN_PLACES = 32
"""Places that one hash fills."""
_WHOLE = frozenset({"postcode", "phone"})
"""Kinds that make no sense when cut; others are cut to what fits, down to ``_SHORTEST_WORD`` characters."""
_SHORTEST_WORD = 8
INTEGER_DIGITS = 18
"""Of a numeric column whose numbers are masked like integers: as many as always fit into 64 bits."""

_ALL = frozenset(Family)
_NUMBERS = frozenset({Family.INTEGER, Family.NUMBER})
_TIMES = frozenset({Family.DATE, Family.TIME})
_TEXT = frozenset({Family.TEXT})
_FITS: dict[str, frozenset[Family]] = {
    "keep": _ALL,
    "null": _ALL,
    "fixed": _ALL,
    "hash": frozenset({Family.TEXT, Family.UUID, Family.BYTES}),
    "email": _TEXT,
    "fake": _TEXT,
    "preserve": _TEXT | _NUMBERS,
    "pattern": _TEXT,
    "partial": _TEXT,
    "shift_days": _TIMES,
    "shift": _TIMES,
    "noise": _NUMBERS,
    "bucket": _NUMBERS | _TIMES,
    "shuffle": _ALL,
    "text": _TEXT,
    "json": frozenset({Family.JSON}),
    "sql": _ALL,
}
_INSTEAD: dict[Family, str] = {
    Family.TEXT: "hash, email, fake, preserve, pattern, partial, text or fixed",
    Family.INTEGER: "preserve, noise, bucket, shuffle or fixed",
    Family.NUMBER: "noise, bucket, shuffle or fixed",
    Family.DATE: "shift_days, bucket, shuffle or fixed",
    Family.TIME: "shift, shift_days, bucket, shuffle or fixed",
    Family.BOOLEAN: 'shuffle, fixed or "null"',
    Family.BYTES: 'hash, fixed or "null"',
    Family.JSON: 'json with rules by path, fixed or "null"',
    Family.UUID: "hash, shuffle or fixed",
    Family.ENUM: "shuffle or fixed with one of its labels",
    Family.OTHER: 'shuffle, fixed, sql or "null"',
}
_ERASING = frozenset({"null", "fixed", "hash", "email", "preserve", "pattern"})
_REPEATING = frozenset({"fixed", "preserve", "pattern", "fake", "partial", "bucket", "noise", "shift", "shift_days"})
_BY_ROW = frozenset({"shuffle", "sql"})
_FOR_NULL = frozenset({"hash", "email", "fake", "pattern"})
"""Methods that give NULL a value, if ``keep_null`` is false: all NULLs the same one. So does ``fixed``."""
LEAVES = frozenset({"keep", "null", "fixed", "hash", "email", "fake", "preserve", "pattern", "partial", "text"})
"""Methods for values inside a JSON document."""
_COLLIDING = {
    "fixed": "gives every row the same value",
    "fake": "draws from a list, so that values repeat",
    "partial": "leaves values that differ only in the middle the same",
    "text": "leaves texts that differ only in what is replaced the same",
    "bucket": "gives neighbours the same value",
    "noise": "can give two numbers the same value",
    "shift": "can give two times the same value",
    "shift_days": "can give two dates the same value",
    "json": "can leave two documents the same",
}


def name_of(method: Method) -> str:
    """Return the method's name, as policies write it."""
    if isinstance(method, str):
        return method
    return next(name for name, model in spec.METHODS.items() if isinstance(method, model))


def erases(method: Method) -> bool:
    """Tell whether no original may be left as a byte string: nothing of the value shows in the result.

    ``partial``, ``bucket``, ``text`` and ``json`` keep parts; ``fake`` and ``shuffle`` emit
    what may be originals. See :func:`can_repeat` for originals that reappear by chance.
    """
    return name_of(method) in _ERASING


def can_repeat(method: Method) -> bool:
    """Tell whether a result can by chance be what another row had: a scan must not look for such originals.

    ``preserve`` maps phone numbers to phone numbers; among ten million of them some
    results are originals of others.
    """
    return name_of(method) in _REPEATING


def deterministic(method: Method) -> bool:
    """Tell whether a value's result depends on nothing but the value and the key."""
    if isinstance(method, spec.Json):
        return all(deterministic(inner) for inner in method.json_.values())
    if getattr(method, "by", None) is not None or (isinstance(method, spec.Text) and method.names):
        return False
    return name_of(method) not in _BY_ROW


def gives_null_a_value(method: Method) -> bool:
    """Tell whether ``keep_null: false`` makes the method mask NULL, too: every NULL to the same value."""
    return name_of(method) in _FOR_NULL


def why_not(method: Method, column: Column, *, unique: bool) -> str | None:
    """Return why the method cannot mask the column and what to write instead; None if it can.

    ``unique``: the column's values must stay distinct. The text goes on a sentence that
    names table and column.
    """
    return next(_objections(method, column, unique=unique), None)


def distinct_methods(column: Column) -> tuple[str, ...]:
    """Return the methods that fit a column's type and always give different values different results."""
    if column.family is Family.NUMBER and any(_preserve("preserve", column)):
        return ()
    return tuple(name for name in ("hash", "preserve") if column.family in _FITS[name])


def pattern_places(template: str) -> tuple[tuple[str, bool], ...]:
    """Return the characters of a template, each with whether it is a place to fill (``#``, ``?``).

    A backslash makes the character after it stand for itself.
    """
    places: list[tuple[str, bool]] = []
    escaped = False
    for character in template:
        if character == "\\" and not escaped:
            escaped = True
            continue
        places.append((character, not escaped and character in "#?"))
        escaped = False
    if escaped:
        places.append(("\\", False))
    return tuple(places)


def _objections(method: Method, column: Column, *, unique: bool) -> Iterator[str]:
    name = name_of(method)
    if name == "keep":
        return
    if column.generated:
        yield "is computed by the database from other columns: write keep, and mask what it is computed from"
    if column.partition_key:
        yield "decides which partition a row is in: write keep, or mask it before the build"
    if column.family not in _FITS[name]:
        yield f"has the type {column.type}, which {name} does not fit: write {_INSTEAD[column.family]}"
        return
    if name == "null" and not column.nullable:
        yield f"is NOT NULL: write {_INSTEAD[column.family]}"
    check = _CHECKS.get(name)
    if check is not None:
        yield from check(method, column)
    if unique:
        yield from _not_unique(method, name, column)


def _not_unique(method: Method, name: str, column: Column) -> Iterator[str]:
    if name in _COLLIDING:
        alone = "keep, or shuffle if it is unique by itself and part of no key"
        instead = " or ".join(distinct_methods(column)) or alone
        yield f"must stay unique, but {name} {_COLLIDING[name]}: write {instead}"
    if name in _FOR_NULL and not isinstance(method, str) and not method.keep_null:
        yield "must stay unique, but with keep_null: false every NULL gets the same value: leave keep_null out"
    if isinstance(method, spec.Hash) and column.family is not Family.UUID and method.hash.length < UNIQUE_HASH_DIGITS:
        yield f"must stay unique: write {{hash: {{length: {UNIQUE_HASH_DIGITS}}}}} or more, or preserve"
    if isinstance(method, spec.Pattern) and _pattern_size(method.pattern) < UNIQUE_PATTERN_SIZE:
        yield "must stay unique, but the pattern has too few values: write preserve, or at least 20 times #"


def _pattern_size(template: str) -> int:
    size = 1
    for character, filled in pattern_places(template):
        size *= {"#": 10, "?": 26}[character] if filled else 1
    return size


def _hash(method: Method, column: Column) -> Iterator[str]:
    options = method.hash if isinstance(method, spec.Hash) else spec.HashOptions(length=16, prefix="")
    if column.family is not Family.TEXT:
        if options.prefix:
            yield f"has the type {column.type}, which takes no prefix: leave prefix out"
        return
    room = None if column.length is None else column.length - len(options.prefix)
    if room is not None and room < options.length:
        yield (
            f"holds {column.length} characters, fewer than the hash has: "
            + (f"write {{hash: {{length: {room}}}}}" if room >= _SHORTEST_HASH else "write preserve or fixed")
        )


_SHORTEST_HASH = 4


def _email(method: Method, column: Column) -> Iterator[str]:
    domain = method.email.domain if isinstance(method, spec.Email) else "example.com"
    needed = EMAIL_TOKEN + 1 + len(domain)
    if column.length is not None and column.length < needed:
        yield (
            f"holds {column.length} characters, an address at {domain} needs {needed}: "
            "write a shorter domain, or preserve"
        )


def _fake(method: Method, column: Column) -> Iterator[str]:
    if not isinstance(method, spec.Fake):
        return
    locale = fakes.locale_of(method.locale)
    if locale is None:
        yield f"has the locale {method.locale}, for which there are no words: write one of {', '.join(fakes.LOCALES)}"
        return
    longest = fakes.longest(method.fake, locale)
    needed = longest if method.fake in _WHOLE else min(longest, _SHORTEST_WORD)
    if column.length is not None and column.length < needed:
        yield f"holds {column.length} characters, {{fake: {method.fake}}} needs {needed}: write preserve or shuffle"


def _pattern(method: Method, column: Column) -> Iterator[str]:
    if not isinstance(method, spec.Pattern):
        return
    places = pattern_places(method.pattern)
    if column.length is not None and len(places) > column.length:
        yield f"holds {column.length} characters, fewer than the pattern has: write a shorter pattern"
    if sum(filled for _, filled in places) > PATTERN_PLACES:
        yield f"has a pattern with more than {PATTERN_PLACES} places to fill: write fewer # and ?"


def _preserve(method: Method, column: Column) -> Iterator[str]:
    if isinstance(method, spec.Preserve) and column.family is not Family.TEXT:
        yield f"has the type {column.type}, which holds no {method.preserve}: write preserve without it"
    if column.family is Family.NUMBER:
        precision, scale = column.digits or (None, None)
        if precision is None or scale != 0 or precision > INTEGER_DIGITS:
            yield (
                f"has the type {column.type}; preserve needs whole numbers of at most {INTEGER_DIGITS} digits: "
                "write noise, bucket or shuffle"
            )


def _fixed(method: Method, column: Column) -> Iterator[str]:
    if isinstance(method, spec.Fixed) and not _is_a(method.fixed, column):
        yield f"has the type {column.type}, which the fixed value is not: write one of that type"


def _is_a(value: str | float | bool, column: Column) -> bool:  # noqa: FBT001 - a value of a policy
    check = _VALUE_CHECKS.get(column.family)
    try:
        return check is None or check(value, column)
    except (ValueError, InvalidOperation):
        return False


def _fits_text(value: object, column: Column) -> bool:
    return column.length is None or len(as_text(value)) <= column.length


def _fits_integer(value: object, column: Column) -> bool:
    if isinstance(value, bool) or not isinstance(value, int):
        return False
    limit = 1 << (8 * (column.integer_bytes or 8) - 1)
    return -limit <= value < limit


def _fits_number(value: object, column: Column) -> bool:
    if isinstance(value, bool):
        return False
    number = Decimal(str(value))
    return column.digits is None or abs(number) < Decimal(10) ** (column.digits[0] - column.digits[1])


def _parses(parse: Callable[[str], object]) -> Callable[[object, Column], bool]:
    def check(value: object, _column: Column) -> bool:
        return isinstance(value, str) and parse(value) is not None

    return check


_VALUE_CHECKS: dict[Family, Callable[[object, Column], bool]] = {
    Family.TEXT: _fits_text,
    Family.INTEGER: _fits_integer,
    Family.NUMBER: _fits_number,
    Family.BOOLEAN: lambda value, _column: isinstance(value, bool),
    Family.ENUM: lambda value, column: value in column.labels,
    Family.DATE: _parses(date.fromisoformat),
    Family.TIME: _parses(datetime.fromisoformat),
    Family.UUID: _parses(UUID),
    Family.BYTES: lambda value, _column: isinstance(value, str),
}


def as_text(value: object) -> str:
    """Return a scalar of a policy as text: ``true``, ``0.5``."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _bucket(method: Method, column: Column) -> Iterator[str]:
    if not isinstance(method, spec.Bucket):
        return
    numeric = column.family in _NUMBERS
    if isinstance(method.bucket, str) == numeric:
        yield f"has the type {column.type}: " + ("write {bucket: 10}" if numeric else "write {bucket: month}")
    elif column.family is Family.INTEGER and float(method.bucket) % 1:
        yield f"has the type {column.type}: write a bucket that is a whole number"
    elif column.family is Family.DATE and method.bucket == "hour":
        yield f"has the type {column.type}, which has no hours: write {{bucket: month}}"


def _noise(method: Method, _column: Column) -> Iterator[str]:
    if isinstance(method, spec.Noise) and not method.noise:
        yield "would not change: write a percentage above 0%"


def _shift(method: Method, column: Column) -> Iterator[str]:
    if isinstance(method, spec.Shift) and column.family is Family.DATE and method.shift < timedelta(days=1):
        yield f"has the type {column.type}: write {{shift_days: 1}} or more"


def _json(method: Method, _column: Column) -> Iterator[str]:
    if not isinstance(method, spec.Json):
        return
    for path, inner in method.json_.items():
        name = name_of(inner)
        if json_paths.parse(path) is None:
            yield f'has the path {path}, which cannot be read: write it like $.contact.email, $.items[*].name, $."a b"'
        if name not in LEAVES:
            yield f"has {name} for {path}: inside JSON write one of {', '.join(sorted(LEAVES))}"
        elif name in _CHECKS:
            yield from (f"at {path} {objection}" for objection in _CHECKS[name](inner, _LEAF))
    if json_paths.tree(method.json_) is None:
        yield "has a path below another one, or [*] beside a number: write one rule for each place"


_LEAF = Column(name="", type="JSON text", family=Family.TEXT)


_CHECKS: dict[str, Callable[[Method, Column], Iterator[str]]] = {
    "fixed": _fixed,
    "hash": _hash,
    "email": _email,
    "fake": _fake,
    "preserve": _preserve,
    "pattern": _pattern,
    "bucket": _bucket,
    "shift": _shift,
    "noise": _noise,
    "json": _json,
}
