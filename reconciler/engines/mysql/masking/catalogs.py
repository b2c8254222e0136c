"""What of a server's own tables goes into a fresh data directory: accounts, rights, routines, events, time zones.

Called by :mod:`.fresh`. Everything else there is made anew: statistics, logs, registers of
tablespaces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.engines.mysql import server
from reconciler.engines.mysql.link import quoted

if TYPE_CHECKING:
    from reconciler.engines.mysql.link import Link, Row

_TABLES = (
    *("global_priv", "db", "tables_priv", "columns_priv", "procs_priv", "proxies_priv", "roles_mapping"),
    *("proc", "event"),
    *("time_zone", "time_zone_leap_second", "time_zone_name", "time_zone_transition", "time_zone_transition_type"),
)
_ACCOUNTS = "global_priv"
_COLUMNS = """
SELECT column_name FROM information_schema.columns
WHERE table_schema = 'mysql' AND table_name = %s ORDER BY ordinal_position
"""


@dataclass(frozen=True, slots=True)
class Content:
    """The rows of one table."""

    table: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def read(link: Link) -> tuple[Content, ...]:
    """Return what goes along; our own account is made for each server."""
    found = []
    for table in _TABLES:
        columns = tuple(str(name) for (name,) in link.rows(_COLUMNS, table))
        if columns:
            rows = link.rows(f"SELECT {', '.join(map(quoted, columns))} FROM mysql.{table}{_others(table)}")
            found.append(Content(table, columns, tuple(rows)))
    return tuple(found)


def write(link: Link, content: tuple[Content, ...]) -> None:
    """Put it in place of what a new server has."""
    for one in content:
        link.rows(f"DELETE FROM mysql.{one.table}{_others(one.table)}")
        if one.rows:
            places = ", ".join(["%s"] * len(one.columns))
            link.insert(
                f"INSERT INTO mysql.{one.table} ({', '.join(map(quoted, one.columns))}) VALUES ({places})", one.rows
            )
    link.rows("FLUSH PRIVILEGES")


def _others(table: str) -> str:
    return f" WHERE user <> '{server.ADMIN}'" if table == _ACCOUNTS else ""
