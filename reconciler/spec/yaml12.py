"""YAML 1.2 (core schema) from libyaml's nodes: bytes to plain data, with positions.

Called by the loader. libyaml scans and composes; this module resolves plain scalars
after YAML 1.2 instead of 1.1 (``no`` is text, ``0o17`` is a number, times are text),
finds duplicate keys, and bounds what a file may cost: bytes, nesting, nodes, and nodes
after aliases are expanded. Whatever the bytes, the only exception is none: problems
are values.

The documents are plain ``dict``, ``list`` and scalars. Positions are looked up in the
nodes (:func:`locate`), which are dropped as soon as a document proved valid.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from yaml._yaml import CParser
from yaml.error import MarkedYAMLError, YAMLError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

MAX_FILE_BYTES = 2**20
MAX_DEPTH = 64
MAX_NODES = 100_000
MAX_NUMBER_LENGTH = 32
MAX_PROBLEMS = 100

_TOO_DEEP = f"this is nested more than {MAX_DEPTH} levels deep"
_TOO_DEEP_HINT = "specs are never that deep"
_CORE_TAGS = frozenset({"tag:yaml.org,2002:str", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"})
_PLAIN_TAG = ""
_TEXT_TAG = "tag:yaml.org,2002:str"
_WORDS: dict[str, object] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_NOT_TEXT = frozenset("0123456789+-.~nNtTfF")
"""First characters of plain scalars that may be something else than text."""
_INTEGER = re.compile(r"[-+]?[0-9]+")
_OTHER_BASE = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL_FLOAT = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

Path = tuple[str | int, ...]


class Span(NamedTuple):
    """A place in a file: 1-based lines and columns; the end is the column after the last character."""

    line: int
    column: int
    end_line: int
    end_column: int


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in the bytes that is not acceptable YAML; ``also`` is an earlier place that matters."""

    code: str
    message: str
    span: Span
    hint: str | None = None
    also: tuple[str, Span] | None = None


class ParsedDocument(NamedTuple):
    """One document: its plain data, its root node, and its number among the roots of the file."""

    data: Any
    root: Node
    number: int


class _LimitError(Exception):
    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class _Composer(CParser):
    """libyaml's composer; its hooks decide about tags and stop what is too deep or too large."""

    def __init__(self, data: bytes) -> None:
        CParser.__init__(self, data)
        self.depth = 0
        self.nodes = 0

    def resolve(self, kind: object, value: object, implicit: object) -> str:
        """Return no tag for what the core schema decides by its text, the text tag for quoted scalars."""
        del value
        return _TEXT_TAG if kind is ScalarNode and not implicit[0] else _PLAIN_TAG  # type: ignore[index]  # a pair for scalars

    def descend_resolver(self, parent: object, index: object) -> None:
        """Count one node, one level deeper."""
        del parent, index
        self.depth += 1
        self.nodes += 1
        if self.depth > MAX_DEPTH:
            raise _LimitError(_TOO_DEEP, _TOO_DEEP_HINT)
        if self.nodes > MAX_NODES:
            raise _LimitError(f"this file has more than {MAX_NODES:,} values", "split it into several files")

    def ascend_resolver(self) -> None:
        """Leave the level."""
        self.depth -= 1


def parse(data: bytes) -> tuple[list[ParsedDocument], list[Problem]]:
    """Parse the documents of a file.

    Documents with problems are left out; those before a syntax error are still
    returned. Empty documents are skipped.
    """
    problem = _unreadable(data)
    if problem is not None:
        return [], [problem]
    roots, problems = compose(data)
    documents: list[ParsedDocument] = []
    aliases = b"*" in data
    for number, root in enumerate(roots):
        if aliases and (found := _expansion(root)) is not None:
            problems.append(found)
            continue
        builder = _Builder()
        value = builder.build(root)
        if builder.problems:
            problems.extend(builder.problems)
        elif value is not None:
            documents.append(ParsedDocument(value, root, number))
    return documents, problems


def locate(root: Node, path: Sequence[str | int], *, key: bool = False) -> Span:
    """Return where ``path`` stands: its value, or with ``key`` its key.

    As much of the path as exists is followed; the rest is ignored, so that a missing
    field is found at the field that should have it.
    """
    node, at, last_found = root, root, False
    for step in path:
        child = _child(node, step)
        last_found = child is not None
        if child is not None:
            at, node = child
    if key and last_found:
        return span(at)
    return span(node) if last_found or node is root or isinstance(node, ScalarNode) else span(at)


