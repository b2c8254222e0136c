"""Files of a commit to typed documents: every error of the whole commit at once.

Called by the loop (:func:`load_tree`), by ``validate`` (:func:`load`) and at start-up
(:func:`load_config`). Reads no file itself except the configuration, and never raises
for what a spec file holds: whatever the bytes are, the answer is diagnostics.

A file that was parsed before, by path and blob id, is not parsed again.
"""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache as cached
from itertools import islice
from operator import is_
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from reconciler.errors import ConfigError
from reconciler.spec.collection import without_collection
from reconciler.spec.diagnostics import Diagnostic, Related, diagnostic, order, render_text
from reconciler.spec.documents import KINDS, Document, Key, SpecFile
from reconciler.spec.references import check_references
from reconciler.spec.yaml12 import MAX_FILE_BYTES, ParsedDocument, Problem, Span, locate, parse, span, too_large

if TYPE_CHECKING:
    from reconciler.repository import SourceTree
    from reconciler.spec.config import Config

_SUFFIXES = (".yaml", ".yml")
_MAX_PER_FILE = 100
_API_VERSION = "reconciler/v1"
_MODULES = {"Image": "image", "Clone": "clone", "MaskingPolicy": "masking_policy", "Config": "config"}


@dataclass(frozen=True, slots=True)
class LoadResult:
    """Valid documents in the order of files, and everything that is wrong, in the order of places."""

    documents: tuple[Document, ...]
    diagnostics: tuple[Diagnostic, ...]

    @property
    def valid(self) -> bool:
        """Whether nothing is an error."""
        return all(found.severity != "error" for found in self.diagnostics)


@dataclass(frozen=True, slots=True)
class _Parsed:
    """What a file holds. ``broken`` are objects whose documents are wrong; None: nobody can tell which."""

    documents: tuple[Document, ...]
    diagnostics: tuple[Diagnostic, ...]
    broken: frozenset[Key] | None = frozenset()


class DocumentCache:
    """What was parsed in the last loads, by path and blob id. Not shared between threads.

    Three loads, because a broken head and the last good commit are read in turn.
    """

    def __init__(self) -> None:
        self._newest: dict[tuple[str, str], _Parsed] = {}
        self._loads = deque([self._newest], maxlen=3)
        self._last: tuple[Sequence[_Parsed], object, LoadResult] | None = None

    def begin(self) -> None:
        """Start a load: what none of the last ones used is dropped."""
        self._newest = {}
        self._loads.appendleft(self._newest)

    def get(self, path: str, object_id: str) -> _Parsed | None:
        """Return a file's documents and diagnostics, if it was parsed before."""
        key = path, object_id
        for known in self._loads:
            if key in known:
                self._newest[key] = known[key]
                return known[key]
        return None

    def put(self, path: str, object_id: str, parsed: _Parsed) -> None:
        """Keep what a file holds."""
        self._newest[path, object_id] = parsed

    def result(self, parsed: Sequence[_Parsed], options: object) -> LoadResult | None:
        """Return the result of the last load, if it had the same files and options."""
        if self._last is None or self._last[1] != options or len(self._last[0]) != len(parsed):
            return None
        return self._last[2] if all(map(is_, self._last[0], parsed)) else None

    def keep(self, parsed: Sequence[_Parsed], options: object, result: LoadResult) -> None:
        """Remember the result of a load."""
        self._last = parsed, options, result


def is_spec_path(path: str) -> bool:
    """Whether a path of the repository is a spec file: ``*.yaml``, ``*.yml``, nothing hidden."""
    return path.endswith(_SUFFIXES) and not any(part.startswith(".") for part in path.split("/"))


def load(
    files: Iterable[SpecFile],
    cache: DocumentCache | None = None,
    *,
    config_allowed: bool = False,
    selector: Mapping[str, str] | None = None,
) -> LoadResult:
    """Return the documents of the files and everything that is wrong with them.

    ``config_allowed``: whether a document of kind Config may be among them. ``selector``
    are the labels of the documents that one host takes; without it, only what is wrong
    for every host is reported.
    """
    if cache is not None:
        cache.begin()
    with without_collection():
        parsed = [_cached(file, cache) for file in files]
    return _result(parsed, cache, config_allowed=config_allowed, selector=selector)


