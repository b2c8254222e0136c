"""Where the statements of a dump go: the builder's connection, with the help of an administrator beside it.

Called by :mod:`.logical` and :mod:`.archive` through the runner. A dump of production
does what only a superuser may: it gives objects away, creates extensions, names roles
that are not here. The dump itself never gets such rights. Instead, an administrator's
connection that the dump cannot reach

- makes the roles that it names (NOLOGIN, nothing else), with the builder as a member,
- lends new owners the right to create in the schemas that they are given things in,
  through a group that is dropped at the end,
- creates extensions (but none that reaches files or runs programs), databases,
  publications, comments and, last of all, event triggers.

It never gives the dump a superuser's object, nor anything in pg_catalog: either would
be a way to a superuser's rights.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from reconciler.engines.postgres import ownership, server
from reconciler.engines.postgres.failures import SqlError
from reconciler.engines.postgres.restore_roles import Roles
from reconciler.engines.postgres.statements import Kind, classify, shown
from reconciler.engines.postgres.wire import Wire

if TYPE_CHECKING:
    from reconciler.engines.base import BuildWork
    from reconciler.engines.postgres.lexer import Statement
    from reconciler.engines.postgres.statements import Classified

_MAINTENANCE = "postgres"
_EVERYWHERE = frozenset({"template0", "template1", _MAINTENANCE})
_NO_SUCH_OBJECT = "42704"
_LACKS_RIGHT = "42501"
_UNKNOWN_OPTION = "22023"
_DENIED = re.compile(r"permission denied for (schema|database|foreign-data wrapper|foreign server|language) (.+)")
_LENT = {
    "schema": "CREATE, USAGE",
    "database": "CREATE",
    "foreign-data wrapper": "USAGE",
    "foreign server": "USAGE",
    "language": "USAGE",
}
_UNTRUSTED_EXTENSION = re.compile(r"pl\w+u|plr|plsh|plv8u|file_fdw|adminpack|multicorn|http|pg_file\w*")
_MAY_BE_LEFT_OUT = {
    Kind.SETTING: (_NO_SUCH_OBJECT,),
    Kind.DATABASE_SETTING: (_LACKS_RIGHT, _NO_SUCH_OBJECT),
    Kind.ROLE_SETTING: (_NO_SUCH_OBJECT,),
    Kind.PRIVILEGE: (_LACKS_RIGHT,),
    Kind.PUBLISH: (_LACKS_RIGHT,),
    Kind.COLUMN_OPTION: (_UNKNOWN_OPTION,),
}
"""What a clone can do without: settings of other versions, grants on the server's own objects.

