"""Who changed each file last: one bounded walk, continued where the last one ended."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from reconciler.repository.base import Change

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from reconciler.repository.base import Limits
    from reconciler.repository.plumbing import Mirror

_CHUNK = 1 << 16
_AUTHOR_CHARACTERS = 100
_FORMAT = "%x01%H%x02%aI%x02%an"


class History:
    """Remembers the last change of each file at one commit; a later commit adds only its own."""

    def __init__(self, mirror: Mirror, *, path: str, limits: Limits) -> None:
        self._mirror = mirror
        self._path = path
        self._limits = limits
        self._head: str | None = None
        self._known: dict[str, Change] = {}
        self._complete = False

    def changes(self, head: str, paths: Iterable[str]) -> Mapping[str, Change]:
        """Return the last change of each of ``paths`` at ``head``; absent where the walk's bound came first.

        Raises:
            CommandError: the mirror could not be read.
            TimeoutExceededError: the walk took too long.

        """
        wanted = set(paths)
        if head != self._head:
            self._advance(head)
        if not self._complete and not wanted <= self._known.keys():
            self._known = self._walk([head], wanted)
            self._complete = True
        return {path: self._known[path] for path in wanted if path in self._known}

    def made(self, commit: str) -> Change | None:
        """Return who made a commit; None where the mirror has none of this id."""
        shown = self._mirror.attempt("show", "--no-patch", "--no-show-signature", f"--format={_FORMAT}", commit)
        return _change(shown.text.removeprefix("\x01")) if shown.status == 0 else None

    def _advance(self, head: str) -> None:
        if self._head is not None and self._mirror.is_ancestor(self._head, head):
            self._known |= self._walk([head, f"^{self._head}"], None)
        else:
            self._known = {}
            self._complete = False
        self._head = head

    def _walk(self, commits: list[str], wanted: set[str] | None) -> dict[str, Change]:
        """Return the newest change of every file that the walk meets; it ends when all ``wanted`` were met."""
        found: dict[str, Change] = {}
        missing = None if wanted is None else set(wanted)
        prefix = "" if self._path == "." else f"{self._path}/"
        for change, name in self._records(commits):
            if name.startswith(prefix) and (path := name[len(prefix) :]) not in found:
                found[path] = change
                if missing is not None:
                    missing.discard(path)
                    if not missing:
                        break
        return found

    def _records(self, commits: list[str]) -> Iterator[tuple[Change, str]]:
        bound = f"--max-count={self._limits.history_commits}"
        words = ["log", "-z", "--name-only", "--no-renames", "--no-ext-diff", "--no-show-signature", bound]
        scope = [] if self._path == "." else [self._path]
        change = None
        rest = b""
        with self._mirror.stream(*words, f"--format={_FORMAT}", *commits, "--", *scope) as out:
            while chunk := out.read(_CHUNK):
                *tokens, rest = (rest + chunk).split(b"\0")
                for token in tokens:
                    text = token.decode("utf-8", "replace")
                    if text.startswith("\x01"):
                        change = _change(text[1:])
                    elif change is not None:
                        yield change, text.removeprefix("\n")


def _change(header: str) -> Change:
    commit, at, author = header.split("\x02", 2)
    shown = "".join(character for character in author if character.isprintable())[:_AUTHOR_CHARACTERS]
    return Change(commit, shown, datetime.fromisoformat(at))
