"""An installation with an instance: a server of somebody else's, on which clones are databases."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import psycopg
import pymysql
import pytest

from reconciler.engines.mysql.engine import MariaDbEngine
from reconciler.inspection import report
from tests.engines.mysql.live import instance as live_mariadb
from tests.live import PASSWORD, LiveServer, live_server
from tests.support import clone, image, new_world

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.engines.mysql.live import Production
    from tests.support import World

SECRET = "shared-dsn"
ON_SHARED = {"runtime": "instance", "instance": "shared"}
"""What a clone's document says to be on the instance."""
Refused = (psycopg.Error, pymysql.Error)
"""What a server says no with."""
Rows = list[tuple[Any, ...]]


class Session(ABC):
    """A connection of a user."""

    @abstractmethod
    def rows(self, statement: str) -> Rows:
        """Run a statement."""


@dataclass
class Hosted(ABC):
    """The installation and the server."""

    world: World
    server: LiveServer | Production
    engine: ClassVar[str]
    products: ClassVar[str]
    """A script that makes the table ``product`` with three rows."""
    parts: ClassVar[tuple[str, ...]] = ("shop",)
    """The databases of the image, each with what the script makes."""
    code: ClassVar[tuple[tuple[str, Rows], ...]] = ()
    """Statements that run the code of one, with what they return; they leave it as it was."""
    disguised: ClassVar[tuple[str, ...]]
    """Statements that make the database NAME, which looks like one of ours."""
    write_anyway: ClassVar[str] = ""
    """What a reader might try to be let write."""

    def image(self, **spec: Any) -> dict[str, Any]:  # noqa: ANN401 - as YAML
        """Return the image ``shop``."""
        scripts = [{"inline": self.products, "database": part} for part in self.parts]
        return image("shop", **{"engine": self.engine, "databases": [*self.parts], "scripts": scripts, **spec})

    def names(self, clone: str) -> list[str]:
        """Return the databases of a clone."""
        return [clone] if len(self.parts) == 1 else [f"{clone}_{part}" for part in self.parts]

    def clone(self, name: str, **spec: Any) -> None:  # noqa: ANN401 - as YAML
        """Have a clone on the instance, of the image ``shop``."""
        self.world.write(f"{name}.yaml", clone(name, **ON_SHARED, **spec))
        self.world.apply().require()

    def status(self) -> dict[str, Any]:
        with self.world.host() as host:
            return report(host)

    def endpoint(self, name: str) -> dict[str, Any]:
        """Return where a clone is reached, as its status says."""
        found: dict[str, Any] = next(one for one in self.status()["clones"] if one["name"] == name)["endpoint"]
        return found

    def rows(self, name: str, statement: str, user: str = "app") -> Rows:
        """Run a statement on a clone."""
        with self.session(name, user) as session:
            return session.rows(statement)

    def require_code(self, name: str) -> None:
        """Insist that the code of a clone does in each of its databases what it did in the image."""
        for database in self.names(name):
            with self.session(name, database=database) as session:
                for statement, expected in self.code:
                    assert session.rows(statement) == expected, (database, statement)

    @contextmanager
    def session(
        self, name: str, user: str = "app", *, database: str | None = None, password: str | None = None
    ) -> Iterator[Session]:
        """Be connected to a clone as one of its users, with the password that was generated."""
        known = self.world.password(name, user) if password is None else password
        with self.connected(f"{name}_{user}", known, database or self.names(name)[0]) as session:
            yield session

    @property
    @abstractmethod
    def port(self) -> int:
        """The port of the server."""

    @abstractmethod
    def own(self, statement: str, database: str | None = None) -> Rows:
        """Run a statement as the server's owner."""

    @abstractmethod
    def connected(self, login: str, password: str, database: str) -> Any:  # noqa: ANN401 - a context of a Session
        """Be connected as a login."""

    @abstractmethod
    def template(self) -> object:
        """Return the identity of the one database that clones are copied from."""

    @abstractmethod
    def databases(self) -> set[str]:
        """Return the databases of the server that did not come with it, nor are our notes."""

    @abstractmethod
    def logins(self) -> set[str]:
        """Return the users of the server that did not come with it, but for those that nobody logs in as."""

    @abstractmethod
    def idle(self) -> list[str]:
        """Return what is noted or made for work there that is over."""

    @contextmanager
    def foreign_database(self, name: str) -> Iterator[None]:
        """Have a database of somebody else's, which looks like one of ours, and insist that it stays as it is."""
        for statement in self.disguised:
            self.own(statement.replace("NAME", name))
        self.own("CREATE TABLE mine (a int)", name)
        yield
        assert self.own("SELECT count(*) FROM mine", name) == [(0,)]
        self.own(f"DROP DATABASE {name}")

    @abstractmethod
    def foreign_login(self, name: str) -> Any:  # noqa: ANN401 - as above
        """Have a login of somebody else's, and insist that it stays as it is."""

    @abstractmethod
    def drop_database(self, name: str) -> None:
        """Drop a database, whoever works in it."""

    def stop(self) -> None:
        """Stop the server."""
        self.server.stop()

    def start(self) -> None:
        """Start it again."""
        self.server.start()


