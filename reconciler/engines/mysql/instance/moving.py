"""Databases of a generation get other names: all that is in them is moved, object by object.

Called by :mod:`.databases`, while nobody is let in. MariaDB renames no database, but it does move
a table of any engine into another one, with its references, in no time. Views, routines and
triggers cannot be moved: their definitions are noted in the registry first, then they are
dropped, and made again where the tables have gone. So a kill at any point leaves a database
that is in two places, and the next call gathers it in one.
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

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from reconciler.engines.mysql.instance.catalog import Database
    from reconciler.engines.mysql.instance.link import InstanceLink
    from reconciler.engines.mysql.instance.marks import Registry
    from reconciler.engines.mysql.link import Link
    from reconciler.ids import VolumeId

_TABLES = """
SELECT table_name FROM information_schema.tables WHERE table_schema = %s AND table_type NOT IN ('VIEW', 'TEMPORARY')
ORDER BY table_name
"""
_KINDS = ("routines", "views", "triggers")


def gather(access: InstanceLink, link: Link, registry: Registry, volume: VolumeId, names: Mapping[str, str]) -> None:
    """Bring the databases of a generation to the names that they are to have, by their names in the snapshot."""
    for name, target in names.items():
        _Move(access, link, registry, volume, name, target).run()
    accounts.own(link, registry, volume, names.values())


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

    def run(self) -> None:
        places = self._places()
        sources = [one for one in places if one.name != self._target]
        lifted = self._noted(broken=False)
        if not (sources or lifted):
            return
        if lifted is None:
            lifted = self._lift(places)
        for one in places:
            definitions.drop(self._link, one.name)
        if len(sources) == len(places):
            mark, sorted_by = sources[0].row.mark, making.sorting(self._link, sources[0].name)
            making.make(self._access, self._link, self._registry, self._target, mark, sorted_by)
        for one in sources:
            for (table,) in self._link.rows(_TABLES, one.name):
                name = quoted(str(table))
                self._link.rows(f"RENAME TABLE {quoted(one.name)}.{name} TO {quoted(self._target)}.{name}")
        self._put_down(lifted)
        making.drop(self._link, self._registry, sources)

    def _places(self) -> list[Database]:
        found = catalog.databases(self._link, self._registry).of_volume(self._volume)
        return [one for one in found.get(self._database, ()) if one.there]

    def _lift(self, places: Sequence[Database]) -> Definitions:
        """Note the code of the database, and return it: from then on it may be dropped."""
        found = [definitions.read(self._link, one.name) for one in places]
        broken = self._noted(broken=True)
        found += [broken] if broken is not None else []
        lifted = Definitions(*(tuple(code for one in found for code in getattr(one, kind)) for kind in _KINDS))
        self._note(lifted, broken=False)
        return lifted

    def _put_down(self, lifted: Definitions) -> None:
        """Make the code again; a view that reads what is not there any more is kept for the next time."""
        refused: list[Code] = []
        if lifted:
            with (
                accounts.working(self._access, self._link, self._registry, self._volume, [self._target]) as worker,
                self._access.session_as(worker.name, worker.password) as session,
            ):
                refused = [code for code, _error in definitions.make(session, lifted, self._target)]
        self._note(Definitions((), tuple(refused), ()), broken=True)

    def _note(self, wanted: Definitions, *, broken: bool) -> None:
        """Note this code of the database, and no other."""
        codes = [(kind, code) for kind in _KINDS for code in getattr(wanted, kind)]
        values = [
            (self._volume, self._database, number, broken, kind, json.dumps(asdict(code)))
            for number, (kind, code) in enumerate(codes)
        ]
        with transaction(self._link):
            self._link.rows(f"DELETE FROM {self._code} WHERE volume = %s AND name = %s", self._volume, self._database)  # noqa: S608 - our own name
            if values:
                insert = f"INSERT INTO {self._code} (volume, name, number, broken, kind, code)"
                self._link.insert(f"{insert} VALUES (%s, %s, %s, %s, %s, %s)", values)

    def _noted(self, *, broken: bool) -> Definitions | None:
        query = f"SELECT kind, code FROM {self._code} WHERE volume = %s AND name = %s AND broken = %s ORDER BY number"  # noqa: S608 - as above
        found = [
            (str(kind), Code(**json.loads(str(code))))
            for kind, code in self._link.rows(query, self._volume, self._database, broken)
        ]
        if not found:
            return None
        return Definitions(*(tuple(code for one, code in found if one == kind) for kind in _KINDS))
