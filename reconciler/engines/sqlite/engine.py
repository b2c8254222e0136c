"""The SQLite engine: the front of this package.

Made by the registry; called by ``observe``, ``apply`` and the command line through
:class:`reconciler.engines.base.Engine`. Its databases are files and its product is the
library in this process: where other engines say how to start a server, it says that
there is nothing to run.
"""

from __future__ import annotations

import shutil
import sys
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

from reconciler.engines.base import Sealed
from reconciler.engines.sqlite import activity, copying, damage, databases, header, identify, scripts, sealing
from reconciler.engines.sqlite.failures import translated
from reconciler.engines.sqlite.parameters import validate_parameters
from reconciler.engines.sqlite.session import SqliteSession
from reconciler.errors import SourceError, UnavailableError, UnsupportedError
from reconciler.handover import give_tree, take_tree
from reconciler.state.servers import ServerSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from reconciler.engines.base import (
        BuildSession,
        BuildWork,
        CloneWork,
        DatabaseFiles,
        InstalledServer,
        Instances,
        LocalSource,
        Mirrors,
        SourceIdentity,
        UserWish,
    )
    from reconciler.state.desired import Script
    from reconciler.state.observed import Activity
    from reconciler.state.servers import Endpoint, ProductImage


class SqliteFiles:
    """Where databases lie in a volume."""

    def path(self, directory: Path, database: str) -> Path:
        return databases.file_of(directory, database)


class SqliteEngine:
    """SQLite, as this Python has it."""

    name = "sqlite"
    install_hint = "use a Python that is linked with a newer SQLite"
    mirrors: Mirrors | None = None
    instances: Instances | None = None
    files: DatabaseFiles | None = SqliteFiles()

    def servers(self) -> tuple[InstalledServer, ...]:
        return databases.installed()

    @translated()
    def identify(self, source: LocalSource) -> SourceIdentity:
        return identify.identify(source)

    def built_size(self, path: str, stored_bytes: int) -> int:
        return identify.built_size(stored_bytes, packed=identify.is_packed(path))

    @translated()
    def prepare(self, work: BuildWork) -> None:
        _refuse_parameters(work.parameters)
        databases.require(work.source.base.major if work.source.base is not None else work.version)
        if work.source.base is not None:
            take_tree(work.directory)
            _recover(work)
            return
        for name in work.databases:
            databases.file_of(work.directory, name)  # refused before anything is made
        (work.directory / databases.DATA).mkdir(mode=0o700)
        if work.source.kind == "files":
            found = identify.identify(work.source)
            as_of = found.modified_at.isoformat() if found.modified_at is not None else None
            sealing.note(work, as_of=as_of, input_id=copying.copy(work))
        elif work.source.kind == "empty":
            for name in work.databases:
                databases.make(databases.file_of(work.directory, name))
        elif work.source.kind != "dump":
            raise SourceError(f"SQLite has no source {work.source.kind}")

    def container_image(self, major: str | None) -> ProductImage:
        raise UnsupportedError(f"SQLite {major or ''}".rstrip() + " is a library: no container runs it")

    def build_server(self, work: BuildWork) -> ServerSpec:
        return ServerSpec(name=work.server, argv=(), directory=work.directory, ready=work.directory.is_dir)

    @contextmanager
    def session(self, work: BuildWork) -> Iterator[BuildSession]:
        with translated():  # all that its caller does with the session, too
            yield SqliteSession(work)

    @translated()
    def finish(self, work: BuildWork) -> Sealed:
        known = sealing.notes(work)
        sealing.finish(work)
        version, major = sealing.version()
        as_of = known.get("as_of")
        return Sealed(
            version=version,
            major=major,
            databases=databases.databases_in(work.directory),
            data_as_of=datetime.fromisoformat(as_of) if as_of is not None else None,
            input_id=known.get("input_id"),
        )

    def clone_server(self, work: CloneWork) -> ServerSpec:
        _refuse_parameters(work.parameters)
        databases.require(work.snapshot.major)
        if work.account is not None:
            give_tree(work.directory, work.account)
        files = [databases.file_of(work.directory, name) for name in work.snapshot.databases]
        return ServerSpec(
            name=work.server,
            argv=(),
            directory=work.directory,
            account=work.account,
            ready=lambda: all(header.is_database(path) for path in files),
        )

    def deliver(self, work: CloneWork, users: Sequence[UserWish], drop: Sequence[str]) -> None:
        del drop
        if users:
            raise UnsupportedError(f"clone {work.clone} is a file: it has no users", hint="remove users")

    @translated()
    def run_scripts(self, work: CloneWork, wanted: Sequence[Script]) -> None:
        for script in wanted:
            work.cancel.check()
            scripts.run_script(work, script)
        if work.account is not None:
            give_tree(work.directory, work.account)

    def activity(self, work: CloneWork) -> Activity:
        try:
            return activity.activity_of(work)
        except OSError as error:
            raise UnavailableError(f"the files of {work.clone} cannot be looked at: {error.strerror}") from error

    def url(self, endpoint: Endpoint, password: str | None) -> str:
        del password
        return f"sqlite:///{quote(str(endpoint.path or ''))}"

    def shell(self, endpoint: Endpoint, password: str, major: str) -> tuple[tuple[str, ...], Mapping[str, str]]:
        del password
        databases.require(major)
        path = str(endpoint.path or "")
        program = shutil.which("sqlite3")
        argv = (
            (program, path) if program is not None else (sys.executable, "-m", "reconciler.engines.sqlite.shell", path)
        )
        return argv, {}


def _recover(work: BuildWork) -> None:
    """Bring a copy to rest; of a clone, which somebody may have been writing to, insist that it is whole."""
    for name in databases.databases_in(work.directory):
        path = databases.file_of(work.directory, name)
        with databases.connect(path, cancel=work.cancel) as conn:
            conn.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if work.source.kind == "clone":
            damage.require_whole(path, what=f"the copy of database {name}", cancel=work.cancel)


def _refuse_parameters(parameters: Mapping[str, str]) -> None:
    found = validate_parameters(parameters)
    if found:
        raise UnsupportedError("; ".join(found))
