"""Scripts of a clone on an instance: run as a worker, who may do what the clone's owners may.

Called by :mod:`.front`. They stop at the first error, and reach no other database than the clone's.
"""

from __future__ import annotations

import io
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from reconciler.engines.postgres.failures import SqlError
from reconciler.engines.postgres.instance import catalog, roles
from reconciler.engines.postgres.lexer import SqlReader
from reconciler.engines.postgres.runner import Runner
from reconciler.engines.postgres.scripts import database_of
from reconciler.engines.postgres.wire import Wire
from reconciler.errors import ScriptError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import psycopg

    from reconciler.engines.postgres.instance.catalog import Groups
    from reconciler.engines.postgres.instance.databases import Making
    from reconciler.engines.postgres.instance.link import Link
    from reconciler.engines.postgres.instance.roles import Worker
    from reconciler.engines.postgres.lexer import Statement
    from reconciler.proc import CancelToken
    from reconciler.state.desired import Script
    from reconciler.state.servers import Hosted


def run_scripts(
    link: Link,
    conn: psycopg.Connection,
    groups: Groups,
    working: Making,
    hosted: Hosted,
    scripts: Sequence[Script],
    cancel: CancelToken,
) -> None:
    """Run scripts; see :meth:`~reconciler.engines.base.Instance.run_scripts`."""
    found = catalog.of_volume(catalog.databases(conn, link.reach.installation), hosted.volume)
    names = {name: database.name for name, database in found.items()}
    with roles.worker(link, conn, groups, f"scripts of {hosted.volume}", working) as one:
        try:
            for script in scripts:
                cancel.check()
                with _Target(link, one, names, script, cancel) as target:
                    target.run()
        finally:
            for name in names.values():
                with link.session(name) as inside:
                    roles.leave_to_owners(inside, groups, one.name)
                    roles.open_to_readers(inside, groups)


class _Target:
    r"""One connection of the worker; ``\connect`` opens another one to a database of the clone."""

    def __init__(self, link: Link, one: Worker, names: Mapping[str, str], script: Script, cancel: CancelToken) -> None:
        self._link, self._worker, self._names, self._script, self._cancel = link, one, names, script, cancel
        self._stack = ExitStack()
        self._wire: Wire | None = None

    def __enter__(self) -> Self:
        script = self._script
        self._open(database_of(script.database, sorted(self._names), script.origin, script.first_line))
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()

    @property
    def wire(self) -> Wire:
        if self._wire is None:
            raise LookupError("the script is not open")
        return self._wire

    def run(self) -> None:
        """Run the script to its end or first error."""
        script = self._script
        stream = io.BytesIO(script.text.encode())
        reader = SqlReader(stream, origin=script.origin, error=ScriptError, first_line=script.first_line)
        Runner(reader, self, cancel=self._cancel, whole=False).run()
        if self.wire.in_transaction:
            raise reader.fail("the script ends inside a transaction that it began: COMMIT is missing")

    def execute(self, statement: Statement) -> bool:
        return self.wire.execute(statement.text)

    def connect(self, database: str) -> None:
        if database not in self._names:
            raise SqlError("3D000", f"cannot connect to database {database}: it is not of this clone")
        self._open(database)

    def _open(self, database: str) -> None:
        if database not in self._names:
            origin, line = self._script.origin, self._script.first_line
            raise ScriptError(f"{origin}:{line}: a clone on an instance has no database {database}")
        self._stack.close()
        session = self._link.worker_session(self._worker.name, self._worker.password, self._names[database])
        conn = self._stack.enter_context(session)
        conn.execute("SET client_encoding = 'UTF8'")
        self._wire = Wire(conn, self._cancel)
