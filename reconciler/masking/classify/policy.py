"""A proposal as a MaskingPolicy document, with confidence and reason beside every rule.

Called by the command line. What it writes is valid and complete: every column that needs
a decision has one, so ``unclassified: fail`` holds from the first build on.
"""

from __future__ import annotations

from io import StringIO
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconciler.masking.classify.methods import Written
    from reconciler.masking.classify.proposal import Proposed

_WIDTH = 10_000
"""Comments stay on the line of their rule."""


def policy_document(
    name: str, rows: Sequence[Proposed], *, key: str, databases: int = 1, large_objects: int = 0
) -> str:
    """Return the text of a policy called ``name``.

    ``key`` is the name of the secret; ``databases`` is how many the image has: rules of
    several say which one they are for.
    """
    rules = CommentedSeq()
    for (database, table), columns in groupby(
        (row for row in rows if row.method is not None), key=lambda row: (row.database, row.table)
    ):
        rule = CommentedMap({"table": str(table)})
        if databases > 1:
            rule["database"] = database
        rule["columns"] = _columns(list(columns))
        rules.append(rule)
    spec = CommentedMap({"key": _flow({"secret": key}), "unclassified": "fail", "unlisted": "fail"})
    if large_objects:
        spec["largeObjects"] = "remove"
        spec.yaml_add_eol_comment(
            f"there are {large_objects}; what is in them was not looked at", "largeObjects", column=0
        )
    spec["rules"] = rules
    document = CommentedMap(
        {
            "apiVersion": "reconciler/v1",
            "kind": "MaskingPolicy",
            "metadata": _flow({"name": name}),
            "spec": spec,
        }
    )
    head = (
        " Proposed by `reconciler classify`: a first draft for people who know the data. Each rule says how sure it is."
    )
    document.yaml_set_start_comment(head.strip())
    return _dump(document)


def written(method: Written) -> str:
    """Return a method as YAML has it on one line."""
    if isinstance(method, str):
        return f'"{method}"' if method == "null" else method
    return _dump(_flow(method)).strip()


def _columns(rows: Sequence[Proposed]) -> CommentedMap:
    columns = CommentedMap()
    for row in rows:
        method: Any = row.method
        if isinstance(method, dict):
            method = _flow(method)
        elif method == "null":
            method = DoubleQuotedScalarString(method)
        columns[row.column] = method
        columns.yaml_add_eol_comment(_remark(row), row.column, column=0)
    return columns


def _remark(row: Proposed) -> str:
    """Return confidence and reason; of what stays, the reason only where something spoke against it."""
    if row.method == "keep" and row.verdict.confidence == 0:
        return row.type
    return f"{row.verdict.confidence:.2f}: {row.reason}"


def _flow(value: Any) -> Any:  # noqa: ANN401 - plain data of YAML
    if isinstance(value, dict):
        made: CommentedMap | CommentedSeq = CommentedMap({key: _flow(inner) for key, inner in value.items()})
    elif isinstance(value, list):
        made = CommentedSeq([_flow(inner) for inner in value])
    else:
        return DoubleQuotedScalarString(value) if value == "null" else value
    made.fa.set_flow_style()
    return made


def _dump(document: Any) -> str:  # noqa: ANN401 - as ruamel takes it
    yaml = YAML()
    yaml.width = _WIDTH
    yaml.indent(mapping=2, sequence=4, offset=2)
    out = StringIO()
    yaml.dump(document, out)
    return out.getvalue()
