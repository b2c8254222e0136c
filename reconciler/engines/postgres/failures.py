"""Errors of the server and of the host's files, told as errors of this package.

Called by ``engine`` around all its work, so that nothing of psycopg leaves the engine: what
it says may quote values of rows. And a full disk is told as what it is, whoever met it: a
file that we write, a program that we run, a statement of a dump.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg

from reconciler.engines.postgres.wire import SqlError
from reconciler.errors import (
    BusyError,
    CommandError,
    PermanentError,
    ReconcilerError,
    RefusedError,
    UnavailableError,
)

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
_DISK_FULL = "53100"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def translated() -> Iterator[None]:
    """Translate what psycopg and the operating system raise within the block.

    Raises:
        RefusedError: the disk is full.
        UnavailableError: the server went away or lacks disk, memory or connections; a file cannot be worked on.
        BusyError: somebody else's session holds what is needed.
        PermanentError: any other failure, with its SQLSTATE.

    """
    try:
        yield
    except psycopg.Error as error:
        raise translation(error) from None  # a traceback that shows the original would show its DETAIL
    except OSError as error:
        what = f"{error.filename or 'a file'}: {error.strerror}"
        if _is_full(error):
            raise _pool_full(what) from error
        raise UnavailableError(f"cannot work on {what}") from error
    except PermanentError as error:
        if _is_full(error.__cause__):
            raise _pool_full(error.message) from error
        raise


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


def _is_full(error: BaseException | None) -> bool:
    if isinstance(error, OSError):
        return error.errno in _FULL
    if isinstance(error, CommandError):
        return any(os.strerror(number) in error.stderr for number in _FULL)
    return isinstance(error, SqlError) and error.state == _DISK_FULL


def _pool_full(what: str) -> RefusedError:
    return RefusedError(f"there is no room left in the pool: {what}", reason="PoolFull")