PostgreSQL 15.20 marks every column with an option ``pg_attver``, which no other version takes; its own pg_dump
leaves that out, and that of 18.6 does not.
"""
_DEFINITION = re.compile(rb"(?i)(?:ALTER|GRANT|REVOKE|CREATE|COMMENT|SET)\b")
"""Statements that may be tried again: they name roles themselves, where code (DO, SELECT, CALL) makes up any number."""
_MOST_REMEDIES = 100
"""As many as one statement can need; CREATE … AS runs code, too."""
_SCHEMA_OPTION = re.compile(r"\bSCHEMA\s+(\"(?:[^\"]|\"\")+\"|[\w$]+)", re.IGNORECASE)
_TABLESPACE_OPTION = re.compile(rb"(?i)\s+TABLESPACE\s*=?\s*(\"(?:[^\"]|\"\")+\"|[\w$]+)")
_CONNECTION_LIMIT = re.compile(rb"(?i)\s+CONNECTION LIMIT\s*=?\s*-?\d+")
_NEW_PUBLIC_OWNER = 150000  # from 15 on, schema public belongs to the owner of the database
_LOCALE_ERROR = re.compile(r"locale|collat", re.IGNORECASE)


class RestoreTarget:
    """Takes the statements of one dump; ``default`` is the database for a script that names none."""

    def __init__(self, work: BuildWork, *, default: str) -> None:
        self._work = work
        self._default = default
        self._bound = False
        self._settings: list[bytes] = []
        self._late: list[tuple[str, bytes]] = []
        self._lent: set[tuple[str, str, str]] = set()
        self._touched: list[str] = []
        self._admin = self._connect_admin(_MAINTENANCE)
        self.roles = Roles(self._admin)
        self._wire = self._open(_MAINTENANCE)

    @property
    def wire(self) -> Wire:
        """The connection that the dump's statements run on now."""
        return self._wire

    @property
    def database(self) -> str | None:
        """The database that content went to last; None while there was none."""
        return self._wire.database if self._bound else None

    def close(self) -> None:
        """Close the connections; for the error path, where the build is thrown away."""
        self._wire.close()
        self._admin.close()

    def finish(self) -> None:
        """Make what had to wait, and remove what was lent.

        Raises:
            SqlError: an event trigger could not be made.

        """
        self._wire.close()
        for database, text in self._late:
            self._use_admin(database)
            self._as_admin(text)
        for database in self._touched:
            self._use_admin(database)
            self.roles.return_lent(self._admin)
        self.roles.settle(self._admin)
        self._admin.close()

    def begin(self) -> None:
        """Start over outside of every database, for the next file of the same dump."""
        self._wire.close()
        self._bound = False
        self._settings.clear()
        self._wire = self._open(_MAINTENANCE)

    def connect(self, database: str) -> None:
        """Go on in ``database``, which is made when it is not there."""
        if self._admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database]).fetchone() is None:
            self._create_database(database, None)
        self._wire.close()
        self._wire = self._open(database)
        self._use_admin(database)
        self._bound = True

    def execute(self, statement: Statement) -> bool:
        """Run a statement of the dump, or what stands for it; True when it is a COPY that waits for rows."""
        found = classify(statement.text)
        if not self._bound and found.kind in _CONTENT:
            self._bind()
        try:
            return self._treat(found, statement.text)
        except SqlError as error:
            if error.state in _MAY_BE_LEFT_OUT.get(found.kind, ()):
                self._work.progress(f"left out, because {error}: {shown(statement.text)}")
                return False
            raise

    # -- what is done with each kind --------------------------------------------------

    def _treat(self, found: Classified, text: bytes) -> bool:
        name = found.names[0] if found.names else ""
        match found.kind:
            case Kind.SKIP:
                pass
            case Kind.CREATE_DATABASE | Kind.DROP_DATABASE | Kind.DATABASE_OWNER:
                self._treat_database(found, name, text)
            case Kind.CREATE_ROLE | Kind.GRANT_ROLE | Kind.ROLE_SETTING | Kind.AUTHORIZATION:
                self._treat_role(found, name, text)
            case Kind.EXTENSION | Kind.LANGUAGE:
                self._extension(name, text)
            case Kind.DESCRIBE | Kind.PUBLISH:
                self._as_admin(text)
            case Kind.LATE:
                self._late.append((self._wire.database, text))
            case Kind.OWNER if self.roles.is_superuser(name):
                pass  # a superuser's function would run with a superuser's rights: the builder stays the owner
            case _:
                return self._plain(found.kind, text)
        return False

    def _treat_database(self, found: Classified, name: str, text: bytes) -> None:
        if found.kind is Kind.CREATE_DATABASE:
            self._create_database(name, text)
        elif found.kind is Kind.DROP_DATABASE:
            self._drop_database(name)
        else:
            self._database_owner(name, found.members[0])

    def _treat_role(self, found: Classified, name: str, text: bytes) -> None:
        if found.kind is Kind.CREATE_ROLE:
            self.roles.define(name, shown(text))
        elif found.kind is Kind.GRANT_ROLE:
            self.roles.join(found.names, found.members)
        elif found.kind is Kind.AUTHORIZATION:
            self._authorization(name)
        else:
            self.roles.ensure(name)
            if self.roles.may_have_settings(name):
                self._as_admin(text)

    def _plain(self, kind: Kind, text: bytes) -> bool:
        if kind is Kind.SETTING and not self._bound:
            self._settings.append(text)
        try:
            return self._with_remedies(text)
        except SqlError as error:
            if error.state == _LACKS_RIGHT and text[:10].upper() == b"COMMENT ON":
                self._as_admin(text)
                return False
            raise

    def _with_remedies(self, text: bytes) -> bool:
        for _ in range(_MOST_REMEDIES):
            try:
                return self._run(text)
            except SqlError as error:
                if not self._remedy(error, text):
                    raise
        return self._run(text)

    def _run(self, text: bytes) -> bool:
        return self._guarded(text) if self._wire.in_transaction else self._wire.execute(text)

    def _guarded(self, text: bytes) -> bool:
        """Run a statement in the dump's own transaction so that it can be tried again."""
        if _DEFINITION.match(text) is None:
            return self._wire.execute(text)
        self._wire.execute(b"SAVEPOINT reconciler")
        try:
            waits = self._wire.execute(text)
        except SqlError:
            self._wire.execute(b"ROLLBACK TO SAVEPOINT reconciler")
            raise
        self._wire.execute(b"RELEASE SAVEPOINT reconciler")
        return waits

    def _remedy(self, error: SqlError, text: bytes) -> bool:
        """Do what lets the statement succeed when it is tried again; False when there is nothing to do."""
        if error.missing_role is not None and error.state == _NO_SUCH_OBJECT:
            return _DEFINITION.match(text) is not None and self.roles.ensure(error.missing_role)
        denied = _DENIED.fullmatch(str(error))
        if denied is None or error.state != _LACKS_RIGHT:
            return False
        return self._lend(denied[1], denied[2])

    def _lend(self, kind: str, name: str) -> bool:
        """Let every role of the dump create in a schema (and so on) until the end of the restore."""
        key = (self._wire.database, kind, name)
        if key in self._lent or (kind == "schema" and (name.startswith("pg_") or name == "information_schema")):
            return False
        self._lent.add(key)
        words = sql.SQL(f"GRANT {_LENT[kind]} ON {kind.replace('foreign-data', 'foreign data')} {{}} TO {{}}")
        with suppress(psycopg.Error):
            self._admin.execute(words.format(sql.Identifier(name), sql.Identifier(self.roles.lender)))
            return True
        return False

    def _authorization(self, name: str) -> None:
        """Become a role instead: the session stays the builder's."""
        if self.roles.is_superuser(name):
            return
        self.roles.ensure(name)
        command = b"RESET ROLE" if name in ("", "default") else b"SET ROLE " + quoted(name)
        if not self._bound:
            self._settings.append(command)
        self._wire.execute(command)

    def _extension(self, name: str, text: bytes) -> None:
        if _UNTRUSTED_EXTENSION.fullmatch(name) and not self._work.superuser_scripts:
            raise SqlError(
                _LACKS_RIGHT,
                f"extension {name} can read files or run programs of the host, so it is not created",
            )
        if self._admin.execute("SELECT 1 FROM pg_available_extensions WHERE name = %s", [name]).fetchone() is None:
            raise SqlError(
                "58P01",
                f"extension {name} is not installed for this PostgreSQL",
                hint="install its package on this host",
            )
        schema = _SCHEMA_OPTION.search(text.decode("utf-8", "replace"))
        command = b"CREATE EXTENSION IF NOT EXISTS " + quoted(name)
        self._as_admin(command + (b" SCHEMA " + schema[1].encode() if schema else b"") + b" CASCADE")
        ownership.close_outward(self._admin)

    # -- databases ------------------------------------------------------------------

    def _bind(self) -> None:
        """Content comes before any database was named: it goes to the default one."""
        self.connect(self._default)
        for setting in self._settings:
            with suppress(SqlError):  # it was reported when it ran first
                self._wire.execute(setting)

    def _create_database(self, name: str, text: bytes | None) -> None:
        if name in _EVERYWHERE:
            return  # a dump that drops first makes them again, and they were not dropped
        command = b"CREATE DATABASE " + quoted(name) + b" TEMPLATE template0" if text is None else text
        try:
            self._as_admin(_CONNECTION_LIMIT.sub(b"", _TABLESPACE_OPTION.sub(b"", command)))
        except SqlError as error:
            if _LOCALE_ERROR.search(str(error)):
                raise SqlError(error.state, f"database {name}: {error}", hint=_LOCALE_HINT) from error
            raise
        self._database_owner(name, server.BUILDER)
        if self._admin.info.server_version < _NEW_PUBLIC_OWNER:
            with server.connect(self._work, name) as conn:
                conn.execute(sql.SQL("ALTER SCHEMA public OWNER TO {}").format(sql.Identifier(server.BUILDER)))

    def _drop_database(self, name: str) -> None:
        if name in _EVERYWHERE:
            return
        if name == self._wire.database:
            raise SqlError("55006", "cannot drop the currently open database")
        self._touched = [database for database in self._touched if database != name]
        self._use_admin(_MAINTENANCE)
        self._as_admin(b"DROP DATABASE IF EXISTS " + quoted(name))

    def _database_owner(self, name: str, owner: str) -> None:
        if owner != server.BUILDER:
            if self.roles.is_superuser(owner):
                return
            self.roles.ensure(owner)
        self._as_admin(b"ALTER DATABASE " + quoted(name) + b" OWNER TO " + quoted(owner))

    # -- connections ----------------------------------------------------------------

    def _open(self, database: str) -> Wire:
        if database not in self._touched:
            self._touched.append(database)
        role = server.admin_role(self._work) if self._work.superuser_scripts else server.BUILDER
        return Wire(server.connect(self._work, database, role=role), self._work.cancel)

    def _connect_admin(self, database: str) -> psycopg.Connection:
        conn = server.connect(self._work, database)
        conn.execute("SET lock_timeout = '60s'")  # a transaction of the dump may hold what we wait for
        return conn

    def _use_admin(self, database: str) -> None:
        if self._admin.info.dbname != database:
            self._admin.close()
            self._admin = self._connect_admin(database)
            self.roles.use(self._admin)

    def _as_admin(self, text: bytes) -> None:
        wire = Wire(self._admin, self._work.cancel)
        try:
            wire.execute_one(text)
        except SqlError as error:
            if error.missing_role is None or not self.roles.ensure(error.missing_role):
                raise
            wire.execute_one(text)


_CONTENT = frozenset(
    {Kind.PLAIN, Kind.EXTENSION, Kind.LANGUAGE, Kind.OWNER, Kind.PRIVILEGE, Kind.PUBLISH, Kind.LATE, Kind.COLUMN_OPTION}
)
"""Kinds that belong into a particular database."""
_LOCALE_HINT = "this host lacks the locale: make it with locale-gen (package locales), or build on a host that has it"


def quoted(name: str) -> bytes:
    """Return a quoted identifier."""
    return b'"' + name.replace('"', '""').encode() + b'"'
