"""What engines forbid documents to say, found before anything is built: server settings.

Called by ``commits`` and ``validation`` with documents that the loader found valid. It
needs no host and loads no engine; one that is not part of this version has nothing to
say (its objects stall when they are worked on).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler import plugins
from reconciler.errors import UnsupportedError
from reconciler.spec.documents import clone_of, clones_by_name, image_behind, image_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from reconciler.spec.diagnostics import Diagnostic
    from reconciler.spec.documents import Document

    Rule = Callable[[Mapping[str, str]], list[str]]

_REFUSED = "R032"


def refused_parameters(documents: Sequence[Document]) -> tuple[Diagnostic, ...]:
    """Return an error for each server setting that its engine does not let documents have."""
    products = {document.name: image_of(document).spec.engine for document in documents if document.kind == "Image"}
    clones = clones_by_name(documents)
    rules: dict[str, Rule | None] = {}
    found: list[Diagnostic] = []
    for document in documents:
        product = _product(document, products, clones)
        if product is None or not _parameters(document):
            continue
        if product not in rules:
            rules[product] = _rule(product)
        if (rule := rules[product]) is not None:
            found.extend(_of(document, rule))
    return tuple(found)


def _product(document: Document, products: Mapping[str, str], clones: Mapping[str, Document]) -> str | None:
    """Return the engine of an image, or of a clone's image if that is among the documents."""
    if document.kind == "Image":
        return products[document.name]
    image = image_behind(document, clones) if document.kind == "Clone" else None
    return products.get(image) if image is not None else None


def _parameters(document: Document) -> dict[str, str]:
    spec = image_of(document).spec if document.kind == "Image" else clone_of(document).spec
    return dict(spec.parameters)


def _rule(product: str) -> Rule | None:
    try:
        rule: Rule = plugins.load("parameter", product)
    except UnsupportedError:
        return None
    return rule


def _of(document: Document, rule: Rule) -> Iterator[Diagnostic]:
    for name, value in _parameters(document).items():
        for message in rule({name: value}):
            yield document.diagnostic(_REFUSED, message, "spec", "parameters", name)
