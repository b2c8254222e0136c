"""Errors of the server and of the host's files, told as errors of this package.

Called by ``engine`` around all its work, so that nothing of psycopg leaves the engine: what
it says may quote values of rows. :mod:`.wire` and :mod:`.archive` show errors of dumps and
scripts, cleaned in the same way. And a full disk is told as what it is, whoever met it: a
file that we write, a program that we run, a statement of a dump.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg

from reconciler.errors import (
    BusyError,
    CommandError,
    PermanentError,
    ReconcilerError,
    RefusedError,
    UnavailableError,
)
from reconciler.status import redact

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from psycopg.errors import Diagnostic

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
_VALUE_CLASSES = ("22", "23", _SYNTAX)
"""Data exceptions, integrity violations, and what is no number, query or statement: they quote values."""
_TOKEN = re.compile(r"syntax error at (?:or near \"(?:[^\W\d]\w*|[^\w'\"$]+)\"|end of input)")
"""A syntax error near a word or an operator of the statement itself."""
_QUOTED = re.compile(r"\"([^\"]*)\"?")
_BYTES = re.compile(r": 0x.*", re.DOTALL)
_CODE = re.compile(r"exec_stmt_(?:raise|assert)|plperl_\w+|PLy_\w+|throw_tcl_error")
"""Functions of PostgreSQL that report what code of users raises."""
_PLACE = re.compile(
    r"^(?:PL/\w+ function [^\n]+ line \d+ at \w+|PL/\w+ function [^\n]+|SQL function \"[^\"\n]+\")", re.MULTILINE
)
_OWN_TEXT = re.compile(r"SQL function \"[^\"\n]+\" during (?:inlining|startup)")
"""Such a function's body is being parsed: it is the text that its author wrote."""
_WORKER = "parallel worker"
_PERMISSION = "42501"
"""Names what is there."""
_MISSING_ROLE = re.compile(r"role \"(.+)\" does not exist")


class SqlError(Exception):
    """The server refused a statement; ``str()`` is safe to show: it quotes no value of a row."""

    def __init__(
        self,
        state: str,
        message: str,
        *,
        copy_line: int | None = None,
        hint: str | None = None,
        missing_role: str | None = None,
    ) -> None:
        super().__init__(message)
        self.state = state
        self.copy_line = copy_line
        """1-based line within the rows of a COPY."""
        self.hint = hint
        self.missing_role = missing_role
        """Name of a role that there is not; to be made or not, never to be shown: code may have taken it from a row."""


def told(output: str, most: int = 500) -> str:
    """Return the end of what a program wrote, of ``most`` characters, without what looks like a secret.

    Cleaned as a whole: the end of it may begin within a connection string.
    """
    return redact.text(output.strip())[-most:]


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


def translation(error: psycopg.Error, *, rows: bool = False) -> ReconcilerError:
    """Return the error of this package for one of psycopg's, without any value of a row; ``rows``: see safe_message."""
    state = error.sqlstate
    if state is None:
        if isinstance(error, psycopg.OperationalError):
            return UnavailableError("the connection to the server was lost")
        return PermanentError(f"the server's answer cannot be used ({type(error).__name__})")
    what = f"{type(error).__name__}, SQLSTATE {state}"
    if state.startswith(_UNAVAILABLE):
        return UnavailableError(f"the server cannot go on: {safe_message(error.diag)} ({what})")
    if state.startswith(_BUSY):
        return BusyError(f"another session of the server is in the way ({what})")
    if state.startswith(_ABOUT_NAMES) and state != _SYNTAX:
        return PermanentError(f"the server refused a statement: {safe_message(error.diag, rows=rows)} ({what})")
    return PermanentError(f"the server refused a statement ({what})")


def _is_full(error: BaseException | None) -> bool:
    if isinstance(error, OSError):
        return error.errno in _FULL
    if isinstance(error, CommandError):
        return any(os.strerror(number) in error.stderr for number in _FULL)
    return isinstance(error, SqlError) and error.state == _DISK_FULL


