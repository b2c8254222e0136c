"""What values say: shares of a column's values that are what only personal data is.

Called by :mod:`.verdict` with values of one column. Nothing here keeps or returns a value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.clock import SystemClock
from reconciler.masking.classify import numbers, people
from reconciler.masking.classify.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

_LEAST_DISTINCT = 8
_ROWS = 40
"""Fewer values than that say nothing about how many different ones there can be."""
_REPEATED = 200
_SENTENCE = 4
"""Words of the shortest one."""
_OLDEST, _YOUNGEST = 1900, 3
"""Year in which the oldest people were born, and years since the youngest in anybody's database were."""
_TESTS: Mapping[Kind, Callable[[str], bool]] = {
    Kind.EMAIL: numbers.is_email,
    Kind.IP: numbers.is_ip,
    Kind.PHONE: numbers.is_phone,
    Kind.CARD: numbers.is_card,
    Kind.IBAN: numbers.is_iban,
    Kind.DEVICE: numbers.is_device,
    Kind.SECRET: numbers.is_secret,
    Kind.POSTCODE: numbers.is_postcode,
    Kind.COMPANY: people.is_company,
    Kind.STREET: people.is_street,
    Kind.CITY: people.is_city,
    Kind.FIRST_NAME: people.is_first,
    Kind.LAST_NAME: people.is_last,
    Kind.FULL_NAME: people.is_full,
}


@dataclass(frozen=True, slots=True)
class Looks:
    """Shares (0 to 1) of the distinct values of a column that look like each kind.

    ``inside`` is the share that has an address or number of a person in it, ``naming``
    the share that names somebody: titles of books do that, too. ``prose`` is the share of
    sentences. ``distinct`` and ``count`` tell how much there was to look at.
    """

    shares: Mapping[Kind, float]
    inside: float = 0.0
    naming: float = 0.0
    prose: float = 0.0
    distinct: int = 0
    count: int = 0

    @property
    def few(self) -> bool:
        """Whether the values are of a small fixed set, as of a status, though there are many rows."""
        return self.count >= _ROWS and self.distinct < max(_LEAST_DISTINCT, self.count // _REPEATED)

    def share(self, kind: Kind) -> float:
        """Return a kind's share."""
        return self.shares.get(kind, 0.0)


EMPTY = Looks({})


def look(values: Sequence[str]) -> Looks:
    """Look at values of one column."""
    stripped = [value.strip() for value in values if value.strip()]
    distinct = tuple(dict.fromkeys(stripped))
    if not distinct:
        return EMPTY
    shares = {kind: _share(distinct, test) for kind, test in _TESTS.items()}
    shares[Kind.NATIONAL_ID] = numbers.national(distinct)
    return Looks(
        {kind: share for kind, share in shares.items() if share > 0},
        inside=_share(distinct, numbers.reaches_someone),
        naming=_share(distinct, people.names_someone),
        prose=_share(distinct, lambda value: len(value.split()) >= _SENTENCE),
        distinct=len(distinct),
        count=len(stripped),
    )


def birth_years(values: Iterable[str]) -> float:
    """Return the share of dates, or years, in which people who live now can have been born."""
    years = [year for value in values if (year := numbers.year(value)) is not None]
    latest = SystemClock().now().year - _YOUNGEST
    return sum(_OLDEST <= year <= latest for year in years) / len(years) if years else 0.0


def _share(values: Sequence[str], test: Callable[[str], bool]) -> float:
    return sum(map(test, values)) / len(values)
