"""An installation with an instance: a server of somebody else's, on which clones are databases."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from tests.live import LiveServer, live_server
from tests.support import new_world

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support import World

SECRET = "shared-dsn"


@dataclass
class Hosted:
    """The installation and the server."""

    world: World
    server: LiveServer

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.world.run("status", "-o", "json").stdout)
        return found

    def connect(self, name: str, *words: str) -> psycopg.Connection[Any]:
        """Connect to a clone with the URL that the program prints, as its users do."""
        printed = self.world.run("url", name, *words)
        assert printed.returncode == 0, printed.stderr
        return psycopg.connect(printed.stdout.strip(), autocommit=True, connect_timeout=10)

    def rows(self, name: str, statement: str, *words: str) -> list[tuple[Any, ...]]:
        """Run a statement on a clone."""
        with self.connect(name, *words) as conn:
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
def hosted_world(major: str, **settings: Any) -> Iterator[Hosted]:
    """Have both in the block."""
    with live_server(major) as server:
        made = new_world(**settings)
        try:
            secret = made.root / "secrets" / SECRET
            secret.write_text(server.url())
            secret.chmod(0o600)
            runtimes = {
                "process": {"ports": f"{made.ports.start}-{made.ports.stop - 1}"},
                "instance": {"shared": {"url": {"secret": SECRET}}},
            }
            made.configure(runtimes=runtimes)
            yield Hosted(made, server)
        finally:
            made.close()
