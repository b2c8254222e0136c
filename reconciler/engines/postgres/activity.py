"""Who is connected to a running clone.

Called by ``engine``. One short connection to a database that users of clones do not work
in; it waits for nothing, and never longer than a few seconds. What statements say is not
looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

from reconciler.engines.postgres import server
from reconciler.errors import UnavailableError
from reconciler.state.observed import Activity

if TYPE_CHECKING:
    from reconciler.engines.base import CloneWork

_MILLISECONDS = 3000
_MOST_APPLICATIONS = 10
_COUNTS_SESSIONS = 140_000
"""From this version on ``pg_stat_database`` counts sessions; before, only those that a look meets are known."""
_CONNECTED = """
SELECT count(*), max(greatest(backend_start, state_change)),
    coalesce((array_agg(DISTINCT application_name ORDER BY application_name)
        FILTER (WHERE application_name <> ''))[1:%(most)s], '{}')
FROM pg_stat_activity
WHERE backend_type IN ('client backend', 'walsender') AND pid <> pg_backend_pid()
    AND coalesce(usename, '') <> ALL (%(ours)s)
"""
_SESSIONS = "SELECT coalesce(sum(sessions), 0)::bigint FROM pg_stat_database WHERE datname <> current_database()"


def activity_of(work: CloneWork) -> Activity:
    """Look at a running clone.

    Raises:
        UnavailableError: it does not answer, or not soon enough.

    """
    ours = [*server.OUR_ROLES, server.admin_role(work)]
    with server.connect(work, "template1") as conn:
        conn.patience = _MILLISECONDS / 1000
        try:
            conn.execute(f"SET statement_timeout = {_MILLISECONDS}")
            row = conn.execute(_CONNECTED, {"most": _MOST_APPLICATIONS, "ours": ours}).fetchone()
            counted = conn.execute(_SESSIONS).fetchone() if conn.info.server_version >= _COUNTS_SESSIONS else None
        except psycopg.Error as error:
            raise UnavailableError(f"the server {work.server} does not say who is connected") from error
    connections, last, applications = row if row is not None else (0, None, [])
    return Activity(connections, last, tuple(applications), counted[0] if counted is not None else 0)
