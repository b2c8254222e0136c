"""Run a script of the mysql client, statement by statement.

Called by :mod:`.logical` and :mod:`.scripts`. It stops at the first error and says file,
line and statement. Nothing here can run a program or open a file: scripts do not go
through the client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from reconciler.engines.mysql.failures import SqlError, lost
from reconciler.engines.mysql.statements import shown
from reconciler.errors import UnavailableError

if TYPE_CHECKING:
    from reconciler.engines.mysql.lexer import SqlReader, Statement
    from reconciler.engines.mysql.link import Link
    from reconciler.errors import PermanentError
    from reconciler.proc import CancelToken

_LACKS_RIGHT = frozenset({1044, 1142, 1143, 1227, 1290, 1370, 1419})
_UNKNOWN_COLLATION = frozenset({1115, 1273})
_LOCAL_FILE = frozenset({1148, 4166, 3948})


class Target(Protocol):
    """Where the statements go."""

    @property
    def link(self) -> Link:
        """The connection that statements run on."""
        ...

    def execute(self, statement: Statement) -> None:
        """Run a statement. Raises SqlError."""
        ...


class Runner:
    """Runs one script to its end."""

    def __init__(self, reader: SqlReader, target: Target, *, cancel: CancelToken, whole: bool) -> None:
        self._reader = reader
        self._target = target
        self._cancel = cancel
        self._whole = whole

    def run(self) -> None:
        """Run everything.

        ``whole`` scripts (dumps) must end with a complete statement.

        Raises:
            PermanentError: of the reader's class; names file, line and statement.
            UnavailableError: the server went away.

        """
        while True:
            self._reader.backslash_escapes = self._target.link.backslash_escapes
            statement = self._reader.next()
            if statement is None:
                break
            self._cancel.check()
            if self._whole and not statement.complete:
                raise self._reader.fail(f"the file ends inside this statement: {shown(statement.text)}", statement.line)
            self._run(statement)
        if self._target.link.in_transaction:
            raise self._reader.fail("the script ends inside a transaction that it began: COMMIT is missing")

    def _run(self, statement: Statement) -> None:
        try:
            self._target.execute(statement)
        except SqlError as error:
            if lost(error):
                raise UnavailableError("the connection to the server was lost") from error
            raise self._failure(statement, error) from error
        except RuntimeError as error:  # of PyMySQL, which is asked for a file of this side and has none
            raise self._reader.fail("LOAD DATA LOCAL is refused: it reads files", statement.line) from error

    def _failure(self, statement: Statement, error: SqlError) -> PermanentError:
        hint = ""
        if error.code in _LACKS_RIGHT:
            hint = " (SQL runs with rights on databases of users only, unless the host grants superuserScripts)"
        if error.code in _LOCAL_FILE:
            hint = " (files are not read)"
        if error.code in _UNKNOWN_COLLATION:
            hint = " (it is of another product or a newer version: dump with a character set that this one has)"
        return self._reader.fail(f"{error}{hint}, in: {shown(statement.text)}", statement.line + error.line - 1)
