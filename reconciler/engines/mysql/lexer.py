r"""Split a script of the mysql client into statements and the few commands that are the client's own.

Called by :mod:`.runner`. It finds ends of statements by the rules of that client: strings,
quoted names, comments, and what DELIMITER last said. ``/*! … */`` is code. A mistake here
sends wrong SQL, which runs without any right beyond databases of users.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reconciler.engines.compressed import Readable
    from reconciler.errors import PermanentError

_BLOCK = 1 << 20
_LARGEST = 1 << 30
"""Bytes of a statement: no server takes a larger one (max_allowed_packet)."""
_LEADING = re.compile(rb"\s+|(?:--(?=[\s\x00-\x1f]|\Z)|#)[^\n]*(?:\n|\Z)")
_DELIMITER = re.compile(rb"(?i)delimiter(?:[ \t]+([^\s]+))?[^\n]*(?:\n|\Z)")
_USE = re.compile(rb"(?i)use[ \t]+(`(?:[^`]|``)+`|[^\s;`'\"]+)[ \t\r]*;?[ \t\r]*(?:\n|\Z)")
_CLIENT = re.compile(rb"(?i)(source|system|tee|pager|edit|sandbox)(?=[ \t\r\n;]|\Z)[^\n]*(?:\n|\Z)")
_ENDS = {
    b"'": (re.compile(rb"[^'\\]*(?:\\.[^'\\]*)*'", re.DOTALL), re.compile(rb"[^']*'")),
    b'"': (re.compile(rb"[^\"\\]*(?:\\.[^\"\\]*)*\"", re.DOTALL), re.compile(rb"[^\"]*\"")),
    b"`": (re.compile(rb"[^`]*`"), re.compile(rb"[^`]*`")),
    b"/*": (re.compile(rb".*?\*/", re.DOTALL), re.compile(rb".*?\*/", re.DOTALL)),
    b"#": (re.compile(rb"[^\n]*(?:\n|\Z)"), re.compile(rb"[^\n]*(?:\n|\Z)")),
    b"--": (re.compile(rb"[^\n]*(?:\n|\Z)"), re.compile(rb"[^\n]*(?:\n|\Z)")),
}
"""What ends each piece that a delimiter in does not count: with backslashes that hide, and without."""
_HARMLESS_COMMANDS = frozenset({b"\\N", b"\\-"})
r"""``\N`` is SQL's, for NULL; ``\-`` in a dump turns on what nothing here can do anyway."""
_ENDING_COMMANDS = frozenset({b"\\g", b"\\G"})


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement without its delimiter; ``complete``: it had one."""

    text: bytes
    line: int
    complete: bool = True


class SqlReader:
    """Reads statements from a stream; ``error`` is the class of what it raises."""

    def __init__(
        self,
        stream: Readable,
        *,
        origin: str,
        error: type[PermanentError],
        first_line: int = 1,
        delimiter: bytes = b";",
    ) -> None:
        self._stream = stream
        self._origin = origin
        self._error = error
        self._buffer = b""
        self._held: list[bytes] = []
        self._ended = False
        self._at = 0
        self._line = first_line
        self._counted = 0
        self.backslash_escapes = True
        self._set_delimiter(delimiter)

    @property
    def line(self) -> int:
        """The line at which reading stands."""
        self._line += self._buffer.count(b"\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def fail(self, message: str, line: int | None = None) -> PermanentError:
        """Return the error to raise for a place in the script."""
        return self._error(f"{self._origin}:{line or self.line}: {message}")

    def next(self) -> Statement | None:
        """Return the next statement; None at the end.

        Raises:
            PermanentError: of the reader's class: a client command that is refused, or the end within a string.

        """
        while True:
            self._drop_read()
            if not self._skip_leading():
                return None
            if (named := self._named_command()) is not None:
                return named
            if self._set_by_command():
                continue
            found = self._statement()
            if found is not None:
                return found

    # -- what stands before a statement ---------------------------------------------

    def _skip_leading(self) -> bool:
        """Pass over blanks and comments; return whether anything follows."""
        while True:
            if self._at >= len(self._buffer) and not self._fill():
                return False
            found = _LEADING.match(self._buffer, self._at)
            if found is not None:
                self._at = found.end()
            elif self._starts_comment():
                self._pass(b"/*", self._at + 2)
            elif self._buffer.startswith(self._delimiter, self._at):
                self._at += len(self._delimiter)
            else:
                return True

    def _starts_comment(self) -> bool:
        head = self._buffer[self._at : self._at + 4]
        return head.startswith(b"/*") and not head.startswith((b"/*!", b"/*M!"))

    def _named_command(self) -> Statement | None:
        found = _USE.match(self._buffer, self._at)
        if found is not None:
            line, self._at = self.line, found.end()
            return Statement(b"USE " + found[1], line)
        if (refused := _CLIENT.match(self._buffer, self._at)) is not None:
            raise self.fail(f"the client command {refused[1].decode()} is refused: it reaches files or programs")
        return None

    def _set_by_command(self) -> bool:
        found = _DELIMITER.match(self._buffer, self._at)
        if found is None:
            return False
        if found[1] is None or b"\\" in found[1]:
            raise self.fail("DELIMITER must be followed by what it is to be, without a backslash")
        self._at = found.end()
        self._set_delimiter(found[1])
        return True

    def _set_delimiter(self, delimiter: bytes) -> None:
        self._delimiter = delimiter
        pieces = rb"['\"`#]|--(?=[\s\x00-\x1f]|\Z)|/\*(?!!|M!)|\\[^\s]"
        self._special = re.compile(re.escape(delimiter) + b"|" + pieces)
        first = re.escape(delimiter[:1])
        # Atomic groups around repeated ones: possessive repetition of a group matches too little before
        # Python 3.11.5 (gh-106052), and Debian 12 has 3.11.2.
        self._plain = tuple(
            re.compile(
                rb"(?s)(?>(?:[^'\"`#\\/" + first + rb"-]++|'" + single + rb"'|\"" + double + rb"\"|`[^`]*+`"
                rb"|(?!" + first + rb")(?:-(?!-)|/(?!\*)))*)"
            )
            for single, double in (
                (rb"[^'\\]*+(?>(?:\\.[^'\\]*+)*)", rb"[^\"\\]*+(?>(?:\\.[^\"\\]*+)*)"),
                (rb"[^']*+", rb"[^\"]*+"),
            )
        )

    # -- statements ------------------------------------------------------------------

    def _statement(self) -> Statement | None:
        begin, line, scan = self._at, self.line, self._at
        while True:
            scan = self._behind_plain(scan)
            if scan >= len(self._buffer) and not self._fill():
                return self._last(begin, line)
            found = self._special.match(self._buffer, scan)
            if found is None:
                scan = min(scan + 1, len(self._buffer))
                continue
            mark = found[0]
            if mark == self._delimiter or mark in _ENDING_COMMANDS:
                self._at = found.end()
                text = self._buffer[begin : found.start()].strip()
                return Statement(text, line) if text else None
            if mark.startswith(b"\\"):
                self._refuse_command(mark, found.start())
                scan = found.end()
                continue
            self._pass(mark, found.end(), line)
            scan = self._at

    def _behind_plain(self, scan: int) -> int:
        """Return where the text ends, from ``scan`` on, in which nothing has to be decided."""
        found = self._plain[0 if self.backslash_escapes else 1].match(self._buffer, scan)
        return scan if found is None else found.end()

    def _last(self, begin: int, line: int) -> Statement | None:
        self._at = len(self._buffer)
        text = self._buffer[begin:].strip()
        return Statement(text, line, complete=False) if text else None

    def _refuse_command(self, mark: bytes, at: int) -> None:
        if mark not in _HARMLESS_COMMANDS:
            self._at = at
            raise self.fail(f"the client command {mark.decode('utf-8', 'replace')} is refused")

    def _pass(self, mark: bytes, at: int, line: int | None = None) -> None:
        """Go on behind the piece that ``mark`` opened."""
        end = _ENDS[mark][0 if self.backslash_escapes else 1]
        while (found := end.match(self._buffer, at)) is None:
            if not self._fill():
                raise self.fail("the file ends inside a string, a quoted name or a comment: it is truncated", line)
        self._at = found.end()

    # -- the buffer -------------------------------------------------------------------

    def _drop_read(self) -> None:
        """Let go of what was read, when that is much."""
        if self._at > _BLOCK:
            self._line = self.line
            self._buffer, self._at, self._counted = self._buffer[self._at :], 0, 0

    def _fill(self) -> bool:
        """Read more, up to the end of a line, so that nothing that belongs together is cut; return whether there is."""
        while not self._ended:
            block = self._stream.read(_BLOCK)
            self._ended = not block
            end = block.rfind(b"\n") + 1
            if end or self._ended:
                more = b"".join((*self._held, block[:end]))
                self._held = [block[end:]]
                self._buffer += more
                return bool(more)
            self._held.append(block)
            if len(self._buffer) + len(self._held) * _BLOCK > _LARGEST:
                raise self.fail("a statement is larger than any server takes (1 GiB)")
        return False