def descend(root: Node, path: Sequence[str | int]) -> Node | None:
    """Return the node at exactly ``path``."""
    node = root
    for step in path:
        child = _child(node, step)
        if child is None:
            return None
        node = child[1]
    return node


def _child(node: Node, step: str | int) -> tuple[Node, Node] | None:
    """Return the key's (or item's) node and the value's node."""
    if isinstance(node, MappingNode):
        return next(((key, value) for key, value in node.value if key.value == step), None)
    if isinstance(node, SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step], node.value[step]
    return None


def span(node: Node) -> Span:
    """Return the place of a node."""
    start, end = node.start_mark, node.end_mark
    return Span(start.line + 1, start.column + 1, end.line + 1, end.column + 1)


def compose(data: bytes) -> tuple[list[Node], list[Problem]]:
    """Return the root of every document, and the problem that ended the file early."""
    roots: list[Node] = []
    composer: _Composer | None = None
    try:
        composer = _Composer(data)
        while composer.check_node():
            root = composer.get_node()
            if root is not None:
                roots.append(root)
    except _LimitError as error:
        return roots, [Problem("R005", error.message, _last_position(composer), error.hint)]
    except MarkedYAMLError as error:
        return roots, [_syntax(error, data)]
    except ReaderError as error:
        return roots, [_unprintable(error, data)]
    except YAMLError as error:
        return roots, [Problem("R003", str(error)[:200], Span(1, 1, 1, 1))]
    finally:
        if composer is not None:
            composer.dispose()
    return roots, []


def _last_position(composer: _Composer | None) -> Span:
    """Return where libyaml stopped, as well as it can tell."""
    try:
        event = composer.peek_event() if composer is not None else None
    except YAMLError:
        event = None
    mark = event.start_mark if event is not None else None
    return Span(1, 1, 1, 2) if mark is None else Span(mark.line + 1, mark.column + 1, mark.line + 1, mark.column + 2)


def _unreadable(data: bytes) -> Problem | None:
    """Return why the bytes are no text that libyaml should see."""
    if len(data) > MAX_FILE_BYTES:
        return too_large(len(data))
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return Problem("R001", "this file is not UTF-8 but UTF-16", Span(1, 1, 1, 2), "save it as UTF-8")
    if data.isascii() and b"\0" not in data:
        return None
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return Problem("R001", "this byte is not UTF-8", _at(data, error.start), "save the file as UTF-8")
    zero = data.find(b"\0")
    if zero >= 0:
        return Problem("R001", "this is a NUL character", _at(data, zero), "specs are text files")
    return None


def too_large(size: int, limit: int = MAX_FILE_BYTES) -> Problem:
    """Return the problem of a file that is too large to be read."""
    message = f"this file has {size / 2**20:,.1f} MiB; the limit for a spec file is {limit / 2**20:,.1f} MiB"
    return Problem("R002", message, Span(1, 1, 1, 1), "split it into several files")


def _at(data: bytes, offset: int) -> Span:
    start = data.rfind(b"\n", 0, offset) + 1
    line = data.count(b"\n", 0, offset) + 1
    column = len(data[start:offset].decode("utf-8", "replace")) + 1
    return Span(line, column, line, column + 1)


def _unprintable(error: ReaderError, data: bytes) -> Problem:
    text = data.decode("utf-8", "replace")
    found = re.search("[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]", text)
    where = _at(data, len(text[: found.start()].encode())) if found else Span(1, 1, 1, 2)
    return Problem("R001", f"YAML does not allow this character: {str(error.reason)[:80]}", where, "remove it")


def _syntax(error: MarkedYAMLError, data: bytes) -> Problem:
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return Problem("R003", str(error.problem)[:200], Span(1, 1, 1, 2))
    where = Span(mark.line + 1, mark.column + 1, mark.line + 1, mark.column + 2)
    message = " ".join(part for part in (error.context, error.problem) if part)[:300]
    if "nesting depth" in message:  # libyaml's own limit, since the fix for deep flow collections in PyYAML 6.0.4
        return Problem("R005", _TOO_DEEP, where, _TOO_DEEP_HINT)
    return Problem("R003", message, where, _syntax_hint(data, where, message), _context(error))


def _context(error: MarkedYAMLError) -> tuple[str, Span] | None:
    start = error.context_mark
    if start is None or error.problem_mark is None or start.line == error.problem_mark.line:
        return None
    place = Span(start.line + 1, start.column + 1, start.line + 1, start.column + 2)
    return "it began here", place


