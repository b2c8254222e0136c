"""Loading a snapshot into an instance: read from a private server of this host, made as nobody in particular.

Called by :mod:`.front`. What is in a snapshot is not to be trusted with an administrator's rights on
a server that others use: its statements run as a worker, who has an owner's rights in these
databases only. Rows go from server to server byte for byte (:mod:`..transfer`).
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from reconciler.engines.mysql import catalog, rows, server, transfer
from reconciler.engines.mysql.failures import SqlError, lost
from reconciler.engines.mysql.instance import accounts, copies, definitions, making
from reconciler.engines.mysql.instance import catalog as hosted
from reconciler.engines.mysql.instance.link import SETTINGS
from reconciler.engines.mysql.instance.marks import TemplateMark
from reconciler.engines.mysql.link import quoted
from reconciler.errors import SourceError, UnavailableError, UnsupportedError
from reconciler.state.hosted import template_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.engines.base import CloneWork, Progress
    from reconciler.engines.mysql.catalog import Table
    from reconciler.engines.mysql.instance.accounts import Worker
    from reconciler.engines.mysql.instance.definitions import Definitions
    from reconciler.engines.mysql.instance.link import InstanceLink
    from reconciler.engines.mysql.instance.marks import Registry
    from reconciler.engines.mysql.link import Link
    from reconciler.errors import ReconcilerError

_READER = "SET SESSION time_zone = '+00:00', sql_mode = '', sql_quote_show_create = 1"
_MISSING = {1115: "CollationMissing", 1273: "CollationMissing", 1286: "EngineMissing"}
_SEQUENCES = """
SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = %s
    AND column_default REGEXP '^(nextval|lastval|setval)[(]' ORDER BY table_name, ordinal_position
