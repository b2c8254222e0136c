"""Copy the databases of a primary into a build with SQL alone, for servers that let nobody at their files.

Called by ``engine`` and :mod:`.session` for ``method: logical``. Every refresh copies
everything: pg_dump reads each database in parallel, as of one moment (:mod:`.moment`), and
what it wrote (:mod:`.dumper`) is restored like any archive of others, without trust.
Production is held only while it is read: all dumps are taken before the first is restored.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg

from reconciler.engines.base import LocalSource, SourceIdentity
from reconciler.engines.postgres import logical, moment, primary, server
from reconciler.engines.postgres.archive import restore_archive
from reconciler.engines.postgres.dumper import GLOBALS, Directory, Dumper
from reconciler.engines.postgres.failures import SqlError
from reconciler.engines.postgres.formats import Format
from reconciler.engines.postgres.restore_target import RestoreTarget
from reconciler.errors import NotInstalledError, ReconcilerError, SourceError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from reconciler.engines.base import BuildWork, InstalledServer
    from reconciler.engines.postgres.moment import Moment
    from reconciler.engines.postgres.primary import Primary

_LOOK_SECONDS = 60.0
_OLDEST = 100000
"""Before PostgreSQL 10 functions have other names, and standbys export no snapshots."""
_DATABASES = """
SELECT datname, has_database_privilege(oid, 'CONNECT') FROM pg_database
WHERE datallowconn AND NOT datistemplate ORDER BY datname
"""
_MANAGED = frozenset(
    {"rdsadmin", "cloudsqladmin", "alloydbadmin", "alloydbmetadata", "azure_maintenance", "azure_sys", "postgres"}
)
"""Databases of a server's operator, which hold nothing of users."""
_SIZE = "SELECT coalesce(sum(pg_database_size(datname)), 0)::bigint FROM pg_database WHERE datname = ANY(%s)"
_ROOM = 2
"""A build in sizes of the primary: its tables and indexes without what updates left behind, the dumps, WAL."""
_NEW_CLUSTER_BYTES = 64 << 20


def identify(source: LocalSource) -> SourceIdentity:
    """Return what a primary holds now, by one session of a second.

    Raises:
        UnavailableError: it does not answer.
        SourceError: it does not let us in, or lacks a database.
        SecretError: its secret holds no connection URL.

    """
    live = primary.of_source(source)
    with _looking(live) as conn:
        found = moment.state(conn, live.where)
        names = _wanted(live, conn, source.primary.databases if source.primary else ())
        row = conn.execute(_SIZE, [list(names)]).fetchone()
    return SourceIdentity(f"primary:{found}", _NEW_CLUSTER_BYTES + _ROOM * (int(row[0]) if row else 0))


def choose_server(work: BuildWork) -> InstalledServer:
    """Return the installation that serves a copy: of the primary's version, or else the next newer one.

    Its pg_dump reads the primary, since what another version's pg_dump writes it may not restore.

    Raises:
        UnsupportedError: the image asks for an older version than the primary has.
        NotInstalledError: no installation is new enough.

    """
    live = primary.of_source(work.source)
    with _looking(live) as conn:
        version = conn.info.server_version
    major = version // 10000
    if work.version is not None and work.version.isdigit() and int(work.version) < major:
        raise UnsupportedError(
            f"the primary {live.where} is PostgreSQL {major}, and the image asks for version {work.version}",
            hint=f'set version: "{major}" or newer',
        )
    installed = server.choose(work.version or _nearest(live, major))
    server.program(installed, "pg_dump")
    return installed


def restore_primary(work: BuildWork, installed: InstalledServer) -> None:
    """Copy all databases that the image wants, with the roles that they need. ``ensure_builder`` was called before.

    Raises:
        UnavailableError: the primary went away; nothing is left there, and another try may work.
        SourceError: it denies something, or what it holds cannot be restored.
        BusyError: it rewrites tables so often that none of its moments can be held.

    """
    live = primary.of_source(work.source)
    with Directory(work) as directory:
        names = _dump(work, installed, live, directory)
        _restore(work, installed, live, directory, names)


