"""Scripts of documents: read from the tree in one go, rendered where they are templates.

Called by :mod:`reconciler.state.resolve`. What is wrong with a script becomes a
diagnostic: at the field that names it, or within the template.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from reconciler.errors import InputError
from reconciler.spec.diagnostics import Diagnostic, diagnostic
from reconciler.spec.scripts import CloneScript, ImageScript
from reconciler.spec.suggest import did_you_mean
from reconciler.spec.yaml12 import Span
from reconciler.state.desired import Phase, Script

if TYPE_CHECKING:
    from reconciler.repository import SourceTree
    from reconciler.spec.documents import Document
    from reconciler.templates import TemplateFailedError

Scope = Callable[[], Mapping[str, object]]
"""Gives what a document's templates may see; asked for only when there is a template."""
_SUFFIX = ".j2"
_PATH = "R030"
_TEMPLATE = "R031"


class Scripts:
    """The scripts that documents name, by path; ``read`` once, then asked for each."""

    def __init__(self, tree: SourceTree) -> None:
        self._tree = tree
        self._texts: dict[str, str] = {}
        self._unreadable: dict[str, str] = {}

    def read(self, paths: Iterable[str]) -> None:
        """Read what exists of ``paths`` with as few processes as possible.

        Raises:
            UnavailableError: the tree cannot be read.

        """
        entries = self._tree.entries()
        wanted = [path for path in dict.fromkeys(paths) if path in entries]
        try:
            for path, data in self._tree.read_many(wanted):
                self._keep(path, data)
        except InputError:
            for path in wanted:  # one of them is refused: find out which
                self._read_one(path)

    def resolve(
        self, document: Document, script: CloneScript, *at: str | int, scope: Scope
    ) -> tuple[Script | None, Diagnostic | None]:
        """Return a script rendered for a document, or what is wrong with it; ``at`` is its field."""
        phase = Phase(script.phase) if isinstance(script, ImageScript) else Phase.BEFORE_MASKING
        if script.inline is not None:
            line = line_of(document, script.inline, *at, "inline")
            return Script(document.file, script.inline, script.database, phase, line), None
        path = script.path or ""
        text = self._texts.get(path)
        if text is None:
            return None, self._missing(document, path, *at, "path")
        if path.endswith(_SUFFIX):
            from reconciler.templates import TemplateFailedError, render  # noqa: PLC0415 - Jinja2 only where it is used

            try:
                text = render(text, scope())
            except TemplateFailedError as error:
                return None, self._failed(document, path, error, *at, "path")
        return Script(path, text, script.database, phase), None

    def _keep(self, path: str, data: bytes) -> None:
        try:
            self._texts[path] = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            self._unreadable[path] = f"{path} is not UTF-8 text (line {line})"

    def _read_one(self, path: str) -> None:
        try:
            self._keep(path, self._tree.read(path))
        except InputError as error:
            self._unreadable[path] = str(error)

    def _missing(self, document: Document, path: str, *at: str | int) -> Diagnostic:
        if path in self._unreadable:
            return document.diagnostic(_PATH, self._unreadable[path], *at)
        if path.startswith("/"):
            return document.diagnostic(
                _PATH, "scripts are kept in the spec repository", *at, hint="copy the script there, and name it here"
            )
        return missing(document, path, self._tree, *at)

    def _failed(self, document: Document, path: str, error: TemplateFailedError, *at: str | int) -> Diagnostic:
        """Return a diagnostic within the template, which points to the document that it was rendered for."""
        return diagnostic(
            _TEMPLATE,
            f"this template cannot be rendered: {error.message}",
            file=path,
            span=Span(error.line, 1, error.line, 2),
            data=self._texts[path].encode(),
            related=[document.related(f"for {document.key}", *at)],
        )


def missing(document: Document, path: str, tree: SourceTree, *at: str | int) -> Diagnostic:
    """Return the diagnostic for a path that is not in the repository."""
    if tree.object_id(path) is not None:
        return document.diagnostic(_PATH, f"{path} is a directory; a file is needed here", *at)
    hint = did_you_mean(path, list(tree.entries()))
    return document.diagnostic(
        _PATH,
        f"{path} does not exist in the repository",
        *at,
        hint=hint or "paths are relative to the root of the specs, not to this file; hidden files do not count",
    )


def line_of(document: Document, text: str, *at: str | int) -> int:
    """Return the line of the document's file at which ``text``, a field's value, begins.

    A value's first line mostly occurs once in its file, so it is looked for in the
    bytes; only otherwise the file is parsed again for positions.
    """
    data = document.source.data
    first = next((line for line in text.splitlines() if line.strip()), "")
    before = text[: text.index(first)].count("\n") if first else 0
    needle = first.strip().encode()
    found = data.find(needle) if needle else -1
    if found >= 0 and data.find(needle, found + 1) < 0:
        return max(1, data.count(b"\n", 0, found) + 1 - before)
    place = document.position(*at)
    lines = data.split(b"\n")
    header = lines[place.line - 1][place.column - 1 :] if place.line <= len(lines) else b""
    return place.line + 1 if header[:1] in {b"|", b">"} else place.line
