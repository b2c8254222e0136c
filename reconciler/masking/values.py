"""The reference of every deterministic method: what a value becomes under a key.

Engines that mask inside the database compute the same in their own language and are
tested against this; engines that cannot, call it. Same input, same output, in every
table, database, engine and version of this package (``vocabulary.VERSION`` says when
that changes). Pure functions; keys and values never show in an error.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from reconciler.masking import fakes, json_paths, offsets, preserve, scrub
from reconciler.masking.keyed import canonical, canonical_text, keyed
from reconciler.masking.schema import Column, Family
from reconciler.masking.vocabulary import EMAIL_TOKEN, as_text, gives_null_a_value, name_of, pattern_places
from reconciler.spec import masking_policy as spec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reconciler.spec.masking_policy import Column as Method

_MOVING = (spec.ShiftDays, spec.Shift, spec.Noise, spec.Bucket)


def mask(
    method: Method, value: object, column: Column, key: bytes, *, by: object = None, row: Sequence[str] = ()
) -> object:
    """Return what ``value`` of ``column`` becomes; arrays (lists) element by element.

    ``by`` is the canonical text of the column that ``by:`` names, ``row`` the values of
    the columns that ``names:`` lists. Methods that depend on other rows or on SQL
    (``shuffle``, ``sql``) are not for this function.

    Raises:
        ValueError: the method is not deterministic.

    """
    constants = {"keep": value, "null": None}
    name = name_of(method)
    if name in constants:
        return constants[name]
    if isinstance(value, list) and column.array:
        return [mask(method, one, column, key, by=by, row=row) for one in value]
    if value is None:
        return _of_null(method, column, key)
    if isinstance(method, _MOVING):
        return _moved(method, value, column, key, by)
    if isinstance(method, spec.Json):
        return _document(method, value, key, row)
    return _of_type(method, value, column, key, row)


def _of_type(method: Method, value: object, column: Column, key: bytes, row: Sequence[str]) -> object:
    if isinstance(method, spec.Fixed):
        return typed(method.fixed, column)
    if isinstance(value, str):
        return mask_text(method, canonical_text(value, column), key, length=column.length, row=row)
    if name_of(method) == "hash":
        return _hash_of_type(method, value, column, key)
    if name_of(method) != "preserve":
        raise ValueError(f"{name_of(method)} depends on more than a value")
    number = preserve.integer(int(cast("int", value)), key)
    return Decimal(number) if isinstance(value, Decimal) else number


def mask_text(method: Method, text: str, key: bytes, *, length: int | None = None, row: Sequence[str] = ()) -> str:
    """Return what a text becomes, within ``length`` characters; an empty text stays empty."""
    if not text:
        return text
    if isinstance(method, spec.Partial):
        return partial(method.partial, text)
    if name_of(method) == "text":
        return scrub.scrub(text, findings(method), row)[:length]
    if name_of(method) == "preserve":
        checked = method.preserve if isinstance(method, spec.Preserve) else None
        return {None: preserve.text, "card": preserve.card, "iban": preserve.iban}[checked](text, key)
    return _written(method, text, key, length)


def _written(method: Method, text: str, key: bytes, length: int | None) -> str:
    """Return a new value that a hash of the text chooses."""
    match name_of(method):
        case "hash":
            return hashed(method, text, key)
        case "email":
            return address(method, text, key, length)
        case "fake":
            return _fake(cast("spec.Fake", method), text, key, length)
        case "pattern":
            return _pattern(cast("spec.Pattern", method), text, key)
        case name:
            raise ValueError(f"{name} depends on more than a text")


def hash_options(method: Method) -> spec.HashOptions:
    """Return length and prefix of a hash: 16 digits, if the method does not say."""
    return method.hash if isinstance(method, spec.Hash) else spec.HashOptions(length=16, prefix="")


def domain_of(method: Method) -> str:
    """Return the domain of addresses: a reserved one (RFC 2606), if the method does not say."""
    return method.email.domain if isinstance(method, spec.Email) else "example.com"


def hashed(method: Method, text: str, key: bytes) -> str:
    """Return prefix and hexadecimal digits."""
    options = hash_options(method)
    return options.prefix + keyed(key, "hash", text).hex()[: options.length]


NAME_BYTE = 20
"""Of the digest, from which on the name in an address is chosen: behind those of the token."""


def address(method: Method, text: str, key: bytes, length: int | None) -> str:
    """Return ``name.token@domain``; the name is cut, or left out, where the column is short."""
    domain = domain_of(method)
    digest = keyed(key, "email", text)
    token = f"{digest.hex()[:EMAIL_TOKEN]}@{domain}"
    names = (fakes.Word(fakes.DEFAULT_LOCALE, "login", NAME_BYTE),)
    room = None if length is None else max(0, length - len(token) - 1)
    name = fakes.render(names, digest)[:room]
    return f"{name}.{token}" if name else token


def fake_parts(method: spec.Fake) -> tuple[fakes.Part, ...]:
    """Return what a plausible value is put together from."""
    locale = fakes.locale_of(method.locale)
    if locale is None:
        raise ValueError("no such locale")
    return fakes.parts(method.fake, locale)


def findings(method: Method) -> tuple[str, ...]:
    """Return what a ``text`` method looks for: everything, if it does not say."""
    return method.text if isinstance(method, spec.Text) else scrub.FINDINGS


def partial(options: spec.PartialOptions, text: str) -> str:
    """Return the first and last characters with a mask between; all masked where nothing would be."""
    hidden = len(text) - options.first - options.last
    if hidden <= 0:
        return options.mask * len(text)
    return text[: options.first] + options.mask * hidden + text[len(text) - options.last :]


def typed(value: object, column: Column) -> object:
    """Return a value of a policy in the column's type."""
    parse = _PARSERS.get(column.family, as_text)
    return parse(value)


