"""What engines forbid documents to say, found before anything is built: server settings.

Called by ``commits`` and ``validation`` with documents that the loader found valid. It
asks engines only what needs no host; one that is not part of this version, or cannot be
loaded here, has nothing to say (its objects stall when they are worked on).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler import plugins
from reconciler.errors import UnsupportedError
from reconciler.spec.documents import clone_of, image_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from reconciler.engines.base import Engine
    from reconciler.spec.diagnostics import Diagnostic
    from reconciler.spec.documents import Document

_REFUSED = "R032"


def refused_parameters(documents: Sequence[Document]) -> tuple[Diagnostic, ...]:
    """Return an error for each server setting that its engine does not let documents have."""
    products = {document.name: image_of(document).spec.engine for document in documents if document.kind == "Image"}
    engines: dict[str, Engine | None] = {}
    found: list[Diagnostic] = []
    for document in documents:
        product = _product(document, products)
        if product is None or not _parameters(document):
            continue  # most documents name none, and loading an engine takes longer than checking a file
        if product not in engines:
            engines[product] = _engine(product)
        if (engine := engines[product]) is not None:
            found.extend(_of(document, engine))
    return tuple(found)


def _product(document: Document, products: Mapping[str, str]) -> str | None:
    """Return the engine of an image, or of a clone's image if that is among the documents."""
    if document.kind == "Image":
        return products[document.name]
    return products.get(clone_of(document).spec.image) if document.kind == "Clone" else None


def _parameters(document: Document) -> dict[str, str]:
    spec = image_of(document).spec if document.kind == "Image" else clone_of(document).spec
    return dict(spec.parameters)


def _engine(product: str) -> Engine | None:
    try:
        engine: Engine = plugins.load("engine", product)()
    except UnsupportedError:
        return None
    return engine


def _of(document: Document, engine: Engine) -> Iterator[Diagnostic]:
    for name, value in _parameters(document).items():
        for message in engine.validate_parameters({name: value}):
            yield document.diagnostic(_REFUSED, message, "spec", "parameters", name)
