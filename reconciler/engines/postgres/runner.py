"""Run a psql script: statements, COPY rows and the few client commands that are harmless.

Called by :mod:`.logical`, :mod:`.archive` and :mod:`.scripts`. It stops at the first
error and says file, line and statement. Nothing here can run a program or open a
file: scripts do not go through psql, and client commands are allow-listed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from reconciler.engines.postgres.failures import SqlError
from reconciler.engines.postgres.lexer import MetaCommand, Statement
from reconciler.engines.postgres.statements import shown, uses_server_file

if TYPE_CHECKING:
    from reconciler.engines.postgres.lexer import SqlReader
    from reconciler.engines.postgres.wire import Wire
    from reconciler.errors import PermanentError
    from reconciler.proc import CancelToken

_DISPLAY_ONLY = frozenset(
    {"echo", "qecho", "warn", "pset", "timing", "x", "t", "a", "f", "C", "H", "restrict", "unrestrict", "errverbose"}
)
_CONTROL_VARIABLES = frozenset(
    {"ON_ERROR_STOP", "ON_ERROR_ROLLBACK", "AUTOCOMMIT", "ECHO", "ECHO_HIDDEN", "QUIET", "VERBOSITY", "SHOW_CONTEXT"}
    | {"FETCH_COUNT", "HIDE_TABLEAM", "HIDE_TOAST_COMPRESSION", "SINGLELINE", "SINGLESTEP", "client_min_messages"}
)
_NAME = re.compile(r"\"((?:[^\"]|\"\")+)\"|([^\s\"'\\;]+)")
_SPECIAL_NAME = re.compile(r"-reuse-previous=on \"dbname='((?:[^'\"\\]|\\.|\"\")+)'\"")
_UNSAFE_ENCODINGS = frozenset(
    {"BIG5", "GB18030", "GBK", "JOHAB", "SJIS", "SHIFTJIS2004", "SHIFTJIS", "MSKANJI", "UHC", "WIN936", "WIN949"}
    | {"WIN950", "WINDOWS936", "WINDOWS949", "WINDOWS950", "MSWIN"}
)
_ENCODING_SETTING = re.compile(rb"(?is)SET\s+(?:SESSION\s+)?(?:client_encoding\s*(?:=|\sTO\b)|NAMES\b)\s*'?([\w-]+)")
_LACKS_RIGHT = "42501"


class Target(Protocol):
    """Where the statements go."""

    @property
    def wire(self) -> Wire:
        """The connection that statements run on now."""
        ...

    def execute(self, statement: Statement) -> bool:
        """Run a statement; True when it is a COPY that waits for rows. Raises SqlError."""
        ...

    def connect(self, database: str) -> None:
        """Go on in another database. Raises SqlError when there is none."""
        ...


class Runner:
    """Runs one script to its end; ``superuser`` asks for the checks that the server makes for everybody else."""

    def __init__(
        self, reader: SqlReader, target: Target, *, cancel: CancelToken, whole: bool, superuser: bool = False
    ) -> None:
        self._reader = reader
        self._target = target
        self._cancel = cancel
        self._whole = whole
        self._superuser = superuser

    def run(self) -> None:
        """Run everything.

        ``whole`` scripts (dumps) must end with a complete statement and outside of a transaction.

        Raises:
            PermanentError: of the reader's class; names file, line and statement.

        """
        self._follow_quoting()
        while (item := self._reader.next()) is not None:
            self._cancel.check()
            if isinstance(item, MetaCommand):
                self._command(item)
            else:
                self._statement(item)
            self._follow_quoting()
        if self._whole and self._target.wire.in_transaction:
            raise self._reader.fail("the file ends inside a transaction: it is truncated")

    def _follow_quoting(self) -> None:
        self._reader.standard_strings = self._target.wire.standard_strings

    def _statement(self, item: Statement) -> None:
        if self._whole and not item.complete:
            raise self._reader.fail(f"the file ends inside this statement: {shown(item.text)}", item.line)
        self._refuse_unreadable(item)
        if self._superuser and uses_server_file(item.text):
            raise self._refused(item.line, "COPY with a file or program of the server")
        first_row = 0
        try:
            if self._target.execute(item):
                rows = self._reader.copy_data()
                first_row = self._reader.line + 1
                self._target.wire.copy_in(rows)
        except SqlError as error:
            raise self._failure(item, error, first_row) from error

    def _failure(self, item: Statement, error: SqlError, first_row: int) -> PermanentError:
        if error.state == _LACKS_RIGHT and uses_server_file(item.text):
            return self._refused(item.line, "COPY with a file or program of the server")
        line = item.line if error.copy_line is None else first_row + error.copy_line - 1
        hint = f" ({error.hint})" if error.hint else ""
        if error.state == _LACKS_RIGHT and not self._superuser:
            hint = " (SQL runs without superuser rights, unless the host's configuration grants superuserScripts)"
        return self._reader.fail(f"{error}{hint}, in: {shown(item.text)}", line)

    def _refuse_unreadable(self, item: Statement) -> None:
        setting = _ENCODING_SETTING.match(item.text)
        if setting is not None:
            self._check_encoding(setting[1].decode("ascii", "replace"), item.line)

    def _check_encoding(self, name: str, line: int) -> None:
        if re.sub(r"[^A-Z0-9]", "", name.upper()) in _UNSAFE_ENCODINGS:
            raise self._reader.fail(f"client encoding {name} cannot be read safely; write the file in UTF-8", line)

    # -- client commands ------------------------------------------------------------

    def _command(self, command: MetaCommand) -> None:
        if command.pending:
            self._send_pending(command)
            return
        arguments = command.arguments
        match command.name:
            case "c" | "connect":
                self._connect(command)
            case "encoding" if re.fullmatch(r"'?[\w-]+'?", arguments):
                self._check_encoding(arguments.strip("'"), command.line)
                self._set_encoding(arguments.strip("'"), command.line)
            case "set" if arguments.split(" ")[0] in _CONTROL_VARIABLES and "`" not in arguments:
                pass
            case name if name in _DISPLAY_ONLY and not re.search(r"[`\\|]", arguments):
                pass
            case _:
                raise self._refused(command.line, f"the client command \\{command.name}")

    def _send_pending(self, command: MetaCommand) -> None:
        if command.name != "g" or command.arguments.strip(";"):
            raise self._refused(command.line, f"the client command \\{command.name} after a statement")
        self._statement(Statement(command.pending.strip(), command.line))

    def _set_encoding(self, name: str, line: int) -> None:
        try:
            self._target.wire.execute(f"SET client_encoding = '{name}'".encode())
        except SqlError as error:
            raise self._reader.fail(str(error), line) from error

    def _connect(self, command: MetaCommand) -> None:
        database = connected_database(command.arguments)
        if database is None:
            raise self._reader.fail(
                "only \\connect DATABASE is allowed, without user, host, port or connection string", command.line
            )
        try:
            self._target.connect(database)
        except SqlError as error:
            raise self._reader.fail(str(error), command.line) from error

    def _refused(self, line: int, what: str) -> PermanentError:
        return self._reader.fail(
            f"{what} is refused: only \\connect DATABASE, \\echo, \\encoding, \\set of psql's own switches"
            " and the rows of COPY … FROM stdin may be in a script",
            line,
        )


def connected_database(arguments: str) -> str | None:
    r"""Return the database that ``\connect`` names, or None when it asks for anything else than a database."""
    text = arguments.strip().rstrip(";").rstrip()
    special = _SPECIAL_NAME.fullmatch(text)  # how pg_dump writes names with unusual characters
    if special is not None:
        return re.sub(r"\\(.)", r"\1", special[1].replace('""', '"'))
    found = _NAME.fullmatch(text)
    if found is None or text == "-" or "=" in text or "://" in text:  # psql takes such names for connection strings
        return None
    return found[1].replace('""', '"') if found[1] is not None else found[2]
