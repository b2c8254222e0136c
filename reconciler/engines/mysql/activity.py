"""Who is connected to a running clone.

Called by ``engine``, and of clones on instances by :mod:`.instance.activity`. What statements say is not looked at.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, LiteralString

from reconciler.engines.mysql import server
from reconciler.engines.mysql.failures import SqlError
from reconciler.errors import UnavailableError
from reconciler.state.observed import Activity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconciler.engines.base import CloneWork
    from reconciler.engines.mysql.link import Link

_MOST_APPLICATIONS = 10
_NOBODY = ("system user", "event_scheduler", "unauthenticated user")
_CONNECTED = """
SELECT id, UTC_TIMESTAMP() - INTERVAL IF(command = 'Sleep', time, 0) SECOND
FROM information_schema.processlist WHERE {condition}
"""
_APPLICATIONS = """
SELECT DISTINCT attr_value FROM performance_schema.session_connect_attrs
WHERE attr_name = 'program_name' AND processlist_id IN %s ORDER BY attr_value
"""
_SESSIONS = "SELECT coalesce(sum(total_connections), 0) FROM performance_schema.users WHERE {condition}"


def activity_of(work: CloneWork) -> Activity:
    """Look at a running clone.

    Raises:
        UnavailableError: it does not answer.

    """
    with server.connect(work, look=True) as admin:
        try:
            return sessions(admin, "user NOT IN %s", (*server.RESERVED, *_NOBODY))
        except SqlError as error:
            raise UnavailableError(f"the server {work.server} does not say who is connected") from error


def sessions(link: Link, condition: LiteralString, users: Sequence[str]) -> Activity:
    """Look at the sessions of the users for whom a ``condition`` on ``user``, with the place of ``users``, holds.

    Raises:
        SqlError: the server does not say it.

    """
    found = link.rows(_CONNECTED.format(condition=condition), users)
    threads = tuple(int(row[0]) for row in found)
    applications = [str(row[0]) for row in link.rows(_APPLICATIONS, threads)] if threads else []
    total = int(link.value(_SESSIONS.format(condition=condition), users) or 0)
    times = [row[1].replace(tzinfo=UTC) for row in found if isinstance(row[1], datetime)]
    return Activity(len(found), max(times, default=None), tuple(applications[:_MOST_APPLICATIONS]), total)
