"""Make views, routines, triggers and events of the statements that a server shows of them.

Called by :mod:`.copying` and by what works on instances. What is made has no other definer than
the account that makes it. Code is read as its first server reads it: by its own ``sql_mode``
and collation.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from reconciler.engines.mysql.failures import SqlError, lost
from reconciler.engines.mysql.link import quoted, text
from reconciler.engines.mysql.statements import without_definer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reconciler.engines.mysql.catalog import Code
    from reconciler.engines.mysql.link import Link


def make(link: Link, code: Code, database: str, settings: str) -> None:
    """Run the statement that makes code in a database; ``settings`` are what holds in the session otherwise.

    Raises:
        SqlError: the server refused it.

    """
    link.rows(f"USE {quoted(database)}")
    link.rows(f"SET SESSION sql_mode = {text(code.sql_mode)}")
    if code.collation:
        link.rows(f"SET SESSION collation_connection = {text(code.collation)}")
    if code.time_zone:
        with suppress(SqlError):  # a zone by name, of which this server knows none; nothing here is scheduled
            link.rows(f"SET SESSION time_zone = {text(code.time_zone)}")
    try:
        link.execute(without_definer(code.statement.encode()))
    finally:
        link.rows("SET NAMES utf8mb4")
        link.rows(settings)


def make_views(views: Sequence[Code], make_one: Callable[[Code], None]) -> list[tuple[Code, SqlError]]:
    """Make views, those that others read first; return those that cannot be made, with the reason.

    Raises:
        SqlError: the server is gone.

    """
    left = list(views)
    while left:
        refused = [(code, error) for code in left if (error := _refusal(code, make_one)) is not None]
        if len(refused) == len(left):
            return refused
        left = [code for code, _error in refused]
    return []


def _refusal(code: Code, make_one: Callable[[Code], None]) -> SqlError | None:
    try:
        make_one(code)
    except SqlError as error:
        if lost(error):
            raise
        return error
    return None
