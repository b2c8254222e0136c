"""The way into an instance: sessions of its administrator and of workers, and its errors as ours.

Used by every module of this package. The URL is the value of a secret: its password is in no
message, argument, log or ``repr``. Sessions resolve names in pg_catalog only, so that nothing
which a clone's user left in a database runs with the administrator's rights.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
from psycopg import conninfo

from reconciler.engines.postgres import failures, primary
from reconciler.errors import PermanentError, ReconcilerError, UnavailableError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.engines.base import InstanceReach
    from reconciler.engines.postgres.primary import Primary

OLDEST_MAJOR = 14
"""Older ones lack pg_read_all_data's kin and end no session in an orderly way; as for servers of our own."""
_LOOK_SECONDS = 5
_DEFAULT_PORT = 5432


class Link:
    """One instance: where it is, and how to get in."""

    def __init__(self, reach: InstanceReach) -> None:
        self.reach = reach

    @property
    def where(self) -> str:
        """What messages call it."""
        return f"the instance {self.reach.name}"

    def server(self) -> Primary:
        """Return what its URL says now.

        Raises:
            SecretError: there is no such secret, or it holds no URL.

        """
        return primary.parse(self.reach.url(), self.reach.secret)

    def address(self) -> tuple[str, int]:
        """Return its host and port, as the URL has them; of several the first."""
        settings = self.server().settings
        host = (settings.get("host") or settings.get("hostaddr") or "localhost").split(",")[0]
        port = (settings.get("port") or "").split(",")[0]
        return ("localhost" if host.startswith("/") else host), int(port) if port else _DEFAULT_PORT

    @contextmanager
    def session(self, database: str | None = None, *, look: bool = False) -> Iterator[psycopg.Connection]:
        """Have a session of the administrator in autocommit mode; for a ``look`` it is bounded in time.

        Raises:
            UnavailableError: the instance does not answer, or does not let us in.
            ReconcilerError: what went wrong in the block, without any value of a row.

        """
        more = {"connect_timeout": str(_LOOK_SECONDS)} if look else {}
        with self._opened(self.server(), database, _LOOK_SECONDS if look else 0, more) as conn:
            yield conn

    @contextmanager
    def worker_session(self, worker: str, password: str, database: str) -> Iterator[psycopg.Connection]:
        """Have a session of a worker, with names resolved as they are for users."""
        with self._opened(self.as_worker(worker, password), database, 0, {}) as conn:
            conn.execute("RESET search_path")
            yield conn

    def as_worker(self, worker: str, password: str) -> Primary:
        """Return how a worker gets in."""
        server = self.server()
        return replace(server, settings={**server.settings, "user": worker}, password=password)

    @contextmanager
    def _opened(
        self, server: Primary, database: str | None, seconds: float, more: dict[str, str]
    ) -> Iterator[psycopg.Connection]:
        try:
            conn = psycopg.connect(conninfo.make_conninfo("", **server.keywords(database, **more)), autocommit=True)
        except psycopg.Error as error:
            told = server.redacted(str(error).removeprefix("connection failed: "))
            raise UnavailableError(
                f"{self.where} cannot be reached: {told}",
                reason="InstanceUnavailable",
                hint=f"look at the secret {self.reach.secret}, and at what its user may do",
            ) from None
        try:
            conn.execute(_prepared(conn.info.server_version, seconds).encode())
            self._require_supported(conn)
            yield conn
        except psycopg.Error as error:
            raise self._told(error) from None
        finally:
            conn.close()

    def _require_supported(self, conn: psycopg.Connection) -> None:
        if conn.info.server_version // 10_000 < OLDEST_MAJOR:
            raise UnsupportedError(
                f"{self.where} is PostgreSQL {conn.info.server_version // 10_000}",
                hint=f"the oldest version is {OLDEST_MAJOR}",
            )

    def _told(self, error: psycopg.Error) -> ReconcilerError:
        found = failures.translation(error)
        denied = isinstance(error, psycopg.errors.InsufficientPrivilege)
        hint = "its user has to be a superuser, or have CREATEDB and CREATEROLE" if denied else None
        if isinstance(found, PermanentError):
            return PermanentError(f"{self.where}: {found.message}", reason="InstanceRefused", hint=hint)
        return type(found)(f"{self.where}: {found.message}")


def _prepared(version: int, seconds: float) -> str:
    """Return what a session begins with: nothing of the instance's limits for its applications holds for us."""
    words = [
        "SET search_path = pg_catalog",
        f"SET statement_timeout = {round(seconds * 1000)}",
        "SET lock_timeout = 0",
        "SET idle_in_transaction_session_timeout = 0",
        "SET idle_session_timeout = 0",
        "SET default_transaction_read_only = off",
    ]
    if version >= 170000:  # noqa: PLR2004 - where it came
        words.append("SET transaction_timeout = 0")
    return "; ".join(words)
