"""What engines forbid documents to say, found before anything is built: server settings, and servers at all.

Called by ``commits`` and ``validation`` with documents that the loader found valid. It
needs no host and loads no engine; one that is not part of this version has nothing to
say (its objects stall when they are worked on).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler import plugins
from reconciler.errors import UnsupportedError
from reconciler.spec.documents import clone_of, clones_by_name, image_behind, image_of
from reconciler.spec.gaps import RUNTIME_GAPS
from reconciler.spec.products import COPIED_AT_A_RATE, WITHOUT_SERVER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from reconciler.spec.diagnostics import Diagnostic
    from reconciler.spec.documents import Document

    Rule = Callable[[Mapping[str, str]], list[str]]

_REFUSED = "R032"
_OF_SERVERS = (("port", "ports"), ("users", "logins"), ("idle", "a server that could stop"), ("resources", "limits"))
"""Fields of clones that say something of a server, and what files do not have."""


def refused_parameters(documents: Sequence[Document]) -> tuple[Diagnostic, ...]:
    """Return an error for each setting that its engine does not let documents have."""
    products = {document.name: image_of(document).spec.engine for document in documents if document.kind == "Image"}
    clones = clones_by_name(documents)
    rules: dict[str, Rule | None] = {}
    found: list[Diagnostic] = []
    for document in documents:
        product = _product(document, products, clones)
        if product in WITHOUT_SERVER:
            found.extend(_about_servers(document, product))
        elif product is not None:
            found.extend(_about_runtimes(document, product))
            found.extend(_about_primaries(document, product))
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


def _about_servers(document: Document, product: str) -> Iterator[Diagnostic]:
    """Yield what a document says of servers although its product has none."""
    if document.kind == "Image":
        yield from _about_sources(document, product)
        return
    spec = clone_of(document).spec
    given = spec.model_fields_set
    if "runtime" in given:
        yield from _about_runtimes(document, product)
    for name, what in _OF_SERVERS:
        if name in given and getattr(spec, name) not in (None, ()):
            summary = f"clones of {product} are files: they have no {what.removeprefix('a ')}"
            yield document.diagnostic(_REFUSED, summary, "spec", name, hint="remove it")
    if spec.state == "stopped":
        summary = f"clones of {product} are files: nothing of them runs or stops"
        yield document.diagnostic(_REFUSED, summary, "spec", "state", hint="remove it")


def _about_runtimes(document: Document, product: str) -> Iterator[Diagnostic]:
    """Yield that the runtime of a document cannot serve its product."""
    runtime = image_of(document).spec.runtime if document.kind == "Image" else clone_of(document).spec.runtime
    if (gap := RUNTIME_GAPS.get((product, runtime))) is not None:
        what = f"{product} does not go with the runtime {runtime} ({gap.meaning}): {gap.reason}"
        others = [name for name in ("docker", "process") if (product, name) not in RUNTIME_GAPS]
        hint = f"write runtime: {' or '.join(others)}" if others else "remove it: its clones are files"
        yield document.diagnostic(_REFUSED, what, "spec", "runtime", hint=hint)


def _about_primaries(document: Document, product: str) -> Iterator[Diagnostic]:
    """Yield what cannot be asked of the primary of a product."""
    primary = image_of(document).spec.source.primary if document.kind == "Image" else None
    if primary is not None and primary.copy_rate is not None and product not in COPIED_AT_A_RATE:
        summary = f"a primary of {product} is copied by a dump, whose rate cannot be limited"
        yield document.diagnostic(_REFUSED, summary, "spec", "source", "primary", "copyRate", hint="remove it")


def _about_sources(document: Document, product: str) -> Iterator[Diagnostic]:
    source = image_of(document).spec.source
    if source.kind in ("backup", "primary"):
        hint = "use source.files: a database file is read while it is being written, too"
        summary = f"{product} has no source {source.kind}"
        yield document.diagnostic(_REFUSED, summary, "spec", "source", source.kind, hint=hint)
    if source.dump is not None and source.dump.globals is not None:
        summary = f"{product} has no roles that a dump could have"
        yield document.diagnostic(_REFUSED, summary, "spec", "source", "dump", "globals", hint="remove it")
