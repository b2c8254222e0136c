"""Connections whose statements end when the work that they belong to became pointless, or after some time.

Opened by :mod:`.server` for builds, whose statements take hours: rewriting, indexes,
materialised views, vacuuming. Without this a token is only looked at between two of
them. Looks, which passes wait for, use it to give up on a server that hangs:
``statement_timeout`` is kept by the server. :mod:`.wire` does the same for the scripts
of users, which pass by psycopg. It decides nothing about transactions: a build that was
cancelled is thrown away.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg.rows import TupleRow
from psycopg.waiting import Ready

from reconciler.proc import CancelToken

if TYPE_CHECKING:
    from psycopg.abc import PQGen

T = TypeVar("T")


class CancellableConnection(psycopg.Connection[TupleRow]):
    """A connection that has its statement cancelled on the server when ``token`` is.

    Raises:
        CancelledError: from whatever waits for the server then.
        psycopg.OperationalError: the server said nothing for ``patience`` seconds; the connection is closed.

    """

    token: CancelToken = CancelToken()
    """Of the work; nobody cancels the one that all others share."""

    patience: float | None = None
    """How many seconds a statement may take; None for any time."""

    def wait(self, gen: PQGen[T], *arguments: Any, **named: Any) -> T:  # noqa: ANN401 - whatever this version of psycopg takes
        """Wait for the server as any connection does; look at the token ten times a second."""
        try:
            return super().wait(self._heeding(gen), *arguments, **named)
        except psycopg.errors.QueryCanceled:
            self.token.check()
            raise

    def _heeding(self, gen: PQGen[T]) -> PQGen[T]:
        until = None if self.patience is None else time.monotonic() + self.patience
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if ready == Ready.NONE and self.token.cancelled:
                    with suppress(psycopg.Error):  # again at the next look: the statement may not have begun
                        self.cancel_safe()
                if ready == Ready.NONE and until is not None and time.monotonic() > until:
                    self.close()
                    raise psycopg.OperationalError(f"it did not answer within {self.patience:g} s")
                wanted = gen.send(ready)
        except StopIteration as end:
            result: T = end.value
            return result
