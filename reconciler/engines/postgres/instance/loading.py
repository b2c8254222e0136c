"""Loading a snapshot into an instance: dumped from a private server of this host, restored as nobody in particular.

Called by :mod:`.front`. What is in a snapshot is not to be trusted with a superuser's rights on a
server that others use: it is restored by a worker, who is none. Only extensions, which the
instance's own administrator installed, are made by ours. Programs that log in there run under
this process's account, on files that no other one can write.
"""

from __future__ import annotations

import re
import secrets
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from reconciler import proc
from reconciler.engines.postgres import ownership, server
from reconciler.engines.postgres.archive import complaint
from reconciler.engines.postgres.instance import catalog, databases, marks, roles
from reconciler.engines.postgres.instance.marks import TemplateMark
from reconciler.errors import CommandError, NotInstalledError, SourceError, UnavailableError, UnsupportedError
from reconciler.state.hosted import template_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from reconciler.engines.base import CloneWork, InstalledServer, Progress
    from reconciler.engines.postgres.instance.catalog import Groups
    from reconciler.engines.postgres.instance.databases import Making
    from reconciler.engines.postgres.instance.link import Link
    from reconciler.engines.postgres.instance.roles import Worker

_DUMPS = "dump"
_LIST = "restore.list"
_PROVIDERS = 150000
_EXTENSIONS = """
SELECT extname, nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace
WHERE extname <> 'plpgsql' ORDER BY e.oid
"""
_POLICIES = """
SELECT polname, n.nspname, c.relname FROM pg_policy p JOIN pg_class c ON c.oid = polrelid
JOIN pg_namespace n ON n.oid = relnamespace WHERE polroles <> '{0}'
"""
_DATABASE = "SELECT to_jsonb(d), pg_encoding_to_char(encoding) FROM pg_database d WHERE datname = %s"
_ENTRY = re.compile(r"\d+; \d+ \d+ (.+)")
_LOST = re.compile(
    r"server closed the connection|connection to server|could not (?:receive|send) data|terminating connection"
)
_WRITTEN = "SELECT pg_read_file('/proc/self/io')"
_WRITE_BYTES = re.compile(r"^write_bytes: (\d+)$", re.MULTILINE)
_PROBED = "SELECT pg_database_size('template0')"


@dataclass(frozen=True, slots=True)
class Target:
    """An instance in the middle of a load."""

    link: Link
    groups: Groups
    making: Making
    working: Making


def load(target: Target, work: CloneWork, *, jobs: int, progress: Progress) -> None:
    """Load a snapshot; see :meth:`~reconciler.engines.base.Instance.load`."""
    names = work.snapshot.databases
    for name in names:
        work.cancel.check()
        _begin(target, work, name)
        _open_policies(work, name)
        _extend(target, work, name)
        progress(f"copying database {name} to {target.link.where}")
        with _dumped(target, work, name, jobs) as dump:
            _restore(target, work, name, dump, jobs)
        progress(f"vacuuming and analysing database {name} on {target.link.where}")
        _settle(target, work, name)
    work.cancel.check()
    _complete(target, work)


def _name(work: CloneWork, name: str) -> str:
    return template_name(work.snapshot.snapshot, name, work.snapshot.databases)


def _begin(target: Target, work: CloneWork, name: str) -> None:
    """Make an empty database that sorts and encodes as the snapshot's."""
    link, groups, made = target.link, target.groups, _name(work, name)
    with server.connect(work, name) as conn:
        row = conn.execute(_DATABASE, [name]).fetchone()
    if row is None:
        raise UnavailableError(f"database {name} is not in snapshot {work.snapshot.snapshot}")
    with link.session() as conn:
        catalog.require_free(catalog.databases(conn, link.reach.installation), made, link.where)
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE template0 OWNER {} ALLOW_CONNECTIONS false ENCODING {} ")
        words = statement.format(sql.Identifier(made), sql.Identifier(groups.databases), sql.Literal(row[1]))
        with target.making.of(made):
            try:
                conn.execute(words + _locale(row[0], conn.info.server_version))
            except (
                psycopg.errors.WrongObjectType,
                psycopg.errors.InvalidParameterValue,
                psycopg.errors.FeatureNotSupported,
            ) as error:
                locale = row[0].get("datlocale") or row[0].get("daticulocale") or row[0]["datcollate"]
                raise UnsupportedError(
                    f"{link.where} lacks the locale {locale} of database {name}",
                    reason="LocaleMissing",
                    hint="generate it on its host (Debian: dpkg-reconfigure locales) and restart the instance",
                ) from error
            mark = TemplateMark(
                installation=link.reach.installation, snapshot=work.snapshot.snapshot, database=name, complete=False
            )
            with conn.transaction():
                marks.put(conn, "DATABASE", made, mark)
                databases.close_to_others(conn, made, groups)
                databases.allow(conn, made, allowed=True)
    with link.session(made) as inside:
        owners = sql.Identifier(groups.owners)
        inside.execute(sql.SQL("REVOKE CREATE ON SCHEMA public FROM PUBLIC"))
        inside.execute(sql.SQL("GRANT ALL ON SCHEMA public TO {}").format(owners))


