"""Format-preserving permutations: digits to digits, letters to letters, one to one.

The reference of what engines compute. Values of one format are permuted among
themselves under the key, so that distinct values stay distinct by construction, without
a table and without a retry. Strings: four rounds of an unbalanced Feistel network; each
shifts one half of the characters within their alphabets by what a keyed hash of the
other half says. The halves are told apart by the lowest bit of a character's position,
then by the next one. Whole numbers: a Feistel network on quotient and remainder, among
the numbers of the same sign and number of digits.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache
from itertools import pairwise
from math import isqrt
from typing import NamedTuple

from stdnum import luhn

from reconciler.masking.keyed import number, stream, subkey

BLOCK = 8
"""Characters: strings are padded to a multiple of it with NUL, so that engines can unroll the rounds."""
ROUNDS = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Each changes the characters whose position has this bit at this value."""
_ASCII = 128


class Region(NamedTuple):
    """Alphabets of neighbouring code points: ``step`` of them, interleaved (2: capitals and small letters)."""

    first: int
    last: int
    step: int = 1

    @property
    def size(self) -> int:
        """Characters of each alphabet."""
        return (self.last - self.first + 1) // self.step


REGIONS = tuple(
    Region(*one)
    for one in (
        (0x30, 0x39),  # digits
        (0x41, 0x5A),
        (0x61, 0x7A),
        (0xC0, 0xD6),  # Latin-1, without the signs of multiplication and division
        (0xD8, 0xDE),
        (0xDF, 0xF6),
        (0xF8, 0xFF),
        (0x100, 0x137, 2),  # Latin Extended-A
        (0x139, 0x148, 2),
        (0x14A, 0x177, 2),
        (0x179, 0x17E, 2),
        (0x388, 0x38A),  # Greek
        (0x38E, 0x38F),
        (0x391, 0x3A1),
        (0x3A3, 0x3AB),
        (0x3AC, 0x3AF),
        (0x3B1, 0x3CB),
        (0x3CC, 0x3CE),
        (0x400, 0x40F),  # Cyrillic
        (0x410, 0x42F),
        (0x430, 0x44F),
        (0x450, 0x45F),
        (0x460, 0x481, 2),
        (0x48A, 0x4BF, 2),
        (0x531, 0x556),  # Armenian
        (0x561, 0x586),
        (0x5D0, 0x5EA),  # Hebrew
        (0x621, 0x63A),  # Arabic
        (0x641, 0x64A),
        (0x660, 0x669),
        (0x6F0, 0x6F9),
        (0x905, 0x939),  # Devanagari
        (0x966, 0x96F),
        (0xE01, 0xE2E),  # Thai
        (0x10D0, 0x10F0),  # Georgian
        (0x1E00, 0x1E95, 2),  # Latin Extended Additional
        (0x1EA0, 0x1EF9, 2),
        (0x3041, 0x3096),  # Hiragana
        (0x30A1, 0x30FA),  # Katakana
        (0x3400, 0x4DBF),  # Han
        (0x4E00, 0x9FFF),
        (0xAC00, 0xD7A3),  # Hangul
        (0xFF10, 0xFF19),  # full width
        (0xFF21, 0xFF3A),
        (0xFF41, 0xFF5A),
    )
)
"""Sorted. What is in none stays as it is: punctuation, blanks, combining marks, symbols, other scripts."""
_FIRSTS = [region.first for region in REGIONS]


def text(value: str, key: bytes) -> str:
    """Return the string that takes the place of ``value``; of the same length, with each character of the same kind."""
    return _permuted(value, subkey(key, "preserve"))


def _permuted(value: str, key: bytes) -> str:
    characters = list(value) + ["\0"] * (-len(value) % BLOCK)
    for round_, (bit, side) in enumerate(ROUNDS, start=1):
        changed = [at for at in range(len(characters)) if (at >> bit) & 1 == side]
        hidden = characters.copy()
        for at in changed:
            hidden[at] = chr(round_)
        shifts = stream(key, "".join(hidden).encode(), len(characters))
        for at in changed:
            characters[at] = shifted(characters[at], shifts[at], shifts[(at + 1) % len(shifts)])
    return "".join(characters[: len(value)])


