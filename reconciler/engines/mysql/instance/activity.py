"""Who is connected to a clone on an instance.

Called by :mod:`.front`. What statements say is not looked at, and nobody else's sessions are counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.engines.mysql.activity import sessions
from reconciler.engines.mysql.instance import accounts, catalog
from reconciler.engines.mysql.instance.marks import CloneMark
from reconciler.state.observed import Activity

if TYPE_CHECKING:
    from reconciler.engines.mysql.instance.marks import Registry
    from reconciler.engines.mysql.link import Link
    from reconciler.ids import VolumeId


def activity_of(link: Link, registry: Registry, volume: VolumeId) -> Activity:
    """Look at a generation of a clone: the sessions of its logins, who are let into the one with its names only."""
    found = catalog.databases(link, registry)
    marked = [one.row.mark for some in found.of_volume(volume).values() for one in some]
    clones = {mark.clone for mark in marked if isinstance(mark, CloneMark) and found.public(volume, mark.clone)}
    logins = tuple(login for clone in clones for login in accounts.logins_of(link, registry, clone))
    if not logins:
        return Activity(0, None, (), 0)
    return sessions(link, "BINARY user IN %s", logins)  # the list of sessions compares without regard to case
