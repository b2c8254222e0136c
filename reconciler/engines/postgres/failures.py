"""Errors of the server, told as errors of this package.

Called by ``engine`` around all work that talks to a server, so that nothing of psycopg
leaves the engine: what it says may quote values of rows.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg

from reconciler.errors import BusyError, PermanentError, ReconcilerError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Classes of SQLSTATE: appendix A of PostgreSQL's manual.
_UNAVAILABLE = (
    "08",
    "53",
    "57",
    "58030",
)  # no connection; out of disk, memory, connections; shut down; input or output
_BUSY = ("40", "55006", "55P03")  # rolled back for others' sake; object in use; lock not available
_ABOUT_NAMES = ("0A", "0L", "0P", "25", "28", "2B", "3D", "3F", "42", "55")
"""Their first lines name objects and settings, never values (save syntax errors, which quote the statement)."""
_SYNTAX = "42601"


@contextmanager
def translated() -> Iterator[None]:
    """Translate what psycopg raises within the block.

    Raises:
        UnavailableError: the server went away or lacks disk, memory or connections.
        BusyError: somebody else's session holds what is needed.
        PermanentError: any other failure, with its SQLSTATE.

    """
    try:
        yield
    except psycopg.Error as error:
        raise translation(error) from None  # a traceback that shows the original would show its DETAIL


def translation(error: psycopg.Error) -> ReconcilerError:
    """Return the error of this package for one of psycopg's, without any value of a row."""
    state = error.sqlstate
    if state is None:
        if isinstance(error, psycopg.OperationalError):
            return UnavailableError("the connection to the server was lost")
        return PermanentError(f"the server's answer cannot be used ({type(error).__name__})")
    what = f"{type(error).__name__}, SQLSTATE {state}"
    if state.startswith(_UNAVAILABLE):
        return UnavailableError(f"the server cannot go on: {error.diag.message_primary} ({what})")
    if state.startswith(_BUSY):
        return BusyError(f"another session of the server is in the way ({what})")
    if state.startswith(_ABOUT_NAMES) and state != _SYNTAX:
        return PermanentError(f"the server refused a statement: {error.diag.message_primary} ({what})")
    return PermanentError(f"the server refused a statement ({what})")