def _pool_full(what: str) -> RefusedError:
    return RefusedError(f"there is no room left in the pool: {what}", reason="PoolFull")


def safe_message(diag: Diagnostic, *, rows: bool = False) -> str:
    """Return an error's first line without any value of a row.

    What code of users raises is any text: only where it was raised is told. So is what
    the server says of statements that such code runs: their text can have been put
    together from rows (EXECUTE). ``rows``: the statement evaluates rows; names that it
    looked up when it ran, and not when it was parsed, can be values (``name::regclass``).
    """
    message = diag.message_primary or "the server closed the connection"
    if _raised_by_code(diag):
        return f"SQLSTATE {diag.sqlstate} raised by {place_in_code(diag) or 'code'}; its text may quote rows"
    if _in_code(diag):
        return f"SQLSTATE {diag.sqlstate} in {place_in_code(diag) or 'code'}; its text may quote rows"
    if rows and _looked_up(diag):
        return f"SQLSTATE {diag.sqlstate} while rows were computed; its text may quote them"
    return without_values(message, _names(diag)) if _quotes_values(diag) else message


def missing_role(diag: Diagnostic) -> str | None:
    """Return the name of the role that is missing, if that is the error."""
    found = _MISSING_ROLE.fullmatch(diag.message_primary or "")
    return None if found is None or _raised_by_code(diag) else found[1]


def safe_hint(diag: Diagnostic) -> str | None:
    """Return an error's hint without any value of a row."""
    if diag.message_hint is None or _raised_by_code(diag) or _in_code(diag):
        return None
    return without_values(diag.message_hint, _names(diag)) if _quotes_values(diag) else diag.message_hint


def without_values(message: str, names: Collection[str]) -> str:
    """Return a message with ``…`` in place of what it quotes, from the first thing on that is none of ``names``.

    Up to the last quote, because what is quoted may have quotes itself.
    """
    message = _BYTES.sub("", message)
    for found in _QUOTED.finditer(message):
        if found[1] not in names:
            return f'{message[: found.start()]}"…"{message[message.rindex(chr(34)) + 1 :]}'
    return message


def _raised_by_code(diag: Diagnostic) -> bool:
    return _CODE.fullmatch(diag.source_function or "") is not None


def place_in_code(diag: Diagnostic) -> str | None:
    """Return the function of users in which an error arose, as the server names it; None when it arose in none."""
    found = _PLACE.search(diag.context or "")
    return None if found is None else found[0]


def _in_code(diag: Diagnostic) -> bool:
    """Tell whether a statement that code runs was refused, rather than ours; disks and data have their own words."""
    context = [line for line in (diag.context or "").splitlines() if line != _WORKER]
    state = diag.sqlstate or ""
    if state.startswith((*_UNAVAILABLE, *_BUSY, _PERMISSION, "22", "23")) or (
        context and context[0].startswith("COPY ")
    ):
        return False
    if context and _OWN_TEXT.fullmatch(context[0]) is not None:
        return False
    return bool(context) or diag.internal_query is not None


def _looked_up(diag: Diagnostic) -> bool:
    """Tell whether names are told that were not in the statement's text."""
    state = diag.sqlstate or ""
    return state.startswith(_ABOUT_NAMES) and state != _PERMISSION and diag.statement_position is None


def _quotes_values(diag: Diagnostic) -> bool:
    if (diag.context or "").startswith("COPY "):
        return True
    state, message = diag.sqlstate or "", diag.message_primary or ""
    own_token = diag.internal_query is None and _TOKEN.fullmatch(message) is not None
    return state.startswith(_VALUE_CLASSES) and not own_token


def _names(diag: Diagnostic) -> frozenset[str]:
    found = (diag.schema_name, diag.table_name, diag.column_name, diag.datatype_name, diag.constraint_name)
    return frozenset(name for name in found if name)
