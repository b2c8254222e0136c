r"""Split a psql script into statements, client meta-commands and COPY data.

Called by :mod:`.runner`. It finds ends of statements by the rules of psql's own
scanner (``psqlscan.l``): strings, escape strings, quoted identifiers, dollar quotes,
nested comments, parentheses and ``BEGIN ATOMIC … END`` bodies. It judges nothing and
runs nothing: because statements go to the server one by one and never through psql,
a disagreement between this scanner and psql's cannot run a command on this host.

The text is read in blocks that end at a newline. Only strings, quoted identifiers,
dollar quotes and block comments go on over newlines, so no other token is ever cut;
where blocks end cannot change what is found.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.errors import PermanentError

_BLOCK = 1 << 20
_LARGEST_STATEMENT = (1 << 30) - (1 << 20)
"""The server's limit of one message is 1 GiB."""
_BOM = b"\xef\xbb\xbf"

# Python before 3.11.5 matches a possessive repetition of a group wrongly (gh-106052); of a single set it does not.
_PLAIN = rb"[^'\"$;\\()\-/A-Za-z_\x80-\xff]++"
_TEXT = rb"'[^'\\]*+'"  # a complete string without a backslash reads the same in either mode
_NAME = rb"\"[^\"]*+\""
_SIGN = rb"-(?!-)|/(?!\*)"
_WORD = rb"[A-Za-z_\x80-\xff][\w$\x80-\xff]*+"
_ITEM = rb"|".join((_PLAIN, _TEXT, _NAME, _SIGN, _WORD + rb"(?!')"))

_RUN = re.compile(rb"(?:" + _ITEM + rb"|\((?>(?:" + _ITEM + rb")*)\))*")
"""As much as possible that cannot end a statement: whole rows of an INSERT in one step."""
_RUN_WITHOUT_WORDS = re.compile(rb"(?:" + rb"|".join((_PLAIN, _TEXT, _NAME, _SIGN)) + rb")*")
_BLANK = re.compile(rb"(?:[\s;]++|--[^\n]*+)*")
_SPACE = re.compile(rb"\s*+")
_ANY_WORD = re.compile(_WORD)
_DOLLAR = re.compile(rb"\$(?:[A-Za-z_\x80-\xff][\w\x80-\xff]*+)?\$")
_ESCAPED = re.compile(rb"[^'\\]*+")
_COMMENT_MARK = re.compile(rb"/\*|\*/")
_REST_OF_LINE = re.compile(rb"[ \t\r\f\v]*+(?:--[^\n]*+)?(?:\n|\Z)")
_END_OF_DATA = re.compile(rb"\\\.\r?(?:\n|\Z)")
_COMMAND = re.compile(rb"\\([A-Za-z_]+|[^\n])([^\n]*)")
_LONGEST_HEAD = 4  # CREATE OR REPLACE FUNCTION
_ROUTINE = re.compile(rb"create (?:or replace )?(?:function|procedure)\b")


