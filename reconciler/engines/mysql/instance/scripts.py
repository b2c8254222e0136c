"""Scripts of a clone on an instance: run as its worker, who may do what the clone's owners may.

Called by :mod:`.front`. They stop at the first error, and reach no other database than the
clone's, which they call by the names that it has on the instance.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from reconciler.engines.mysql.instance import accounts, catalog
from reconciler.engines.mysql.lexer import SqlReader
from reconciler.engines.mysql.link import quoted
from reconciler.engines.mysql.runner import Runner
from reconciler.engines.mysql.statements import Kind, classify
from reconciler.errors import ScriptError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from reconciler.engines.mysql.instance.link import InstanceLink
    from reconciler.engines.mysql.instance.marks import Registry
    from reconciler.engines.mysql.lexer import Statement
    from reconciler.engines.mysql.link import Link
    from reconciler.proc import CancelToken
    from reconciler.state.desired import Script
    from reconciler.state.servers import Hosted


def run_scripts(
    access: InstanceLink,
    link: Link,
    registry: Registry,
    hosted: Hosted,
    scripts: Sequence[Script],
    cancel: CancelToken,
) -> None:
    """Run scripts; see :meth:`~reconciler.engines.base.Instance.run_scripts`."""
    found = catalog.databases(link, registry).of_volume(hosted.volume)
    names = {name: one.name for name, some in found.items() for one in some if one.there}
    with accounts.working(access, link, registry, hosted.volume, names.values()) as worker:
        for script in scripts:
            cancel.check()
            with access.session_as(worker.name, worker.password, cancel) as session:
                session.rows("SET SESSION sql_mode = @@GLOBAL.sql_mode, foreign_key_checks = 1, unique_checks = 1")
                session.rows("SET SESSION check_constraint_checks = 1, time_zone = @@GLOBAL.time_zone")
                _run(session, names, script, cancel)


def _run(session: Link, names: Mapping[str, str], script: Script, cancel: CancelToken) -> None:
    where = f"{script.origin}:{script.first_line}"
    database = script.database if script.database is not None or len(names) > 1 else next(iter(names), None)
    if database is not None:
        if database not in names:
            raise ScriptError(f"{where}: there is no database {database}; there are: {', '.join(names) or 'none'}")
        session.rows(f"USE {quoted(names[database])}")
    reader = SqlReader(
        io.BytesIO(script.text.encode()), origin=script.origin, error=ScriptError, first_line=script.first_line
    )
    Runner(reader, _Target(session, names), cancel=cancel, whole=False).run()


class _Target:
    def __init__(self, link: Link, names: Mapping[str, str]) -> None:
        self._link, self._names = link, names

    @property
    def link(self) -> Link:
        return self._link

    def execute(self, statement: Statement) -> None:
        kind, name = classify(statement.text)
        if kind is Kind.USE and name in self._names:
            self._link.rows(f"USE {quoted(self._names[name])}")
            return
        self._link.execute(statement.text)