def _nearest(live: Primary, major: int) -> str:
    fitting = sorted({int(one.major) for one in server.installed_servers() if int(one.major) >= major})
    if not fitting:
        here = ", ".join(one.version for one in server.installed_servers()) or "none"
        raise NotInstalledError(
            f"the primary {live.where} is PostgreSQL {major}, and no pg_dump here can read it; found: {here}",
            hint=f"install the package postgresql-{major}",
        )
    return str(fitting[0])


@contextmanager
def _looking(live: Primary) -> Iterator[psycopg.Connection]:
    """Have a session for a cheap look."""
    conn = primary.connect(live, statement_seconds=_LOOK_SECONDS)
    conn.patience = _LOOK_SECONDS
    try:
        if conn.info.server_version < _OLDEST:
            raise UnsupportedError(f"the primary {live.where} is older than PostgreSQL {_OLDEST // 10000}")
        yield conn
    except psycopg.Error as error:
        raise primary.failure(live, error) from None
    finally:
        conn.close()


def _wanted(live: Primary, conn: psycopg.Connection, wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the databases to copy.

    Raises:
        SourceError: one is not there, or may not be read; or there are none.

    """
    present = {str(name): bool(allowed) for name, allowed in conn.execute(_DATABASES).fetchall()}
    names = tuple(wanted) or tuple(name for name in present if name not in _MANAGED)
    missing = sorted(set(names) - present.keys())
    if missing or not names:
        here = ", ".join(name for name in present if name not in _MANAGED) or "none"
        what = f"no database {', '.join(missing)}" if missing else "no database of users"
        raise SourceError(f"the primary {live.where} has {what}; it has: {here}")
    closed = [name for name in names if not present[name]]
    if closed:
        raise SourceError(
            f"the primary {live.where} does not let us into the database {', '.join(closed)}",
            reason="PrimaryRefused",
            hint="GRANT CONNECT ON DATABASE … TO …, or list under `databases` what is wanted",
        )
    return names


# -- reading the primary --------------------------------------------------------------


def _dump(work: BuildWork, installed: InstalledServer, live: Primary, directory: Directory) -> tuple[str, ...]:
    """Write dumps of all databases, as of one moment; note what moment that was."""
    with _looking(live) as conn:
        here = live.pinned(conn)
        names = _wanted(live, conn, work.databases)
    work.progress(f"looking for one moment of {len(names)} databases")
    with moment.opened(here, names, work.cancel) as found:
        _note(work, found)
        tool = Dumper(work, installed, here, directory)
        tool.globals()
        for number, name in enumerate(names):
            tool.database(name, found.snapshot(name), str(number))
            found.release(name)
    return names


def _note(work: BuildWork, found: Moment) -> None:
    facts = {"input_id": f"primary:{found.identity}", "as_of": found.as_of.isoformat()}
    if found.apart is not None:
        milliseconds = max(1, round(found.apart.total_seconds() * 1000))
        facts["moments"] = f"its databases are of moments within {milliseconds} ms, not of one"
        work.progress(facts["moments"])
    server.note_build_facts(work, facts)


# -- filling the build ----------------------------------------------------------------


def _restore(
    work: BuildWork, installed: InstalledServer, live: Primary, directory: Directory, names: Sequence[str]
) -> None:
    target = RestoreTarget(work, default=names[0])
    try:
        roles = directory.place / GLOBALS  # while nobody else can put a link there: we read it ourselves
        if roles.exists():
            with _called(roles, f"the roles of the primary {live.where}"):
                logical.restore_plain(work, target, roles, Format("plain"))
        directory.give()
        for number, name in enumerate(names):
            place = directory.path / str(number)
            target.begin()
            with _called(place, f"database {name} of the primary {live.where}"):
                part = replace(work, source=LocalSource("dump", place, name=name), databases=(name,))
                restore_archive(part, installed, target, Format("directory"))
            shutil.rmtree(place)
        with _called(directory.path, f"the primary {live.where}"):
            target.finish()
    finally:
        target.close()


@contextmanager
def _called(path: Path, name: str) -> Iterator[None]:
    """Let errors name what was copied, not the file that it passed through."""
    try:
        yield
    except SqlError as error:
        raise SourceError(f"{name}: {error}", hint=error.hint) from error
    except ReconcilerError as error:
        error.message = error.message.replace(f"the dump {path}", name).replace(str(path), name)
        raise
