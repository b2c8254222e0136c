"""Run scripts and checks of specs on a running build or clone.

Called by the engine. They run as the builder, which is no superuser, and stop at the
first error. Where the host grants ``superuserScripts`` they run as the administrator.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from reconciler.engines.base import BuildWork
from reconciler.engines.postgres import server
from reconciler.engines.postgres.failures import SqlError
from reconciler.engines.postgres.lexer import SqlReader, Statement
from reconciler.engines.postgres.runner import Runner
from reconciler.engines.postgres.wire import Wire
from reconciler.errors import CheckFailedError, ScriptError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconciler.engines.base import CloneWork
    from reconciler.state.desired import Check, Script


def run_script(work: BuildWork | CloneWork, script: Script, *, databases: Sequence[str]) -> None:
    """Run one script to its end or first error; ``databases`` are the user databases. ``ensure_builder`` was called.

    Raises:
        ScriptError: file, line and statement of the failure, or no single database to run it in.

    """
    target = _ScriptTarget(work, database_of(script.database, databases, script.origin, script.first_line))
    try:
        stream = io.BytesIO(script.text.encode())
        reader = SqlReader(stream, origin=script.origin, error=ScriptError, first_line=script.first_line)
        Runner(reader, target, cancel=work.cancel, whole=False, superuser=work.superuser_scripts).run()
        if target.wire.in_transaction:
            raise reader.fail("the script ends inside a transaction that it began: COMMIT is missing")
    finally:
        target.wire.close()


def run_check(work: BuildWork | CloneWork, check: Check, *, databases: Sequence[str]) -> None:
    """Evaluate one check, read-only.

    Raises:
        CheckFailedError: it did not return one row with one true value.
        ScriptError: it could not be evaluated.

    """
    where = f"{check.origin}:{check.first_line}"
    database = database_of(check.database, databases, check.origin, check.first_line)
    with _open(work, database) as conn:
        wire = Wire(conn, work.cancel)
        try:
            wire.execute(b"SET default_transaction_read_only = on")
            wire.execute(b"BEGIN READ ONLY")
            outcome = wire.single_value(check.sql.rstrip().rstrip(";").encode())
        except SqlError as error:
            raise ScriptError(f"{where}: the check cannot be evaluated: {error}") from error
    if outcome is None:
        raise CheckFailedError(f"{where}: the check must return one row with one value, in database {database}")
    if outcome != b"t":
        raise CheckFailedError(f"{where}: the check is not true in database {database}: {' '.join(check.sql.split())}")


def database_of(named: str | None, databases: Sequence[str], origin: str, line: int) -> str:
    """Return the database to run in: the one named, or the only one."""
    listed = ", ".join(databases) or "none"
    if named is not None:
        if named not in databases and named != "postgres":
            raise ScriptError(f"{origin}:{line}: there is no database {named}; there are: {listed}")
        return named
    if len(databases) == 1:
        return databases[0]
    if not databases:
        return "postgres"
    raise ScriptError(f"{origin}:{line}: name the database to run in (database:), one of: {listed}")


def _open(work: BuildWork | CloneWork, database: str) -> psycopg.Connection:
    if work.superuser_scripts:
        conn = server.connect(work, database, role=server.admin_role(work))
    else:
        _let_build(work, database)
        conn = server.connect(work, database, role=server.BUILDER)
    conn.execute("SET client_encoding = 'UTF8'")
    return conn


def _let_build(work: BuildWork | CloneWork, database: str) -> None:
    """Let the builder reach all rows, and create things in the database as its owner could.

    In a build, production's password hashes go before anything of a spec can read them.
    """
    with server.connect(work, database) as conn:
        server.grant_memberships(conn)
        names = {"database": sql.Identifier(database), "builder": sql.Identifier(server.BUILDER)}
        conn.execute(sql.SQL("GRANT CREATE, TEMPORARY ON DATABASE {database} TO {builder}").format(**names))
        conn.execute(sql.SQL("GRANT USAGE, CREATE ON SCHEMA public TO {builder}").format(**names))
        if isinstance(work, BuildWork):
            conn.execute("UPDATE pg_authid SET rolpassword = NULL WHERE rolpassword IS NOT NULL")
            conn.execute(sql.SQL("GRANT pg_read_all_data, pg_write_all_data TO {builder}").format(**names))


class _ScriptTarget:
    r"""One connection; ``\connect`` opens another one to a database that exists."""

    def __init__(self, work: BuildWork | CloneWork, database: str) -> None:
        self._work = work
        self._wire = Wire(_open(work, database), work.cancel)

    @property
    def wire(self) -> Wire:
        return self._wire

    def execute(self, statement: Statement) -> bool:
        return self._wire.execute(statement.text)

    def connect(self, database: str) -> None:
        try:
            wire = Wire(_open(self._work, database), self._work.cancel)
        except UnavailableError as error:
            raise SqlError("3D000", f"cannot connect to database {database}") from error
        self._wire.close()
        self._wire = wire