def _locale(row: dict[str, Any], version: int) -> sql.Composable:
    """Return the clauses that give a database the collation of another one, described by its catalog row."""
    collate = sql.SQL("LC_COLLATE {} LC_CTYPE {}").format(sql.Literal(row["datcollate"]), sql.Literal(row["datctype"]))
    provider = row.get("datlocprovider", "c")
    locale = row.get("datlocale") or row.get("daticulocale")
    if provider == "c" or version < _PROVIDERS:
        return collate if version < _PROVIDERS else sql.SQL("LOCALE_PROVIDER libc ") + collate
    kind = "icu" if provider == "i" else "builtin"
    words = sql.SQL(f"LOCALE_PROVIDER {kind} {'ICU_LOCALE' if provider == 'i' else 'BUILTIN_LOCALE'} {{}} ")
    found = words.format(sql.Literal(locale)) + collate
    rules = row.get("daticurules")
    return found if rules is None else found + sql.SQL(" ICU_RULES {}").format(sql.Literal(rules))


def _open_policies(work: CloneWork, name: str) -> None:
    """Let policies be for everybody, in the copy that is dumped: production's roles, whom they name, are not there."""
    with server.connect(work, name) as conn:
        for policy, schema, table in conn.execute(_POLICIES).fetchall():
            words = sql.SQL("ALTER POLICY {} ON {} TO PUBLIC")
            conn.execute(words.format(sql.Identifier(policy), sql.Identifier(schema, table)))


def _extensions(work: CloneWork, name: str) -> list[tuple[str, str]]:
    with server.connect(work, name) as conn:
        return [(extension, schema) for extension, schema in conn.execute(_EXTENSIONS).fetchall()]


def _extend(target: Target, work: CloneWork, name: str) -> None:
    """Make the extensions of a database, as the administrator, in the versions that the instance has.

    Raises:
        UnsupportedError: the instance has not one of them.

    """
    wanted = _extensions(work, name)
    if not wanted:
        return
    with target.link.session(_name(work, name)) as inside:
        for extension, schema in wanted:
            names = {"name": sql.Identifier(extension), "schema": sql.Identifier(schema)}
            owner = sql.Identifier(target.groups.owners)
            if schema not in ("public", "pg_catalog"):
                words = sql.SQL("CREATE SCHEMA IF NOT EXISTS {} AUTHORIZATION {}")
                inside.execute(words.format(names["schema"], owner))
            try:
                inside.execute(sql.SQL("CREATE EXTENSION IF NOT EXISTS {name} SCHEMA {schema} CASCADE").format(**names))
            except (psycopg.errors.UndefinedFile, psycopg.errors.FeatureNotSupported) as error:
                raise UnsupportedError(
                    f"{target.link.where} lacks the extension {extension} of database {name}",
                    reason="ExtensionMissing",
                    hint="install its package there, or drop it in a script of the image",
                ) from error
        ownership.close_outward(inside)


@contextmanager
def _dumped(target: Target, work: CloneWork, name: str, jobs: int) -> Iterator[Path]:
    """Dump a database of the private server, into a directory that only we can read, until the end of the block."""
    directory = work.directory / _DUMPS
    directory.mkdir(mode=0o700)
    try:
        words = ["--format=directory", f"--file={directory / 'data'}", f"--jobs={jobs}", "--compress=1", "--no-sync"]
        words += ["--no-owner", "--no-privileges", "--no-publications", "--no-subscriptions", "--no-security-labels"]
        environment = server.socket_environment(work, name, server.admin_role(work))
        try:
            proc.run([_program(target, work, "pg_dump"), *words], env=environment, cancel=work.cancel)
        except CommandError as error:
            raise SourceError(f"database {name} of snapshot {work.snapshot.snapshot}: {error.stderr[-500:]}") from error
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _restore(target: Target, work: CloneWork, name: str, directory: Path, jobs: int) -> None:
    """Restore a dump as a worker."""
    program, data = _program(target, work, "pg_restore"), directory / "data"
    kept = _kept(proc.run([program, "--list", data], cancel=work.cancel).text, dict(_extensions(work, name)))
    (directory / _LIST).write_text(kept)
    words = ["--exit-on-error", "--no-owner", "--no-privileges", "--no-tablespaces", "--no-security-labels"]
    words += [f"--jobs={jobs}", f"--use-list={directory / _LIST}"]
    with target.link.session() as conn, roles.worker(target.link, conn, target.groups, "load", target.working) as one:
        conn.close()  # it may take hours
        try:
            _run(target, work, one, name, [program, *words, data])
        except CommandError as error:
            raise _failure(target, name, error) from error


