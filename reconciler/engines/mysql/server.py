"""Server programs on this host, and the way into a private server.

Called by every other module of this package. It finds installations, chooses one, and
opens connections over the private Unix socket. The administrator has a password that is
made for one server, lies beside its socket, and is told to it by its ``init_file``: so no
snapshot and no manifest holds one, and who cannot reach the socket cannot use it.
"""

from __future__ import annotations

import os
import secrets
import shutil
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import pymysql

from reconciler import proc
from reconciler.engines import files
from reconciler.engines.base import BuildWork, CloneWork, InstalledServer
from reconciler.engines.mysql import contained
from reconciler.engines.mysql.failures import SqlError, sql_error
from reconciler.engines.mysql.link import Link
from reconciler.errors import CommandError, NotInstalledError, PermanentError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.engines.base import MirrorWork
    from reconciler.engines.mysql.product import Product
    from reconciler.proc import CancelToken

    Work = BuildWork | CloneWork
    Served = Work | MirrorWork

ADMIN = "reconciler_admin"
"""Account with all rights. Only over the socket; its password is that of one server."""
OWNER = "reconciler_owner"
"""Account without rights beyond databases of users. SQL of specs and dumps runs as it, and it is the definer of
what that makes; locked in snapshots and clones."""
HOST = "localhost"
"""Of both: connections over the socket, since names are not resolved."""
SYSTEM_DATABASES = frozenset({"mysql", "information_schema", "performance_schema", "sys"})
_INTERNAL_USERS = ("mariadb.sys", "mysql.sys", "mysql.session", "mysql.infoschema")
"""Locked accounts of the product itself; its own views are theirs."""
OURS = (ADMIN, OWNER, *_INTERNAL_USERS)
RESERVED = (*OURS, contained.HEALTH)
"""Names that no user of a clone can have."""

_PLACES = ("/usr/sbin", "/usr/bin", "/usr/local/mysql/bin", "/opt/mysql/bin", "/opt/mariadb/bin")
_KEY = "admin.key"
INIT_FILE = "admin.sql"
_CONNECT_SECONDS = 60
"""For each step of the log-in: builds run behind everything else."""
_LOOK_SECONDS = 5
_REMEMBERED = 32
_PATIENT = (
    "SET SESSION wait_timeout = 28800, net_read_timeout = 600, net_write_timeout = 600 /*M!, max_statement_time = 0 */"
)
"""Settings of documents can have limits that are made for applications, not for our work."""
_Stamp = tuple[int, int, int]


def installed_servers(product: Product) -> tuple[InstalledServer, ...]:
    """Return the usable installations of this host, newest first."""
    found: dict[Path, InstalledServer] = {}
    for path in _programs(product):
        known = product.version(_version_text(path, _stamp(path)))
        if known is not None and path.resolve() not in found:
            found[path.resolve()] = InstalledServer(known[0], known[1], "host", path.parent)
    return tuple(sorted(found.values(), key=lambda one: _numbers(one.version), reverse=True))


def choose(product: Product, version: str | None = None) -> InstalledServer:
    """Return the installation that serves ``version``, of which parts may be left out; default: the newest.

    Raises:
        NotInstalledError: there is none; the message says what is here and how to get it.

    """
    servers = installed_servers(product)
    for server in servers:
        if version is None or f"{server.version}.".startswith(f"{version}."):
            return server
    here = ", ".join(f"{one.version} in {one.directory}" for one in servers) or "none"
    what = f"{product.title} {version}" if version is not None else f"{product.title} server"
    raise NotInstalledError(f"no {what} on this host; found: {here}", hint=product.install_hint)


def server_program(product: Product, installed: InstalledServer) -> Path:
    """Return the path of an installation's server program."""
    return next(path for name in product.servers if (path := installed.directory / name).is_file())


def tool(installed: InstalledServer, names: tuple[str, ...], hint: str) -> Path:
    """Return the path of a program of the product: of the installation, or of the host.

    Raises:
        NotInstalledError: there is none.

    """
    return _program([installed.directory], names, hint)


def client(product: Product, major: str) -> Path:
    """Return the client program for servers of a version; of those in containers, this host may have no programs.

    Raises:
        NotInstalledError: there is no client of any version.

    """
    found = next((one for one in installed_servers(product) if one.major == major), None)
    return _program([found.directory] if found is not None else [], product.clients, product.install_hint)


def environment() -> dict[str, str]:
    """Return the environment of servers and tools: nothing of the user's own settings."""
    variables = proc.environment({"LC_ALL": "C.UTF-8"})
    variables.pop("SSH_AUTH_SOCK", None)
    return variables


def data_directory(work: Served) -> Path:
    """Return the data directory of a build or clone."""
    return work.directory / "data"


def settings_file(work: Served) -> Path:
    """Return where the settings of a build or clone lie: beside its data, so that none of a source is read."""
    return work.directory / "my.cnf"


