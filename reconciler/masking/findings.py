"""What the proofs have found so far: originals by where they are, each with the reason why it may be there.

Filled by the proofs of engines. It counts and names places; ids of values stay inside, and
their text is looked at only to judge it. What an engine alone can tell, it says: which
tables are its catalogs (:class:`Catalogs`), and what is at the paths of a document.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from reconciler.errors import MaskingError
from reconciler.masking import reasons
from reconciler.masking.evidence import Exposure
from reconciler.masking.matcher import KEY, is_control
from reconciler.masking.originals import drawn, json_paths
from reconciler.masking.vocabulary import erases

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from reconciler.masking.assignment import ColumnMasking
    from reconciler.masking.matcher import ValueId
    from reconciler.masking.report import Masked, Place, Sample
    from reconciler.masking.schema import TableName

    AtPaths = Callable[[Sample, Sequence[ValueId]], frozenset[str]]
    """Returns which originals of a column of documents are still at the paths that its rule names."""

_NAMED = 10
_BY_CHANCE, _ONE_IN = 3, 50
"""Originals of one column that can have come about by neighbouring bytes in one table."""
_FEW = 10
"""Originals from which on a column with half of all that were drawn is taken for a copy."""


class Relation(Protocol):
    """What has rows in which originals were met."""

    @property
    def name(self) -> TableName:
        """Its name."""
        ...

    @property
    def materialised(self) -> bool:
        """Whether its rows were made of those of other tables, maybe before the masking."""
        ...

    @property
    def is_catalog(self) -> bool:
        """Whether the database keeps its own words in it."""
        ...


def _advice(one: Exposure) -> str:
    return f"{one}: write a rule for that column (keep, if it is meant to keep them)"


@dataclass(frozen=True, slots=True)
class Catalogs:
    """What a product keeps of its own beside tables of users.

    ``comments``: ends of the names of columns in which people write what they like. ``advice``
    says what to do about a copy of originals.
    """

    has: Callable[[TableName], bool]
    comments: tuple[str, ...] = ()
    advice: Callable[[Exposure], str] = _advice


class Findings:
    """Originals that were met after masking."""

    def __init__(self, masked: Masked, catalogs: Catalogs) -> None:
        self._catalogs = catalogs
        self.samples: Sequence[Sample] = masked.samples
        self._rules = {
            (sample.database, sample.table, sample.masking.column.name): sample.masking
            for sample in sorted(masked.samples, key=lambda sample: drawn(sample.masking.method))
        }  # a rule of a policy, rather than a script that wrote to the same column
        self._ruled = {
            (table.database, table.table, column.column) for table in masked.tables for column in table.columns
        }
        self._reasons: dict[str, set[ValueId]] = defaultdict(set)
        self._kept = masked.kept
        self._left_out = masked.left_out
        self._vouched: frozenset[ValueId] = frozenset()
        self._derived: list[tuple[str, frozenset[ValueId]]] = []
        self._exposed: dict[tuple[int, Place], set[ValueId]] = defaultdict(set)
        self._leaks: dict[tuple[int, str], set[ValueId]] = defaultdict(set)
        self._failures: list[str] = []

    def accept(
        self,
        at_paths: AtPaths,
        database: str,
        relation: Relation,
        columns: Sequence[str],
        found: Collection[ValueId],
        *,
        beside: bool = False,
    ) -> frozenset[ValueId]:
        """Note originals that are in a column now, or in one of several; return those that may be there.

        ``beside``: they are there but for a character, which may be a neighbouring byte.
        A materialised view may be older than the masking: what it has is accepted as far
        as tables have been found to have it, by the time of :meth:`judge`.
        """
        ids = frozenset(value for value in found if value != KEY and not is_control(value))
        if KEY in found:
            self.fail(f"{database}: {relation.name} holds a masking key, or what is derived from it")
        if relation.materialised:
            if not beside:
                self._derived.append((f"{database}: {relation.name}", ids))
            return ids & self._vouched
        accepted: set[ValueId] = set()
        for number, some in _by_sample(ids).items():
            whys = [self._why(at_paths, number, some, database, relation, column) for column in columns]
            for value in some:
                named = [(why[value], column) for why, column in zip(whys, columns, strict=True)]
                why, column = next(((why, column) for why, column in named if why is not None), (None, columns[0]))
                if why is None:
                    if not beside:
                        self._leaks[number, f"{database}: {relation.name}.{column}"].add(value)
                elif beside:
                    accepted.add(value)
                    self._reasons[reasons.BESIDE].add(value)
                else:
                    accepted.add(value)
                    self._note(value, why, (database, relation.name, column))
        self._vouched |= accepted
        return frozenset(accepted)

    def _note(self, value: ValueId, why: str, place: Place) -> None:
        self._reasons[why].add(value)
        if why in {reasons.KEPT, reasons.UNDECIDED, reasons.CATALOG}:
            self._exposed[value[0], place].add(value)

    def few_of(self, found: Iterable[ValueId]) -> frozenset[ValueId]:
        """Return the originals of those samples of which these are so few that chance can explain them."""
        return frozenset(
            value
            for number, ids in _by_sample(found).items()
            if len(ids) <= max(_BY_CHANCE, len(self.samples[number].originals) // _ONE_IN)
            for value in ids
        )

    def still(self, value: ValueId) -> None:
        """Note an original that is a value of its own column now."""
        sample = self.samples[value[0]]
        why = self.reason(value, sample.cell, sample.masking)
        if why is None:
            self._leaks[value[0], sample.place].add(value)
        else:  # rows that the rule does not select have it, or else it was given to other rows
            self._reasons[why if why == reasons.NOT_SELECTED else reasons.REAPPEARED].add(value)

    def fail(self, message: str) -> None:
        """Note what proves that masking did not do what it had to."""
        self._failures.append(message)

    def judge(self) -> None:
        """Refuse what was found.

        Raises:
            MaskingError: an original is where it may not be, or a rule did not do what it had to (``MaskingLeak``).

        """
        self._judge_derived()
        messages = []
        for (number, where), ids in sorted(self._leaks.items()):
            sample = self.samples[number]
            messages.append(f"{where} still has {len(ids)} of {len(sample.originals)} originals of {sample.place}")
        messages += [*map(self._catalogs.advice, self._copies()), *self._failures]
        if messages:
            more = f"; and {len(messages) - _NAMED} more" if len(messages) > _NAMED else ""
            raise MaskingError("; ".join(messages[:_NAMED]) + more, reason="MaskingLeak")

    @property
    def excluded(self) -> Mapping[str, int]:
        """How many originals were met where they may be, by reason."""
        return {why: len(self._reasons[why]) for why in reasons.REASONS if self._reasons.get(why)}

    @property
    def exposed(self) -> tuple[Exposure, ...]:
        """Originals that columns have which are not masked."""
        found = (self._exposure(number, place, len(ids)) for (number, place), ids in sorted(self._exposed.items()))
        # names, comments and bodies of functions are written by people; a town or a first name among them is none
        strict = self._strict()
        return tuple(one for one in found if not one.catalog or one.place in strict or _is_copy(one))

    def _exposure(self, number: int, place: Place, values: int) -> Exposure:
        database, table, column = place
        return Exposure(
            self.samples[number].place,
            f"{database}: {table}.{column}",
            values,
            len(self.samples[number].originals),
            decided=place in self._kept,
            catalog=self._catalogs.has(table),
        )

    def _strict(self) -> frozenset[str]:
        """Return the columns of which no original may be elsewhere, as their methods erase."""
        return frozenset(sample.place for sample in self.samples if erases(sample.masking.method))

    def _copies(self) -> Iterator[Exposure]:
        """Yield the columns that nobody decided about and that have what a masked column had.

        One original of a method that erases is enough: it is a person's. What other methods
        draw (names, towns) also is in lists of such words. Of catalogs, only comments can
        be copies: names of tables are values of columns that speak of tables.
        """
        strict = self._strict()
        for one in self.exposed:
            if one.catalog:
                copied = _is_copy(one) and one.column.endswith(self._catalogs.comments)
            else:
                copied = not one.decided and (one.place in strict or _is_copy(one))
            if copied:
                yield one

    def _judge_derived(self) -> None:
        for view, ids in self._derived:
            for number, left in _by_sample(ids - self._vouched).items():
                self._leaks[number, f"{view}, a materialised view,"].update(left)
            if ids & self._vouched:
                self._reasons[reasons.DERIVED] |= ids & self._vouched

    def _why(
        self,
        at_paths: AtPaths,
        number: int,
        ids: Sequence[ValueId],
        database: str,
        relation: Relation,
        column: str,
    ) -> dict[ValueId, str | None]:
        """Return why originals of one sample may be in a column of a table."""
        place = (database, relation.name, column)
        sample, rule = self.samples[number], self._rules.get(place)
        if rule is None:
            return dict.fromkeys(ids, self._unmasked(relation, place))
        same = (sample.database, sample.table, sample.masking.column.name) == place
        if same and json_paths(sample.masking.method):
            left = at_paths(sample, ids) - self._left_out.get(place, frozenset())
            return {value: None if sample.originals[value[1]] in left else reasons.KEPT_PART for value in ids}
        return {value: self.reason(value, place, rule) for value in ids}

    def reason(self, value: ValueId, place: Place, rule: ColumnMasking) -> str | None:
        """Return why an original may be in a column with a rule; None when it is a leak."""
        sample = self.samples[value[0]]
        text = sample.originals[value[1]]
        left_out = text in self._left_out.get(place, ())
        return reasons.reason(text, sample, rule, same=sample.cell == place, left_out=left_out)

    def _unmasked(self, relation: Relation, place: Place) -> str:
        """Return why originals may be in a column of which nothing is drawn."""
        if place in self._ruled:
            return reasons.KEPT_PART
        if relation.is_catalog:
            return reasons.CATALOG
        return reasons.KEPT if place in self._kept else reasons.UNDECIDED


def _is_copy(one: Exposure) -> bool:
    return one.values >= max(_FEW, one.drawn // 2)


def _by_sample(found: Iterable[ValueId]) -> dict[int, list[ValueId]]:
    grouped: dict[int, list[ValueId]] = defaultdict(list)
    for value in found:
        grouped[value[0]].append(value)
    return grouped
