"""Keys and hashes of values: what every deterministic method draws its results from.

Called by the reference values of this package and by engines, which compute the same in
SQL. Two constructions, both under subkeys that HMAC-SHA-256 derives from the policy's key:

- :func:`keyed` is HMAC-SHA-256 of the value. Results that people see come from it.
- :func:`stream` is SHA-256 of subkey and data. The inner rounds of permutations use it:
  their outputs are only ever added to other characters, and it costs a third.
"""

from __future__ import annotations

import hmac
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from typing import TYPE_CHECKING, get_args

from reconciler.spec.masking_policy import FakeKind

if TYPE_CHECKING:
    from reconciler.masking.schema import Column

VERSION = "v1"
"""Part of every subkey and of every image's spec digest: another version masks to other values."""
BLOCK = 64
"""Bytes of a block of SHA-256: the length of HMAC's pads."""
DIGEST = 32
_SHORTEST_TRACE = 16
"""A shorter key may be a word that files have anyway; what is derived from it is not."""
_KINDS = tuple(f"fake/{kind}" for kind in get_args(FakeKind))
TAGS = ("hash", "email", "pattern", "preserve", "integer", "shift", "noise", "shuffle", *_KINDS)
"""Each has a subkey of its own; methods of one tag give related values for one input."""
CAPITALS = "".join(
    chr(code)
    for code in (*range(0x41, 0x0590), *range(0x1E00, 0x2000))
    if chr(code).lower() != chr(code) and len(chr(code).lower()) == 1
)
"""Capitals of Latin, Greek, Cyrillic and Armenian, which columns that ignore case fold; engines are given this list."""
SMALL = "".join(map(str.lower, CAPITALS))
_FOLD = str.maketrans(CAPITALS, SMALL)
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))


def subkey(key: bytes, tag: str) -> bytes:
    """Return the key (32 bytes) of one tag."""
    return hmac.digest(key, f"reconciler/masking/{VERSION}/{tag}".encode(), "sha256")


def pads(key: bytes) -> tuple[bytes, bytes]:
    """Return the inner and the outer pad of a subkey (RFC 2104), for engines that only have SHA-256."""
    block = key.ljust(BLOCK, b"\0")
    return block.translate(_INNER), block.translate(_OUTER)


def traces(key: bytes) -> frozenset[bytes]:
    """Return the bytes by which a key would show in a file, or what engines get of it: as they are, and as digits.

    Whoever has a subkey can compute masked values from a dictionary, so none may be left.
    """
    secrets = {key} if len(key) >= _SHORTEST_TRACE else set()
    for tag in TAGS:
        derived = subkey(key, tag)
        secrets |= {derived, *pads(derived)}
    digits = [form for secret in secrets for form in (secret.hex(), secret.hex().upper())]
    return frozenset({*secrets, *(text.encode(code) for text in digits for code in ("ascii", "utf-16-le"))})


def keyed(key: bytes, tag: str, text: str) -> bytes:
    """Return 32 bytes for a value's canonical text."""
    return hmac.digest(subkey(key, tag), text.encode(), "sha256")


def stream(subkey_: bytes, data: bytes, length: int = DIGEST) -> bytes:
    """Return at least ``length`` bytes, a multiple of 32: each block is the hash of the one before."""
    blocks = [sha256(subkey_ + data).digest()]
    while len(blocks) * DIGEST < length:
        blocks.append(sha256(subkey_ + blocks[-1]).digest())
    return b"".join(blocks)


def number(digest: bytes, at: int, length: int) -> int:
    """Return ``length`` bytes of a digest as a number, the most significant first."""
    return int.from_bytes(digest[at : at + length], "big")


def canonical(value: object, column: Column) -> str:  # noqa: PLR0911 - one form per type
    """Return the text that stands for a value: equal values of different types have the same.

    Text without the blanks that ``char(n)`` pads with, lower-case where the column ignores
    case; numbers in decimal without trailing zeros; dates and times in ISO 8601, in UTC
    if they have a zone.
    """
    match value:
        case str():
            return canonical_text(value, column)
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case Decimal() | float():
            return _plain(decimal_of(value) if isinstance(value, float) else value)
        case datetime():
            return _instant(value)
        case bytes():
            return value.hex()
        case _:
            return str(value)


def canonical_text(value: str, column: Column) -> str:
    """Return a text as its column compares it."""
    trimmed = value.rstrip(" ") if column.fixed_length else value
    return fold(trimmed) if column.folds_case else trimmed


def fold(text: str) -> str:
    """Return the text in small letters, one for one: what a database's own ``lower`` does depends on its locale."""
    return text.translate(_FOLD)


def decimal_of(value: float) -> Decimal:
    """Return a floating-point number with its 15 reliable digits: systems differ in how they write the 17th."""
    return Decimal(format(value, ".15g"))


def _plain(value: Decimal) -> str:
    if not value.is_finite():
        return str(value)
    text = format(value, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def _instant(value: datetime) -> str:
    zone = "" if value.tzinfo is None else "+00"
    plain = value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)
    text = plain.isoformat(" ", "microseconds" if plain.microsecond else "seconds")
    return (text.rstrip("0") if plain.microsecond else text) + zone
