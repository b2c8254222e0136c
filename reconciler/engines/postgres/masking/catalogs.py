"""What only PostgreSQL can tell the findings: its catalogs, and what is at the paths of documents.

Used by :mod:`.prove` and :mod:`.explain`. It reads and decides nothing.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from psycopg import sql

from reconciler.engines.postgres.masking.sample import quoted
from reconciler.engines.postgres.masking.streams import LARGE_OBJECTS_DATA
from reconciler.masking.findings import Catalogs
from reconciler.masking.originals import json_paths

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

    from reconciler.masking.evidence import Exposure
    from reconciler.masking.findings import AtPaths
    from reconciler.masking.matcher import ValueId
    from reconciler.masking.report import Sample
    from reconciler.masking.schema import TableName

_CATALOG, _LARGE_OBJECTS = "pg_catalog", "pg_largeobject"
_COMMENTS = (f"{_CATALOG}.pg_description.description", f"{_CATALOG}.pg_shdescription.description")
_AT_PATHS = """
SELECT DISTINCT x #>> '{{}}' FROM ONLY {table} t, unnest({paths}::text[]) p,
    jsonb_path_query({column}::jsonb, p::jsonpath, silent => true) x WHERE x #>> '{{}}' = ANY({texts}::text[])
"""


def at_paths(conn: psycopg.Connection) -> AtPaths:
    """Return what asks a connection for originals at the paths of a rule."""
    return partial(_at_paths, conn)


def _at_paths(conn: psycopg.Connection, sample: Sample, ids: Sequence[ValueId]) -> frozenset[str]:
    query = sql.SQL(_AT_PATHS).format(
        table=quoted(*sample.table),
        paths=sql.Placeholder("paths"),
        column=quoted("t", sample.masking.column.name),
        texts=sql.Placeholder("texts"),
    )
    texts = [sample.originals[index] for _, index in ids]
    rows = conn.execute(query, {"paths": list(json_paths(sample.masking.method)), "texts": texts})
    return frozenset(row[0] for row in rows)


def _is_catalog(table: TableName) -> bool:
    return table.schema == _CATALOG and table.name != _LARGE_OBJECTS


def _advice(one: Exposure) -> str:
    if one.catalog:
        return f"{one}: remove these comments in a script (COMMENT ON … IS NULL)"
    if one.column.endswith(": {}.{}".format(*LARGE_OBJECTS_DATA)):
        return f"{one}: write largeObjects: remove in a policy (or largeObjects: keep, if they are meant to keep them)"
    return f"{one}: write a rule for that column (keep, if it is meant to keep them)"


CATALOGS = Catalogs(_is_catalog, _COMMENTS, _advice)
