"""What is ours on an instance: databases and roles by their marks, and the groups that all of it stands on.

Used by the other modules of this package. Looks at the catalogs that all databases share, and
connects to no database but the one that the URL names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from reconciler.engines.postgres.instance import marks
from reconciler.engines.postgres.instance.marks import CloneMark, RoleMark, TemplateMark
from reconciler.errors import BusyError

if TYPE_CHECKING:
    import psycopg

    from reconciler.engines.postgres.instance.marks import Mark
    from reconciler.ids import CloneName, InstallationId, SnapshotId, VolumeId

_BROKEN = -2
"""``datconnlimit`` of what an interrupted DROP DATABASE left (DATCONNLIMIT_INVALID_DB in pg_database.h)."""
_DATABASES = """
SELECT datname, datallowconn, datconnlimit, pg_get_userbyid(datdba), shobj_description(oid, 'pg_database')
FROM pg_database ORDER BY datname
"""
_ROLES = """
SELECT rolname, shobj_description(oid, 'pg_authid') FROM pg_roles
WHERE shobj_description(oid, 'pg_authid') IS NOT NULL ORDER BY rolname
"""


@dataclass(frozen=True, slots=True)
class Database:
    """A database of the instance; ``mark`` None: it bears none of this installation."""

    name: str
    open: bool
    """Whether anybody can connect to it."""
    whole: bool
    """False: what an interrupted removal left."""
    owner: str
    mark: Mark | None


class Groups:
    """Names of the roles that nobody logs in as; each installation has its own."""

    def __init__(self, installation: InstallationId) -> None:
        short = installation.replace("-", "")[:8]
        self.databases = f"reconciler_{short}"
        """Owns our databases, and nothing in them."""
        self.owners = f"reconciler_{short}_owner"
        """Owns what is in them; owners of clones act as this role."""
        self.readers = f"reconciler_{short}_readonly"
        """May read everything in them; readers of clones are members."""
        self.workers = f"reconciler_{short}_worker"
        """May connect to all of them; only logins that exist for one piece of work are members."""

    @property
    def all(self) -> tuple[str, ...]:
        """All of them."""
        return self.databases, self.owners, self.readers, self.workers


def databases(conn: psycopg.Connection, installation: InstallationId) -> tuple[Database, ...]:
    """Return all databases of an instance, with the marks of this installation."""
    rows = conn.execute(_DATABASES).fetchall()
    return tuple(
        Database(name, is_open, limit != _BROKEN, owner, _ours(comment, installation))
        for name, is_open, limit, owner, comment in rows
    )


def roles(conn: psycopg.Connection, installation: InstallationId) -> dict[str, RoleMark]:
    """Return the roles that bear this installation's mark."""
    found = {name: _ours(comment, installation) for name, comment in conn.execute(_ROLES).fetchall()}
    return {name: mark for name, mark in found.items() if isinstance(mark, RoleMark)}


def of_volume(found: tuple[Database, ...], volume: VolumeId) -> dict[str, Database]:
    """Return the databases of a generation of a clone, by their names in the snapshot."""
    return {d.mark.database: d for d in found if isinstance(d.mark, CloneMark) and d.mark.volume == volume}


def of_clone(found: tuple[Database, ...], clone: CloneName) -> list[Database]:
    """Return the databases of all generations of a clone."""
    return [d for d in found if isinstance(d.mark, CloneMark) and d.mark.clone == clone]


def of_snapshot(found: tuple[Database, ...], snapshot: SnapshotId) -> dict[str, Database]:
    """Return the databases that clones of a snapshot are copied from, by their names in the snapshot."""
    return {d.mark.database: d for d in found if isinstance(d.mark, TemplateMark) and d.mark.snapshot == snapshot}


def require_free(found: tuple[Database, ...], name: str, where: str) -> None:
    """Insist that no database has a name that we want to make one under; what was left of ours is gone by then.

    Raises:
        BusyError: one has.

    """
    if any(database.name == name for database in found):
        raise BusyError(
            f"{where} has a database {name} that is not ours; it is left alone",
            reason="NameTaken",
            hint="rename that database, or the image or clone",
        )


def ensure_groups(conn: psycopg.Connection, installation: InstallationId, where: str) -> Groups:
    """Make the groups, if they are missing; a role of the name without our mark is left alone.

    Raises:
        BusyError: there is one.

    """
    groups = Groups(installation)
    marked = roles(conn, installation)
    missing = [name for name in groups.all if name not in marked]
    if not missing:
        return groups
    foreign = conn.execute("SELECT min(rolname) FROM pg_roles WHERE rolname = ANY(%s)", [missing]).fetchone()
    if foreign is not None and foreign[0] is not None:
        raise BusyError(f"{where} has a role {foreign[0]} that is not ours", reason="NameTaken")
    for name in missing:
        with conn.transaction():
            conn.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(name)))
            marks.put(conn, "ROLE", name, RoleMark(installation=installation, kind="group", purpose=name))
            conn.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(sql.Identifier(name)))
    return groups


def _ours(comment: str | None, installation: InstallationId) -> Mark | None:
    mark = marks.read(comment)
    return mark if mark is not None and mark.installation == installation else None
