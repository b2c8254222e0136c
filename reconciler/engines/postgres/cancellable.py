"""Connections whose statements end when the work that they belong to became pointless.

Opened by :mod:`.server` for builds, whose statements take hours: rewriting, indexes,
materialised views, vacuuming. Without this a token is only looked at between two of
them. :mod:`.wire` does the same for the scripts of users, which pass by psycopg. It
decides nothing about transactions: a build that was cancelled is thrown away.
"""

from __future__ import annotations

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

    """

    token: CancelToken = CancelToken()
    """Of the work; nobody cancels the one that all others share."""

    def wait(self, gen: PQGen[T], *arguments: Any, **named: Any) -> T:  # noqa: ANN401 - whatever this version of psycopg takes
        """Wait for the server as any connection does; look at the token ten times a second."""
        try:
            return super().wait(self._heeding(gen), *arguments, **named)
        except psycopg.errors.QueryCanceled:
            self.token.check()
            raise

    def _heeding(self, gen: PQGen[T]) -> PQGen[T]:
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if ready == Ready.NONE and self.token.cancelled:
                    with suppress(psycopg.Error):  # again at the next look: the statement may not have begun
                        self.cancel_safe()
                wanted = gen.send(ready)
        except StopIteration as end:
            result: T = end.value
            return result