def _syntax_hint(data: bytes, where: Span, message: str) -> str | None:
    lines = data.decode("utf-8", "replace").splitlines()
    line = lines[where.line - 1] if where.line <= len(lines) else ""
    if "\t" in line[: where.column + 1]:
        return "YAML is indented with spaces; replace the tab"
    if "undefined alias" in message:
        return "put the name in quotes if it is text that begins with *"
    if "mapping values are not allowed" in message:
        return 'put text that contains ": " in quotes, and check the indentation'
    if "cannot start any token" in message:
        return "put text that begins with @, ` or % in quotes"
    return None


def _expansion(root: Node) -> Problem | None:
    """Return why a document is too large or too deep once its aliases are expanded."""
    sizes: dict[int, tuple[int, int] | None] = {}
    size, depth = _measure(root, sizes)
    if depth > MAX_DEPTH:
        hint = "write out what the aliases stand for"
        return Problem("R005", f"with aliases this is nested more than {MAX_DEPTH} levels deep", span(root), hint)
    if size > MAX_NODES:
        message = f"aliases make more than {MAX_NODES:,} values of this"
        return Problem("R005", message, span(root), "write out what the aliases stand for")
    return None


def _measure(node: Node, sizes: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Return nodes and levels of a node, expanded; a node within itself is infinitely deep."""
    if isinstance(node, ScalarNode):
        return 1, 1
    if id(node) in sizes:
        return sizes[id(node)] or (MAX_NODES + 1, MAX_DEPTH + 1)
    sizes[id(node)] = None
    size, depth = 1, 0
    for child in _children(node):
        child_size, child_depth = _measure(child, sizes)
        size, depth = size + child_size, max(depth, child_depth)
    sizes[id(node)] = (size, depth + 1)
    return size, depth + 1


def _children(node: Node) -> Iterable[Node]:
    if isinstance(node, MappingNode):
        return (child for pair in node.value for child in pair)
    return node.value if isinstance(node, SequenceNode) else ()


def plain(text: str) -> object:
    """Return the value of a plain scalar after the core schema of YAML 1.2."""
    if text in _WORDS:
        return _WORDS[text]
    return text if len(text) > MAX_NUMBER_LENGTH else _number(text)


def _number(text: str) -> int | float | str:
    if _INTEGER.fullmatch(text):
        return int(text)
    if _OTHER_BASE.fullmatch(text):
        return int(text[2:], 8 if text[1] == "o" else 16)
    if _FLOAT.fullmatch(text):
        return float(text)
    return float(text.replace(".", "", 1)) if _SPECIAL_FLOAT.fullmatch(text) else text


class _Builder:
    """Makes plain data of one document's nodes."""

    __slots__ = ("problems",)

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def build(self, node: Node) -> Any:  # noqa: ANN401 - whatever YAML gave
        if node.__class__ is ScalarNode:
            text: str = node.value
            if not node.tag:
                return plain(text) if not text or text[0] in _NOT_TEXT else text
            return text if node.tag == _TEXT_TAG else self._tagged(node, text)
        if node.tag and node.tag not in _CORE_TAGS:
            return self._tagged(node, None)
        if node.__class__ is MappingNode:
            return self._mapping(node)
        build = self.build
        return [build(item) for item in node.value]

    def _mapping(self, node: MappingNode) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if key_node.__class__ is not ScalarNode or not self._is_text(key_node):
                self._report(key_node, "R006", "a key must be text", "put it in quotes")
                continue
            if key in result:
                self._duplicate(node, key_node)
            result[key] = self.build(value_node)
        return result

    def _is_text(self, key: ScalarNode) -> bool:
        text: str = key.value
        if key.tag:
            return key.tag == _TEXT_TAG
        if text == "<<":
            self._report(key, "R006", "merge keys (<<) are not part of YAML 1.2", "write out the fields")
            return True
        return bool(text) and (text[0] not in _NOT_TEXT or plain(text) is text)

    def _duplicate(self, node: MappingNode, key: ScalarNode) -> None:
        if len(self.problems) >= MAX_PROBLEMS:
            return
        first = next(other for other, _ in node.value if other.value == key.value)
        self._report(key, "R004", f'the key "{key.value[:80]}" is written twice', "keep one of the two", first)

    def _tagged(self, node: Node, value: object) -> object:
        tag = str(node.tag).removeprefix("tag:yaml.org,2002:")[:40]
        self._report(node, "R006", f"tags such as {tag} are not supported", "remove the tag; quote what is text")
        return value

    def _report(self, node: Node, code: str, message: str, hint: str, first: Node | None = None) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            also = ("first written here", span(first)) if first is not None else None
            self.problems.append(Problem(code, message, span(node), hint, also))
