"""The end of masking: everything is moved into a data directory that never held an original.

Called by the session (``wipe``) after everything that writes. Undo, the dictionary's free
pages, the change buffer, logs and statistics of the old directory keep what rows once were,
and no setting or shutdown takes that out of them (docs/decisions/0027). Tables that masking
did not write are rebuilt before: their own free pages may have rows that production deleted.
A crash on the way is answered by throwing the build away.
"""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from reconciler.engines import files
from reconciler.engines.mysql import bootstrap, notes, server, settings
from reconciler.engines.mysql.link import quoted
from reconciler.engines.mysql.masking import catalogs, inventory, keys
from reconciler.engines.mysql.masking.carry import Carry
from reconciler.engines.mysql.masking.inventory import Way
from reconciler.errors import PermanentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from reconciler.engines.base import BuildWork
    from reconciler.engines.mysql.link import Link
    from reconciler.engines.mysql.masking.inventory import Database, Moved
    from reconciler.engines.mysql.product import Product

_T = TypeVar("_T")
_BEFORE = "before"
"""Beside the data directory: the one that production's rows were in."""
_DEFINITIONS = "definitions"
"""Beside it: what InnoDB says of the files of its tables, which it takes back when it stops."""
_AT_ONCE = 100
_PAGE = "16384"
_OF_TRIGGERS = (".TRG", ".TRN")


def move(
    work: BuildWork,
    product: Product,
    written: frozenset[tuple[str, str]],
    stopped: Callable[[], AbstractContextManager[None]],
) -> None:
    """Move all databases into a fresh data directory; ``written`` are tables that were made anew by masking.

    Raises:
        PermanentError: a table could not be moved; names it.

    """
    with keys.connected(work) as link:
        databases = inventory.read(link)
        tables = [table for database in databases for table in database.tables]
        _rebuild(work, [one for one in tables if (one.database, one.name) not in written])
        carry, content = Carry(link, tables), catalogs.read(link)
        layout = {name: str(link.value(f"SELECT @@GLOBAL.{name}")) for name in settings.LAYOUT}
        major = ".".join(str(link.value("SELECT VERSION()")).split(".")[:2])
        _define(work, link, tables)
    with stopped():
        _renew(work, product, major, layout)
    with keys.connected(work) as link:
        for database in databases:
            link.rows(database.made_by)
        carry.make_sequences(link)
        catalogs.write(link, content)
        notes.add(work, {name: str(link.value(f"SELECT @@GLOBAL.{name}")) for name in settings.LAYOUT})
    _Arrival(work, databases, carry).run()
    shutil.rmtree(work.directory / _BEFORE)
    shutil.rmtree(work.directory / _DEFINITIONS)


def _rebuild(work: BuildWork, tables: Iterable[Moved]) -> None:
    """Write tables anew that masking did not: the largest first, several at once."""

    def rebuild(table: Moved) -> None:
        work.cancel.check()
        work.progress(f"rebuilding {table.database}.{table.name}")
        with keys.connected(work) as link:
            link.rows(f"ALTER TABLE {table.place} FORCE")

    _at_once(work, rebuild, [one for one in tables if one.way in (Way.TABLESPACE, Way.FILES)])


def _define(work: BuildWork, link: Link, tables: Iterable[Moved]) -> None:
    """Have InnoDB say what is in the files of its tables, which an import asks for."""
    place = work.directory / _DEFINITIONS
    place.mkdir(mode=0o700)
    imported = [one for one in tables if one.way is Way.TABLESPACE]
    for start in range(0, len(imported), _AT_ONCE):
        some = imported[start : start + _AT_ONCE]
        link.rows(f"FLUSH TABLES {', '.join(one.place for one in some)} FOR EXPORT")
        for one in some:
            for name in one.partition_files or (one.file,):
                found = _directory(work, link, one) / f"{name}.cfg"
                target = place / _directory_name(link, one)
                target.mkdir(exist_ok=True)
                shutil.copyfile(found, target / found.name, follow_symlinks=False)
        link.rows("UNLOCK TABLES")


def _renew(work: BuildWork, product: Product, major: str, layout: dict[str, str]) -> None:
    """Put an empty data directory in the place of the old one; its server is stopped."""
    if server.pid_file(work).exists():
        raise PermanentError("the build's server did not end in an orderly way: its tables cannot be moved")
    server.data_directory(work).rename(work.directory / _BEFORE)
    kept = {name: layout[name] for name in ("innodb_page_size", "lower_case_table_names")}
    options = [] if kept["innodb_page_size"] == _PAGE else [f"--innodb-page-size={kept['innodb_page_size']}"]
    bootstrap.initialise(work, product, server.choose(product, major), *options)
    settings.write_build(work, product, kept)