def socket(work: Served) -> Path:
    """Return the private socket."""
    return work.run_directory / (contained.SOCKET if contained.is_contained(work) else "mysql.sock")


def pid_file(work: Served) -> Path:
    """Return the file that a server has from when it takes connections until it has ended in an orderly way."""
    return work.run_directory / "mysql.pid"


def prepare_admin(work: Served, product: Product, *, more: str = "") -> Path:
    """Give the server to be started a password for its administrator; return the file of statements for its start.

    ``more`` are statements after that, each with its line end.
    """
    path = work.run_directory / _KEY
    password = files.read_small(path)
    if password is None:
        password = secrets.token_urlsafe(24)
        files.write_file(work.run_directory, _KEY, password, None)
    who = f"{ADMIN}@{HOST}"
    statements = (
        f"CREATE USER IF NOT EXISTS {who};\nALTER USER {who} {product.identified(password)};\n"
        f"GRANT ALL PRIVILEGES ON *.* TO {who} WITH GRANT OPTION;\n"
    )
    if isinstance(work, CloneWork):  # it has the rest from its build
        statements = f"ALTER USER {who} {product.identified(password)};\n"
    if isinstance(work, BuildWork | CloneWork) and contained.is_contained(work):
        statements += contained.probe(work, product, password)
    files.write_file(work.run_directory, INIT_FILE, statements + more, work.account)
    return work.run_directory / INIT_FILE


def connect(work: Served, database: str | None = None, *, patient: bool = False, look: bool = False) -> Link:
    """Connect as the administrator.

    ``patient``: for long statements of a build, which end when it is cancelled. ``look``: for
    those that passes and people wait for; a server that hangs is one that does not answer.

    Raises:
        UnavailableError: the server does not answer or refuses the connection.

    """
    password = files.read_small(work.run_directory / _KEY)
    if password is None:
        raise UnavailableError(f"the way into server {work.server} is gone", hint="restart it")
    return link(work, ADMIN, password, database, cancel=work.cancel if patient else None, look=look)


def link(
    work: Served,
    user: str,
    password: str,
    database: str | None = None,
    *,
    cancel: CancelToken | None = None,
    look: bool = False,
) -> Link:
    """Connect over the private socket; see :func:`connect`."""
    seconds = _LOOK_SECONDS if look else _CONNECT_SECONDS
    try:
        connection = pymysql.connect(
            unix_socket=str(socket(work)),
            user=user,
            password=password,
            database=database,
            charset="utf8mb4",
            autocommit=True,
            connect_timeout=seconds,
            read_timeout=seconds,
            write_timeout=seconds,
            program_name="reconciler",
            init_command=_PATIENT,
            read_default_file=None,
            local_infile=False,
            ssl_disabled=True,
        )
    except pymysql.Error as error:
        known = sql_error(error)
        raise UnavailableError(f"cannot connect to server {work.server}: {known}") from None
    made = Link(connection, cancel, (lambda thread: _kill(work, thread)) if cancel is not None else None)
    if not look:
        made.wait_for(None, None)
    return made


def user_databases(admin: Link) -> tuple[str, ...]:
    """Return the databases that belong to users, by name."""
    rows = admin.rows("SELECT schema_name FROM information_schema.schemata ORDER BY schema_name")
    names = (str(row[0]) for row in rows)
    return tuple(sorted(name for name in names if name not in SYSTEM_DATABASES and not name.startswith("#mysql50#")))


def _kill(work: Served, thread: int) -> None:
    try:
        with connect(work) as admin:
            admin.rows("KILL QUERY %s", thread)
    except (SqlError, UnavailableError):
        return  # it is over, or the server is


def _program(first: list[Path], names: tuple[str, ...], hint: str) -> Path:
    directories = [*map(str, first), os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/bin"]
    for name in names:
        if (found := shutil.which(name, path=os.pathsep.join(directories))) is not None:
            return Path(found)
    raise NotInstalledError(f"the program {names[0]} is not installed on this host", hint=hint)


def _programs(product: Product) -> Iterator[Path]:
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *_PLACES])
    for directory in dict.fromkeys(path.split(os.pathsep)):
        for name in product.servers:
            program = Path(directory, name)
            if os.access(program, os.X_OK) and program.is_file():
                yield program


@lru_cache(maxsize=_REMEMBERED)
def _version_text(path: Path, _stamp: _Stamp) -> str:
    try:
        return proc.run([path, "--no-defaults", "--version"], timeout=30).text
    except (CommandError, PermanentError):
        return ""


def _stamp(path: Path) -> _Stamp:
    """Return what changes when a package is upgraded: the loop lives longer than the programs that it runs."""
    status = path.stat()
    return status.st_mtime_ns, status.st_ino, status.st_size


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]