def load_tree(
    tree: SourceTree,
    cache: DocumentCache | None = None,
    *,
    selector: Mapping[str, str] | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> LoadResult:
    """Return the documents of a revision; only files that are not in ``cache`` are read.

    Raises:
        InputError: the revision holds something that is refused as a whole.
        UnavailableError: its bytes cannot be read.

    """
    cache = cache or DocumentCache()
    cache.begin()
    limit = min(max_file_bytes, MAX_FILE_BYTES)
    parsed: dict[str, _Parsed] = {}
    missing: dict[str, str] = {}
    for path, entry in tree.entries().items():
        if not is_spec_path(path):
            continue
        known = cache.get(path, entry.object_id)
        if known is not None:
            parsed[path] = known
        elif entry.size > limit:
            parsed[path] = _refused(path, too_large(entry.size, limit))
        else:
            missing[path] = entry.object_id
    with without_collection():
        for path, data in tree.read_many(missing):
            parsed[path] = _cached(SpecFile(path, data, missing[path]), cache)
    return _result([parsed[path] for path in sorted(parsed)], cache, config_allowed=True, selector=selector)


def load_config(path: Path | None, *, base: Path | None = None) -> Config:
    """Return the host configuration; without a file, all defaults.

    Paths in it are relative to the file's directory (without a file: to ``base``).

    Raises:
        ConfigError: it cannot be read, or something in it is wrong; the message shows all of it.

    """
    if path is None:
        return _default_config(base or Path.cwd())
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"the configuration {path} cannot be read: {error.strerror}",
            hint="name it with --config or $RECONCILER_CONFIG; reconciler init makes one",
        ) from error
    model, diagnostics = parse_config(SpecFile(str(path), data), base=path.resolve().parent)
    if model is None:
        raise ConfigError(f"the configuration is not valid\n{render_text(diagnostics)}")
    return model


def parse_config(file: SpecFile, *, base: Path) -> tuple[Config | None, tuple[Diagnostic, ...]]:
    """Return the configuration that a file holds, or why it holds none."""
    parsed = _parse(file, defaults={"apiVersion": _API_VERSION, "kind": "Config"}, context={"base": base})
    wrong = [document for document in parsed.documents if document.kind != "Config"]
    diagnostics = list(parsed.diagnostics)
    diagnostics += [
        document.diagnostic("R010", "this is not a configuration", "kind", hint="write kind: Config")
        for document in wrong
    ]
    diagnostics += [
        document.diagnostic("R010", "a configuration is one document", hint="remove this one")
        for document in parsed.documents[1:]
    ]
    if diagnostics:
        return None, tuple(diagnostics)
    if not parsed.documents:
        return _default_config(base), ()
    model = parsed.documents[0].model
    return (model if model.kind == "Config" else None), ()


def _default_config(base: Path) -> Config:
    from reconciler.spec.config import Config  # noqa: PLC0415 - validate of specs never needs it

    return Config.model_validate({}, context={"base": base})


def _cached(file: SpecFile, cache: DocumentCache | None) -> _Parsed:
    if cache is None or not file.object_id:
        return _parse(file)
    known = cache.get(file.path, file.object_id)
    if known is None:
        known = _parse(file)
        cache.put(file.path, file.object_id, known)
    return known


def _result(
    parsed: Sequence[_Parsed],
    cache: DocumentCache | None,
    *,
    config_allowed: bool,
    selector: Mapping[str, str] | None,
) -> LoadResult:
    options = config_allowed, None if selector is None else dict(selector)
    if cache is not None and (known := cache.result(parsed, options)) is not None:
        return known
    documents = tuple(document for file in parsed for document in file.documents)
    diagnostics = [found for file in parsed for found in file.diagnostics]
    diagnostics += check_references(documents, broken=_broken(parsed), config_allowed=config_allowed, selector=selector)
    result = LoadResult(documents, tuple(sorted(diagnostics, key=order)))
    if cache is not None:
        cache.keep(parsed, options, result)
    return result


def _broken(parsed: Iterable[_Parsed]) -> frozenset[Key] | None:
    """Return the objects whose documents are wrong; None when a file could not be read at all."""
    names: set[Key] = set()
    for file in parsed:
        if file.broken is None:
            return None
        names.update(file.broken)
    return frozenset(names)


def _refused(path: str, problem: Problem) -> _Parsed:
    return _Parsed((), (_from_problem(problem, path, b""),), None)


def _parse(
    file: SpecFile, *, defaults: Mapping[str, str] | None = None, context: Mapping[str, Any] | None = None
) -> _Parsed:
    parsed, problems = parse(file.data)
    reports = [_Report(problem=problem) for problem in problems]
    documents: list[Document] = []
    broken: set[Key] = set()
    for item in parsed:
        if len(reports) > _MAX_PER_FILE:
            return _Parsed((), tuple(_shown(reports, file)), None)
        model = _model(item, reports, defaults or {}, context)
        if model is not None:
            documents.append(Document(_kind(model), model, file, item.number, item.root.start_mark.line + 1))
        else:
            broken.add(_key(item.data))
    if not reports:
        return _Parsed(tuple(documents), ())
    return _Parsed(tuple(documents), tuple(_shown(reports, file)), None if problems else frozenset(broken))


