"""What clones on an instance are called there: names that its other users see, too.

Used by engines, which make the databases and logins, and by whoever tells people how to reach
them. Names say nothing of whose a thing is: only its mark does.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconciler.ids import CloneName, SnapshotId, VolumeId

_LONGEST = 63
"""Bytes of a name in PostgreSQL (NAMEDATALEN - 1), which cuts off longer ones by itself."""
_DIGEST = 8


def public_name(clone: CloneName, database: str, databases: Sequence[str]) -> str:
    """Return the name of a clone's database for its users: the clone's, with the database's own if it has several."""
    return bounded(clone if len(databases) <= 1 else f"{clone}_{database}")


def private_name(volume: VolumeId, database: str, databases: Sequence[str]) -> str:
    """Return the name of a database of one generation of a clone, while that is not the one to be used."""
    return bounded(volume if len(databases) <= 1 else f"{volume}_{database}")


def template_name(snapshot: SnapshotId, database: str, databases: Sequence[str]) -> str:
    """Return the name of the database that a database of clones is copied from."""
    return bounded(f"{snapshot}.template" if len(databases) <= 1 else f"{snapshot}.template_{database}")


def login_name(clone: CloneName, user: str) -> str:
    """Return the name of the login of a clone's user: logins belong to the whole instance."""
    return bounded(f"{clone}_{user}")


def bounded(name: str) -> str:
    """Return a name that fits, with a digest of all of it in place of what does not."""
    data = name.encode()
    if len(data) <= _LONGEST:
        return name
    digest = hashlib.sha256(data).hexdigest()[:_DIGEST]
    return f"{data[: _LONGEST - _DIGEST - 1].decode(errors='ignore')}-{digest}"