@dataclass
class _PostgresSession(Session):
    conn: psycopg.Connection[Any]

    def rows(self, statement: str) -> Rows:
        cursor = self.conn.execute(statement.encode())
        return cursor.fetchall() if cursor.description is not None else []


@dataclass
class OnPostgres(Hosted):
    """PostgreSQL."""

    server: LiveServer
    engine = "postgres"
    disguised = (
        "CREATE DATABASE NAME",
        "COMMENT ON DATABASE NAME IS 'Made by reconciler, which goes by this comment: {}'",
    )
    products = (
        "CREATE TABLE product (id integer PRIMARY KEY, name text NOT NULL);"
        "INSERT INTO product SELECT number, 'Product ' || number FROM generate_series(1, 3) AS number;"
    )
    write_anyway = "SET transaction_read_only = off; "

    @property
    def port(self) -> int:
        return self.server.port

    def own(self, statement: str, database: str | None = None) -> Rows:
        return self.server.sql(statement, database or "postgres")

    @contextmanager
    def connected(self, login: str, password: str, database: str) -> Iterator[Session]:
        with psycopg.connect(self.server.url(login, database, password), connect_timeout=10, autocommit=True) as conn:
            yield _PostgresSession(conn)

    def connect(self, name: str, user: str = "app", *, database: str | None = None) -> psycopg.Connection[Any]:
        """Connect to a clone as one of its users, with the password that was generated."""
        url = self.server.url(f"{name}_{user}", database or name, self.world.password(name, user))
        return psycopg.connect(url, connect_timeout=10, autocommit=True)

    def template(self) -> object:
        ((oid,),) = self.own("SELECT oid FROM pg_database WHERE datname LIKE '%.template'")
        return oid

    def databases(self) -> set[str]:
        rows = self.own("SELECT datname FROM pg_database")
        return {str(row[0]) for row in rows} - {"postgres", "template0", "template1"}

    def logins(self) -> set[str]:
        rows = self.own("SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' AND rolname <> 'boss'")
        return {str(row[0]) for row in rows if not str(row[0]).startswith("reconciler_")}

    def idle(self) -> list[str]:
        return [str(row[0]) for row in self.own("SELECT rolname FROM pg_roles WHERE rolname LIKE '%worker\\_%'")]

    @contextmanager
    def foreign_login(self, name: str) -> Iterator[None]:
        self.own(f"CREATE ROLE {name} LOGIN")
        yield
        found = self.own(f"SELECT rolcanlogin, rolpassword FROM pg_authid WHERE rolname = '{name}'")
        assert found == [(True, None)]
        self.own(f"DROP ROLE {name}")

    def drop_database(self, name: str) -> None:
        self.own(f"DROP DATABASE {name} WITH (FORCE)")


@dataclass
class _MariaDbSession(Session):
    conn: pymysql.Connection[Any]

    def rows(self, statement: str) -> Rows:
        with self.conn.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())


