"""Checking specs without a host: what ``validate`` does.

A directory is checked as a spec repository: documents, references between them, the
files that they name, and the server settings that no host gives. Files are checked by
themselves, together: what they name by path depends on the repository's root, which a
file does not tell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.engine_rules import refused_parameters
from reconciler.errors import InputError
from reconciler.spec.diagnostics import counts
from reconciler.spec.documents import SpecFile
from reconciler.spec.loader import load, load_tree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconciler.spec.diagnostics import Diagnostic

_READ_LIMIT = 2 * 1024 * 1024
"""More than any spec file may have; the loader says how much that is."""


@dataclass(frozen=True, slots=True)
class Result:
    """What was found."""

    documents: int
    diagnostics: tuple[Diagnostic, ...]

    @property
    def errors(self) -> int:
        """How many findings make the specs invalid."""
        return counts(self.diagnostics)[0]

    @property
    def summary(self) -> str:
        """One line for people."""
        return "not valid" if self.errors else f"valid: {self.documents} documents"


def validate_paths(paths: Sequence[Path], *, rooted: bool = True) -> Result:
    """Check directories as spec repositories, and files together by themselves.

    Findings of a directory name files as seen from there, or, unless ``rooted``, from where the program runs.

    Raises:
        InputError: a path does not exist, or a directory holds something that is refused as a whole.

    """
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise InputError(f"{missing[0]} does not exist")
    parts = [_directory(path) if rooted else _from_here(path) for path in paths if path.is_dir()]
    if files := [path for path in paths if not path.is_dir()]:
        parts.append(_files(files))
    return Result(sum(part.documents for part in parts), tuple(d for part in parts for d in part.diagnostics))


def _directory(root: Path) -> Result:
    from reconciler.repository import DirectoryTree  # noqa: PLC0415 - checking one file must start quickly
    from reconciler.state.resolve import resolve  # noqa: PLC0415

    tree = DirectoryTree(root)
    loaded = load_tree(tree)
    if not loaded.valid:
        return Result(len(loaded.documents), tuple(loaded.diagnostics))
    resolution = resolve(loaded.documents, tree)
    found = (*loaded.diagnostics, *resolution.diagnostics, *refused_parameters(loaded.documents))
    return Result(len(loaded.documents), found)


def _from_here(root: Path) -> Result:
    """Check a directory, and name files as a checkout does: tools that show findings beside the lines look there."""
    shown = root.resolve()
    if shown.is_relative_to(Path.cwd()):
        shown = shown.relative_to(Path.cwd())
    result = _directory(root)
    return replace(result, diagnostics=tuple(_moved(found, shown) for found in result.diagnostics))


def _moved(found: Diagnostic, root: Path) -> Diagnostic:
    related = tuple(replace(also, file=(root / also.file).as_posix()) for also in found.related)
    return replace(found, file=(root / found.file).as_posix(), related=related)


def _files(paths: Sequence[Path]) -> Result:
    loaded = load([SpecFile(str(path), _read(path)) for path in paths], config_allowed=True)
    refused = refused_parameters(loaded.documents) if loaded.valid else ()
    return Result(len(loaded.documents), (*loaded.diagnostics, *refused))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(_READ_LIMIT)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
