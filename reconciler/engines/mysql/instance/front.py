"""Clones as databases on a MariaDB server that exists already: the front of this package.

Called by ``observe``, ``apply`` and the runtime of an instance, through
:class:`reconciler.engines.base.Instance`. Each method has a session of its own. What changes
accounts or names goes one after the other; loading and copying, which take time, go side by side.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from reconciler.engines.base import HostedTemplate
from reconciler.engines.instances import require_fit, too_old
from reconciler.engines.mysql.instance import activity, catalog, databases, loading, scripts
from reconciler.engines.mysql.instance.link import InstanceLink
from reconciler.engines.mysql.instance.marks import CloneMark, Registry, TemplateMark
from reconciler.engines.mysql.product import MARIADB, release
from reconciler.errors import ReconcilerError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reconciler.engines.base import CloneWork, Instance, InstanceReach, Progress, UserWish
    from reconciler.engines.mysql.link import Link
    from reconciler.ids import CloneName, SnapshotId, VolumeId
    from reconciler.proc import CancelToken
    from reconciler.state.desired import Script
    from reconciler.state.observed import Activity, SnapshotManifest
    from reconciler.state.servers import Hosted

_LOWER_CASE = "lower_case_table_names"


class MariaDbInstances:
    """Servers of MariaDB that exist already."""

    def at(self, reach: InstanceReach) -> Instance:
        return MariaDbInstance(reach)


class MariaDbInstance:
    """One of them."""

    def __init__(self, reach: InstanceReach) -> None:
        self._link = InstanceLink(reach)
        self._registry = Registry(reach.installation, self._link.where)
        self._changing = threading.Lock()

    def address(self) -> tuple[str, int]:
        return self._link.address()

    def version(self) -> str:
        with self._link.session(look=True) as link:
            return str(link.value("SELECT @@version")).split("-", maxsplit=1)[0]

    def templates(self) -> tuple[HostedTemplate, ...]:
        complete: dict[SnapshotId, list[str]] = {}
        with self._link.session(look=True) as link:
            for database in catalog.databases(link, self._registry).noted.values():
                if isinstance(mark := database.row.mark, TemplateMark):
                    known = complete.setdefault(mark.snapshot, [])
                    if databases.is_complete(database):
                        known.append(mark.database)
        return tuple(HostedTemplate(one, tuple(sorted(names)), instant=False) for one, names in complete.items())

    def served(self) -> frozenset[VolumeId]:
        with self._link.session(look=True) as link:
            found = catalog.databases(link, self._registry)
        marked = [(d.row.mark, d.there) for d in found.noted.values()]
        volumes = {mark.volume: mark.open for mark, _there in marked if isinstance(mark, CloneMark)}
        there = {
            volume: all(any(one.there for one in some) for some in found.of_volume(volume).values())
            for volume in volumes
        }
        return frozenset(volume for volume, is_open in volumes.items() if is_open and there[volume])

    def check(self, snapshot: SnapshotManifest) -> None:
        require_fit(snapshot, self._link.where, engine=MARIADB.name, product="MariaDB")
        with self._link.session(look=True) as link:
            found = str(link.value("SELECT @@version"))
            lower_case = str(link.value(f"SELECT @@{_LOWER_CASE}"))
        if release(found) < release(snapshot.major):
            raise too_old(snapshot, self._link.where, f"MariaDB {found}")
        if lower_case != snapshot.facts.get(_LOWER_CASE, "0"):
            raise UnsupportedError(
                f"{self._link.where} treats the case of names of tables otherwise than snapshot {snapshot.snapshot}",
                reason="NamesDiffer",
                hint=f"use an instance with {_LOWER_CASE} = {snapshot.facts.get(_LOWER_CASE, '0')}",
            )

    def load(self, work: CloneWork, *, jobs: int, progress: Progress) -> None:
        self.unload(work.snapshot.snapshot)
        try:
            loading.load(self._link, self._registry, work, jobs=jobs, progress=progress)
        except BaseException:
            with suppress(ReconcilerError):  # the next plan finds what is left
                self.unload(work.snapshot.snapshot)
            raise

    def unload(self, snapshot: SnapshotId) -> None:
        with self._session() as link:
            databases.drop_templates(link, self._registry, snapshot)

    def create(self, hosted: Hosted, users: Sequence[UserWish] = ()) -> None:  # noqa: ARG002 - of the contract
        with self._session() as link:
            databases.create(self._link, link, self._registry, hosted)

    def serve(self, hosted: Hosted) -> None:
        with self._changing, self._session() as link:
            databases.serve(self._link, link, self._registry, hosted)

    def refuse(self, volume: VolumeId) -> None:
        with self._changing, self._session() as link:
            databases.refuse(link, self._registry, volume)

    def remove(self, volume: VolumeId) -> None:
        with self._changing, self._session() as link:
            databases.remove(link, self._registry, volume)

    def rename(self, formerly: CloneName, clone: CloneName) -> None:
        with self._changing, self._session() as link:
            databases.rename(self._link, link, self._registry, formerly, clone)

    def deliver(self, hosted: Hosted, users: Sequence[UserWish], drop: Sequence[str]) -> None:
        with self._changing, self._session() as link:
            databases.deliver(self._link, link, self._registry, hosted, users, drop)

    def run_scripts(self, hosted: Hosted, wanted: Sequence[Script], cancel: CancelToken) -> None:
        with self._session() as link:
            scripts.run_scripts(self._link, link, self._registry, hosted, wanted, cancel)

    def activity(self, volume: VolumeId) -> Activity:
        with self._link.session(look=True) as link:
            return activity.activity_of(link, self._registry, volume)

    def close(self) -> None:
        """Nothing is kept open between calls."""

    @contextmanager
    def _session(self) -> Iterator[Link]:
        """Have a session that changes something."""
        with self._link.session() as link:
            self._registry.ensure(link)
            yield link