def shifted(character: str, low: int, high: int) -> str:
    """Return the character so many places further in its alphabet; ``high`` counts for those beyond ASCII."""
    code = ord(character)
    place = bisect_right(_FIRSTS, code) - 1
    if place < 0 or code > REGIONS[place].last:
        return character
    region = REGIONS[place]
    by = low if code < _ASCII else low + (high << 8)
    offset = code - region.first
    return chr(region.first + offset % region.step + region.step * ((offset // region.step + by) % region.size))


def shift_table() -> bytes:
    """Return ``shifted`` of every ASCII character by every byte: 128 rows of 256."""
    return bytes(ord(shifted(chr(code), by, 0)) for code in range(_ASCII) for by in range(256))


def card(value: str, key: bytes) -> str:
    """Return a number whose last digit checks (ISO/IEC 7812-1, Luhn) if that of ``value`` did.

    A last digit that is off by something stays off by it, so that distinct values stay distinct.
    """
    at = max((place for place, character in enumerate(value) if _is_digit(character)), default=-1)
    rest = value[:at] + value[at + 1 :]
    masked = _permuted(rest, subkey(key, "preserve"))
    before, after = _digits(rest[:at]), _digits(masked[:at])
    if not before:
        return text(value, key)
    off = int(value[at]) - int(luhn.calc_check_digit(before))
    return masked[:at] + str((int(luhn.calc_check_digit(after)) + off) % 10) + masked[at:]


def _is_digit(character: str) -> bool:
    return "0" <= character <= "9"


def _digits(value: str) -> str:
    return "".join(filter(_is_digit, value))


_IBAN_HEAD = 4


def iban(value: str, key: bytes) -> str:
    """Return an account number of the same country; its check digits (ISO 13616) are right if they were before."""
    country, check, rest = value[:2], value[2:_IBAN_HEAD], value[_IBAN_HEAD:]
    if not (country.isascii() and country.isalpha() and len(check) == 2 and all(map(_is_digit, check))):  # noqa: PLR2004 - two check digits
        return text(value, key)
    masked = _permuted(rest, subkey(key, "preserve"))
    off = int(check) - _iban_check(country, rest)
    return f"{country}{(_iban_check(country, masked) + off) % 100:02d}{masked}"


def _iban_check(country: str, rest: str) -> int:
    plain = "".join(character for character in (rest + country).upper() if character.isascii() and character.isalnum())
    return 98 - int("".join(str(int(character, 36)) for character in plain) + "00") % 97


class Segment(NamedTuple):
    """Whole numbers from ``low`` on that are permuted among themselves: ``rows`` times ``columns`` of them."""

    low: int
    rows: int
    columns: int


_TYPE_BITS = (16, 32, 64)


@lru_cache(maxsize=1)
def segments() -> tuple[Segment, ...]:
    """Return all segments of 64-bit integers, in order; none crosses the limit of a shorter type, 0 stays 0."""
    positive = sorted({0, 1, 1 << 63} | {10**power for power in range(19)} | {1 << (bits - 1) for bits in _TYPE_BITS})
    negative = sorted(
        {-(1 << 63), 0} | {1 - 10**power for power in range(1, 19)} | {-(1 << (bits - 1)) for bits in _TYPE_BITS}
    )
    found: list[Segment] = []
    for low, high in (*pairwise(negative), *pairwise(positive)):
        found += _rectangles(low, high - low)
    return tuple(found)


@lru_cache(maxsize=1)
def unmoved() -> frozenset[str]:
    """Return the numbers that are alone in their segment and so stay as they are, as text: 0, and a few sentinels."""
    return frozenset(str(one.low) for one in segments() if one.rows * one.columns == 1)


def _rectangles(low: int, size: int) -> list[Segment]:
    """Cut numbers into rectangles: one if the size is a multiple of a power of ten, else ever smaller ones."""
    found: list[Segment] = []
    while size:
        columns = _columns(size)
        rows = size // columns
        found.append(Segment(low, rows, columns))
        low += rows * columns
        size -= rows * columns
    return found


def _columns(size: int) -> int:
    power = 10 ** (len(str(size)) // 2)
    return power if power > 1 and size % power == 0 else isqrt(size)


def integer(value: int, key: bytes) -> int:
    """Return the number that takes the place of ``value``: of the same sign and number of digits, in the same types."""
    all_ = segments()
    segment = all_[bisect_right(all_, value, key=lambda one: one.low) - 1]
    place, secret = segment.low.to_bytes(8, "big", signed=True), subkey(key, "integer")
    row, column = divmod(value - segment.low, segment.columns)
    for round_ in (1, 3):
        row = (row + _move(secret, round_, place, column)) % segment.rows
        column = (column + _move(secret, round_ + 1, place, row)) % segment.columns
    return segment.low + row * segment.columns + column


INTEGER_BYTES = 6
"""Of a hash, that move a row or column."""


def _move(key: bytes, round_: int, place: bytes, other: int) -> int:
    return number(stream(key, bytes([round_]) + place + other.to_bytes(8, "big")), 0, INTEGER_BYTES)
