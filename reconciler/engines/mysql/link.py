"""One connection to a server: rows for us, whole statements as bytes for scripts and dumps.

Called by all modules of this package that talk to a server. Statements of a script go as
the bytes that they are: nothing looks for parameters in them. One text is one statement,
also for the server (no CLIENT_MULTI_STATEMENTS), and it can ask for no file of this
side (no CLIENT_LOCAL_FILES).
"""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any, Self, cast

import pymysql
from pymysql.constants import SERVER_STATUS
from pymysql.cursors import DictCursor, SSCursor

from reconciler.engines.mysql.failures import interrupted, sql_error
from reconciler.errors import CancelledError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from reconciler.proc import CancelToken

_POLL_SECONDS = 0.2
_ROWS_AT_ONCE = 1000
_CREDENTIALS = struct.Struct("3i")  # process, user and group: unix(7)

Row = tuple[Any, ...]


class Link:
    """A connection; ``kill`` ends the statement of a thread of the server, for when ``cancel`` is set."""

    def __init__(
        self,
        connection: pymysql.Connection[Any],
        cancel: CancelToken | None = None,
        kill: Callable[[int], None] | None = None,
    ) -> None:
        self._connection = connection
        self._cancel = cancel
        self._over = threading.Event()
        self._watcher: threading.Thread | None = None
        if cancel is not None and kill is not None:
            self._watcher = threading.Thread(target=self._watch, args=(cancel, kill), daemon=True)
            self._watcher.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; an open transaction is rolled back by the server."""
        self._over.set()
        if self._watcher is not None:
            self._watcher.join()
        if self._connection.open:
            self._connection.close()

    def wait_for(self, read_seconds: int | None, write_seconds: int | None) -> None:
        """Take the connection for lost when no byte comes, or goes, for so long from now on; None: never."""
        connection = cast("Any", self._connection)  # PyMySQL takes them before it connects only
        connection._read_timeout, connection._write_timeout = read_seconds, write_seconds  # noqa: SLF001 - see above

    @property
    def process(self) -> int:
        """The number of the server's process, of a connection over its socket; 0: it cannot be seen from here."""
        connected = cast("socket.socket", cast("Any", self._connection)._sock)  # noqa: SLF001 - it gives it to nobody
        told = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return int(_CREDENTIALS.unpack(told)[0])

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return bool(self._status & SERVER_STATUS.SERVER_STATUS_IN_TRANS)

    @property
    def backslash_escapes(self) -> bool:
        """Whether a backslash in a string hides what follows it."""
        return not self._status & SERVER_STATUS.SERVER_STATUS_NO_BACKSLASH_ESCAPES

    @property
    def _status(self) -> int:
        return cast("int", getattr(self._connection, "server_status", None) or 0)

    def rows(self, statement: str, *values: object) -> list[Row]:
        """Run a statement of ours and return its rows.

        Raises:
            SqlError: the server refused it.
            CancelledError: the work was cancelled; so was the statement.

        """
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(statement, values or None)
                return cast("list[Row]", list(cursor.fetchall()))
        except pymysql.Error as error:
            raise self._error(error) from None

    def named(self, statement: str) -> list[dict[str, Any]]:
        """Run a statement of ours and return its rows by the names of columns. Raises as :meth:`rows`."""
        try:
            with self._connection.cursor(DictCursor) as cursor:
                cursor.execute(statement)
                return cast("list[dict[str, Any]]", list(cursor.fetchall()))
        except pymysql.Error as error:
            raise self._error(error) from None

    def value(self, statement: str, *values: object) -> Any:  # noqa: ANN401 - whatever the server says
        """Return the first value of the first row; None without one. Raises as :meth:`rows`."""
        found = self.rows(statement, *values)
        return found[0][0] if found else None

    def stream(self, statement: str) -> Generator[Row]:
        """Yield the rows of a statement of ours as they come; not read to its end, the connection is closed.

        Raises as :meth:`rows`.
        """
        cursor = SSCursor(self._connection)
        whole = False
        try:
            cursor.execute(statement)
            while found := cursor.fetchmany(_ROWS_AT_ONCE):
                yield from found
            whole = True
        except pymysql.Error as error:
            raise self._error(error) from None
        finally:
            if not whole:
                self._abandon(cursor)

    def _abandon(self, cursor: SSCursor) -> None:
        """Close the connection under a result: its cursor would read all the rest of it first."""
        result = cast("Any", cursor)._result  # noqa: SLF001 - there is no other way to tell it
        if result is not None:
            result.unbuffered_active = False
        if self._connection.open:
            self._connection.close()

    def insert(self, statement: str, rows: Sequence[Sequence[object]]) -> None:
        """Run an ``INSERT … VALUES (%s, …)`` of ours for many rows. Raises as :meth:`rows`."""
        try:
            with self._connection.cursor() as cursor:
                cursor.executemany(statement, rows)
        except pymysql.Error as error:
            raise self._error(error) from None

    def execute(self, text: bytes) -> None:
        """Run a statement of a script and throw its rows away. Raises as :meth:`rows`."""
        try:
            with closing(SSCursor(self._connection)) as cursor:
                cursor.execute(cast("str", text))  # bytes are sent as they are
                while cursor.nextset():
                    pass
        except pymysql.Error as error:
            raise self._error(error) from None

    def single(self, text: bytes) -> Row | None:
        """Return the only row of a query; None when there is another number of them. Raises as :meth:`rows`."""
        try:
            with closing(SSCursor(self._connection)) as cursor:
                cursor.execute(cast("str", text))
                found = cursor.fetchmany(2)
                return found[0] if len(found) == 1 else None
        except pymysql.Error as error:
            raise self._error(error) from None

    def _error(self, error: pymysql.Error) -> Exception:
        found = sql_error(error)
        if self._cancel is not None and self._cancel.cancelled and interrupted(found):
            return CancelledError("the work was cancelled")
        return found

    def _watch(self, cancel: CancelToken, kill: Callable[[int], None]) -> None:
        thread = cast("int", self._connection.thread_id())  # type: ignore[no-untyped-call] # stubs without its type
        while not self._over.wait(_POLL_SECONDS):
            if cancel.cancelled:
                kill(thread)


def quoted(name: str) -> str:
    """Return a name as an identifier."""
    return "`" + name.replace("`", "``") + "`"


def text(value: str) -> str:
    """Return a string literal that means the same with and without NO_BACKSLASH_ESCAPES."""
    return "_utf8mb4 0x" + value.encode().hex() if "\\" in value else "'" + value.replace("'", "''") + "'"
