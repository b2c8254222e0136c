"""Run scripts and checks of specs on a running build or clone.

Called by the engine. They run as the account that has rights on databases of users only,
and stop at the first error. Where the host grants ``superuserScripts`` they run as the
administrator.
"""

from __future__ import annotations

import io
from contextlib import contextmanager
from typing import TYPE_CHECKING

from reconciler.engines.mysql import accounts, server
from reconciler.engines.mysql.failures import SqlError
from reconciler.engines.mysql.lexer import SqlReader
from reconciler.engines.mysql.runner import Runner
from reconciler.errors import CheckFailedError, ScriptError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.engines.mysql.lexer import Statement
    from reconciler.engines.mysql.link import Link
    from reconciler.engines.mysql.product import Product
    from reconciler.state.desired import Check, Script


def run_script(work: server.Work, product: Product, script: Script) -> None:
    """Run one script to its end or first error.

    Raises:
        ScriptError: file, line and statement of the failure, or no such database.

    """
    database = _database(work, script.database, f"{script.origin}:{script.first_line}")
    with _opened(work, product, database) as link:
        stream = io.BytesIO(script.text.encode())
        reader = SqlReader(stream, origin=script.origin, error=ScriptError, first_line=script.first_line)
        Runner(reader, _ScriptTarget(link), cancel=work.cancel, whole=False).run()


def run_check(work: server.Work, product: Product, check: Check) -> None:
    """Evaluate one check, read-only.

    Raises:
        CheckFailedError: it did not return one row with one true value.
        ScriptError: it could not be evaluated.

    """
    where = f"{check.origin}:{check.first_line}"
    database = _database(work, check.database, where)
    with _opened(work, product, database) as link:
        try:
            link.rows("START TRANSACTION READ ONLY")
            row = link.single(check.sql.rstrip().rstrip(";").encode())
        except SqlError as error:
            raise ScriptError(f"{where}: the check cannot be evaluated: {error}") from error
    place = f" in database {database}" if database is not None else ""
    if row is None or len(row) != 1:
        raise CheckFailedError(f"{where}: the check must return one row with one value{place}")
    if row[0] not in (1, b"\x01"):
        raise CheckFailedError(f"{where}: the check is not true (1){place}: {' '.join(check.sql.split())}")


@contextmanager
def _opened(work: server.Work, product: Product, database: str | None) -> Iterator[Link]:
    if work.superuser_scripts:
        with server.connect(work, database, patient=True) as link:
            yield link
        return
    with (
        accounts.opened_owner(work, product) as password,
        server.link(work, server.OWNER, password, database, cancel=work.cancel) as link,
    ):
        yield link


def _database(work: server.Work, named: str | None, where: str) -> str | None:
    """Return the database to begin in: the one named, or the only one; with several, none is chosen."""
    with server.connect(work) as admin:
        present = server.user_databases(admin)
    if named is None:
        return present[0] if len(present) == 1 else None
    if named not in present:
        raise ScriptError(f"{where}: there is no database {named}; there are: {', '.join(present) or 'none'}")
    return named


class _ScriptTarget:
    def __init__(self, link: Link) -> None:
        self._link = link

    @property
    def link(self) -> Link:
        return self._link

    def execute(self, statement: Statement) -> None:
        self._link.execute(statement.text)