@dataclass
class OnMariaDb(Hosted):
    """MariaDB."""

    server: Production
    engine = "mariadb"
    disguised = ("CREATE DATABASE NAME COMMENT 'Made by reconciler, which goes by this comment: {}'",)
    products = (
        "CREATE TABLE product (id integer PRIMARY KEY, name text NOT NULL);"
        "INSERT INTO product VALUES (1, 'Product 1'), (2, 'Product 2'), (3, 'Product 3');"
        "CREATE FUNCTION total() RETURNS integer READS SQL DATA RETURN (SELECT count(*) FROM product);"
        "CREATE VIEW listed AS SELECT id, name, total() AS total FROM product;"
        "CREATE TRIGGER marks BEFORE INSERT ON product FOR EACH ROW SET NEW.name = concat(NEW.name, '!');"
    )
    code = (
        ("INSERT INTO product VALUES (9, 'new')", []),
        ("SELECT name, total = (SELECT count(*) FROM product) FROM listed WHERE id = 9", [("new!", 1)]),
        ("DELETE FROM product WHERE id = 9", []),
    )

    @property
    def port(self) -> int:
        return self.server.port or 0

    def own(self, statement: str, database: str | None = None) -> Rows:
        return self.server.sql(*([f"USE `{database}`"] if database else []), statement)

    @contextmanager
    def connected(self, login: str, password: str, database: str) -> Iterator[Session]:
        conn = pymysql.connect(
            host="127.0.0.1", port=self.port, user=login, password=password, database=database, autocommit=True
        )
        try:
            yield _MariaDbSession(conn)
        finally:
            if conn.open:
                conn.close()

    def template(self) -> object:
        ((comment,),) = self.own(
            "SELECT schema_comment FROM information_schema.schemata WHERE schema_name LIKE '%.template'"
        )
        return comment

    def databases(self) -> set[str]:
        names = {str(row[0]) for row in self.own("SHOW DATABASES") if not str(row[0]).startswith("reconciler_")}
        return names - {"mysql", "sys", "information_schema", "performance_schema"}

    def logins(self) -> set[str]:
        rows = self.own("SELECT user FROM mysql.user WHERE user NOT IN ('root', 'mariadb.sys', 'copier', '')")
        return {str(row[0]) for row in rows if not str(row[0]).startswith("reconciler_")}

    def idle(self) -> list[str]:
        ((registry,),) = self.own("SHOW DATABASES LIKE 'reconciler\\_%'")
        noted = self.own(f"SELECT what, name, mark FROM {registry}.mark")
        marks = [json.loads(mark) for what, _name, mark in noted if what == "database"]
        needed = {one[key] for one in marks for key in ("volume", "snapshot") if key in one}
        made = {str(row[0]) for row in self.own("SELECT user FROM mysql.user WHERE user LIKE 'reconciler\\_%'")}
        workers = {str(name): json.loads(mark)["subject"] for what, name, mark in noted if what == "worker"}
        found = [name for name, subject in workers.items() if subject not in needed]
        found += sorted(made ^ workers.keys())
        found += [str(name) for what, name, _mark in noted if what == "database" and name not in self.databases()]
        return found + [str(row[0]) for row in self.own(f"SELECT volume FROM {registry}.code WHERE NOT broken")]

    @contextmanager
    def foreign_login(self, name: str) -> Iterator[None]:
        self.own(f"CREATE USER {name}@'%' IDENTIFIED BY 'theirs' WITH MAX_QUERIES_PER_HOUR 7")
        before = self.own(f"SHOW CREATE USER {name}@'%'")
        yield
        assert self.own(f"SHOW CREATE USER {name}@'%'") == before
        self.own(f"DROP USER {name}@'%'")

    def drop_database(self, name: str) -> None:
        self.own(f"DROP DATABASE {name}")


@dataclass
class PairOnMariaDb(OnMariaDb):
    """MariaDB, with clones of two databases."""

    parts = ("shop", "stock")


class PairOnPostgres(OnPostgres):
    """PostgreSQL, with clones of two databases."""

    parts = ("shop", "stock")


@contextmanager
def hosted_world(
    major: str,
    *settings: str,
    parent: Path | None = None,
    user: str = "boss",
    made_as: type[OnPostgres] = OnPostgres,
) -> Iterator[OnPostgres]:
    """Have both in the block: the server below ``parent``, with ``settings``, and ``user`` as whom we get in."""
    with live_server(major, *settings, parent=parent) as server:
        if user != "boss":
            server.sql(f"CREATE ROLE {user} LOGIN CREATEDB CREATEROLE PASSWORD '{PASSWORD}'")
        with installed(server.url(user), "postgres") as made:
            yield made_as(made, server)


@contextmanager
def hosted_mariadb(*options: str, files: bool = False, made_as: type[OnMariaDb] = OnMariaDb) -> Iterator[OnMariaDb]:
    """Have both in the block, with MariaDB: a server with ``options``, whose ``files`` are at hand or not."""
    if not MariaDbEngine().servers():
        pytest.skip("needs MariaDB on this host (packages mariadb-server-core, mariadb-client-core)")
    logs = ["--skip-log-bin"] if files else ["--log-bin-trust-function-creators=1"]
    with live_mariadb(options=[*logs, *options]) as server:
        more = {"dataDirectory": str(server.data)} if files else {}
        with installed(server.url(), "mariadb", **more) as made:
            yield made_as(made, server)


@contextmanager
def installed(url: str, engine: str, **more: str) -> Iterator[World]:
    """Have an installation in the block that knows an instance."""
    made = new_world()
    try:
        secret = made.root / "secrets" / SECRET
        secret.write_text(url)
        secret.chmod(0o600)
        runtimes = {
            "process": {"ports": f"{made.ports.start}-{made.ports.stop - 1}"},
            "instance": {"shared": {"url": {"secret": SECRET}, "engine": engine, **more}},
        }
        made.configure(runtimes=runtimes)
        yield made
    finally:
        made.close()