_PARSERS: dict[Family, Callable[[Any], object]] = {
    Family.DATE: date.fromisoformat,
    Family.TIME: datetime.fromisoformat,
    Family.NUMBER: lambda value: Decimal(str(value)),
    Family.UUID: UUID,
    Family.BYTES: str.encode,
    Family.INTEGER: lambda value: value,
    Family.BOOLEAN: lambda value: value,
    Family.JSON: lambda value: value,
}


def _of_null(method: Method, column: Column, key: bytes) -> object:
    """Return what NULL becomes: itself, unless the method says otherwise; then the same value in every row."""
    if isinstance(method, str) or method.keep_null:
        return None
    if isinstance(method, spec.Fixed):
        return typed(method.fixed, column)
    if not gives_null_a_value(method) or column.array:
        return None
    if column.family is Family.TEXT:
        return _written(method, "", key, column.length)
    return _hash_of_type(method, "", column, key)


def _fake(method: spec.Fake, text: str, key: bytes, length: int | None) -> str:
    digest = keyed(key, f"fake/{method.fake}", text)
    return fakes.render(fake_parts(method), digest)[:length].rstrip(" ")


def _pattern(method: spec.Pattern, text: str, key: bytes) -> str:
    return fakes.fill(pattern_places(method.pattern), keyed(key, "pattern", text))


def _hash_of_type(method: Method, value: object, column: Column, key: bytes) -> object:
    if value == b"":
        return value
    digest = keyed(key, "hash", canonical(value, column))
    if column.family is Family.UUID:
        return UUID(uuid_digits(digest.hex()))
    return digest[: (hash_options(method).length + 1) // 2]


def uuid_digits(digits: str) -> str:
    """Return 32 hexadecimal digits of the form of a random UUID (RFC 9562, version 4)."""
    return f"{digits[:12]}4{digits[13:16]}8{digits[17:32]}"


def _moved(method: Method, value: object, column: Column, key: bytes, by: object) -> object:
    source = canonical(value, column) if getattr(method, "by", None) is None else "" if by is None else str(by)
    match method:
        case spec.ShiftDays():
            days = offsets.offset(source, key, "shift", method.shift_days)
            return offsets.shifted(cast("date", value), timedelta(days=days))
        case spec.Shift() if column.family is Family.DATE:
            days = offsets.offset(source, key, "shift", method.shift.days)
            return offsets.shifted(cast("date", value), timedelta(days=days))
        case spec.Shift():
            seconds = offsets.offset(source, key, "shift", int(method.shift.total_seconds()))
            return offsets.shifted(cast("date", value), timedelta(seconds=seconds))
        case spec.Noise():
            steps = offsets.offset(source, key, "noise", offsets.NOISE_STEPS)
            return _noisy(value, steps, method.noise, column)
        case spec.Bucket():
            return _bucket(method.bucket, value, column)
        case _:
            raise TypeError(name_of(method))


def _noisy(value: object, steps: int, percent: float, column: Column) -> object:
    if isinstance(value, int):
        return offsets.noisy_integer(value, steps, percent, column)
    if isinstance(value, float):
        return offsets.noisy_float(value, steps, percent)
    return offsets.noisy_decimal(cast("Decimal", value), steps, percent, column)


def _bucket(step: float | str, value: object, column: Column) -> object:
    if isinstance(step, str):
        return offsets.bucket_time(cast("date", value), step)
    if isinstance(value, int):
        limit = 1 << (8 * (column.integer_bytes or 8) - 1)
        return max(-limit, int(offsets.bucket_number(Decimal(value), step, column)))
    if isinstance(value, float):
        return offsets.bucket_float(value, step, column)
    return offsets.bucket_number(cast("Decimal", value), step, column)


def _document(method: spec.Json, value: object, key: bytes, row: Sequence[str]) -> object:
    tree = json_paths.tree(method.json_)
    if tree is None:
        raise ValueError("paths that are not paths, or overlap")
    return json_paths.apply(tree, value, lambda inner, one: _leaf(inner, one, key, row))


def _leaf(method: Method, value: Any, key: bytes, row: Sequence[str]) -> Any:  # noqa: ANN401 - JSON
    """Return what a value inside a document becomes; objects, arrays and booleans become null rather than stay."""
    constants = {"keep": value, "null": None}
    name = name_of(method)
    if name in constants:
        return constants[name]
    if isinstance(method, spec.Fixed):
        return None if value is None and method.keep_null else method.fixed
    if value is None:
        return _of_null(method, _INSIDE, key)
    if isinstance(value, str):
        return mask_text(method, value, key, row=row)
    return None if isinstance(value, bool | dict | list) else _leaf_number(method, value, key, row)


def _leaf_number(method: Method, value: object, key: bytes, row: Sequence[str]) -> object:
    masked = mask_text(method, canonical(value, _INSIDE), key, row=row)
    return Decimal(masked) if name_of(method) == "preserve" else masked


_INSIDE = Column(name="", type="JSON", family=Family.TEXT)
