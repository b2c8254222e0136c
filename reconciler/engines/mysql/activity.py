"""Who is connected to a running clone.

Called by ``engine``. One short connection; what statements say is not looked at.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from reconciler.engines.mysql import server
from reconciler.engines.mysql.failures import SqlError
from reconciler.errors import UnavailableError
from reconciler.state.observed import Activity

if TYPE_CHECKING:
    from reconciler.engines.base import CloneWork

_MOST_APPLICATIONS = 10
_NOBODY = ("system user", "event_scheduler", "unauthenticated user")
_CONNECTED = """
SELECT id, UTC_TIMESTAMP() - INTERVAL IF(command = 'Sleep', time, 0) SECOND
FROM information_schema.processlist WHERE user NOT IN %s
"""
_APPLICATIONS = """
SELECT DISTINCT attr_value FROM performance_schema.session_connect_attrs
WHERE attr_name = 'program_name' AND processlist_id IN %s ORDER BY attr_value
"""
_SESSIONS = "SELECT coalesce(sum(total_connections), 0) FROM performance_schema.users WHERE user NOT IN %s"


def activity_of(work: CloneWork) -> Activity:
    """Look at a running clone.

    Raises:
        UnavailableError: it does not answer.

    """
    with server.connect(work, look=True) as admin:
        try:
            found = admin.rows(_CONNECTED, (*server.RESERVED, *_NOBODY))
            threads = tuple(int(row[0]) for row in found)
            applications = [str(row[0]) for row in admin.rows(_APPLICATIONS, threads)] if threads else []
            sessions = int(admin.value(_SESSIONS, server.RESERVED) or 0)
        except SqlError as error:
            raise UnavailableError(f"the server {work.server} does not say who is connected") from error
    times = [row[1].replace(tzinfo=UTC) for row in found if isinstance(row[1], datetime)]
    return Activity(len(found), max(times, default=None), tuple(applications[:_MOST_APPLICATIONS]), sessions)
