"""Databases of a generation get other names: all that is in them is moved, object by object.

Called by :mod:`.databases`, while nobody is let in. MariaDB renames no database, but it does move
a table of any engine into another one, with its references, in no time. Views, routines and
triggers cannot be moved: their definitions are noted in the registry first, those of all databases
before any of them changes, since views and code read other databases of their clone, too. Then
they are dropped, and made again where the tables have gone. So a kill at any point leaves
databases that are in two places, or whose code is noted, and the next call gathers all of it in
one.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from reconciler.engines.mysql.catalog import Code
from reconciler.engines.mysql.instance import accounts, catalog, definitions, making
from reconciler.engines.mysql.instance.definitions import Definitions
from reconciler.engines.mysql.instance.marks import transaction
from reconciler.engines.mysql.link import quoted
from reconciler.errors import BusyError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reconciler.engines.mysql.instance.link import InstanceLink
    from reconciler.engines.mysql.instance.marks import Registry
    from reconciler.engines.mysql.link import Link
    from reconciler.ids import VolumeId

_TABLES = """
SELECT table_name FROM information_schema.tables WHERE table_schema = %s AND table_type NOT IN ('VIEW', 'TEMPORARY')
ORDER BY table_name
"""
_LEFT = """
SELECT CONCAT(LOWER(table_type), ' ', table_schema, '.', table_name) FROM information_schema.tables
    WHERE table_schema = %s AND table_type <> 'TEMPORARY'
UNION ALL SELECT CONCAT(LOWER(routine_type), ' ', routine_schema, '.', routine_name)
    FROM information_schema.routines WHERE routine_schema = %s
UNION ALL SELECT CONCAT('event ', event_schema, '.', event_name) FROM information_schema.events WHERE event_schema = %s
"""


def gather(access: InstanceLink, link: Link, registry: Registry, volume: VolumeId, names: Mapping[str, str]) -> None:
    """Bring the databases of a generation to the names that they are to have, by their names in the snapshot.

    Raises:
        BusyError: something was made in one meanwhile, which the next call moves, too.

    """
    moves = [_Move(access, link, registry, volume, name, target) for name, target in names.items()]
    accounts.own(link, registry, volume, [place for move in moves for place in move.places])  # views show what it may
    under_way = [move for move in moves if move.lift()]
    for move in under_way:
        move.put_away()
    for move in under_way:
        move.carry()
    if any(move.lifted for move in under_way):
        with (
            accounts.working(access, link, registry, volume, names.values()) as worker,
            access.session_as(worker.name, worker.password) as session,
        ):
            for move in under_way:
                move.put_down(session)
            while any(move.try_again(session) for move in under_way):
                pass  # a view may read those of another database of the generation
    for move in under_way:
        move.require_all_moved()
    for move in under_way:
        move.finish()
    accounts.own(link, registry, volume, names.values())


def is_under_way(link: Link, registry: Registry, volume: VolumeId) -> bool:
    """Tell whether code of a generation is noted that is to be made again: a move of it has stopped."""
    query = f"SELECT count(*) FROM {quoted(registry.name)}.code WHERE volume = %s AND NOT broken"  # noqa: S608 - our own name
    return bool(link.value(query, volume))


def forget(link: Link, registry: Registry, volume: VolumeId) -> None:
    """Note no definitions of a generation any more."""
    link.rows(f"DELETE FROM {quoted(registry.name)}.code WHERE volume = %s", volume)  # noqa: S608 - our own name


class _Move:
    """One database of a generation, on its way to a name."""

    def __init__(
        self, access: InstanceLink, link: Link, registry: Registry, volume: VolumeId, database: str, target: str
    ) -> None:
        self._access, self._link, self._registry = access, link, registry
        self._volume, self._database, self._target = volume, database, target
        self._code = f"{quoted(registry.name)}.code"

        found = catalog.databases(link, registry).of_volume(volume).get(database, ())
        self._found = [one for one in found if one.there]
        self._sources = [one for one in self._found if one.name != target]
        self._refused: tuple[Code, ...] = ()
        self.lifted = definitions.NOTHING

    @property
    def places(self) -> list[str]:
        """Where it is."""
        return [one.name for one in self._found]

    def lift(self) -> bool:
        """Note the code: from then on it may be dropped; return whether there is anything to do at all."""
        noted = self._noted(broken=False)
        if not self._found or not (self._sources or noted):
            return False
        there = [definitions.read(self._link, name) for name in self.places]
        self.lifted = definitions.merged([noted, *there, self._noted(broken=True)])
        self._note(self.lifted, broken=False)
        return True

    def put_away(self) -> None:
        """Drop the code."""
        for name in self.places:
            definitions.drop(self._link, name)

    def carry(self) -> None:
        """Move the tables."""
        if len(self._sources) == len(self._found):
            first = self._sources[0]
            sorted_by = making.sorting(self._link, first.name)
            making.make(self._access, self._link, self._registry, self._target, first.row.mark, sorted_by)
        for one in self._sources:
            for (table,) in self._link.rows(_TABLES, one.name):
                name = quoted(str(table))
                self._link.rows(f"RENAME TABLE {quoted(one.name)}.{name} TO {quoted(self._target)}.{name}")

    def put_down(self, session: Link) -> None:
        """Make the code again, as the account of the session."""
        self._make(session, self.lifted)

    def try_again(self, session: Link) -> bool:
        """Make views that could not be made; return whether that was of use."""
        before = len(self._refused)
        self._make(session, Definitions((), self._refused, ()))
        return len(self._refused) < before

    def require_all_moved(self) -> None:
        """Insist that nothing is left in what is to be dropped.

        Raises:
            BusyError: somebody made something there meanwhile.

        """
        for one in self._sources:
            for (left,) in self._link.rows(_LEFT, *[one.name] * 3):
                raise BusyError(
                    f"somebody made the {left} on {self._access.where} while its database was moved", reason="InUse"
                )

    def finish(self) -> None:
        """Drop what is empty now; a view that reads what is not there any more is kept for the next time."""
        self._note(Definitions((), self._refused, ()), broken=True)
        making.drop(self._link, self._registry, self._sources)

    def _make(self, session: Link, wanted: Definitions) -> None:
        refused = definitions.make(session, wanted, self._target)
        self._refused = tuple(definitions.unqualified(code) for code, _error in refused)

    def _note(self, wanted: Definitions, *, broken: bool) -> None:
        """Note this code of the database, and no other."""
        codes = [(kind, code) for kind in definitions.KINDS for code in getattr(wanted, kind)]
        values = [
            (self._volume, self._database, number, broken, kind, json.dumps(asdict(code)))
            for number, (kind, code) in enumerate(codes)
        ]
        with transaction(self._link):
            self._link.rows(f"DELETE FROM {self._code} WHERE volume = %s AND name = %s", self._volume, self._database)  # noqa: S608 - our own name
            if values:
                insert = f"INSERT INTO {self._code} (volume, name, number, broken, kind, code)"
                self._link.insert(f"{insert} VALUES (%s, %s, %s, %s, %s, %s)", values)

    def _noted(self, *, broken: bool) -> Definitions:
        query = f"SELECT kind, code FROM {self._code} WHERE volume = %s AND name = %s AND broken = %s ORDER BY number"  # noqa: S608 - as above
        found = [
            (str(kind), Code(**json.loads(str(code))))
            for kind, code in self._link.rows(query, self._volume, self._database, broken)
        ]
        return Definitions(*(tuple(code for one, code in found if one == kind) for kind in definitions.KINDS))
