"""What the proofs have found so far: originals by where they are, each with the reason why it may be there.

Filled by :mod:`.prove` and :mod:`.explain`. It counts and names places; ids of values
stay inside, and their text is looked at only to judge it.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from psycopg import sql

from reconciler.engines.postgres.masking import reasons
from reconciler.engines.postgres.masking.sample import quoted
from reconciler.engines.postgres.masking.streams import LARGE_OBJECTS_DATA
from reconciler.errors import MaskingError
from reconciler.masking.evidence import Exposure
from reconciler.masking.matcher import KEY, is_control
from reconciler.masking.originals import drawn, json_paths
from reconciler.masking.vocabulary import erases

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    import psycopg

    from reconciler.engines.postgres.masking.streams import Relation
    from reconciler.masking.assignment import ColumnMasking
    from reconciler.masking.matcher import ValueId
    from reconciler.masking.report import Masked, Place, Sample

_NAMED = 10
_CATALOG, _LARGE_OBJECTS = "pg_catalog", "pg_largeobject"
_COMMENTS = (f"{_CATALOG}.pg_description.description", f"{_CATALOG}.pg_shdescription.description")
_BY_CHANCE, _ONE_IN = 3, 50
"""Originals of one column that can have come about by neighbouring bytes in one table."""
_FEW = 10
"""Originals from which on a column with half of all that were drawn is taken for a copy."""
_AT_PATHS = """
SELECT DISTINCT x #>> '{{}}' FROM ONLY {table} t, unnest({paths}::text[]) p,
    jsonb_path_query({column}::jsonb, p::jsonpath, silent => true) x WHERE x #>> '{{}}' = ANY({texts}::text[])
"""


class Findings:
    """Originals that were met after masking."""

    def __init__(self, masked: Masked) -> None:
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
        conn: psycopg.Connection,
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
            whys = [self._why(conn, number, some, database, relation, column) for column in columns]
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

    def reappeared(self, found: Iterable[ValueId]) -> None:
        """Note originals that a rule gave to other rows."""
        self._reasons[reasons.REAPPEARED].update(found)

    def not_selected(self, found: Iterable[ValueId]) -> None:
        """Note originals that are in rows that a rule does not select."""
        self._reasons[reasons.NOT_SELECTED].update(found)

    def fail(self, message: str) -> None:
        """Note what proves that masking did not do what it had to."""
        self._failures.append(message)

    def leak(self, number: int, where: str, found: Iterable[ValueId]) -> None:
        """Note originals that may not be where they are."""
        self._leaks[number, where].update(found)

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
        messages += [*map(_copied, self._copies()), *self._failures]
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
            catalog=table.schema == _CATALOG and table.name != _LARGE_OBJECTS,
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
                copied = _is_copy(one) and one.column.endswith(_COMMENTS)
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
        conn: psycopg.Connection,
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
            left = self._at_paths(conn, sample, ids)
            left -= self._left_out.get(place, frozenset())
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

    def _at_paths(self, conn: psycopg.Connection, sample: Sample, ids: Sequence[ValueId]) -> frozenset[str]:
        """Return which originals of a column of documents are still at the paths that its rule names."""
        query = sql.SQL(_AT_PATHS).format(
            table=quoted(*sample.table),
            paths=sql.Placeholder("paths"),
            column=quoted("t", sample.masking.column.name),
            texts=sql.Placeholder("texts"),
        )
        texts = [sample.originals[index] for _, index in ids]
        rows = conn.execute(query, {"paths": list(json_paths(sample.masking.method)), "texts": texts})
        return frozenset(row[0] for row in rows)


def _is_copy(one: Exposure) -> bool:
    return one.values >= max(_FEW, one.drawn // 2)


def _copied(one: Exposure) -> str:
    if one.catalog:
        return f"{one}: remove these comments in a script (COMMENT ON … IS NULL)"
    if one.column.endswith(": {}.{}".format(*LARGE_OBJECTS_DATA)):
        return f"{one}: write largeObjects: remove in a policy (or largeObjects: keep, if they are meant to keep them)"
    return f"{one}: write a rule for that column (keep, if it is meant to keep them)"


def _by_sample(found: Iterable[ValueId]) -> dict[int, list[ValueId]]:
    grouped: dict[int, list[ValueId]] = defaultdict(list)
    for value in found:
        grouped[value[0]].append(value)
    return grouped
