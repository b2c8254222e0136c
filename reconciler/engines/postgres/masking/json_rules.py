"""Rules by path inside JSON documents, as one expression over jsonb.

Called by :mod:`.expressions`; computes what :mod:`reconciler.masking.json_paths` and the
leaves of :mod:`reconciler.masking.values` do.
"""

from __future__ import annotations

import json
from itertools import count
from typing import TYPE_CHECKING

from psycopg import sql

from reconciler.engines.postgres.masking import texts
from reconciler.engines.postgres.masking.keys import ONCE, once
from reconciler.masking.vocabulary import name_of
from reconciler.spec import masking_policy as spec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.masking.json_paths import Node, Step
    from reconciler.spec.masking_policy import Column as Method

_FOR_NULL = (spec.Hash, spec.Email, spec.Fake, spec.Pattern)


def masked(node: Node, document: sql.Composable, scope: texts.Scope) -> sql.Composable:
    """Return the masked document: jsonb, NULL for NULL."""
    return _place(node, document, scope, count())


def _place(node: Node, value: sql.Composable, scope: texts.Scope, numbers: Iterator[int]) -> sql.Composable:
    if node.method is not None:
        return _leaf(node.method, value, scope)
    for step, inner in node.steps.items():
        value = _step(step, inner, value, scope, numbers)
    return value


def _step(step: Step, inner: Node, value: sql.Composable, scope: texts.Scope, numbers: Iterator[int]) -> sql.Composable:
    alias = sql.Identifier(f"j{next(numbers)}")
    here = sql.SQL("{}.v").format(alias)
    template = _ELEMENTS if step is None else _MEMBER if isinstance(step, str) else _ELEMENT
    key = sql.Literal(str(step))
    below = sql.SQL("e.value") if step is None else sql.SQL("({} -> {})").format(here, _subscript(step))
    return sql.SQL("(SELECT {body} FROM (SELECT {value} AS v OFFSET 0) AS {alias})").format(
        body=sql.SQL(template).format(
            here=here, key=key, at=sql.Literal(step), inner=_place(inner, below, scope, numbers)
        ),
        value=value,
        alias=alias,
    )


def _subscript(step: str | int) -> sql.Composable:
    return sql.SQL("{}::text" if isinstance(step, str) else "{}::integer").format(sql.Literal(step))


_MEMBER = (
    "CASE WHEN jsonb_typeof({here}) = 'object' AND jsonb_exists({here}, {key})"
    " THEN jsonb_set({here}, ARRAY[{key}], {inner}) ELSE {here} END"
)
_ELEMENT = (
    "CASE WHEN jsonb_typeof({here}) = 'array' AND jsonb_array_length({here}) > {at}"
    " THEN jsonb_set({here}, ARRAY[{key}], {inner}) ELSE {here} END"
)
_ELEMENTS = (
    "CASE WHEN jsonb_typeof({here}) = 'array' THEN (SELECT coalesce(jsonb_agg({inner} ORDER BY e.at), '[]'::jsonb)"
    " FROM jsonb_array_elements({here}) WITH ORDINALITY AS e(value, at)) ELSE {here} END"
)


def _leaf(method: Method, value: sql.Composable, scope: texts.Scope) -> sql.Composable:
    """Return what a value becomes; objects, arrays and booleans become null rather than stay."""
    name = name_of(method)
    if name == "keep":
        return value
    if name == "null":
        return sql.SQL("'null'::jsonb")
    keep_null = isinstance(method, str) or method.keep_null
    if isinstance(method, spec.Fixed):
        fixed = sql.SQL("{}::jsonb").format(sql.Literal(json.dumps(method.fixed)))
        kept = sql.SQL("CASE WHEN jsonb_typeof(h.v) = 'null' THEN h.v ELSE {} END").format(fixed)
        return once(value, kept) if keep_null else fixed
    text = sql.SQL("h.v")
    number = texts.masked(method, text, scope)
    if name == "preserve":
        number = sql.SQL("({})::numeric").format(number)
    null: sql.Composable = sql.SQL("'null'::jsonb")
    if not keep_null and isinstance(method, _FOR_NULL):
        null = sql.SQL("to_jsonb({})").format(texts.masked(method, sql.SQL("NULL::text"), scope, for_null=True))
    return once(
        value,
        sql.SQL(
            "CASE jsonb_typeof(h.v) WHEN 'string' THEN to_jsonb({string}) WHEN 'number' THEN to_jsonb({number})"
            " WHEN 'null' THEN {null} ELSE 'null'::jsonb END"
        ).format(
            string=once(sql.SQL("(h.v #>> '{{}}') COLLATE \"C\"").format(), texts.masked(method, ONCE, scope)),
            number=once(sql.SQL("trim_scale((h.v #>> '{{}}')::numeric)::text COLLATE \"C\"").format(), number),
            null=null,
        ),
    )