class Readable(Protocol):
    """Where the bytes come from: a file, a decompressor, a pipe."""

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes; nothing at the end."""
        ...


@dataclass(frozen=True, slots=True)
class Statement:
    """One SQL statement without its semicolon; ``complete`` is False when the text ended before one."""

    text: bytes
    line: int
    complete: bool = True


@dataclass(frozen=True, slots=True)
class MetaCommand:
    """A backslash command: ``pending`` is the statement that was begun before it on the way, if any."""

    name: str
    arguments: str
    line: int
    pending: bytes = b""


class SqlReader:
    """Reads items one after the other; ``error`` is the class of what it raises."""

    def __init__(self, stream: Readable, *, origin: str, error: type[PermanentError], first_line: int = 1) -> None:
        self.origin = origin
        self.standard_strings = True
        """Follow the server's ``standard_conforming_strings`` before asking for the next item."""
        self._stream = stream
        self._error = error
        self._buffer = b""
        self._carry = b""
        self._start = 0  # of the item being read: what lies before is dropped by the next fill
        self._pos = 0
        self._line = first_line  # of self._start
        self._ended = False
        self._fill()
        if self._buffer.startswith(_BOM):
            self._start = self._pos = len(_BOM)
        elif self._buffer.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise self.fail("this is UTF-16 text; only UTF-8 and other ASCII-compatible encodings can be read")

    @property
    def line(self) -> int:
        """The line that reading has come to."""
        return self._line

    def fail(self, message: str, line: int | None = None) -> PermanentError:
        """Return the error to raise for something wrong at ``line`` (default: where reading is)."""
        return self._error(f"{self.origin}:{self._line if line is None else line}: {message}")

    def next(self) -> Statement | MetaCommand | None:
        """Return the next item, or None at the end."""
        self._skip_blank()
        if self._pos >= len(self._buffer):
            return None
        if self._buffer[self._pos] == 0x5C:  # noqa: PLR2004 - a backslash
            return self._meta_command(b"")
        return self._statement()

    def copy_data(self) -> Iterator[bytes]:
        r"""Yield the rows that follow a COPY … FROM stdin, in blocks of whole lines, up to the ``\.`` line.

        Raises:
            PermanentError: the text ends before (psql itself takes that for success).

        """
        rest = _REST_OF_LINE.match(self._buffer, self._pos)
        if rest is None:
            raise self.fail("something follows COPY … FROM stdin on its line")
        begun = self._line
        self._advance(rest.end())
        while True:
            end = self._end_of_data()
            if end is not None:
                yield self._buffer[self._pos : end.start()]
                self._advance(end.end())
                return
            yield self._buffer[self._pos :]
            self._advance(len(self._buffer))
            if not self._fill():
                raise self.fail(f"the file ends inside the rows of the COPY of line {begun}: it is truncated")

    # -- text ---------------------------------------------------------------------

    def _fill(self) -> bool:
        """Drop what was consumed and read on to a newline; False at the end of the text."""
        if self._ended:
            return False
        kept = self._buffer[self._start :]
        if len(kept) > _LARGEST_STATEMENT:
            raise self.fail("this statement is longer than PostgreSQL can receive (1 GiB)")
        parts = [kept, self._carry]
        wanted = max(_BLOCK, len(kept))  # doubling keeps long statements linear
        while True:
            block = self._stream.read(wanted)
            cut = block.rfind(b"\n") + 1
            if not block or cut:
                break
            parts.append(block)
        self._ended = not block
        self._carry = block[cut:]
        self._buffer = b"".join((*parts, block[:cut]))
        self._pos -= self._start
        self._start = 0
        return self._pos < len(self._buffer)

    def _advance(self, position: int) -> None:
        """Consume up to ``position``, counting lines."""
        self._line += self._buffer.count(b"\n", self._start, position)
        self._start = self._pos = position

    def _end_of_data(self) -> re.Match[bytes] | None:
        at = self._pos
        while True:
            end = _END_OF_DATA.match(self._buffer, at)
            if end is not None:
                return end
            at = self._buffer.find(b"\n\\.", max(at, self._pos)) + 1
            if at == 0:
                return None

    def _skip_blank(self) -> None:
        while True:
            found = _BLANK.match(self._buffer, self._pos)
            if found is not None:
                self._advance(found.end())
            if self._buffer.startswith(b"/*", self._pos):
                begun = self._line
                self._comment(begun)
                self._advance(self._pos)
            elif self._pos < len(self._buffer) or not self._fill():
                return

    def _meta_command(self, pending: bytes) -> MetaCommand:
        line = self._line + self._buffer.count(b"\n", self._start, self._pos)
        found = _COMMAND.match(self._buffer, self._pos)
        if found is None:
            raise self.fail("a backslash without a command", line)
        self._advance(found.end())
        name, arguments = (part.decode("utf-8", "replace") for part in found.groups())
        return MetaCommand(name, arguments.strip(), line, pending)

    # -- statements ---------------------------------------------------------------

    def _statement(self) -> Statement | MetaCommand:
        line = self._line
        body = _Body(self._buffer, self._pos)
        while True:
            run = (_RUN_WITHOUT_WORDS if body.reads_words else _RUN).match(self._buffer, self._pos)
            if run is not None:
                self._pos = run.end()
            if self._pos >= len(self._buffer):
                if self._fill():
                    continue
                return self._finished(line, complete=False)
            if self._buffer[self._pos] == 0x5C:  # noqa: PLR2004 - a backslash
                return self._meta_command(self._buffer[self._start : self._pos])
            if self._token(body, line):
                return self._finished(line, complete=True)

    def _finished(self, line: int, *, complete: bool) -> Statement:
        text = self._buffer[self._start : self._pos].rstrip()
        if b"\0" in text:
            raise self.fail("this is no SQL text: it holds a NUL byte", line)
        self._advance(self._pos + complete)
        return Statement(text, line, complete)

    def _token(self, body: _Body, line: int) -> bool:
        """Step over one token that needs care; True when it is the semicolon that ends the statement."""
        match self._buffer[self._pos : self._pos + 1]:
            case b";":
                if body.depth == 0 and body.begins == 0:
                    return True
                self._pos += 1
            case b"(":
                body.depth += 1
                self._pos += 1
            case b")":
                body.depth = max(0, body.depth - 1)
                self._pos += 1
            case b"'":
                self._string(line, escapes=not self.standard_strings, continued=False)
            case b'"':
                self._until(b'"', 1, line, "a quoted name")
            case b"$":
                self._dollar(line)
            case b"-":
                self._pos = self._buffer.find(b"\n", self._pos) + 1 or len(self._buffer)
            case b"/":
                self._comment(line)
            case _:
                self._word(body, line)
        return False

    def _word(self, body: _Body, line: int) -> None:
        found = _ANY_WORD.match(self._buffer, self._pos)
        if found is None:
            self._pos += 1
            return
        word = found.group().lower()
        self._pos = found.end()
        if word == b"e" and self._buffer.startswith(b"'", self._pos):
            self._string(line, escapes=True, continued=True)
        else:
            body.word(word)

    def _string(self, line: int, *, escapes: bool, continued: bool) -> None:
        """Step over a string; ``continued``: one that goes on after a newline keeps its escapes."""
        if not escapes:
            self._until(b"'", 1, line, "a string")
            return
        self._pos += 1
        while True:
            found = _ESCAPED.match(self._buffer, self._pos)
            if found is not None:
                self._pos = found.end()
            if self._pos >= len(self._buffer):
                self._more(line, "a string")
            elif self._buffer[self._pos] == 0x5C:  # noqa: PLR2004 - a backslash
                self._pos += 2
            else:
                self._pos += 1
                if not (continued and self._continues()):
                    return
                self._pos += 1

    def _continues(self) -> bool:
        """Tell whether a string segment goes on: another quote after white space with a newline; moves to it."""
        looked = self._pos
        while True:
            space = _SPACE.match(self._buffer, looked)
            end = looked if space is None else space.end()
            if end < len(self._buffer):
                break
            behind = end - self._start
            if not self._fill():
                return False
            looked = behind + self._start
        if self._buffer[end] != 0x27 or b"\n" not in self._buffer[self._pos : end]:  # noqa: PLR2004 - a quote
            return False
        self._pos = end
        return True

    def _dollar(self, line: int) -> None:
        tag = _DOLLAR.match(self._buffer, self._pos)
        if tag is None:
            self._pos += 1
        else:
            self._until(tag.group(), len(tag.group()), line, "a dollar-quoted string")

    def _until(self, closing: bytes, skip: int, line: int, what: str) -> None:
        """Step over ``skip`` bytes and on behind the next ``closing``. A doubled quote reads as two neighbours."""
        self._pos += skip
        while True:
            end = self._buffer.find(closing, self._pos)
            if end >= 0:
                self._pos = end + len(closing)
                return
            self._pos = len(self._buffer)
            self._more(line, what)

    def _comment(self, line: int) -> None:
        depth = 0
        while True:
            mark = _COMMENT_MARK.search(self._buffer, self._pos)
            if mark is None:
                self._pos = len(self._buffer)
                self._more(line, "a comment")
                continue
            self._pos = mark.end()
            depth += 1 if mark.group() == b"/*" else -1
            if depth == 0:
                return

    def _more(self, line: int, what: str) -> None:
        if not self._fill():
            raise self.fail(f"the text ends inside {what}: it is truncated, or a quote is missing", line)


class _Body:
    """What must be remembered within one statement: nesting, and whether words matter (SQL-standard routine bodies)."""

    __slots__ = ("_head", "begins", "depth", "reads_words")

    def __init__(self, buffer: bytes, start: int) -> None:
        self.depth = 0
        self.begins = 0
        self._head: list[bytes] = []
        self.reads_words = buffer[start : start + 6].lower() == b"create"

    def word(self, word: bytes) -> None:
        """Take note of a word outside quotes."""
        if not self.reads_words:
            return
        if len(self._head) < _LONGEST_HEAD:
            self._head.append(word)
        if _ROUTINE.match(b" ".join(self._head)) is None:
            self.reads_words = len(self._head) < _LONGEST_HEAD
            return
        if self.depth:
            return
        if word == b"begin" or (word == b"case" and self.begins):
            self.begins += 1
        elif word == b"end" and self.begins:
            self.begins -= 1
