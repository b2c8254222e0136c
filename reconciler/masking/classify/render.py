"""A proposal for people and for programs.

Pure. Whatever is shown here is names, figures and reasons; there is no value in a proposal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reconciler.masking.classify.kinds import Kind
from reconciler.masking.classify.policy import written
from reconciler.masking.classify.proposal import Proposed
from reconciler.masking.classify.verdict import Verdict
from reconciler.masking.schema import TableName

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_HEADS = ("COLUMN", "TYPE", "METHOD", "SURE", "WHY")
_FOLLOWS = "-"


def proposal_text(rows: Sequence[Proposed], *, databases: int, colour: bool = False) -> str:
    """Return a table of all columns; those that are kept are dimmed on a terminal."""
    table = [_cells(row, databases) for row in rows]
    widths = [max(len(line[index]) for line in (_HEADS, *table)) for index in range(len(_HEADS) - 1)]
    lines = [_line(_HEADS, widths)]
    for row, cells in zip(rows, table, strict=True):
        line = _line(cells, widths)
        lines.append(f"\x1b[2m{line}\x1b[0m" if colour and row.method in (None, "keep") else line)
    masked = sum(row.method not in (None, "keep") for row in rows)
    return "\n".join([*lines, "", f"{len(rows)} columns, {masked} of them to be masked"])


def proposal_json(image: str, rows: Sequence[Proposed]) -> dict[str, Any]:
    """Return the document of ``-o json``: stable and complete."""
    return {
        "image": image,
        "columns": [
            {
                "database": row.database,
                "schema": row.table.schema,
                "table": row.table.name,
                "column": row.column,
                "type": row.type,
                "kind": str(row.verdict.kind) if row.verdict.personal else None,
                "method": row.method,
                "confidence": round(row.verdict.confidence, 2),
                "reason": row.reason,
            }
            for row in rows
        ],
    }


def proposed(document: Mapping[str, Any]) -> tuple[Proposed, ...]:
    """Return what :func:`proposal_json` was given, as far as people are shown it.

    Raises:
        KeyError: the document is not as that function writes it; likewise ValueError.

    """
    return tuple(
        Proposed(
            row["database"],
            TableName(row["schema"], row["table"]),
            row["column"],
            row["type"],
            row["method"],
            Verdict(None if row["kind"] is None else Kind(row["kind"]), row["confidence"], row["reason"]),
            row["reason"],
        )
        for row in document["columns"]
    )


def _cells(row: Proposed, databases: int) -> tuple[str, ...]:
    place = f"{row.database}: {row.place}" if databases > 1 else row.place
    method = _FOLLOWS if row.method is None else written(row.method)
    sure = f"{row.verdict.confidence:.2f}" if row.verdict.confidence else ""
    return place, row.type, method, sure, row.reason


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=False)]
    return "  ".join([*padded, cells[-1]]).rstrip()
