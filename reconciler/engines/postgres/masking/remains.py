"""Rows that were removed from the data before the build began, and are still in the pages of its files.

Called by the session after the build is settled: every dead row is off its page then,
and what is left of it lies in free space (:mod:`.pages`). A physical source brings such
remains along, in tables that no rule names and nothing counts; compressed ones are seen
by no search of bytes. Rewriting whatever may have some would rewrite nearly everything,
so only pages that have some are written, and for that the server is stopped meanwhile:
it may hold these pages in memory. It changes nothing that a server can read.

**What need not be read.** Pages that are, byte for byte, in the image's last snapshot
(:mod:`reconciler.masking.sameness`): they were looked at when that was built, or when the
one before it was, and so on to a build in which every page was. Nothing had to be wiped
in them, or they would not be the source's any more. So they need nothing today, as long
as a page of that kind needs what it needed then (:data:`VERSION`). A B-tree with compressed
keys is no such file: it was built anew, so that the snapshot has none of its name.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from reconciler.engines import files
from reconciler.engines.postgres import server
from reconciler.engines.postgres.control import CLEAN, read_control
from reconciler.engines.postgres.masking import indexes, pages
from reconciler.errors import PermanentError
from reconciler.masking.evidence import Wiped
from reconciler.masking.sameness import same_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    import psycopg

    from reconciler.engines.base import BuildWork, InstalledServer
    from reconciler.masking.evidence import Base

# Tables with their TOAST and B-trees: other indexes keep more than rows in what looks like free space.
_FILES = """
SELECT pg_relation_filepath(c.oid), current_database(), i.indrelid::int8, i.indexrelid::int8
FROM pg_class c JOIN pg_am a ON a.oid = c.relam LEFT JOIN pg_index i ON i.indexrelid = c.oid
WHERE a.amhandler IN ('pg_catalog.heap_tableam_handler'::regproc, 'pg_catalog.bthandler'::regproc)
  AND c.relpersistence <> 't' AND pg_relation_filepath(c.oid) IS NOT NULL
"""
VERSION = 1
"""Of what is wiped: raised when more is than before, so that the next build looks at every page."""
_FORM = """
SELECT current_setting('block_size')::int, setting::int, current_setting('data_checksums') <> 'off'
FROM pg_settings WHERE name = 'segment_size'
"""


class _File(NamedTuple):
    """The first file of a relation, relative to the data directory; of a B-tree, its table as well."""

    path: str
    database: str
    table: int | None
    tree: int | None


def wipe(
    work: BuildWork,
    installed: InstalledServer,
    stopped: Callable[[], AbstractContextManager[None]],
    base: Base | None = None,
) -> Wiped:
    """Wipe free space of all tables and B-trees of a build; return how much was read, and how many pages had something.

    A B-tree with compressed keys, which are longer than most of them, is built anew: some
    may be of rows that are gone. ``stopped``: a block in which the build's server does not
    run. What is as in ``base`` is not read, if all of that went through a wipe of this version.

    Raises:
        PermanentError: a page is damaged, or the server did not shut down cleanly.
        CancelledError: the work became pointless.
        OSError: a file cannot be changed.

    """
    if base is not None and base.wiped != VERSION:
        base = None
    work.progress("wiping what was removed before the build")
    form, found = _look(work)
    data = server.data_directory(work)
    with stopped():
        state = read_control(installed, data).state
        if state != CLEAN:
            raise PermanentError(f"the build's database is not cleanly shut down but {state!r}")
        with ThreadPoolExecutor(work.jobs) as pool:
            seen = list(pool.map(lambda file: _wipe(work, data, file, form, base), found))
    packed = [file for file, one in zip(found, seen, strict=True) if one.packed]
    for database in sorted({file.database for file in packed}):
        with server.connect(work, database) as conn:
            _rebuild(conn, [file for file in packed if file.database == database])
    return Wiped(
        version=VERSION,
        full=base is None,
        pages=sum(one.wiped for one in seen),
        read_bytes=sum(one.read for one in seen),
        same_bytes=sum(one.same for one in seen),
    )


def _rebuild(conn: psycopg.Connection, trees: Sequence[_File]) -> None:
    wanted = {tree.tree for tree in trees}
    for index in indexes.read(conn, {tree.table for tree in trees if tree.table is not None}):
        if index.oid in wanted:
            indexes.rebuild(conn, index)


def _look(work: BuildWork) -> tuple[pages.Form, list[_File]]:
    found: dict[str, _File] = {}  # what databases share is in the list of each
    with server.connect(work, "template1") as conn:
        form = pages.Form(*conn.execute(_FORM).fetchall()[0])
        names = server.connectable_databases(conn)
    for name in names:
        with server.connect(work, name) as conn:
            found |= {row[0]: _File(*row) for row in conn.execute(_FILES).fetchall()}
    return form, list(found.values())


def _wipe(work: BuildWork, data: Path, file: _File, form: pages.Form, base: Base | None) -> pages.Seen:
    seen = pages.Seen()
    for number in count():
        path = f"{file.path}.{number}" if number else file.path
        descriptor = files.open_to_change(data, path)
        if descriptor is None:
            break
        try:
            first, tree = number * form.segment, file.tree is not None
            same = same_parts(f"{data.name}/{path}", descriptor, base) if base is not None else []
            pages.wipe(descriptor, path, first, form, seen, same, tree=tree, cancel=work.cancel)
        finally:
            os.close(descriptor)
    return seen
