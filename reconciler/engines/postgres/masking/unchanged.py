"""Which files of an earlier snapshot may be left out of a search: relations, but for those of tables with rules.

Called by :mod:`.prove`. It only asks the catalogs.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from reconciler.engines.postgres import server
from reconciler.engines.postgres.masking.explain import is_relation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconciler.engines.base import BuildWork
    from reconciler.masking.evidence import Base
    from reconciler.masking.report import Masked

_NODE = re.compile(r"data/(?:base/[0-9]+|global)/[0-9]+")
_FILES = """
WITH heap(oid) AS (
    SELECT unnest(ARRAY[c.oid, c.reltoastrelid]) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest(%s::text[], %s::text[]))
)
SELECT 'data/' || pg_relation_filepath(oid) FROM (
    SELECT oid FROM heap UNION SELECT indexrelid FROM pg_index JOIN heap ON indrelid = heap.oid
) f WHERE pg_relation_filepath(oid) IS NOT NULL
"""


def narrowed(work: BuildWork, base: Base | None, masked: Masked, databases: Sequence[str]) -> Base | None:
    """Return what of ``base`` need not be searched while it is as it was.

    Tables with rules, their TOAST and their indexes always are: masked values that have to
    be found there show that the search sees.
    """
    if base is None:
        return None
    ruled = {(one.database, one.table) for one in masked.tables} | {(one.database, one.table) for one in masked.samples}
    nodes: set[str] = set()
    for database in databases:
        tables = [table for of, table in ruled if of == database]
        with server.connect(work, database) as conn:
            rows = conn.execute(_FILES, [[table.schema for table in tables], [table.name for table in tables]])
            nodes.update(row[0] for row in rows)
    return replace(base, digests={path: digest for path, digest in base.digests.items() if _may(path, nodes)})


def _may(path: str, ruled: set[str]) -> bool:
    node = _NODE.match(path)
    return is_relation(path) and node is not None and node[0] not in ruled
