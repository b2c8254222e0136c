"""The work that clones would each do again, and what is known of a build before its server stops.

Called by ``session``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.engines.mysql import server
from reconciler.engines.mysql.link import quoted
from reconciler.engines.mysql.settings import LAYOUT

if TYPE_CHECKING:
    from reconciler.engines.base import BuildWork
    from reconciler.engines.mysql.link import Link

_TABLES = """
SELECT table_schema, table_name FROM information_schema.tables
WHERE table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') AND engine IS NOT NULL
    AND table_schema NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema')
ORDER BY table_schema, table_name
"""


def settle_server(work: BuildWork) -> dict[str, str]:
    """Collect statistics where nobody has yet; return facts for the snapshot's manifest."""
    with server.connect(work, patient=True) as admin:
        if not work.source.physical:  # production's own files have them
            for schema, name in tables(admin):
                work.cancel.check()
                admin.rows(f"ANALYZE NO_WRITE_TO_BINLOG TABLE {quoted(schema)}.{quoted(name)}")
        facts = {name: str(admin.value(f"SELECT @@GLOBAL.{name}")) for name in LAYOUT}
        return facts | {"databases": "\n".join(server.user_databases(admin))}


def tables(admin: Link) -> list[tuple[str, str]]:
    """Return the tables of users as (database, name)."""
    return [(str(schema), str(name)) for schema, name in admin.rows(_TABLES)]
