"""Typed documents and where they are written.

Made by the loader; read by the references check and by those who resolve documents to
a desired state. A document keeps the bytes of its file, not its YAML tree: positions
are looked up by parsing again, which only happens when there is something to report.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from reconciler.spec.diagnostics import Diagnostic, Related, Severity, diagnostic
from reconciler.spec.yaml12 import Span, compose, locate

if TYPE_CHECKING:
    from yaml.nodes import Node

    from reconciler.spec.clone import Clone
    from reconciler.spec.config import Config
    from reconciler.spec.image import Image
    from reconciler.spec.masking_policy import MaskingPolicy

    Model = Image | Clone | MaskingPolicy | Config

KINDS = ("Image", "Clone", "MaskingPolicy", "Config")


@dataclass(frozen=True, slots=True)
class SpecFile:
    """A file of a commit: its path in it, its bytes, its git blob id (empty: do not cache)."""

    path: str
    data: bytes = field(repr=False)
    object_id: str = ""


@lru_cache(maxsize=1)
def _roots(source: SpecFile) -> list[Node]:
    """Return the trees of a file; findings come file by file, so that one is kept."""
    return compose(source.data)[0]


class Key(NamedTuple):
    """Identity of an object among the documents of a commit."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """One valid document: number ``index`` of its file, beginning at 1-based ``line``."""

    kind: str
    model: Model = field(repr=False)
    source: SpecFile
    index: int
    line: int

    @property
    def name(self) -> str:
        """The object's name; a Config has none."""
        metadata = getattr(self.model, "metadata", None)
        return metadata.name if metadata is not None else ""

    @property
    def key(self) -> Key:
        """Kind and name."""
        return Key(self.kind, self.name)

    @property
    def file(self) -> str:
        """Path of the file."""
        return self.source.path

    @property
    def object_id(self) -> str:
        """Git blob id of the file."""
        return self.source.object_id

    def position(self, *path: str | int, key: bool = False) -> Span:
        """Return where a field stands (``"spec", "scripts", 0, "path"``), as far as it is written."""
        return locate(_roots(self.source)[self.index], path, key=key)

    def related(self, message: str, *path: str | int) -> Related:
        """Return a pointer to a field, for a diagnostic about another place."""
        place = self.position(*path)
        return Related(message, self.file, place.line, place.column)

    def diagnostic(
        self,
        code: str,
        summary: str,
        *path: str | int,
        hint: str | None = None,
        severity: Severity = "error",
        related: Sequence[Related] = (),
    ) -> Diagnostic:
        """Return a diagnostic about a field of this document."""
        return diagnostic(
            code,
            summary,
            file=self.file,
            span=self.position(*path),
            data=self.source.data,
            hint=hint,
            severity=severity,
            related=related,
        )


def image_of(document: Document) -> Image:
    """Return the model of a document that is an Image."""
    if document.model.kind != "Image":
        raise TypeError(document.model.kind)
    return document.model


def clone_of(document: Document) -> Clone:
    """Return the model of a document that is a Clone."""
    if document.model.kind != "Clone":
        raise TypeError(document.model.kind)
    return document.model


def image_behind(document: Document, clones: Mapping[str, Document]) -> str | None:
    """Return the image that a clone is of, if need be of the clone that it starts from; None where that is nowhere.

    ``clones`` are the documents of all clones, by each name that they ask for.
    """
    seen: set[Document] = set()
    step: Document | None = document
    while step is not None and step not in seen:
        seen.add(step)
        image = clone_of(step).spec.image
        if isinstance(image, str):
            return image
        step = clones.get(image.clone)
    return None


def clones_by_name(documents: Iterable[Document]) -> dict[str, Document]:
    """Return the documents of clones by each name that they ask for."""
    return {
        name: document for document in documents if document.kind == "Clone" for name, _ in clone_of(document).named
    }


def policy_of(document: Document) -> MaskingPolicy:
    """Return the model of a document that is a MaskingPolicy."""
    if document.model.kind != "MaskingPolicy":
        raise TypeError(document.model.kind)
    return document.model
