"""What is in a database beside rows: statements that make its views, routines and triggers, and their making.

Called by :mod:`.loading`, :mod:`.copies` and :mod:`.moving`. Statements name nothing by the
database that they are read from, since what is made of them has another name. Events are left
out: they are disabled in snapshots, and nothing is scheduled on an instance.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from reconciler.engines.mysql import catalog, code
from reconciler.engines.mysql.catalog import Code
from reconciler.engines.mysql.failures import SqlError
from reconciler.engines.mysql.instance.link import SETTINGS
from reconciler.engines.mysql.link import quoted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from reconciler.engines.mysql.link import Link

_VIEWS = "SELECT table_name FROM information_schema.views WHERE table_schema = %s ORDER BY table_name"
_TRIGGERS = """
SELECT trigger_name, action_timing, event_manipulation, event_object_table, action_statement, sql_mode,
    collation_connection FROM information_schema.triggers WHERE trigger_schema = %s
ORDER BY event_object_table, action_timing, event_manipulation, action_order
"""
_DEFINERS = """
SELECT definer, CONCAT('view ', table_schema, '.', table_name) FROM information_schema.views WHERE table_schema = %s
UNION ALL SELECT definer, CONCAT(LOWER(routine_type), ' ', routine_schema, '.', routine_name)
    FROM information_schema.routines WHERE routine_schema = %s
UNION ALL SELECT definer, 'trigger' FROM information_schema.triggers WHERE trigger_schema = %s
"""
_QUALIFIER = re.compile(r"'(?:[^'\\]|\\.|'')*'|(?P<name>(?<!\.)`(?:[^`]|``)+`)\.|`(?:[^`]|``)+`", re.DOTALL)
"""What qualifies a name, among strings and names that do not."""
_ROUTINES = "SELECT routine_type, routine_name FROM information_schema.routines WHERE routine_schema = %s"


@dataclass(frozen=True, slots=True)
class Definitions:
    """The code of one database, in the order in which it is made."""

    routines: tuple[Code, ...]
    views: tuple[Code, ...]
    triggers: tuple[Code, ...]

    def __bool__(self) -> bool:
        return bool(self.routines or self.views or self.triggers)


KINDS = ("routines", "views", "triggers")
NOTHING = Definitions((), (), ())


def merged(found: Sequence[Definitions]) -> Definitions:
    """Return the code of one database that is in several places; the first one of a name counts."""
    return Definitions(*(_first(code for one in found for code in getattr(one, kind)) for kind in KINDS))


def _first(found: Iterable[Code]) -> tuple[Code, ...]:
    known: dict[str, Code] = {}
    for one in found:
        known.setdefault(one.what.replace(f" {one.database}.", " ", 1), one)
    return tuple(known.values())


def read(link: Link, database: str) -> Definitions:
    """Return the code of a database."""
    link.rows(f"USE {quoted(database)}")  # views say names without it then
    views = [str(row[0]) for row in link.rows(_VIEWS, database)]
    return Definitions(
        routines=tuple(catalog.routines(link, (database,))),
        views=tuple(catalog.view(link, database, name) for name in views),
        triggers=tuple(_trigger(database, *map(str, row)) for row in link.rows(_TRIGGERS, database)),
    )


def of_definers(link: Link, database: str, logins: Collection[str]) -> Definitions:
    """Return the code of a database that works with the rights of these logins, such that it replaces itself.

    One trigger stands for all of them, which keeps their order.
    """
    found = link.rows(_DEFINERS, database, database, database) if logins else []
    theirs = {str(what) for definer, what in found if str(definer).rpartition("@")[0] in logins}
    if not theirs:
        return NOTHING
    known = read(link, database)
    return Definitions(
        routines=tuple(_replacing(one) for one in known.routines if one.what in theirs),
        views=tuple(_replacing(one) for one in known.views if one.what in theirs),
        triggers=tuple(_replacing(one) for one in known.triggers) if "trigger" in theirs else (),
    )


def _replacing(code: Code) -> Code:
    return replace(code, statement=code.statement.replace("CREATE", "CREATE OR REPLACE", 1))


def unqualified(view: Code) -> Code:
    """Return a view without the name of the database that it was read from, which is shown where it cannot be read."""
    own = quoted(view.database)
    text = _QUALIFIER.sub(lambda found: "" if found["name"] == own else found[0], view.statement)
    return replace(view, statement=text)


def make(link: Link, wanted: Definitions, database: str) -> list[tuple[Code, SqlError]]:
    """Make code as the account of the session; return the views that cannot be made.

    Raises:
        SqlError: the server refused something else.

    """

    def one(what: Code) -> None:
        try:
            code.make(link, what, database, SETTINGS)
        except SqlError as error:
            raise SqlError(error.code, f"{what.what}: {error}", line=error.line) from None

    for routine in wanted.routines:
        one(routine)
    refused = code.make_views(wanted.views, one)
    for trigger in wanted.triggers:
        one(trigger)
    return refused


def drop(link: Link, database: str) -> None:
    """Drop the code of a database; what it holds stays."""
    for (name,) in link.rows(_VIEWS, database):
        link.rows(f"DROP VIEW IF EXISTS {quoted(database)}.{quoted(str(name))}")
    for row in link.rows(_TRIGGERS, database):
        link.rows(f"DROP TRIGGER IF EXISTS {quoted(database)}.{quoted(str(row[0]))}")
    for kind, name in link.rows(_ROUTINES, database):
        link.rows(f"DROP {kind} IF EXISTS {quoted(database)}.{quoted(str(name))}")


def named(found: Sequence[tuple[Code, SqlError]]) -> str:
    """Return what could not be made, for people."""
    return "; ".join(str(error) for _one, error in found)


def _trigger(
    database: str, name: str, timing: str, event: str, table: str, body: str, mode: str, collation: str
) -> Code:
    """Return a trigger; the statement that made it may name its table by its database."""
    statement = f"CREATE TRIGGER {quoted(name)} {timing} {event} ON {quoted(table)} FOR EACH ROW {body}"
    return Code(database, f"trigger {database}.{name}", statement, sql_mode=mode, collation=collation)
