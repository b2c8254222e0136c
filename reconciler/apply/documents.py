"""Removing documents from the repository: of clones that expired, by a commit.

Called by the worker. The commit in force decided that they go; they are removed from the
newest one, where they stand as they were, and only if it is as valid without them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.errors import InputError, RefusedError
from reconciler.repository import Edit
from reconciler.spec.documents import Key
from reconciler.spec.edit import remove_document
from reconciler.spec.loader import DocumentCache, load_tree
from reconciler.spec.references import check_references

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconciler.apply.context import Work
    from reconciler.plan.actions import RemoveDocuments
    from reconciler.repository import SourceTree
    from reconciler.spec.documents import Document


def remove(work: Work, action: RemoveDocuments) -> None:
    """Remove documents by a commit; those that somebody changed or removed meanwhile are left to the next pass.

    Raises:
        UnavailableError: the remote cannot be reached, or takes no commit of ours.
        RefusedError: the newest commit is not valid, not approved yet, or would not be valid without them.
        SecretError: the commit cannot be signed.

    """
    host, cache, limits = work.host, DocumentCache(), work.host.config.repository.limits
    keys = {Key("Clone", name) for name in action.documents}
    in_force = {
        document.key: document for document in load_tree(work.tree, cache, max_file_bytes=limits.file_size).documents
    }

    def edit(tree: SourceTree) -> Edit | None:
        work.cancel.check()
        if tree.rewrite and host.config.repository.force_push == "hold":
            raise RefusedError(f"{tree.rewrite}, and nobody approved that yet", reason="HistoryRewritten")
        loaded = load_tree(tree, cache, max_file_bytes=limits.file_size)
        if not loaded.valid:
            raise RefusedError(f"{tree.revision} is not valid: documents stay until it is", reason="InvalidSpec")
        over = [d for d in loaded.documents if d.key in keys & in_force.keys() and d.model == in_force[d.key].model]
        return _without(over, loaded.documents)

    work.progress(f"removing {', '.join(action.documents)} from the repository")
    host.repository().commit(edit, author=host.author)


def _without(over: Sequence[Document], documents: Sequence[Document]) -> Edit | None:
    """Return the change that removes those documents that can be; None when there are none.

    Raises:
        RefusedError: there are some, and none of them can be removed.

    """
    texts: dict[str, str] = {}
    gone: list[Document] = []
    obstacle: RefusedError | None = None
    for document in over:
        text = texts.get(document.file, document.source.data.decode())
        try:
            _require_dispensable(document, [other for other in documents if other not in gone])
            texts[document.file] = remove_document(text, document.kind, document.name)
        except InputError as error:
            obstacle = RefusedError(f"{document.file}:{document.line}: {error}", hint="remove it by hand")
        else:
            gone.append(document)
    if obstacle is not None and not gone:
        raise obstacle
    return Edit({path: text.encode() or None for path, text in texts.items()}, _message(gone)) if gone else None


def _require_dispensable(document: Document, documents: Sequence[Document]) -> None:
    """Insist that other documents are valid without one.

    Raises:
        InputError: they are not, for instance because one of them names it.

    """
    found = check_references([other for other in documents if other is not document])
    if wrong := next((diagnostic for diagnostic in found if diagnostic.severity == "error"), None):
        raise InputError(f"without {document.key} the commit is not valid: {wrong.file}:{wrong.line}: {wrong.summary}")


def _message(gone: Sequence[Document]) -> str:
    names = [str(document.key) for document in gone]
    if len(names) == 1:
        return f"Remove {names[0]}\n\nIts time is over; it is deleted.\n"
    return "\n".join(
        (f"Remove {len(names)} expired clones", "", "Their time is over; they are deleted:", "", *names, "")
    )
