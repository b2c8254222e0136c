"""Errors of the server and of the host's files, told as errors of this package.

Called by ``engine`` around all its work, so that nothing of PyMySQL leaves the engine:
what it says may quote values of rows, and the text of statements.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pymysql

from reconciler.errors import BusyError, CommandError, PermanentError, RefusedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.errors import ReconcilerError

# Numbers: appendix "Error Messages" of MySQL's manual, which MariaDB's agree with below 1900.
_LOST = frozenset({1040, 1053, 1159, 1160, 1161, 1927, 2002, 2003, 2006, 2013, 2014, 2055})
"""No connection, too many of them, shutting down."""
_BUSY = frozenset({1205, 1213, 1614, 3572})
_DISK_FULL = frozenset({1021, 1114})
_INTERRUPTED = frozenset({1317, 1028, 3024, 1969})
_ABOUT_NAMES = frozenset(
    {1005, 1007, 1008, 1025, 1044, 1045, 1046, 1048, 1049, 1050, 1051, 1054, 1060, 1061, 1068, 1072, 1075, 1091}
    | {1101, 1109, 1110, 1113, 1115, 1118, 1136, 1142, 1143, 1146, 1171, 1193, 1215, 1227, 1231, 1235, 1238, 1239}
    | {1264, 1267, 1273, 1286, 1290, 1304, 1305, 1318, 1347, 1349, 1356, 1357, 1359, 1360, 1364, 1370, 1406, 1418}
    | {1419, 1446, 1449, 1451, 1452, 1537, 1539, 1577, 1701, 1813, 1822, 1828, 1831, 1901, 1932, 4025}
)
"""Their messages name objects, columns and settings, never values."""
_SYNTAX = 1064
_DUPLICATE = frozenset({1062, 1586})
_SIGNALLED = 1644
_AT_LINE = re.compile(r" at line (\d+)$")
_NEAR = re.compile(r"near '([^\W\d]\w*)")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_KEY = re.compile(r"for key ('[^']*')$")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class SqlError(Exception):
    """The server refused a statement; ``str()`` is safe to show: it quotes no value of a row."""

    def __init__(self, code: int, message: str, *, line: int = 1) -> None:
        super().__init__(message)
        self.code = code
        """The server's number; 0: none."""
        self.line = line
        """1-based line within the statement, where the server tells it."""


@contextmanager
def translated() -> Iterator[None]:
    """Translate what PyMySQL and the operating system raise within the block.

    Raises:
        RefusedError: the disk is full.
        UnavailableError: the server went away; a file cannot be worked on.
        BusyError: somebody else's session holds what is needed.
        PermanentError: any other failure, with its number.

    """
    try:
        yield
    except SqlError as error:
        raise _translation(error) from None
    except pymysql.Error as error:
        raise _translation(sql_error(error)) from None  # a traceback that shows the original would show values
    except OSError as error:
        what = f"{error.filename or 'a file'}: {error.strerror}"
        if error.errno in _FULL:
            raise _pool_full(what) from error
        raise UnavailableError(f"cannot work on {what}") from error
    except PermanentError as error:
        cause = error.__cause__
        full_disk = isinstance(cause, CommandError) and any(os.strerror(number) in cause.stderr for number in _FULL)
        if full_disk or (isinstance(cause, SqlError) and cause.code in _DISK_FULL):
            raise _pool_full(error.message) from error
        raise


def sql_error(error: pymysql.Error) -> SqlError:
    """Return an error of the server without any value of a row."""
    code, text = _parts(error)
    line = _AT_LINE.search(text) if code == _SYNTAX else None
    return SqlError(code, safe_message(code, text), line=int(line[1]) if line is not None else 1)


def lost(error: SqlError) -> bool:
    """Tell whether it says that the server is not there, or not for us."""
    return error.code in _LOST or error.code == 0


def interrupted(error: SqlError) -> bool:
    """Tell whether the statement was ended from outside."""
    return error.code in _INTERRUPTED or lost(error)


def safe_message(code: int, text: str) -> str:
    """Return what the server says without any value of a row; a syntax error names the word that it is near."""
    if code == _SYNTAX:
        near = _NEAR.search(text)
        return f"syntax error near {near[1]!r}" if near is not None else "syntax error"
    if code == _SIGNALLED:
        return f"raised by code, whose text may quote rows (error {code})"
    if code in _ABOUT_NAMES:
        return f"{text} (error {code})"
    if code in _DUPLICATE:
        key = _KEY.search(text)
        return f"duplicate entry for key {key[1] if key is not None else '…'} (error {code})"
    return f"{_without_values(text)} (error {code})"


def _without_values(text: str) -> str:
    """Return a message with ``…`` from the first thing that it quotes to the last: that may have quotes itself."""
    found = _QUOTED.search(text)
    if found is None:
        return "the server refused it" if "'" in text or '"' in text else text
    end = max(text.rfind("'"), text.rfind('"'))
    return f"{text[: found.start()]}'…'{text[end + 1 :]}"


def _parts(error: pymysql.Error) -> tuple[int, str]:
    code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = error.args[1] if len(error.args) > 1 and isinstance(error.args[1], str) else ""
    return code, text


def _translation(error: SqlError) -> ReconcilerError:
    if lost(error):
        return UnavailableError("the connection to the server was lost or refused")
    if error.code in _DISK_FULL:
        return _pool_full(str(error))
    if error.code in _BUSY:
        return BusyError(f"another session of the server is in the way: {error}")
    return PermanentError(f"the server refused a statement: {error}")


def _pool_full(what: str) -> RefusedError:
    return RefusedError(f"there is no room left in the pool: {what}", reason="PoolFull")
