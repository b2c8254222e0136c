"""Which method is proposed for a kind of personal data, as a policy would write it.

Called by :mod:`.proposal`. The first candidate that fits the column is taken, as
:mod:`reconciler.masking.vocabulary` judges it; coverage will judge the same way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from reconciler.masking.classify.kinds import Kind
from reconciler.masking.schema import Column, Family
from reconciler.masking.vocabulary import deterministic, why_not
from reconciler.spec.masking_policy import Column as Method

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Written = str | dict[str, Any]
"""A method as YAML has it: ``email``, ``{fake: city}``."""

_NAMES = (Kind.FIRST_NAME, Kind.LAST_NAME, Kind.FULL_NAME, Kind.USER_NAME, Kind.STREET, Kind.CITY, Kind.COMPANY)
_CANDIDATES: Mapping[Kind, Sequence[Written]] = {
    Kind.EMAIL: ("email", "hash"),
    Kind.BIRTH: ({"shift_days": 180}, {"bucket": 10}),
    Kind.INCOME: ({"noise": "10%"},),
    Kind.LOCATION: ({"noise": "1%"}, "null"),
    Kind.SECRET: ("hash",),
    Kind.SPECIAL: ("shuffle", "null", "hash"),
    Kind.PHOTO: ("null", "hash"),
    Kind.FREE_TEXT: ("text", "hash"),
    Kind.DEVICE: ("preserve", "hash", "null", {"fixed": "02:00:00:00:00:00"}),
    Kind.IP: ("null", {"fixed": "192.0.2.1"}),
}
_FALLBACKS: Sequence[Written] = ("preserve", "hash", "shuffle")
_SHORTEST_HASH, _HASH = 4, 16
_LEAVES: Mapping[Kind, Written] = {
    Kind.EMAIL: "email",
    Kind.FREE_TEXT: "text",
    Kind.SECRET: "hash",
    **{kind: {"fake": kind.value} for kind in _NAMES},
}
_MACHINE = "macaddr"
_COLUMN: TypeAdapter[Method] = TypeAdapter(Method)


def choose(kind: Kind, column: Column, *, share: float, unique: bool, alike: bool) -> Written:
    """Return the method for a column.

    ``share`` of its values look like ``kind``; ``unique``: they must stay distinct;
    ``alike``: other columns refer to it, so that equal values need equal results.
    """
    movable = column if not column.partition_key else _movable(column)
    for written in _candidates(kind, movable, share):
        method = _COLUMN.validate_python(written)
        if alike and (not deterministic(method) or written == "null"):
            continue
        if unique and written == "shuffle" and not alike:
            continue
        if why_not(method, movable, unique=unique) is None:
            return written
    return "keep"


def for_document(paths: Mapping[str, Kind]) -> Written:
    """Return rules by path for a JSON column; where no path can be named, nothing of a document stays."""
    if not paths:
        return {"fixed": "{}"}
    return {"json": {path: _LEAVES.get(kind, "preserve") for path, kind in paths.items()}}


def _candidates(kind: Kind, column: Column, share: float) -> Iterator[Written]:
    if kind in (Kind.CARD, Kind.IBAN) and share > 0.5 and column.family is Family.TEXT:  # noqa: PLR2004 - most of them
        yield {"preserve": kind.value}
    if kind is Kind.IP and column.family is Family.TEXT:
        yield from ({"text": ["ip"]}, "preserve") if share > 0.5 else ("preserve",)  # noqa: PLR2004 - most of them
    if kind in _NAMES:
        yield {"fake": kind.value}
    if not (column.family is Family.OTHER and kind is Kind.DEVICE and not column.type.startswith(_MACHINE)):
        yield from _CANDIDATES.get(kind, ())
    if column.family is Family.TEXT and column.length is not None and _SHORTEST_HASH <= column.length < _HASH:
        yield {"hash": {"length": column.length}} if kind is Kind.SECRET else "preserve"
    yield from _FALLBACKS


def _movable(column: Column) -> Column:
    from dataclasses import replace  # noqa: PLC0415

    return replace(column, partition_key=False)  # rows move to the partition of their new value