def _key(data: object) -> Key:
    """Return what a wrong document defines, as far as it says."""
    metadata = data.get("metadata") if isinstance(data, dict) else None
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return Key(str(data.get("kind")) if isinstance(data, dict) else "", str(name))


@dataclass(frozen=True, slots=True)
class _Report:
    problem: Problem
    secret: bool = False


def _kind(model: Any) -> str:  # noqa: ANN401 - one of the four models
    kind: str = model.kind
    return kind


def _model(
    item: ParsedDocument, reports: list[_Report], defaults: Mapping[str, str], context: Mapping[str, Any] | None
) -> Any:  # noqa: ANN401 - one of the four models, or None
    data = item.data
    if data.__class__ is dict and defaults:
        data = {**defaults, **data}
    if data.__class__ is not dict or data.get("apiVersion") != _API_VERSION or data.get("kind") not in KINDS:
        reports.append(_Report(_not_ours(item, data)))
        return None
    try:
        return _validator(data["kind"])(data, context=context)
    except ValidationError as error:
        reports.extend(_explained(data["kind"], error, item))
    return None


@cached
def _class(kind: str) -> type[BaseModel]:
    module = importlib.import_module(f"reconciler.spec.{_MODULES[kind]}")
    model: type[BaseModel] = getattr(module, kind)
    model.model_rebuild()
    return model


@cached
def _validator(kind: str) -> Callable[..., Any]:
    return _class(kind).__pydantic_validator__.validate_python


def _explained(kind: str, error: ValidationError, item: ParsedDocument) -> Iterator[_Report]:
    from reconciler.spec.explain import explain  # noqa: PLC0415 - only for what is wrong

    errors: list[Any] = error.errors(include_url=False)[: _MAX_PER_FILE + 1]
    for found in islice(explain(_class(kind), errors, item.data), _MAX_PER_FILE + 1):
        place = locate(item.root, found.path, key=found.key)
        yield _Report(Problem(found.code, found.summary, place, found.hint), secret=found.secret)


def _not_ours(item: ParsedDocument, data: object) -> Problem:
    from reconciler.spec.suggest import did_you_mean, one_of  # noqa: PLC0415 - only for what is wrong

    if not isinstance(data, dict):
        return Problem("R010", "a document is a mapping", span(item.root), "begin with apiVersion: reconciler/v1")
    for field, known in (("apiVersion", (_API_VERSION,)), ("kind", KINDS)):
        value = data.get(field)
        place = locate(item.root, (field,))
        if field not in data:
            hint = f"every document begins with apiVersion: {_API_VERSION} and a kind: {one_of(KINDS)}"
            return Problem("R010", f'this document has no "{field}"', Span(*place[:2], *place[:2]), hint)
        if value not in known:
            shown = f' "{value[:60]}"' if isinstance(value, str) else ""
            near = did_you_mean(value, known) if isinstance(value, str) else None
            return Problem("R011", f"unknown {field}{shown}", place, near or one_of(known))
    raise AssertionError("a document of ours")


def _from_problem(problem: Problem, path: str, data: bytes) -> Diagnostic:
    related = () if problem.also is None else (Related(problem.also[0], path, *problem.also[1][:2]),)
    return diagnostic(
        problem.code, problem.message, file=path, span=problem.span, data=data, hint=problem.hint, related=related
    )


def _shown(reports: Sequence[_Report], file: SpecFile) -> Iterator[Diagnostic]:
    data = file.data if len(file.data) <= MAX_FILE_BYTES else b""
    data = _covered(data, [report.problem.span for report in reports if report.secret])
    for report in reports[:_MAX_PER_FILE]:
        yield _from_problem(report.problem, file.path, data)
    if len(reports) > _MAX_PER_FILE:
        place = reports[_MAX_PER_FILE].problem.span
        yield diagnostic("R099", "there are more problems in this file than are shown", file=file.path, span=place)


def _covered(data: bytes, places: Sequence[Span]) -> bytes:
    """Cover values that stand where a reference to a secret should, so that no snippet shows them."""
    if not places or not data:
        return data
    lines = data.decode("utf-8", "replace").splitlines(keepends=True)
    for place in places:
        for number in range(place.line, min(place.end_line, len(lines)) + 1):
            text = lines[number - 1]
            start = place.column - 1 if number == place.line else 0
            end = place.end_column - 1 if number == place.end_line else len(text.rstrip("\r\n"))
            lines[number - 1] = text[:start] + "*" * (end - start) + text[end:]
    return "".join(lines).encode()