"""
_PAST = "SELECT (SELECT count(*) FROM {0} FOR SYSTEM_TIME ALL) > (SELECT count(*) FROM {0})"


def load(access: InstanceLink, registry: Registry, work: CloneWork, *, jobs: int, progress: Progress) -> None:
    """Load a snapshot; see :meth:`~reconciler.engines.base.Instance.load`."""
    one = _Load(access, registry, work, progress)
    with _readers(work, max(jobs, 1)) as sessions:
        for name in work.snapshot.databases:
            one.run(name, sessions)
    one.complete()


@contextmanager
def _readers(work: CloneWork, jobs: int) -> Iterator[list[Link]]:
    """Have sessions of the private server, to which nobody else writes."""
    with ExitStack() as stack:
        sessions = [stack.enter_context(server.connect(work, patient=True)) for _ in range(jobs)]
        for session in sessions:
            session.rows(_READER)
            session.rows("START TRANSACTION READ ONLY")
        yield sessions


class _Load:
    """A snapshot in the middle of a load."""

    def __init__(self, access: InstanceLink, registry: Registry, work: CloneWork, progress: Progress) -> None:
        self._access, self._registry = access, registry
        self._work, self._progress = work, progress
        self._snapshot = work.snapshot.snapshot
        self._made: list[str] = []

    def run(self, name: str, sessions: list[Link]) -> None:
        """Load a database."""
        access, work, target, first = self._access, self._work, self._target(name), sessions[0]
        work.cancel.check()
        self._progress(f"copying database {name} to {access.where}")
        tables, _views = catalog.tables(first, (name,))
        code = definitions.read(first, name)
        self._require_own_names(first, name)
        with access.session() as link:
            history = transfer.takes_history(link)
            self._require_code_to_be_made(link, name, code)
            self._require_history(first, tables, history=history)
            hosted.databases(link, self._registry).require_free(target, access.where)
            mark = TemplateMark(snapshot=self._snapshot, database=name)
            making.make(access, link, self._registry, target, mark, making.sorting(first, name))
            self._made.append(target)  # views that are made already show what they are while their definer may read
            with accounts.working(access, link, self._registry, self._snapshot, self._made) as worker:
                link.close()  # it may take hours
                self._make_tables(worker, first, tables, target)
                todo = transfer.parts(first, tables, len(sessions), history=history)
                transfer.copy(self._ends(worker, target), sessions, todo)
                self._make_code(worker, name, code, target)
        with access.session(cancel=work.cancel) as link:
            copies.analyse(link, tables, target)

    def complete(self) -> None:
        """Say that all of it is there; in one transaction for all databases."""
        self._work.cancel.check()
        with self._access.session() as link:
            found = hosted.databases(link, self._registry).of_snapshot(self._snapshot)
            done = [
                replace(one.row, mark=TemplateMark(snapshot=self._snapshot, database=name, complete=True))
                for name, one in found.items()
            ]
            self._registry.put(link, "database", done)

    def _target(self, name: str) -> str:
        return making.fitting(template_name(self._snapshot, name, self._work.snapshot.databases))

    def _make_tables(self, worker: Worker, first: Link, tables: list[Table], target: str) -> None:
        with self._access.session_as(worker.name, worker.password, self._work.cancel) as session:
            for table in sorted(tables, key=lambda table: not table.sequence):
                with self._told(f"table {table.database}.{table.name}"):
                    copies.make_table(first, session, table, target)

    def _make_code(self, worker: Worker, name: str, code: Definitions, target: str) -> None:
        with (
            self._access.session_as(worker.name, worker.password, self._work.cancel) as session,
            self._told(f"database {name}"),
        ):
            refused = definitions.make(session, code, target)
        if refused:
            raise self._refused(f"database {name}", definitions.named(refused))

    def _ends(self, worker: Worker, target: str) -> transfer.Ends:
        return transfer.Ends(
            source="the snapshot",
            target=self._access.where,
            writer=lambda: self._access.session_as(worker.name, worker.password, self._work.cancel),
            told=_read,
            failure=_unreadable,
            place=lambda table: f"{quoted(target)}.{quoted(table.name)}",
            settings=SETTINGS,
            cancel=self._work.cancel,
            progress=self._progress,
        )

    def _require_own_names(self, first: Link, name: str) -> None:
        """Insist that no default calls a sequence: it does so by the name of its database, which is another one there.

        Raises:
            UnsupportedError: one does.

        """
        for table, column in first.rows(_SEQUENCES, name):
            raise UnsupportedError(
                f"the default of {name}.{table}.{column} is of a sequence, which it names by its database",
                reason="NamesItsDatabase",
                hint="use AUTO_INCREMENT, or drop the default in a script of the image",
            )

    def _require_code_to_be_made(self, link: Link, name: str, code: Definitions) -> None:
        """Insist that an account like the worker may make functions and triggers.

        Raises:
            UnsupportedError: it may not.

        """
        if not (code.triggers or any(one.what.startswith("function ") for one in code.routines)):
            return
        if link.value("SELECT @@log_bin AND NOT @@log_bin_trust_function_creators"):
            raise UnsupportedError(
                f"database {name} has functions or triggers, which {self._access.where} lets administrators make only,"
                " as it writes a binary log",
                reason="CodeRefused",
                hint="SET GLOBAL log_bin_trust_function_creators = 1 there",
            )

    def _require_history(self, first: Link, tables: list[Table], *, history: bool) -> None:
        """Insist that what tables keep of their past can come along.

        Raises:
            UnsupportedError: one has some that cannot.

        """
        for table in tables:
            if not table.versioned or rows.columns_of(first, table.database, table.name, history=history)[1]:
                continue
            if first.value(_PAST.format(table.place)):
                newer = "" if history else ", or use an instance of MariaDB 10.11 or later"
                raise UnsupportedError(
                    f"the history of {table.database}.{table.name} would be lost on {self._access.where}",
                    reason="HistoryLost",
                    hint=f"DELETE HISTORY FROM it in a script of the image{newer}",
                )

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Tell what the instance refuses of a snapshot."""
        try:
            yield
        except SqlError as error:
            if lost(error):
                raise self._access.failure(error) from None
            if error.code in _MISSING:
                raise UnsupportedError(
                    f"{what} cannot be on {self._access.where}: {error}",
                    reason=_MISSING[error.code],
                    hint="use an instance that has what it needs, or change it in a script of the image",
                ) from None
            raise self._refused(what, str(error)) from None

    def _refused(self, what: str, why: str) -> SourceError:
        hint = "its databases have other names there, and an owner's rights: change it in a script of the image"
        return SourceError(f"{what} on {self._access.where}: {why}", reason="LoadFailed", hint=hint)


@contextmanager
def _read() -> Iterator[None]:
    try:
        yield
    except SqlError as error:
        raise _unreadable(error) from None


def _unreadable(error: SqlError) -> ReconcilerError:
    if lost(error):
        return UnavailableError("the connection to the snapshot's server was lost")
    return SourceError(f"the snapshot cannot be read: {error}")