def _run(target: Target, work: CloneWork, one: Worker, name: str, argv: list[object]) -> None:
    way_in, place = target.link.as_worker(one.name, one.password), _name(work, name)
    database = f"--dbname={way_in.argument(place)}"
    proc.run([*map(str, argv), database], env=way_in.environment(place), cancel=work.cancel)


def _failure(target: Target, name: str, error: CommandError) -> SourceError | UnavailableError:
    where = f"database {name} on {target.link.where}"
    if _LOST.search(error.stderr):
        return UnavailableError(f"{where}: the connection was lost", reason="InstanceUnavailable")
    hint = "what only a superuser may make cannot be on an instance: drop it in a script of the image"
    return SourceError(f"{where}: {complaint(error.stderr)}", reason="LoadFailed", hint=hint)


def _kept(listing: str, extensions: dict[str, str]) -> str:
    """Return the entries of a table of contents that a worker restores: without what was made, or nobody may make."""
    left_out = ["EXTENSION ", "COMMENT - EXTENSION ", "EVENT TRIGGER ", "SCHEMA - public ", "COMMENT - SCHEMA public"]
    left_out += [f"SCHEMA - {schema} " for schema in extensions.values()]
    lines = listing.splitlines()
    wanted = (line for line in lines if (entry := _ENTRY.fullmatch(line)) and not entry[1].startswith(tuple(left_out)))
    return "".join(f"{line}\n" for line in wanted)


def _settle(target: Target, work: CloneWork, name: str) -> None:
    """Do what each clone would have to do again, and let readers read."""
    with target.link.session(_name(work, name), cancel=work.cancel) as inside:
        roles.open_to_readers(inside, target.groups)
        inside.execute("VACUUM (FREEZE, ANALYZE)")


def _complete(target: Target, work: CloneWork) -> None:
    """Let nobody in any more, and say that all of it is there; one transaction for all databases."""
    link, names = target.link, [_name(work, name) for name in work.snapshot.databases]
    with link.session() as conn:
        instant = _shares_blocks(target, conn)
        databases.shut(conn, names)
        with conn.transaction():
            for name, made in zip(work.snapshot.databases, names, strict=True):
                conn.execute(sql.SQL("ALTER DATABASE {} IS_TEMPLATE true").format(sql.Identifier(made)))
                mark = TemplateMark(
                    installation=link.reach.installation,
                    snapshot=work.snapshot.snapshot,
                    database=name,
                    complete=True,
                    instant=instant,
                )
                marks.put(conn, "DATABASE", made, mark)


def _shares_blocks(target: Target, conn: psycopg.Connection) -> bool | None:
    """Try whether copies share blocks there; None: that cannot be told.

    Where a file system cannot, Linux copies the content without saying so (copy_file_range(2)). So the
    same is copied both ways, and what the server's process wrote is compared, which takes the right to
    read files of its host. What a copy costs beside its content (btrfs) is written both times.
    """
    if not databases.share_blocks(conn):
        return False
    try:
        size = conn.execute(_PROBED).fetchone()
        shared = _probe(target, conn)
        conn.execute("SET file_copy_method = copy")
        return size is not None and _probe(target, conn) - shared > int(size[0]) // 2
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedFile, LookupError):
        return None
    except (psycopg.errors.FeatureNotSupported, psycopg.errors.InternalError_, psycopg.errors.SystemError):
        return False


def _probe(target: Target, conn: psycopg.Connection) -> int:
    """Return how many bytes are written for a copy of the smallest database that there is."""
    probe = f"{target.groups.databases}_probe_{secrets.token_hex(4)}"
    before = _written(conn)
    with target.making.of(probe):
        conn.execute(databases.copying(conn, "template0", probe, target.groups))
        wrote = _written(conn) - before
        databases.drop(target.link, conn, probe)
    return wrote


def _written(conn: psycopg.Connection) -> int:
    """Return how many bytes the server's process has caused to be written (proc_pid_io(5))."""
    row = conn.execute(_WRITTEN).fetchone()
    found = _WRITE_BYTES.search(row[0]) if row is not None else None
    if found is None:
        raise LookupError("the host does not count")
    return int(found[1])


def _program(target: Target, work: CloneWork, name: str) -> Path:
    """Return a client program that knows both the snapshot's version and the instance's, if there is one.

    Raises:
        NotInstalledError: this host has none that knows the snapshot's.

    """
    del target
    return server.program(_client(work.snapshot.major), name)


def _client(major: str) -> InstalledServer:
    try:
        return server.choose(major)
    except NotInstalledError:
        newer = [one for one in server.installed_servers() if int(one.major) >= int(major)]
        if not newer:
            raise
        return min(newer, key=lambda one: int(one.major))
