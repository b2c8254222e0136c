"""The database of a clone, copied from a template within the instance.

Called by :mod:`.databases`. Tables and code are made by the worker of the clone, from the
statements that the instance shows of the template's; rows are copied by the same account, since
computed columns are code, too, or as files (:mod:`.tablespaces`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.engines.mysql import catalog, rows, transfer
from reconciler.engines.mysql.instance import definitions, tablespaces
from reconciler.engines.mysql.link import quoted
from reconciler.errors import BusyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconciler.engines.mysql.catalog import Table
    from reconciler.engines.mysql.instance.accounts import Worker
    from reconciler.engines.mysql.instance.link import InstanceLink
    from reconciler.engines.mysql.instance.marks import Row
    from reconciler.engines.mysql.link import Link


def copy(access: InstanceLink, link: Link, worker: Worker, template: Row, made: Row) -> None:
    """Copy all of a template into an empty database."""
    tables, _views = catalog.tables(link, (template.name,))
    code, target = definitions.read(link, template.name), made.name
    with access.session_as(worker.name, worker.password) as session, access.told():
        for table in sorted(tables, key=lambda table: not table.sequence):  # defaults of columns call sequences
            make_table(link, session, table, target)
        full = tablespaces.take(access, link, template, made)
        for table in tables:
            if table.has_rows and not (table.sequence or table.name in full):
                _fill(link, session, table, target)
        analyse(link, tables, target)
        refused = definitions.make(session, code, target)
    if refused:
        raise BusyError(f"{access.where}: {definitions.named(refused)}", reason="InstanceRefused")


def analyse(link: Link, tables: Sequence[Table], target: str) -> None:
    """Take statistics of the copies of tables in a database."""
    for table in tables:
        if table.has_rows and not table.sequence:
            link.rows(f"ANALYZE NO_WRITE_TO_BINLOG TABLE {quoted(target)}.{quoted(table.name)}")


def make_table(source: Link, session: Link, table: Table, target: str) -> None:
    """Make a table or sequence in another database, as the account of the session."""
    session.rows(f"USE {quoted(target)}")
    session.execute(catalog.definition(source, table).encode())
    if table.sequence:
        session.rows(f"SELECT SETVAL({quoted(table.name)}, {catalog.sequence_value(source, table)}, 0)")


def _fill(link: Link, session: Link, table: Table, target: str) -> None:
    wanted = table.versioned and transfer.takes_history(link)
    columns, history = rows.columns_of(link, table.database, table.name, history=wanted)
    if history:
        session.rows(transfer.HISTORY)
    names = ", ".join(quoted(column.name) for column in columns)
    place = f"{quoted(target)}.{quoted(table.name)}"
    period = " FOR SYSTEM_TIME ALL" if history else ""
    session.rows(f"INSERT INTO {place} ({names}) SELECT {names} FROM {table.place}{period}")  # noqa: S608 - quoted names
