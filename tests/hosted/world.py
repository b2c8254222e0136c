"""An installation with an instance: a server of somebody else's, on which clones are databases."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from reconciler.inspection import report
from tests.live import PASSWORD, LiveServer, live_server
from tests.support import clone, new_world

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support import World

SECRET = "shared-dsn"
ON_SHARED = {"runtime": "instance", "instance": "shared"}
"""What a clone's document says to be on the instance."""


@dataclass
class Hosted:
    """The installation and the server."""

    world: World
    server: LiveServer

    def clone(self, name: str, **spec: Any) -> None:  # noqa: ANN401 - as YAML
        """Have a clone on the instance, of the image ``shop``."""
        self.world.write(f"{name}.yaml", clone(name, **ON_SHARED, **spec))
        self.world.apply().require()

    def oid_of_template(self) -> object:
        """Return the identity of the one database that clones are copied from."""
        ((oid,),) = self.server.sql("SELECT oid FROM pg_database WHERE datname LIKE '%.template'")
        return oid

    def status(self) -> dict[str, Any]:
        with self.world.host() as host:
            return report(host)

    def endpoint(self, name: str) -> dict[str, Any]:
        """Return where a clone is reached, as its status says."""
        found: dict[str, Any] = next(one for one in self.status()["clones"] if one["name"] == name)["endpoint"]
        return found

    def connect(self, name: str, user: str = "app", *, database: str | None = None) -> psycopg.Connection[Any]:
        """Connect to a clone as one of its users, with the password that was generated."""
        return psycopg.connect(
            host="127.0.0.1",
            port=self.server.port,
            dbname=database or name,
            user=f"{name}_{user}",
            password=self.world.password(name, user),
            connect_timeout=10,
            autocommit=True,
        )

    def rows(self, name: str, statement: str, user: str = "app") -> list[tuple[Any, ...]]:
        """Run a statement on a clone."""
        with self.connect(name, user) as conn:
            cursor = conn.execute(statement.encode())
            return cursor.fetchall() if cursor.description is not None else []

    def databases(self) -> set[str]:
        """Return the databases of the server that did not come with it."""
        rows = self.server.sql("SELECT datname FROM pg_database")
        return {str(row[0]) for row in rows} - {"postgres", "template0", "template1"}

    def roles(self) -> set[str]:
        """Return the roles of the server that did not come with it, but for our groups."""
        rows = self.server.sql("SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' AND rolname <> 'boss'")
        return {str(row[0]) for row in rows if not str(row[0]).startswith("reconciler_")}


@contextmanager
def hosted_world(major: str, *settings: str, parent: Path | None = None, user: str = "boss") -> Iterator[Hosted]:
    """Have both in the block: the server below ``parent``, with ``settings``, and ``user`` as whom we get in."""
    with live_server(major, *settings, parent=parent) as server:
        if user != "boss":
            server.sql(f"CREATE ROLE {user} LOGIN CREATEDB CREATEROLE PASSWORD '{PASSWORD}'")
        made = new_world()
        try:
            secret = made.root / "secrets" / SECRET
            secret.write_text(server.url(user))
            secret.chmod(0o600)
            runtimes = {
                "process": {"ports": f"{made.ports.start}-{made.ports.stop - 1}"},
                "instance": {"shared": {"url": {"secret": SECRET}}},
            }
            made.configure(runtimes=runtimes)
            yield Hosted(made, server)
        finally:
            made.close()
