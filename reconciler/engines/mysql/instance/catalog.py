"""What is ours on an instance, as it is there now.

Used by the other modules of this package. Reads only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.engines.mysql.instance import marks
from reconciler.engines.mysql.instance.marks import CloneMark, TemplateMark
from reconciler.errors import BusyError
from reconciler.state.hosted import public_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from reconciler.engines.mysql.instance.marks import Registry, Row
    from reconciler.engines.mysql.link import Link
    from reconciler.ids import CloneName, SnapshotId, VolumeId


@dataclass(frozen=True, slots=True)
class Database:
    """A database that is noted; ``there`` while it exists and bears the token of its row."""

    row: Row
    there: bool

    @property
    def name(self) -> str:
        """What it is called on the instance."""
        return self.row.name


@dataclass(frozen=True, slots=True)
class Found:
    """All databases of an instance: those that are noted, and the names of everybody's."""

    noted: Mapping[str, Database]
    names: frozenset[str]

    def of_volume(self, volume: VolumeId) -> dict[str, list[Database]]:
        """Return the databases of a generation by their names in the snapshot; one that is being moved is two."""
        found: dict[str, list[Database]] = {}
        for database in self.noted.values():
            if isinstance(mark := database.row.mark, CloneMark) and mark.volume == volume:
                found.setdefault(mark.database, []).append(database)
        return found

    def of_clone(self, clone: CloneName) -> frozenset[VolumeId]:
        """Return the generations of a clone."""
        marked = [database.row.mark for database in self.noted.values()]
        return frozenset(mark.volume for mark in marked if isinstance(mark, CloneMark) and mark.clone == clone)

    def of_snapshot(self, snapshot: SnapshotId) -> dict[str, Database]:
        """Return what clones of a snapshot are copied from, by their names in the snapshot."""
        return {
            mark.database: database
            for database in self.noted.values()
            if isinstance(mark := database.row.mark, TemplateMark) and mark.snapshot == snapshot
        }

    def public(self, volume: VolumeId, clone: CloneName) -> list[Database]:
        """Return the databases of a generation that have the names of its clone."""
        parts = self.of_volume(volume)
        names = {public_name(clone, name, list(parts)) for name in parts}
        return [one for some in parts.values() for one in some if one.name in names]

    def require_free(self, name: str, where: str) -> None:
        """Insist that no database has a name that we want to make one under; what was left of ours is gone by then.

        Raises:
            BusyError: one has.

        """
        if name in self.names:
            raise BusyError(
                f"{where} has a database {name} that is not ours; it is left alone",
                reason="NameTaken",
                hint="rename that database, or the image or clone",
            )


def databases(link: Link, registry: Registry) -> Found:
    """Return all databases; none is noted where there is no registry yet."""
    comments = marks.comments(link)
    rows: Iterable[Row] = registry.rows(link, "database").values() if registry.exists(link) else ()
    noted = {row.name: Database(row, registry.bears(comments.get(row.name, ""), row.token)) for row in rows}
    return Found(noted, frozenset(comments))
