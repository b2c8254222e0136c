"""One connection that runs whole statements as bytes, as psql does: simple protocol, COPY, cancellation.

Called by :mod:`.runner` and :mod:`.restore_target`. It takes over the libpq handle of a psycopg
connection because scripts are bytes in the server's own encoding and must not be
parsed for parameters. It never keeps DETAIL or CONTEXT of an error: they quote rows.
"""

from __future__ import annotations

import re
import select
from typing import TYPE_CHECKING

import psycopg
from psycopg.errors import Diagnostic
from psycopg.pq import ExecStatus, TransactionStatus

from reconciler.engines.postgres.failures import SqlError, missing_role, safe_hint, safe_message
from reconciler.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from psycopg.pq.abc import PGconn, PGresult

    from reconciler.proc import CancelToken

_WAIT_MILLISECONDS = 200
_COPY_LINE = re.compile(r"^COPY .*, line (\d+)(?:, column ([^:]+))?")
_SERVER_TROUBLE = ("53", "57P", "58030")  # out of disk, memory or connections; shut down; input or output error


class Wire:
    """A connection; ``cancel`` ends the statement that runs on the server."""

    def __init__(self, connection: psycopg.Connection, cancel: CancelToken) -> None:
        self._connection = connection
        self._libpq: PGconn = connection.pgconn
        self._cancel = cancel
        self._poll = select.poll()

    def close(self) -> None:
        """Close the connection; an open transaction is rolled back by the server."""
        self._connection.close()

    @property
    def database(self) -> str:
        """The database that it is connected to."""
        return self._libpq.db.decode()

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction block is open."""
        return self._libpq.transaction_status != TransactionStatus.IDLE

    @property
    def standard_strings(self) -> bool:
        """Whether a backslash in an ordinary string is an ordinary character."""
        return self._libpq.parameter_status(b"standard_conforming_strings") != b"off"

    def execute(self, text: bytes) -> bool:
        """Run a statement and throw its rows away; True: it is a COPY that waits for :meth:`copy_in`.

        Raises:
            SqlError: the server refused it.
            CancelledError: the work was cancelled; so was the statement.

        """
        self._libpq.send_query(text)
        self._flush()
        return self._results()

    def execute_one(self, text: bytes) -> None:
        """Run what the server, too, must take for exactly one statement (extended protocol).

        What runs as the administrator goes this way: several statements in one text
        are an error then, whatever our own scanner made of it.

        Raises:
            SqlError: the server refused it.

        """
        self._libpq.send_query_params(text, None)
        self._flush()
        self._results()

    def copy_in(self, blocks: Iterable[bytes]) -> None:
        """Send the rows of a COPY.

        Raises:
            SqlError: the server refused them.

        """
        try:
            for block in blocks:
                while self._libpq.put_copy_data(block) == 0:
                    self._wait(select.POLLIN | select.POLLOUT)
                self._flush()
        except BaseException:
            self._end_copy(b"the script ended")
            self._drain()
            raise
        self._end_copy(None)
        self._flush()
        self._results()

    def single_value(self, query: bytes) -> bytes | None:
        """Return the only column of the only row of a query, in text; None when there is not exactly one.

        Raises:
            SqlError: the server refused it, or it is more than one statement.

        """
        self._libpq.send_query_params(query, None)
        self._flush()
        value: bytes | None = None
        failure: SqlError | None = None
        while (result := self._result()) is not None:
            failure = failure or _error_of(result)
            if result.status == ExecStatus.COPY_IN:
                self._end_copy(b"a query is expected")
            elif result.status == ExecStatus.COPY_OUT:
                self._skip_rows()
            if result.ntuples == 1 and result.nfields == 1:
                value = result.get_value(0, 0)
        if failure is not None:
            raise failure
        return value

    def _end_copy(self, error: bytes | None) -> None:
        while self._libpq.put_copy_end(error) == 0:
            self._wait(select.POLLIN | select.POLLOUT)

    def _results(self) -> bool:
        failure: SqlError | None = None
        while (result := self._result()) is not None:
            if result.status == ExecStatus.COPY_IN:
                return True
            if result.status == ExecStatus.COPY_OUT:
                self._skip_rows()
                continue
            failure = failure or _error_of(result)
        if failure is not None:
            raise failure
        return False

    def _drain(self) -> None:
        while self._result() is not None:
            pass

    def _skip_rows(self) -> None:
        while True:
            size, _rows = self._libpq.get_copy_data(1)
            if size == 0:
                self._wait(select.POLLIN)
            elif size < 0:
                return

    def _result(self) -> PGresult | None:
        while self._libpq.is_busy():
            self._wait(select.POLLIN)
        return self._libpq.get_result()

    def _flush(self) -> None:
        while self._libpq.flush():
            self._wait(select.POLLIN | select.POLLOUT)

    def _wait(self, events: int) -> None:
        """Wait until the socket is ready, and take in what has arrived."""
        self._poll.register(self._libpq.socket, events)
        while True:
            ready = self._poll.poll(_WAIT_MILLISECONDS)
            if self._cancel.cancelled:
                self._libpq.get_cancel().cancel()
                self._cancel.check()
            if ready:
                break
        if ready[0][1] & ~select.POLLOUT:
            try:
                self._libpq.consume_input()
            except psycopg.OperationalError as error:
                raise UnavailableError(f"the connection to the server was lost: {error}") from error


def _error_of(result: PGresult) -> SqlError | None:
    if result.status != ExecStatus.FATAL_ERROR:
        return None
    diag = Diagnostic(result, "utf-8")
    state, message = diag.sqlstate, safe_message(diag)
    if state is None or state.startswith(_SERVER_TROUBLE):
        raise UnavailableError(f"the server cannot go on: {message}")
    copy_line = _COPY_LINE.match(diag.context or "")
    if copy_line is not None and copy_line[2]:
        message = f"{message} (column {copy_line[2]})"
    return SqlError(
        state,
        message,
        copy_line=int(copy_line[1]) if copy_line else None,
        hint=safe_hint(diag),
        missing_role=missing_role(diag),
    )
