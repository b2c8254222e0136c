"""Which files of an earlier snapshot may be left out of a search: relations, but for those of tables with rules.

Called by :mod:`.prove`. It only asks the catalogs, and where files lie on disk.

**Compressed values** are searched through the server, row by row. A row in a page that is
as in the earlier snapshot was in it, and live: what was dead or of nobody's transaction was
taken off its page when that was settled, and a page that something was taken off is not the
source's any more. A value outside of its row does not change as long as the row does not.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

from reconciler.engines.postgres import server
from reconciler.engines.postgres.masking.explain import is_relation
from reconciler.masking.sameness import other_parts, same_parts

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

    from reconciler.engines.base import BuildWork
    from reconciler.engines.postgres.masking.streams import Relation
    from reconciler.fiemap import Part
    from reconciler.masking.evidence import Base
    from reconciler.masking.report import Masked

_FIRST_OF_USERS = 16384
_TID_RANGES = 140000
"""Version that reads some pages of a table without the others."""
_NEAR = 64
"""Pages between two that are to be read, which are read with them."""
_HEAP = """
SELECT pg_relation_filepath(%(oid)s), current_setting('block_size')::int,
    (SELECT setting::int FROM pg_settings WHERE name = 'segment_size'),
    EXISTS (SELECT FROM pg_attribute WHERE attrelid = %(oid)s AND atthasmissing)
"""
"""Rows may have values that are not in their pages: those of columns that were added with one."""
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


def pages_to_search(
    work: BuildWork, conn: psycopg.Connection, relation: Relation, base: Base | None
) -> list[Part] | None:
    """Return the pages of a table (the first, and the one after the last) with rows that ``base`` may not have.

    None: all. Nothing may be in the server's memory that is not in its files.
    """
    if base is None or relation.oid < _FIRST_OF_USERS or conn.info.server_version < _TID_RANGES:
        return None
    path, page, segment, missing = conn.execute(_HEAP, {"oid": relation.oid}).fetchall()[0]
    if path is None or missing or f"data/{path}" not in base.digests:
        return None
    pages: list[Part] = []
    for number in count():
        name = f"data/{path}.{number}" if number else f"data/{path}"
        parts = _others(work, name, base, page)
        if parts is None:
            return pages
        for start, end in parts:
            first, last = number * segment + start // page, number * segment + -(-end // page)
            if pages and first - pages[-1][1] < _NEAR:
                pages[-1] = pages[-1][0], last
            else:
                pages.append((first, last))
    raise AssertionError("files of a table come to an end")


def _others(work: BuildWork, name: str, base: Base, page: int) -> list[Part] | None:
    """Return the parts of a file that are not as in the base; None when there is no such file."""
    try:
        descriptor = os.open(work.directory / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        return list(other_parts(same_parts(name, descriptor, base), os.fstat(descriptor).st_size, page))
    finally:
        os.close(descriptor)


def first_file(conn: psycopg.Connection, relation: Relation) -> str | None:
    """Return the first file of a table, relative to the volume."""
    path = conn.execute(_HEAP, {"oid": relation.oid}).fetchall()[0][0]
    return None if path is None else f"data/{path}"


def _may(path: str, ruled: set[str]) -> bool:
    node = _NODE.match(path)
    return is_relation(path) and node is not None and node[0] not in ruled
