"""Who is connected to a clone on an instance.

Called by :mod:`.front`. What statements say is not looked at, and nobody else's sessions are counted.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from reconciler.engines.mysql.instance import accounts, catalog
from reconciler.engines.mysql.instance.marks import CloneMark
from reconciler.state.observed import Activity

if TYPE_CHECKING:
    from reconciler.engines.mysql.instance.marks import Registry
    from reconciler.engines.mysql.link import Link
    from reconciler.ids import VolumeId

_MOST_APPLICATIONS = 10
_CONNECTED = """
SELECT id, UTC_TIMESTAMP() - INTERVAL IF(command = 'Sleep', time, 0) SECOND
FROM information_schema.processlist WHERE BINARY user IN %s
"""
_APPLICATIONS = """
SELECT DISTINCT attr_value FROM performance_schema.session_connect_attrs
WHERE attr_name = 'program_name' AND processlist_id IN %s ORDER BY attr_value
"""
_SESSIONS = "SELECT coalesce(sum(total_connections), 0) FROM performance_schema.users WHERE user IN %s"


def activity_of(link: Link, registry: Registry, volume: VolumeId) -> Activity:
    """Look at a generation of a clone: the sessions of its logins, who are let into the one with its names only."""
    found = catalog.databases(link, registry)
    marked = [one.row.mark for some in found.of_volume(volume).values() for one in some]
    clones = {mark.clone for mark in marked if isinstance(mark, CloneMark) and found.public(volume, mark.clone)}
    logins = tuple(login for clone in clones for login in accounts.logins_of(link, registry, clone))
    if not logins:
        return Activity(0, None, (), 0)
    rows = link.rows(_CONNECTED, logins)
    threads = tuple(int(row[0]) for row in rows)
    applications = [str(row[0]) for row in link.rows(_APPLICATIONS, threads)] if threads else []
    times = [row[1].replace(tzinfo=UTC) for row in rows if isinstance(row[1], datetime)]
    sessions = int(link.value(_SESSIONS, logins) or 0)
    return Activity(len(rows), max(times, default=None), tuple(applications[:_MOST_APPLICATIONS]), sessions)
