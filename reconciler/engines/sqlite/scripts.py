"""Run scripts and checks of specs on the databases of a build or clone.

Called by the session and the engine. They stop at the first error, and reach nothing
outside of their database (:mod:`.guard`); a grant of superuser rights changes nothing
here, as there are no such rights.
"""

from __future__ import annotations

import io
import sqlite3
from typing import TYPE_CHECKING

from reconciler.engines.sqlite import guard
from reconciler.engines.sqlite.databases import connect, databases_in, file_of
from reconciler.engines.sqlite.failures import reason
from reconciler.engines.sqlite.statements import statements
from reconciler.errors import CheckFailedError, ScriptError

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconciler.engines.base import BuildWork, CloneWork
    from reconciler.engines.sqlite.statements import Statement
    from reconciler.state.desired import Check, Script


def run_script(work: BuildWork | CloneWork, script: Script) -> None:
    """Run one script to its end or first error.

    Raises:
        ScriptError: file, line and statement of the failure, or no single database to run it in.

    """
    database = _database(work, script.database, f"{script.origin}:{script.first_line}")
    with connect(file_of(work.directory, database), cancel=work.cancel) as conn:
        conn.execute("PRAGMA foreign_keys = ON")
        refused = guard.watch(conn)
        for statement in statements(io.StringIO(script.text).read, script.first_line):
            work.cancel.check()
            _run(work, conn, script, statement, refused)
        if conn.in_transaction:
            raise ScriptError(f"{script.origin}: the script ends inside a transaction that it began: COMMIT is missing")


def run_check(work: BuildWork | CloneWork, check: Check) -> None:
    """Evaluate one check, read-only.

    Raises:
        CheckFailedError: it did not return one row with one true value.
        ScriptError: it could not be evaluated.

    """
    where = f"{check.origin}:{check.first_line}"
    database = _database(work, check.database, where)
    with connect(file_of(work.directory, database), cancel=work.cancel) as conn:
        conn.execute("PRAGMA query_only = ON")
        refused = guard.watch(conn)
        try:
            cursor = conn.execute(check.sql.rstrip().rstrip(";"))
            rows = cursor.fetchmany(2)
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            work.cancel.check()
            raise ScriptError(f"{where}: the check cannot be evaluated: {_why(error, refused())}") from error
        width = len(cursor.description or ())
    if len(rows) != 1 or width != 1:
        raise CheckFailedError(f"{where}: the check must return one row with one value, in database {database}")
    if not _is_true(rows[0][0]):
        raise CheckFailedError(f"{where}: the check is not true in database {database}: {' '.join(check.sql.split())}")


def _is_true(value: object) -> bool:
    """Tell whether a value is true as SQLite sees it: a number other than zero."""
    return isinstance(value, int | float) and value != 0


def _run(
    work: BuildWork | CloneWork,
    conn: sqlite3.Connection,
    script: Script,
    statement: Statement,
    refused: Callable[[], str],
) -> None:
    where = f"{script.origin}:{statement.line}"
    if statement.dot_command:
        raise ScriptError(f"{where}: the shell command .{statement.dot_command} is not run in scripts")
    try:
        for _row in conn.execute(statement.text):
            pass
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
        work.cancel.check()
        raise ScriptError(f"{where}: {_why(error, refused())}, in: {statement.shown}") from error


def _why(error: Exception, refused: str) -> str:
    return f"{refused} is not allowed in SQL of specs" if refused else reason(error)


def _database(work: BuildWork | CloneWork, named: str | None, where: str) -> str:
    """Return the database to run in: the one named, or the only one."""
    present = databases_in(work.directory)
    listed = ", ".join(present) or "none"
    if named is not None:
        if named not in present:
            raise ScriptError(f"{where}: there is no database {named}; there are: {listed}")
        return named
    if len(present) == 1:
        return present[0]
    if not present:
        raise ScriptError(f"{where}: there is no database to run in: name one under databases")
    raise ScriptError(f"{where}: name the database to run in (database:), one of: {listed}")
