"""The way into an instance: sessions of its administrator and of workers, and its errors as ours.

Used by every module of this package. The URL is the value of a secret: its password is in no
message, argument, log or ``repr``. Sessions resolve names in pg_catalog only, so that nothing
which a clone's user left in a database runs with the administrator's rights. Those in the
database of the URL are kept for a while: what is done for one clone takes several.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import psycopg
from psycopg import conninfo
from psycopg.pq import TransactionStatus

from reconciler.engines.postgres import failures, primary
from reconciler.engines.postgres.cancellable import CancellableConnection
from reconciler.errors import PermanentError, ReconcilerError, UnavailableError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.engines.base import InstanceReach
    from reconciler.engines.postgres.primary import Primary
    from reconciler.proc import CancelToken

OLDEST_MAJOR = 14
"""As for servers of our own: older ones cannot wait for the end of a session."""
_LOOK_SECONDS = 5
_DEFAULT_PORT = 5432
_KEPT = 2
_KEPT_SECONDS = 30.0
"""Sessions that are kept, and how long nobody may need one; less than a pass of the loop takes to come again."""


@dataclass(frozen=True, slots=True)
class _Kept:
    conn: CancellableConnection
    server: Primary
    since: float


class Link:
    """One instance: where it is, and how to get in. Safe to use from several threads."""

    def __init__(self, reach: InstanceReach) -> None:
        self.reach = reach
        self._lock = threading.Lock()
        self._kept: list[_Kept] = []

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
    def session(
        self, database: str | None = None, *, look: bool = False, cancel: CancelToken | None = None
    ) -> Iterator[psycopg.Connection]:
        """Have a session of the administrator in autocommit mode; for a ``look`` it is bounded in time.

        Statements in a ``database`` end when ``cancel`` is given and the work is cancelled.

        Raises:
            UnavailableError: the instance does not answer, or does not let us in.
            ReconcilerError: what went wrong in the block, without any value of a row.

        """
        server, seconds = self.server(), _LOOK_SECONDS if look else 0
        with self._told():
            kept = self._take(server) if database is None else None
            conn = kept if kept is not None else self._connected(server, database, look=look)
            if cancel is not None and database is not None:
                conn.token = cancel
            try:
                self._prepare(conn, seconds)
                yield conn
            finally:
                if database is None:
                    self._keep(conn, server)
                else:
                    conn.close()

    @contextmanager
    def worker_session(self, worker: str, password: str, database: str) -> Iterator[psycopg.Connection]:
        """Have a session of a worker, with names resolved as they are for users."""
        with self._told():
            conn = self._connected(self.as_worker(worker, password), database)
            try:
                self._prepare(conn, 0)
                conn.execute("RESET search_path")
                yield conn
            finally:
                conn.close()

    def close(self) -> None:
        """End the sessions that are kept."""
        with self._lock:
            kept, self._kept = self._kept, []
        for one in kept:
            one.conn.close()

    def as_worker(self, worker: str, password: str) -> Primary:
        """Return how a worker gets in."""
        server = self.server()
        return replace(server, settings={**server.settings, "user": worker}, password=password)

    def _connected(self, server: Primary, database: str | None, *, look: bool = False) -> CancellableConnection:
        more = {"connect_timeout": str(_LOOK_SECONDS)} if look else {}
        way_in = conninfo.make_conninfo("", **server.keywords(database, **more))
        try:
            return CancellableConnection.connect(way_in, autocommit=True)
        except psycopg.Error as error:
            told = server.redacted(str(error).removeprefix("connection failed: "))
            raise UnavailableError(
                f"{self.where} cannot be reached: {told}",
                reason="InstanceUnavailable",
                hint=f"look at the secret {self.reach.secret}, and at what its user may do",
            ) from None

    def _prepare(self, conn: psycopg.Connection, seconds: float) -> None:
        major = conn.info.server_version // 10_000
        if major < OLDEST_MAJOR:
            raise UnsupportedError(f"{self.where} is PostgreSQL {major}", hint=f"the oldest version is {OLDEST_MAJOR}")
        conn.execute(_prepared(conn.info.server_version, seconds).encode())

    def _take(self, server: Primary) -> CancellableConnection | None:
        """Return a session that was kept and still answers; those that nobody needed are ended."""
        while True:
            with self._lock:
                old = [one for one in self._kept if _is_old(one, server)]
                self._kept = [one for one in self._kept if one not in old]
                found = self._kept.pop() if self._kept else None
            for one in old:
                one.conn.close()
            if found is None:
                return None
            try:
                found.conn.execute("SELECT")
            except psycopg.Error:
                found.conn.close()
            else:
                return found.conn

    def _keep(self, conn: CancellableConnection, server: Primary) -> None:
        idle = not conn.closed and conn.pgconn.transaction_status == TransactionStatus.IDLE
        with self._lock:
            if idle and len(self._kept) < _KEPT:
                self._kept.append(_Kept(conn, server, time.monotonic()))
                return
        conn.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Tell errors of the instance as ours."""
        try:
            yield
        except psycopg.Error as error:
            raise self._translation(error) from None

    def _translation(self, error: psycopg.Error) -> ReconcilerError:
        found = failures.translation(error)
        denied = isinstance(error, psycopg.errors.InsufficientPrivilege)
        hint = "its user has to be a superuser, or have CREATEDB and CREATEROLE" if denied else None
        if isinstance(found, PermanentError):
            return PermanentError(f"{self.where}: {found.message}", reason="InstanceRefused", hint=hint)
        return type(found)(f"{self.where}: {found.message}")


@contextmanager
def at_once(conn: psycopg.Connection) -> Iterator[None]:
    """Have statements run as one transaction, and be sent without waiting for the answers to those before.

    What goes wrong with one of them is raised at the end of the block.
    """
    with conn.pipeline(), conn.transaction():
        yield


def _is_old(one: _Kept, server: Primary) -> bool:
    return one.server != server or time.monotonic() - one.since > _KEPT_SECONDS


def _prepared(version: int, seconds: float) -> str:
    """Return what a session begins with: nothing of the instance's limits for its applications holds for us."""
    words = [
        "SET search_path = pg_catalog",
        f"SET statement_timeout = {round(seconds * 1000)}",
        "SET lock_timeout = 0",
        "SET idle_in_transaction_session_timeout = 0",
        "SET idle_session_timeout = 0",
        "SET default_transaction_read_only = off",
        # What we make is on the disk before a manifest says so; standbys are waited for where the instance does.
        "SELECT set_config('synchronous_commit', 'local', false) WHERE current_setting('synchronous_commit') = 'off'",
    ]
    if version >= 170000:  # noqa: PLR2004 - where it came
        words.append("SET transaction_timeout = 0")
    return "; ".join(words)
