"""Proposing a MaskingPolicy for an image of this host.

Called by the command line, and by :mod:`.classify_requests` for whoever asks while a loop
runs. It takes the newest commit, also where an image names a policy that nobody wrote yet:
that is when a proposal is wanted. What it looks at is gone when it returns; what it
returns holds no value of the data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from reconciler.apply.classification import look, profile
from reconciler.apply.context import Work
from reconciler.errors import InputError, SpecError, UnavailableError
from reconciler.host import configured_repository
from reconciler.ids import ImageName
from reconciler.masking.classify.proposal import propose
from reconciler.masking.classify.render import proposal_json, proposed
from reconciler.proc import CancelToken
from reconciler.repository.base import Entry
from reconciler.spec.documents import image_of
from reconciler.spec.loader import load_tree
from reconciler.spec.suggest import did_you_mean
from reconciler.state.conditions import Kind, ObjectKey
from reconciler.state.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from reconciler.apply.classification import Look
    from reconciler.host import Host
    from reconciler.ids import Revision
    from reconciler.masking.classify.proposal import Proposed
    from reconciler.repository import SourceTree
    from reconciler.state.desired import Desired, DesiredImage

_FILE = "reconciler-classify-missing-policies.yaml"
_EMPTY = """\
---
apiVersion: reconciler/v1
kind: MaskingPolicy
metadata: {{name: {name}}}
spec: {{key: {{secret: masking-key}}, rules: []}}
"""


@dataclass(frozen=True, slots=True)
class Proposal:
    """What is proposed for an image: every column of every database.

    ``policy`` and ``key`` are the names of the first policy that the image names, and of
    its secret; where it names none, they are made up.
    """

    image: ImageName
    policy: str
    key: str
    databases: tuple[str, ...]
    rows: tuple[Proposed, ...]
    large_objects: int


def classify(host: Host, name: str, progress: Callable[[str], None]) -> Proposal:
    """Look at an image's data before masking and return what to write about it; leave nothing behind.

    ``host`` has to be one that writes.

    Raises:
        InputError: there is no such image.
        SpecError: the commit is not valid, and not for want of a policy alone.
        ReconcilerError: its data could not be looked at.

    """
    chosen, work = choose(host, name, CancelToken())
    return look_at(replace(work, progress=progress), chosen)


def choose(host: Host, name: str, cancel: CancelToken) -> tuple[Look, Work]:
    """Return how an image will be looked at; raises as :func:`classify` does."""
    tree, desired = _commit(host)
    work = Work(host=host, desired=desired, tree=tree, cancel=cancel)
    return look(work, _image(desired, name)), work


def look_at(work: Work, chosen: Look) -> Proposal:
    """Look at the data of an image and propose; raises as :func:`classify` does."""
    found, image = profile(work, chosen), work.desired.images[chosen.action.image]
    policy = image.policies[0] if image.policies else None
    return Proposal(
        image=image.name,
        policy=policy.name if policy is not None else f"{image.name}-masking",
        key=policy.key if policy is not None else "masking-key",
        databases=tuple(one.schema.database for one in found),
        rows=tuple(row for one in found for row in propose(one)),
        large_objects=sum(one.schema.large_objects for one in found),
    )


def proposal_document(proposal: Proposal) -> dict[str, object]:
    """Return a proposal as an answer to a request carries it."""
    return {
        "policy": proposal.policy,
        "key": proposal.key,
        "databases": list(proposal.databases),
        "largeObjects": proposal.large_objects,
        **proposal_json(proposal.image, proposal.rows),
    }


def proposal_of(document: Mapping[str, Any]) -> Proposal:
    """Return the proposal that an answer carries; it was written by this version of the program, or by another one.

    Raises:
        UnavailableError: that was another one, which writes it otherwise.

    """
    try:
        return Proposal(
            image=ImageName(document["image"]),
            policy=document["policy"],
            key=document["key"],
            databases=tuple(document["databases"]),
            rows=proposed(document),
            large_objects=document["largeObjects"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UnavailableError(
            "the loop's answer cannot be read", hint="it runs another version of the program: restart it"
        ) from error


def _image(desired: Desired, name: str) -> DesiredImage:
    refused = desired.problems.get(ObjectKey(Kind.IMAGE, name))
    if refused is not None:
        raise InputError(refused[1], reason=refused[0])
    image = desired.images.get(ImageName(name))
    if image is None:
        known = ", ".join(sorted(desired.images)) or "none"
        raise InputError(f"there is no image {name}", hint=did_you_mean(name, desired.images) or f"there are: {known}")
    return image


def _commit(host: Host) -> tuple[SourceTree, Desired]:
    """Return the commit in force; the newest one where that one lacks nothing but policies."""
    commit = host.commits().newest()
    if commit.desired is not None and commit.tree is not None and not commit.diagnostics:
        return commit.tree, commit.desired
    repository = configured_repository(host.config, host.state.mirror, host.secrets)
    tree = _Completed(repository.fetch())
    loaded = load_tree(tree, selector=host.config.selector, max_file_bytes=host.config.repository.limits.file_size)
    errors = tuple(found for found in loaded.diagnostics if found.severity == "error")
    if errors:
        raise SpecError("the newest commit is not valid", diagnostics=errors)
    resolution = resolve(loaded.documents, tree, config=host.config)
    if resolution.desired is None:
        raise SpecError("the newest commit is not valid", diagnostics=resolution.diagnostics)
    return tree, resolution.desired


class _Completed:
    """A revision with an empty policy more for each that an image names and nobody wrote."""

    def __init__(self, tree: SourceTree) -> None:
        self._tree = tree
        documents = load_tree(tree).documents
        present = {document.name for document in documents if document.kind == "MaskingPolicy"}
        named = (document for document in documents if document.kind == "Image")
        wanted = dict.fromkeys(policy for document in named for policy in image_of(document).spec.policies)
        self._text = "".join(_EMPTY.format(name=one) for one in wanted if one not in present).encode()

    @property
    def revision(self) -> Revision:
        return self._tree.revision

    @property
    def rewrite(self) -> str:
        return self._tree.rewrite

    def entries(self) -> Mapping[str, Entry]:
        return {**self._tree.entries(), _FILE: Entry("", len(self._text))}

    def read(self, path: str) -> bytes:
        return self._text if path == _FILE else self._tree.read(path)

    def read_many(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        wanted = tuple(paths)
        yield from self._tree.read_many(path for path in wanted if path != _FILE)
        if _FILE in wanted:
            yield _FILE, self._text

    def object_id(self, path: str) -> str | None:
        return self._tree.object_id(path)

    def extract(self, path: str, target: Path) -> None:
        self._tree.extract(path, target)
