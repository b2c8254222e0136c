"""Values that specs write as text: durations, sizes, amounts, port ranges, paths, names.

Pure functions from what YAML gave to the value, and the few value classes that Python
lacks. Used by :mod:`reconciler.spec.types`; must not import pydantic models, so that
other layers can parse the same notations cheaply. They raise :class:`ValueProblem`.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

DURATION_PATTERN = r"^[1-9][0-9]{0,8}[smhd]$"
DURATION_OR_ZERO_PATTERN = r"^(0|[1-9][0-9]{0,8})[smhd]$"
SIZE_PATTERN = r"^[1-9][0-9]{0,14}(Ki|Mi|Gi|Ti|Pi)?$"
PERCENT_PATTERN = r"^(100|[0-9]{1,2})(\.[0-9]{1,3})?%$"
TIME_PATTERN = r"^\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d{1,6})?([Zz]|[+-]\d{2}:\d{2})$"
PORTS_PATTERN = r"^[0-9]{1,5}-[0-9]{1,5}$"
USER_IDS_PATTERN = r"^[0-9]{1,10}-[0-9]{1,10}$"
NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
SECRET_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?$"  # noqa: S105 - the form of names
SNAPSHOT_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?-\d{8}t\d{6}z-[0-9a-f]{8}$"
USER_PATTERN = r"^[A-Za-z_][A-Za-z0-9_-]{0,62}$"

FIRST_PORT = 1024
LAST_PORT = 65535
FIRST_USER_ID = 1000
"""Those below belong to the system."""
LAST_USER_ID = 2**32 - 2
"""The one above means "no user" (chown(2), setresuid(2))."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_BINARY = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50}
_MAX_BYTES = 2**63 - 1
_MAX_DURATION = timedelta(days=36500)
_MAX_PATH = 1024
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_duration = re.compile(DURATION_PATTERN).fullmatch
_size = re.compile(SIZE_PATTERN).fullmatch
_percent = re.compile(PERCENT_PATTERN).fullmatch
_time = re.compile(TIME_PATTERN).fullmatch
_zoned = re.compile(
    r"(\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(?:\.\d{1,6})?)(?:[Zz]|[+-]\d{2}:\d{2})?"
    r"(?: ?\[|[ @])([A-Za-z][A-Za-z0-9_+/-]{0,63})\]?"
).fullmatch
"""A time with the name of a zone, as people write it; in brackets it is of RFC 9557."""
_numbers = re.compile(USER_IDS_PATTERN).fullmatch


class ValueProblem(ValueError):  # noqa: N818 - becomes a diagnostic, never an error of the program
    """A text does not follow its notation; ``hint`` says what to write instead."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Amount:
    """A part of something whose size only the host knows: percent of it, or bytes."""

    percent: float | None = None
    size: int | None = None

    def of(self, total: int) -> int:
        """Return the bytes that this is of ``total`` bytes."""
        return self.size if self.size is not None else int(total * (self.percent or 0.0) / 100)

    def __str__(self) -> str:
        return f"{self.percent:g}%" if self.size is None else f"{self.size} bytes"


@dataclass(frozen=True, slots=True)
class NumberRange:
    """Numbers from ``first`` to ``last``, both included: ports or user ids."""

    first: int
    last: int

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and self.first <= number <= self.last

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.last + 1))

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"

    def overlaps(self, other: NumberRange) -> bool:
        """Whether a number is in both."""
        return self.first <= other.last and other.first <= self.last


def _text(value: object, what: str, hint: str) -> str:
    if not isinstance(value, str):
        raise ValueProblem(f"{what} is text", hint)
    return value


def duration(value: object) -> timedelta:
    """Parse ``90s``, ``15m``, ``8h``, ``14d``."""
    if isinstance(value, timedelta):
        return value
    hint = "write a whole number with a unit: 90s, 15m, 8h or 14d"
    text = _text(value, "a duration", hint)
    if not _duration(text):
        raise ValueProblem("this is not a duration", hint)
    result = timedelta(seconds=int(text[:-1]) * _UNITS[text[-1]])
    if result > _MAX_DURATION:
        raise ValueProblem("this duration is longer than 100 years", hint)
    return result


def duration_or_zero(value: object) -> timedelta:
    """Parse a duration that may also be ``0s``."""
    return timedelta(0) if isinstance(value, str) and value in {"0s", "0m", "0h", "0d"} else duration(value)


def size(value: object) -> int:
    """Parse ``512Mi``, ``20Gi`` or a plain number of bytes, to bytes."""
    hint = "write a whole number with a binary unit: 512Mi, 20Gi, 1Ti"
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    match = _size(_text(value, "a size", hint))
    if not match:
        raise ValueProblem("this is not a size", hint)
    unit = match[1] or ""
    result = int(match[0].removesuffix(unit)) * _BINARY[unit]
    if result > _MAX_BYTES:
        raise ValueProblem("this size is larger than any storage", hint)
    return result


def percent(value: object) -> float:
    """Parse ``80%`` or a plain number from 0 to 100."""
    hint = "write a percentage: 80%"
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = f"{value}%"
    text = _text(value, "a percentage", hint)
    if not _percent(text) or float(text[:-1]) > 100:  # noqa: PLR2004 - a hundred percent
        raise ValueProblem("this is not a percentage from 0% to 100%", hint)
    return float(text[:-1])


def amount(value: object) -> Amount:
    """Parse ``10%`` or ``20Gi``."""
    if isinstance(value, Amount):
        return value
    if isinstance(value, str) and value.endswith("%"):
        return Amount(percent=percent(value))
    try:
        return Amount(size=size(value))
    except ValueProblem as problem:
        raise ValueProblem("this is neither a percentage nor a size", "write 10% or 20Gi") from problem


def instant(value: object) -> datetime:
    """Parse a time of RFC 3339 with its offset, to UTC."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value
    hint = "write a time with its offset: 2026-11-20T12:00:00Z or 2026-11-20T13:00:00+01:00"
    text = _text(value, "a time", hint)
    if (named := _zoned(text)) is not None:
        raise _without_zone(named[1], named[2])
    if not _time(text):
        raise ValueProblem("this is not a time of RFC 3339 with an offset", hint)
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except ValueError as error:
        raise ValueProblem("this day or hour does not exist", hint) from error
    except OverflowError as error:
        raise ValueProblem("in UTC this time is before the year 1 or after the year 9999", hint) from error