class _Arrival:
    """Databases on their way into the fresh directory."""

    def __init__(self, work: BuildWork, databases: tuple[Database, ...], carry: Carry) -> None:
        self._work, self._databases, self._carry = work, databases, carry
        self._data, self._before = server.data_directory(work), work.directory / _BEFORE
        self._definitions = work.directory / _DEFINITIONS

    def run(self) -> None:
        """Bring everything, then what shows it: views and triggers are files as well."""
        with keys.connected(self._work) as link:
            link.rows(f"CREATE DATABASE IF NOT EXISTS {quoted(keys.SCHEMA)}")
        self._carry.arrive(self._work, self._before)
        todo = [(database, table) for database in self._databases for table in database.tables]
        _at_once(self._work, lambda pair: self._table(*pair), todo)
        for database in self._databases:
            self._beside(database)
        with keys.connected(self._work) as link:
            keys.remove(link)
            link.rows("FLUSH TABLES")  # some were opened before their triggers were there

    def _table(self, database: Database, table: Moved) -> None:
        self._work.cancel.check()
        if table.way is Way.SEQUENCE:
            return
        self._work.progress(f"moving {table.database}.{table.name}")
        with keys.connected(self._work) as link:
            if table.way is Way.FILES:
                self._take(database, lambda name: _belongs(name, table.file))
            else:
                link.rows(f"USE {quoted(table.database)}")  # its references may name tables without one
                link.rows(table.made_by)
            if table.way is Way.TABLESPACE:
                self._import(link, database, table)
            if table.way is Way.ROWS:
                self._carry.fill(link, table)
            link.rows(f"ANALYZE TABLE {table.place}{' PERSISTENT FOR ALL' if table.counted else ''}")

    def _import(self, link: Link, database: Database, table: Moved) -> None:
        if not table.partitions:
            self._import_file(link, database, table.place, table.file, (database.directory, table.file))
            return
        for number, (partition, file) in enumerate(zip(table.partitions, table.partition_files, strict=True)):
            name = f"part_{number}_{table.file}"[:_LONGEST]
            place = f"{quoted(keys.SCHEMA)}.{quoted(name)}"
            link.rows(f"CREATE TABLE {place} LIKE {table.place}")
            link.rows(f"ALTER TABLE {place} REMOVE PARTITIONING")
            self._import_file(link, database, place, file, (keys.SCHEMA, inventory.file_name(link, name)))
            link.rows(f"ALTER TABLE {table.place} EXCHANGE PARTITION {quoted(partition)} WITH TABLE {place}")
            link.rows(f"DROP TABLE {place}")

    def _import_file(self, link: Link, database: Database, place: str, file: str, to: tuple[str, str]) -> None:
        """Import the file of a table into one that was made like it, whose directory and file are ``to``."""
        target = self._data / to[0]
        link.rows(f"ALTER TABLE {place} DISCARD TABLESPACE")
        (self._before / database.directory / f"{file}.ibd").rename(target / f"{to[1]}.ibd")
        definition = (self._definitions / database.directory / f"{file}.cfg").read_bytes()
        files.write_file(target, f"{to[1]}.cfg", definition, self._work.account)
        link.rows(f"ALTER TABLE {place} IMPORT TABLESPACE")
        files.remove(target, f"{to[1]}.cfg")

    def _beside(self, database: Database) -> None:
        def wanted(name: str) -> bool:
            return name.endswith(_OF_TRIGGERS) or name.removesuffix(".frm") in database.views

        self._take(database, wanted)

    def _take(self, database: Database, wanted: Callable[[str], bool]) -> None:
        for entry in list((self._before / database.directory).iterdir()):
            if wanted(entry.name):
                entry.rename(self._data / database.directory / entry.name)


_LONGEST = 60
"""Characters of a name of ours."""


def _belongs(name: str, file: str) -> bool:
    """Tell whether a file is one of a table: its name with an ending, or with that of a partition."""
    return name.startswith((f"{file}.", f"{file}#P#")) and not name.endswith(_OF_TRIGGERS)


def _directory_name(link: Link, table: Moved) -> str:
    return inventory.file_name(link, table.database)


def _directory(work: BuildWork, link: Link, table: Moved) -> Path:
    return server.data_directory(work) / _directory_name(link, table)


def _at_once(work: BuildWork, do: Callable[[_T], None], items: Iterable[_T]) -> None:
    with ThreadPoolExecutor(max(1, work.jobs)) as pool:
        running = [pool.submit(do, one) for one in items]
        try:
            for one in running:
                one.result()
        finally:
            for one in running:
                one.cancel()
