"""Who is connected to a clone on an instance.

Called by :mod:`.front`. What statements say is not looked at, and nobody else's sessions are counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.engines.postgres.instance import catalog
from reconciler.state.observed import Activity

if TYPE_CHECKING:
    import psycopg

    from reconciler.engines.postgres.instance.link import Link
    from reconciler.ids import VolumeId

_MOST_APPLICATIONS = 10
_CONNECTED = """
SELECT count(*), max(greatest(backend_start, state_change)),
    coalesce((array_agg(DISTINCT application_name ORDER BY application_name)
        FILTER (WHERE application_name <> ''))[1:%(most)s], '{}'),
    (SELECT coalesce(sum(sessions), 0)::bigint FROM pg_stat_database WHERE datname = ANY(%(names)s))
FROM pg_stat_activity
WHERE backend_type IN ('client backend', 'walsender') AND pid <> pg_backend_pid()
    AND datname = ANY(%(names)s) AND usename = ANY(%(logins)s)
"""


def activity_of(link: Link, conn: psycopg.Connection, volume: VolumeId) -> Activity:
    """Look at a generation of a clone: the sessions of its own logins."""
    found = catalog.of_volume(catalog.databases(conn, link.reach.installation), volume)
    logins = [name for name, mark in catalog.roles(conn, link.reach.installation).items() if mark.kind == "user"]
    names = [database.name for database in found.values()]
    row = conn.execute(_CONNECTED, {"most": _MOST_APPLICATIONS, "names": names, "logins": logins}).fetchone()
    connections, last, applications, sessions = row if row is not None else (0, None, [], 0)
    return Activity(connections, last, tuple(applications), sessions)
