"""What only all documents together can say: names, references, circles, ports, renames.

Called by the loader on every load, so it is one walk over the documents with plain
dictionaries; positions are looked up only for what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice

from reconciler.spec.diagnostics import Diagnostic
from reconciler.spec.documents import Document, Key, clone_of, clones_by_name, image_of

_HOST_RUNTIMES = frozenset({"process", "docker"})
_MAX_DIAGNOSTICS = 200
_LONGEST_NAME = 63


def check_references(
    documents: Sequence[Document],
    *,
    broken: frozenset[Key] | None = frozenset(),
    config_allowed: bool = False,
    selector: Mapping[str, str] | None = None,
) -> list[Diagnostic]:
    """Return what is wrong between documents, bounded.

    ``broken`` are objects whose own documents are wrong; None: some could not even be
    read, so nobody can say of a name that it is not defined.
    """
    objects: dict[Key, Document] = {}
    duplicates = list(islice(_collect(documents, objects), _MAX_DIAGNOSTICS + 1))
    images = {name: document for (kind, name), document in objects.items() if kind == "Image"}
    clones = list(dict.fromkeys(document for (kind, _), document in objects.items() if kind == "Clone"))
    everything = chain(
        duplicates,
        _configs(documents, allowed=config_allowed),
        () if broken is None else _unknown(images, clones, frozenset({*objects, *broken}), broken),
        _lengths(clones),
        _moments(images),
        _circles(images),
        _clone_circles(clones),
        _ports(clones, selector),
        _renames(objects),
        _pins(images, clones),
    )
    findings = list(islice(everything, _MAX_DIAGNOSTICS + 1))
    if len(findings) > _MAX_DIAGNOSTICS:
        findings[-1] = replace(findings[-1], code="R099", summary="there are more problems than are shown", hint=None)
    return findings


def _configs(documents: Iterable[Document], *, allowed: bool) -> Iterator[Diagnostic]:
    for document in documents:
        if document.kind == "Config" and not allowed:
            yield document.diagnostic(
                "R026",
                "the configuration of a host does not belong into the spec repository",
                "kind",
                hint="keep it on the host, and name it with --config",
            )


def _collect(documents: Iterable[Document], objects: dict[Key, Document]) -> Iterator[Diagnostic]:
    """Fill ``objects`` by kind and name, those of a ``count`` by their numbered names; yield duplicates."""
    twice: dict[Document, tuple[Document, str]] = {}
    written: dict[Key, Document] = {}
    for document in documents:
        if document.kind == "Config":
            continue
        first = written.setdefault(document.key, document)
        if first is not document:
            twice[document] = first, document.name
            continue
        for name, _old in _names(document):
            first = objects.setdefault(Key(document.kind, name), document)
            if first is not document:
                twice.setdefault(document, (first, name))
    for document, (first, name) in twice.items():
        yield document.diagnostic(
            "R020",
            f'{document.kind} "{name}" is defined twice',
            "metadata",
            "name",
            hint="rename one of the two, or remove it",
            related=[first.related("first defined at", "metadata", "name")],
        )


def _names(document: Document) -> Iterable[tuple[str, str | None]]:
    """Return the name and former name of each object of a document."""
    if document.kind == "Clone":
        return clone_of(document).named
    metadata = getattr(document.model, "metadata", None)
    return ((document.name, metadata.formerly if metadata is not None else None),)


def _lengths(clones: Iterable[Document]) -> Iterator[Diagnostic]:
    """Yield clones whose numbered names are too long: a name is a label of DNS (RFC 1035, section 2.3.4)."""
    for document in clones:
        longest = max(len(name) for name, _old in clone_of(document).named)
        if longest > _LONGEST_NAME:
            yield document.diagnostic(
                "R027",
                f"with its number this name has {longest} characters, and {_LONGEST_NAME} is the most",
                "metadata",
                "name",
                hint="choose a shorter name",
            )


def _unknown(
    images: Mapping[str, Document], clones: Iterable[Document], known: frozenset[Key], broken: frozenset[Key]
) -> Iterator[Diagnostic]:
    for document in images.values():
        spec = image_of(document).spec
        if spec.source.image is not None and ("Image", spec.source.image) not in known:
            yield _no_such(document, Key("Image", spec.source.image), known, "source", "image")
        for index, name in enumerate(spec.masking):
            if isinstance(name, str) and ("MaskingPolicy", name) not in known:
                yield _no_such(document, Key("MaskingPolicy", name), known, "masking", index)
    for document in clones:
        image = clone_of(document).spec.image
        if not isinstance(image, str):
            numbered = Key("Clone", image.clone.rpartition("-")[0])  # how many a wrong document asks for nobody knows
            if ("Clone", image.clone) not in known and numbered not in broken:
                yield _no_such(document, Key("Clone", image.clone), known, "image", "clone")
        elif ("Image", image) not in known:
            yield _no_such(document, Key("Image", image), known, "image")


def _no_such(document: Document, missing: Key, known: Iterable[Key], *path: str | int) -> Diagnostic:
    from reconciler.spec.suggest import did_you_mean, one_of  # noqa: PLC0415 - only for what is wrong

    kind, wanted = missing
    names = sorted(name for other, name in known if other == kind)
    hint = did_you_mean(wanted, names) or (one_of(names) if names else f"there is no {kind} in this commit")
    return document.diagnostic("R021", f'there is no {kind} named "{wanted}"', "spec", *path, hint=hint)


def _moments(images: Mapping[str, Document]) -> Iterator[Diagnostic]:
    """Yield images of a moment of another one that keeps no past."""
    for document in images.values():
        spec = image_of(document).spec
        base = images.get(spec.source.image) if spec.at is not None and spec.source.image is not None else None
        if base is not None and image_of(base).spec.point_in_time is None:
            yield document.diagnostic(
                "R028",
                f'image "{base.name}" has no past: it keeps nothing from which a moment could be replayed',
                "spec",
                "at",
                hint=f'give "{base.name}", or an image of the primary itself, pointInTime: {{window: 7d}}',
                related=[base.related("see", "spec", "source")],
            )


def _circles(images: Mapping[str, Document]) -> Iterator[Diagnostic]:
    """Yield each circle once, at the image of it that comes first by name."""
    done: set[str] = set()
    for start in sorted(images):
        trail: dict[str, None] = {}
        name: str | None = start
        while name is not None and name in images and name not in done and name not in trail:
            trail[name] = None
            name = image_of(images[name]).spec.source.image
        if name is not None and name in trail:
            names = list(trail)
            circle = names[names.index(name) :]
            yield images[circle[0]].diagnostic(
                "R022",
                f"images are built on each other in a circle: {_arrows([*circle, circle[0]])}",
                "spec",
                "source",
                "image",
                hint="one of them needs another source",
                related=[images[other].related(f'"{other}" is', "spec", "source", "image") for other in circle[1:]],
            )
        done.update(trail)


def _clone_circles(clones: Iterable[Document]) -> Iterator[Diagnostic]:
    """Yield each circle of clones once, at the document of it that comes first by name."""
    sources = {d: source for d in clones if (source := clone_of(d).spec.source_clone) is not None}
    by_name = clones_by_name(sources)
    done: set[Document] = set()
    for start in sorted(sources, key=lambda document: document.name):
        trail: dict[Document, None] = {}
        step: Document | None = start
        while step is not None and step not in done and step not in trail:
            trail[step] = None
            step = by_name.get(sources[step])
        if step is not None and step in trail:
            found = list(trail)
            circle = found[found.index(step) :]
            yield circle[0].diagnostic(
                "R022",
                f"clones start from each other in a circle: {_arrows([d.name for d in (*circle, circle[0])])}",
                "spec",
                "image",
                "clone",
                hint="one of them has to be of an image",
                related=[
                    other.related(f'"{other.name}" starts from', "spec", "image", "clone") for other in circle[1:]
                ],
            )
        done.update(trail)


def _arrows(names: Sequence[str]) -> str:
    shown = names if len(names) <= 8 else [*names[:4], "…", *names[-3:]]  # noqa: PLR2004 - what fits a line
    return " → ".join(shown)


def _ports(clones: Iterable[Document], selector: Mapping[str, str] | None) -> Iterator[Diagnostic]:
    """Yield ports that are used twice; clones with other labels may be on another host, unless it is known."""
    taken: dict[tuple[int, object], Document] = {}
    for document in clones:
        spec = clone_of(document).spec
        if spec.port is None or spec.runtime not in _HOST_RUNTIMES or not _selected(document, selector):
            continue
        hosts = frozenset(clone_of(document).metadata.labels.items()) if selector is None else None
        others = {
            port: first
            for port in range(spec.port, spec.port + (spec.count or 1))
            if (first := taken.setdefault((port, hosts), document)) is not document
        }
        for port, first in islice(others.items(), 1):
            yield document.diagnostic(
                "R023",
                f"port {port} is already taken by clone {first.name}",
                "spec",
                "port",
                hint="choose another port, or leave it out to get a free one",
                related=[first.related("first used at", "spec", "port")],
            )


def _selected(document: Document, selector: Mapping[str, str] | None) -> bool:
    labels = clone_of(document).metadata.labels
    return not selector or all(labels.get(key) == value for key, value in selector.items())


def _renames(objects: Mapping[Key, Document]) -> Iterator[Diagnostic]:
    claimed: dict[Key, Document] = {}
    renamed = ((document, old) for document in dict.fromkeys(objects.values()) for _new, old in _names(document) if old)
    for document, old in renamed:
        old_key = Key(document.kind, old)
        first = claimed.setdefault(old_key, document)
        if old_key in objects:
            yield _rename_clash(document, f'"{old}" is still defined, so nothing was renamed', objects[old_key], "name")
        elif first is not document:
            yield _rename_clash(document, f'two documents were formerly "{old}"', first, "formerly")


def _rename_clash(document: Document, summary: str, other: Document, field: str) -> Diagnostic:
    return document.diagnostic(
        "R024",
        summary,
        "metadata",
        "formerly",
        hint="remove formerly, or the other document",
        related=[other.related("see", "metadata", field)],
    )


def _pins(images: Mapping[str, Document], clones: Iterable[Document]) -> Iterator[Diagnostic]:
    """Warn of snapshots whose ids are of another image; ids keep the name that an image had."""
    for name, document in images.items():
        for number, snapshot in enumerate(image_of(document).spec.quarantine):
            image = snapshot.rsplit("-", 2)[0]
            if image not in {name, image_of(document).metadata.formerly}:
                yield document.diagnostic(
                    "R025",
                    f'this snapshot is of image "{image}", not of "{name}"',
                    "spec",
                    "quarantine",
                    number,
                    severity="warning",
                    hint="it is quarantined all the same; better name it where people look for it",
                )
    for document in clones:
        spec = clone_of(document).spec
        if not isinstance(spec.snapshot, str) or spec.snapshot == "latest" or not isinstance(spec.image, str):
            continue
        if spec.image not in images:
            continue
        image = spec.snapshot.rsplit("-", 2)[0]
        if image not in {spec.image, image_of(images[spec.image]).metadata.formerly}:
            yield document.diagnostic(
                "R025",
                f'this snapshot is of image "{image}", the clone of "{spec.image}"',
                "spec",
                "snapshot",
                severity="warning",
                hint="it works only if the image had that name when the snapshot was built",
            )
