"""SQL text cut into statements, as a stream, with the line on which each begins.

Used by :mod:`.scripts` and :mod:`.dumps`. Where a statement ends is decided as the
library does (https://sqlite.org/c3ref/complete.html): at a semicolon outside of strings,
comments and quoted names, and in CREATE TRIGGER after END.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CHUNK = 1 << 18
_SHOWN = 200
_TOKEN = re.compile(
    r"(?P<space>[\s\ufeff]+|--[^\n]*(?:\n|\Z)|/\*.*?(?:\*/|\Z))"
    r"|(?P<quoted>'[^']*(?:'|\Z)|\"[^\"]*(?:\"|\Z)|`[^`]*(?:`|\Z)|\[[^\]]*(?:\]|\Z))"  # a doubled quote: two of them
    r"|(?P<word>[A-Za-z_\x80-\U0010ffff][\w$]*)|(?P<end>;)|(?P<other>[\d.,()=+*<>|&!?:@]+|.)",
    re.DOTALL,
)
_STRING = re.compile(r"'[^']*(?:'|\Z)")
_ROWS = re.compile(r"\bVALUES\b.*", re.DOTALL | re.IGNORECASE)
_DOT_COMMAND = re.compile(r"\.([a-z]+)")


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement; ``complete`` says whether a semicolon ended it."""

    text: str
    line: int
    complete: bool = True

    @property
    def shown(self) -> str:
        """The beginning of it, in one line; what may be data is left out."""
        short = _ROWS.sub("VALUES …", _STRING.sub("'…'", self.text[: 20 * _SHOWN]))
        words = " ".join(short.split())
        return words if len(words) <= _SHOWN else words[:_SHOWN] + "…"

    @property
    def dot_command(self) -> str:
        """The name of the shell's command that it would be; empty for SQL."""
        found = _DOT_COMMAND.match(self.text)
        return found[1] if found is not None else ""


class _Trigger:
    """Whether a semicolon ends a statement: those within CREATE TRIGGER … END do not."""

    def __init__(self) -> None:
        self._words: list[str] = []
        self._inside = False
        self._after = ""

    def word(self, word: str) -> None:
        word = word.upper()
        if not self._inside and len(self._words) < 4:  # noqa: PLR2004 - EXPLAIN CREATE TEMP TRIGGER
            self._words.append(word)
            first = [one for one in self._words if one not in ("EXPLAIN", "TEMP", "TEMPORARY")]
            self._inside = first == ["CREATE", "TRIGGER"]
        self._after = "END" if word == "END" and self._after == ";" else "word"

    def other(self) -> None:
        self._after = "other"

    def ends(self) -> bool:
        """Whether a semicolon here is the last of the statement."""
        if not self._inside or self._after == "END":
            return True
        self._after = ";"
        return False


class _Text:
    """A growing buffer of text; ``more`` returns nothing at its end."""

    def __init__(self, more: Callable[[int], str]) -> None:
        self._more = more
        self.buffer = ""
        self.at = 0
        self.ended = False

    def token(self) -> re.Match[str] | None:
        """Return the next token, whole; None at the end."""
        while True:
            found = _TOKEN.match(self.buffer, self.at)
            if found is not None and (found.end() < len(self.buffer) or self.ended):
                self.at = found.end()
                return found
            if self.ended:
                return None
            block = self._more(max(_CHUNK, len(self.buffer) - self.at))
            self.ended = not block
            self.buffer += block

    def cut(self) -> None:
        """Forget what was read."""
        self.buffer, self.at = self.buffer[self.at :], 0


def statements(more: Callable[[int], str], first_line: int = 1) -> Iterator[Statement]:
    """Yield the statements of a text; ``more(size)`` returns its next characters."""
    text, line = _Text(more), first_line
    while True:
        parts: list[str] = []
        trigger, begins = _Trigger(), line
        ended = False
        while not ended and (token := text.token()) is not None:
            piece = token[0]
            if not parts and token.lastgroup == "space":
                line += piece.count("\n")
                text.cut()
                continue
            if not parts:
                begins = line
            parts.append(piece)
            line += piece.count("\n")
            ended = _feed(trigger, token)
        text.cut()
        body = "".join(parts)
        if body.strip("; \n"):
            yield Statement(body, begins, ended)
        if not ended:
            return


def _feed(trigger: _Trigger, token: re.Match[str]) -> bool:
    """Take a token in; return whether it ends the statement."""
    match token.lastgroup:
        case "word":
            trigger.word(token[0])
        case "end":
            return trigger.ends()
        case "other" | "quoted":
            trigger.other()
    return False
