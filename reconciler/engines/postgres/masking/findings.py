"""What the proofs have found so far: originals by where they are, each with the reason why it may be there.

Filled by :mod:`.prove` and :mod:`.explain`. It counts and names places; ids of values
stay inside, and their text is looked at only to judge it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from reconciler.engines.postgres.masking import reasons
from reconciler.engines.postgres.masking.sample import quoted
from reconciler.errors import MaskingError
from reconciler.masking.matcher import is_control
from reconciler.masking.originals import json_paths

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import psycopg

    from reconciler.masking.matcher import ValueId
    from reconciler.masking.report import Masked, Sample
    from reconciler.masking.schema import TableName

_NAMED = 10
_AT_PATHS = """
SELECT DISTINCT x #>> '{{}}' FROM ONLY {table} t, unnest({paths}::text[]) p,
    jsonb_path_query({column}::jsonb, p::jsonpath, silent => true) x WHERE x #>> '{{}}' = ANY({texts}::text[])
"""


@dataclass(frozen=True, slots=True)
class Exposure:
    """``values`` of the ``drawn`` originals of ``place`` are also in ``column``, which no rule masks."""

    place: str
    column: str
    values: int
    drawn: int

    def __str__(self) -> str:
        return f"{self.column}, which no rule masks, has {self.values} of {self.drawn} originals of {self.place}"


class Findings:
    """Originals that were met after masking."""

    def __init__(self, masked: Masked) -> None:
        self.samples: Sequence[Sample] = masked.samples
        self._rules = {
            (sample.database, sample.table, sample.masking.column.name): sample.masking for sample in masked.samples
        }
        self._ruled = {
            (table.database, table.table, column.column) for table in masked.tables for column in table.columns
        }
        self._reasons: dict[str, set[ValueId]] = defaultdict(set)
        self._exposed: dict[tuple[int, str], set[ValueId]] = defaultdict(set)
        self._leaks: dict[tuple[int, str], set[ValueId]] = defaultdict(set)
        self._failures: list[str] = []

    def accept(
        self,
        conn: psycopg.Connection,
        database: str,
        table: TableName,
        columns: Sequence[str],
        found: Iterable[ValueId],
    ) -> frozenset[ValueId]:
        """Note originals that are in a column now, or in one of several; return those that may be there."""
        accepted: set[ValueId] = set()
        for number, ids in _by_sample(found).items():
            whys = [self._why(conn, number, ids, (database, table, column)) for column in columns]
            for value in ids:
                named = [(why[value], column) for why, column in zip(whys, columns, strict=True)]
                why, column = next(((why, column) for why, column in named if why is not None), (None, columns[0]))
                place = (number, f"{database}: {table}.{column}")
                if why is None:
                    self._leaks[place].add(value)
                    continue
                accepted.add(value)
                self._reasons[why].add(value)
                if why == reasons.UNMASKED:
                    self._exposed[place].add(value)
        return frozenset(accepted)

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
        messages = []
        for (number, where), ids in sorted(self._leaks.items()):
            sample = self.samples[number]
            messages.append(f"{where} still has {len(ids)} of {len(sample.originals)} originals of {sample.place}")
        messages += self._failures
        if messages:
            more = f"; and {len(messages) - _NAMED} more" if len(messages) > _NAMED else ""
            raise MaskingError("; ".join(messages[:_NAMED]) + more, reason="MaskingLeak")

    @property
    def excluded(self) -> Mapping[str, int]:
        """How many originals were met where they may be, by reason."""
        return {why: len(self._reasons[why]) for why in reasons.REASONS if self._reasons.get(why)}

    @property
    def exposed(self) -> tuple[Exposure, ...]:
        """Originals that columns have which no rule masks."""
        return tuple(
            Exposure(self.samples[number].place, column, len(ids), len(self.samples[number].originals))
            for (number, column), ids in sorted(self._exposed.items())
        )

    def _why(
        self, conn: psycopg.Connection, number: int, ids: Sequence[ValueId], place: tuple[str, TableName, str]
    ) -> dict[ValueId, str | None]:
        """Return why originals of one sample may be in a column."""
        sample, rule = self.samples[number], self._rules.get(place)
        if rule is None and place in self._ruled:
            return dict.fromkeys(ids, reasons.KEPT_PART)
        same = (sample.database, sample.table, sample.masking.column.name) == place
        if same and json_paths(sample.masking.method):
            left = self._at_paths(conn, sample, ids)
            return {value: None if sample.originals[value[1]] in left else reasons.KEPT_PART for value in ids}
        return {value: reasons.reason(sample.originals[value[1]], sample, rule, same=same) for value in ids}

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


def _by_sample(found: Iterable[ValueId]) -> dict[int, list[ValueId]]:
    grouped: dict[int, list[ValueId]] = defaultdict(list)
    for value in found:
        if not is_control(value):
            grouped[value[0]].append(value)
    return grouped