def _without_zone(local: str, name: str) -> ValueProblem:
    """Return what is wrong with the time of a place: which instants it could mean is in the hint."""
    from zoneinfo import ZoneInfo  # noqa: PLC0415 - only for what is wrong

    problem = "a time has an offset, and no name of a time zone"
    try:
        there = datetime.fromisoformat(local.upper().replace(" ", "T")).replace(tzinfo=None)
        first, second = (there.replace(tzinfo=ZoneInfo(name), fold=fold) for fold in (0, 1))
        real = first.astimezone(UTC).astimezone(first.tzinfo)
    except (ValueError, OSError, LookupError, OverflowError):
        return ValueProblem(problem, "write 2026-11-20T12:00:00Z or 2026-11-20T13:00:00+01:00")
    if first.utcoffset() == second.utcoffset():
        return ValueProblem(problem, f"write {first.isoformat()}")
    if real.replace(tzinfo=None) != there:
        never = f"clocks went forward in {name}, so this never was"
        return ValueProblem(problem, f"{never}; if they had not, it would have been {real.isoformat()}")
    twice = f"clocks went back in {name}, so this was twice"
    return ValueProblem(problem, f"{twice}: write {first.isoformat()} or {second.isoformat()}")


def number_range(value: object, *, lowest: int, highest: int, example: str) -> NumberRange:
    """Parse two numbers from ``lowest`` to ``highest``, in order, such as ``example``."""
    if isinstance(value, NumberRange):
        return value
    hint = f"write the first and the last number: {example}"
    text = _text(value, "a range", hint)
    if not _numbers(text):
        raise ValueProblem("this is not a range", hint)
    first, last = map(int, text.split("-"))
    if not lowest <= first <= last <= highest:
        raise ValueProblem(f"a range goes upwards and lies within {lowest}-{highest}", hint)
    return NumberRange(first, last)


def ports(value: object) -> NumberRange:
    """Parse a range of TCP ports that need no privileges."""
    return number_range(value, lowest=FIRST_PORT, highest=LAST_PORT, example="5600-5999")


def user_ids(value: object) -> NumberRange:
    """Parse a range of user ids that are not the system's."""
    return number_range(value, lowest=FIRST_USER_ID, highest=LAST_USER_ID, example="70000-79999")


def is_pattern(path: str) -> bool:
    """Whether a path has wildcards: ``*``, ``?`` or ``[`` … ``]``."""
    return any(character in path for character in "*?[")


def spec_path(value: str) -> str:
    """Normalise a path that a spec names: inside the repository, or absolute on the host.

    Whether it exists, is a symlink or is granted is for those who know the tree and
    the host; a path that leaves the repository by its own words is refused here.
    """
    if not value or len(value) > _MAX_PATH or _CONTROL.search(value) or "\\" in value:
        raise ValueProblem("this is not a path", "separate directories by /; at most 1024 printable characters")
    if value.startswith("~"):
        raise ValueProblem("a path in a spec cannot start with ~", "write it relative to the repository, or absolute")
    if ".." in value.split("/"):
        raise ValueProblem(
            "a path cannot contain ..", "write it relative to the root of the spec repository, or absolute"
        )
    if value.startswith("/"):
        return "/" + posixpath.normpath(value).lstrip("/")
    path = posixpath.normpath(value)
    if path == ".git" or path.startswith(".git/"):
        raise ValueProblem("git's own directory cannot be a source")
    return path
