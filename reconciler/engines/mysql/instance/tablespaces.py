"""Tables of InnoDB copied as their files, where the files of an instance are at hand on this host.

Called by :mod:`.copies`. The instance exports the tables of a template, we copy their files into
the directory of the clone's database, and it imports them (MariaDB's documentation, "Copying
Transportable Tablespaces"). Blocks are shared with the copy where the file system can, but not for
long: an import writes every page anew, as each holds the number of its tablespace. So a clone
takes the room of a full copy, and about a tenth of the time that its rows would.

Files that come in this way were written by the instance itself: none is of a snapshot, whose pages
nobody has looked at. A server that is followed by others has to copy rows: they have no files to
import.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from reconciler.engines import files
from reconciler.engines.mysql.link import quoted
from reconciler.errors import UnavailableError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from reconciler.engines.mysql.instance.link import InstanceLink
    from reconciler.engines.mysql.instance.marks import Row
    from reconciler.engines.mysql.link import Link

_AT_ONCE = 100
_OPTIONS = "db.opt"
"""Beside the tables of each database: what it was made with, its comment included."""
_ALONE = "SELECT @@innodb_file_per_table AND NOT @@log_bin"
_FOLLOWED_BY_GALERA = "SHOW GLOBAL VARIABLES LIKE 'wsrep_on'"
_TABLES = """
SELECT table_name, CAST(CONVERT(table_name USING filename) AS BINARY) FROM information_schema.tables t
WHERE table_schema = %s AND engine = 'InnoDB' AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED')
    AND create_options NOT LIKE '%%partitioned%%' AND create_options NOT LIKE '%%ENCRYPT%%'
    AND NOT EXISTS (SELECT 1 FROM information_schema.statistics s WHERE s.table_schema = t.table_schema
        AND s.table_name = t.table_name AND s.index_type NOT IN ('BTREE', 'HASH', 'RTREE', 'SPATIAL'))
ORDER BY table_name
"""
"""Indexes of other types have files of their own (full text, vectors), and partitions are imported one by one.

These go by their rows. A vector index that an import lacks is not noticed by it (MDEV-35069).
"""


class _Table(NamedTuple):
    name: str
    file: str


def take(access: InstanceLink, link: Link, template: Row, target: Row) -> frozenset[str]:
    """Fill the tables of an empty database from the files of a template; return the names of those that are full.

    Raises:
        UnsupportedError: what the configuration says is not the data directory of the instance, or we
            cannot give it files.

    """
    base = access.reach.data_directory
    if base is None or not link.value(_ALONE) or any(row[1] == "ON" for row in link.rows(_FOLLOWED_BY_GALERA)):
        return frozenset()
    source, place = (_directory(access, link, base, row) for row in (template, target))
    found = [_Table(str(name), bytes(file).decode()) for name, file in link.rows(_TABLES, template.name)]
    tables = [one for one in found if (source / f"{one.file}.ibd").is_file()]
    for one in tables:
        link.rows(f"ALTER TABLE {_place(target, one)} DISCARD TABLESPACE")
    with access.exporting:  # the end of one export takes the descriptions of another one with it
        for start in range(0, len(tables), _AT_ONCE):
            _export(link, template, tables[start : start + _AT_ONCE], source, place)
    for one in tables:
        link.rows(f"ALTER TABLE {_place(target, one)} IMPORT TABLESPACE")
        files.remove(place, f"{one.file}.cfg")
    return frozenset(one.name for one in tables)


def _export(link: Link, template: Row, tables: Sequence[_Table], source: Path, place: Path) -> None:
    link.rows(f"FLUSH TABLES {', '.join(_place(template, one) for one in tables)} FOR EXPORT")
    try:
        for one in tables:
            for ending in ("ibd", "cfg"):
                files.copy_file(source, place, f"{one.file}.{ending}")
    except OSError as error:
        raise UnavailableError(f"cannot copy {error.filename or 'a file'} in {place}: {error.strerror}") from error
    finally:
        link.rows("UNLOCK TABLES")


def _directory(access: InstanceLink, link: Link, base: Path, row: Row) -> Path:
    """Return the directory of a database of ours, once it is certain that it is the one of the instance."""
    name = bytes(link.value("SELECT CAST(CONVERT(%s USING filename) AS BINARY)", row.name)).decode()
    hint = f"correct or remove runtimes.instance.{access.reach.name}.dataDirectory in the configuration"
    options = files.read_small(base / name / _OPTIONS)
    if options is None or row.token not in options:
        raise UnsupportedError(
            f"{base} is not the data directory of {access.where}, or cannot be read by us",
            reason="DataDirectoryDiffers",
            hint=hint,
        )
    if os.geteuid() not in (0, (base / name).lstat().st_uid):
        raise UnsupportedError(
            f"{base} is of another account than ours: {access.where} could not write to files that we put there",
            reason="DataDirectoryDiffers",
            hint=f"run the reconciler as root or as that account; or {hint}",
        )
    return base / name


def _place(row: Row, table: _Table) -> str:
    return f"{quoted(row.name)}.{quoted(table.name)}"
