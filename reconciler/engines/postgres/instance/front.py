"""Clones as databases on a PostgreSQL server that exists already: the front of this package.

Called by ``observe``, ``apply`` and the runtime of an instance, through
:class:`reconciler.engines.base.Instance`. Each method has a session of its own. What changes
roles or names goes one after the other; loading and copying, which take time, go side by side.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from reconciler.engines.base import HostedTemplate
from reconciler.engines.instances import require_fit, too_old
from reconciler.engines.postgres.instance import activity, catalog, databases, loading, roles, scripts
from reconciler.engines.postgres.instance.link import Link
from reconciler.engines.postgres.instance.marks import CloneMark, TemplateMark
from reconciler.errors import ReconcilerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

    from reconciler.engines.base import CloneWork, Instance, InstanceReach, Progress, UserWish
    from reconciler.engines.postgres.instance.catalog import Groups
    from reconciler.ids import CloneName, InstallationId, SnapshotId, VolumeId
    from reconciler.proc import CancelToken
    from reconciler.state.desired import Script
    from reconciler.state.observed import Activity, SnapshotManifest
    from reconciler.state.servers import Hosted


class PostgresInstances:
    """Servers of PostgreSQL that exist already."""

    def at(self, reach: InstanceReach) -> Instance:
        return PostgresInstance(reach)


class PostgresInstance:
    """One of them."""

    def __init__(self, reach: InstanceReach) -> None:
        self._link = Link(reach)
        self._making = databases.Making()
        self._working = databases.Making()
        self._changing = threading.Lock()
        self._made: dict[VolumeId, tuple[UserWish, ...]] = {}
        """Users of generations that are being made, whose logins were made with them."""

    def address(self) -> tuple[str, int]:
        return self._link.address()

    def version(self) -> str:
        with self._link.session(look=True) as conn:
            return conn.info.parameter_status("server_version") or ""

    def templates(self) -> tuple[HostedTemplate, ...]:
        complete: dict[SnapshotId, list[str]] = {}
        instant: dict[SnapshotId, bool | None] = {}
        with self._link.session(look=True) as conn:
            for database in catalog.databases(conn, self._installation):
                if isinstance(mark := database.mark, TemplateMark):
                    known = complete.setdefault(mark.snapshot, [])
                    instant[mark.snapshot] = mark.instant
                    if databases.is_complete(database):
                        known.append(mark.database)
        return tuple(HostedTemplate(one, tuple(sorted(names)), instant[one]) for one, names in complete.items())

    def served(self) -> frozenset[VolumeId]:
        with self._link.session(look=True) as conn:
            found = catalog.databases(conn, self._installation)
        marked = [(d.mark.volume, d.open and d.whole) for d in found if isinstance(d.mark, CloneMark)]
        return frozenset(volume for volume, _open in marked) - {volume for volume, is_open in marked if not is_open}

    def check(self, snapshot: SnapshotManifest) -> None:
        require_fit(snapshot, self._link.where, engine="postgres", product="PostgreSQL")
        with self._link.session(look=True) as conn:
            major = conn.info.server_version // 10_000
        if major < int(snapshot.major):
            raise too_old(snapshot, self._link.where, f"PostgreSQL {major}")

    def load(self, work: CloneWork, *, jobs: int, progress: Progress) -> None:
        with self._link.session() as conn:
            groups = self._groups(conn)
            databases.wipe_up(self._link, conn, groups, self._making)
            self._drop_templates(conn, work.snapshot.snapshot)
        target = loading.Target(self._link, groups, self._making, self._working)
        try:
            loading.load(target, work, jobs=jobs, progress=progress)
        except BaseException:
            with suppress(ReconcilerError):  # the next plan finds what is left
                self.unload(work.snapshot.snapshot)
            raise

    def unload(self, snapshot: SnapshotId) -> None:
        with self._link.session() as conn:
            self._drop_templates(conn, snapshot)

    def create(self, hosted: Hosted, users: Sequence[UserWish] = ()) -> None:
        with self._link.session() as conn:
            databases.create(self._link, conn, self._groups(conn), self._making, hosted, users, self._changing)
        self._made[hosted.volume] = tuple(users)

    def serve(self, hosted: Hosted) -> None:
        with self._changing, self._link.session() as conn:
            logins = roles.logins_of(conn, self._link, hosted.clone)
            databases.serve(self._link, conn, tuple(logins.values()), hosted)

    def refuse(self, volume: VolumeId) -> None:
        with self._link.session() as conn:
            databases.refuse(self._link, conn, volume)

    def remove(self, volume: VolumeId) -> None:
        with self._changing, self._link.session() as conn:
            databases.remove(self._link, conn, volume)
            groups = catalog.Groups(self._installation)
            databases.wipe_up(self._link, conn, groups, self._making)
            roles.drop_unused(self._link, conn)
        self._made.pop(volume, None)

    def rename(self, formerly: CloneName, clone: CloneName) -> None:
        with self._changing, self._link.session() as conn:
            databases.rename(self._link, conn, formerly, clone)

    def deliver(self, hosted: Hosted, users: Sequence[UserWish], drop: Sequence[str]) -> None:
        made = self._made.pop(hosted.volume, ())
        if made == tuple(users) and not drop and not hosted.private:
            return  # serving it has let them in
        with self._changing, self._link.session() as conn:
            roles.deliver(self._link, conn, self._known_groups(conn), hosted, users, drop)

    def run_scripts(self, hosted: Hosted, wanted: Sequence[Script], cancel: CancelToken) -> None:
        with self._link.session() as conn:
            groups = self._groups(conn)
            scripts.run_scripts(self._link, conn, groups, self._working, hosted, wanted, cancel)

    def activity(self, volume: VolumeId) -> Activity:
        with self._link.session(look=True) as conn:
            return activity.activity_of(self._link, conn, volume)

    def close(self) -> None:
        self._link.close()

    @property
    def _installation(self) -> InstallationId:
        return self._link.reach.installation

    def _groups(self, conn: psycopg.Connection) -> Groups:
        with self._changing:
            return self._known_groups(conn)

    def _known_groups(self, conn: psycopg.Connection) -> Groups:
        return catalog.ensure_groups(conn, self._installation, self._link.where)

    def _drop_templates(self, conn: psycopg.Connection, snapshot: SnapshotId) -> None:
        for database in catalog.of_snapshot(catalog.databases(conn, self._installation), snapshot).values():
            databases.forget_template(conn, database)
            databases.drop(self._link, conn, database.name)
