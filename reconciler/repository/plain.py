"""A plain directory as a repository, for those who do not use git (yet).

Made by :mod:`.opening`. What was good is packed into a mirror of its own, so that a
later broken edit leaves it readable, byte for byte. Files too large to be read into
memory (dumps) are not copied there; they are looked up in the directory and used as
long as they are unchanged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from reconciler.errors import InputError, UnsupportedError
from reconciler.ids import Revision
from reconciler.repository.committed import GitTree
from reconciler.repository.directory import DirectoryTree
from reconciler.repository.paths import directories, tree_bytes, tree_ids
from reconciler.repository.plumbing import Mirror

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from reconciler.repository.base import Author, Change, Edit, Limits, SourceTree
    from reconciler.repository.signatures import Signature

LAST_GOOD = "refs/reconciler/last-good"


class DirectoryRepository:
    """A directory that people edit in place; see :class:`~reconciler.repository.base.Repository`."""

    def __init__(self, root: Path, *, mirror: Path, limits: Limits) -> None:
        self._root = root
        self._limits = limits
        self._mirror = Mirror(mirror.with_name(f"{mirror.stem}-directory.git"), timeout=limits.command_seconds)
        self._newest: DirectoryTree | None = None
        self._good: SourceTree | None = None

    def fetch(self) -> DirectoryTree:
        tree = self._newest.again() if self._newest else DirectoryTree(self._root, limits=self._limits)
        tree.entries()
        self._newest = tree
        return tree

    def tree(self, revision: str) -> SourceTree:
        newest = self._newest if self._newest and self._newest.revision == revision else self.fetch()
        for tree in (newest, self.last_good()):
            if tree is not None and tree.revision == revision:
                return tree
        raise InputError(
            f"there is no revision {revision} of {self._root}", hint="a plain directory keeps only the last good one"
        )

    def last_good(self) -> SourceTree | None:
        if self._good is None and self._mirror.exists:
            self._good = self._kept()
        return self._good

    def mark_good(self, revision: Revision) -> None:
        good = self.last_good()
        if good is not None and good.revision == revision:
            return
        tree = self._newest
        if tree is None or tree.revision != revision:
            raise InputError(f"there is no revision {revision} of {self._root}")
        self._mirror.prepare()
        self._mirror.store(_objects(tree))
        self._mirror.update_ref(LAST_GOOD, revision.rpartition(":")[2])
        self._good = self._kept()

    def verify(self, tree: SourceTree) -> Signature | None:  # noqa: ARG002 - nobody can sign a directory
        return None

    def history(self, paths: Iterable[str]) -> Mapping[str, Change]:
        del paths
        return {}

    def change(self, revision: Revision) -> Change | None:  # noqa: ARG002 - nobody signs what they write in place
        return None

    def commit(self, edit: Callable[[SourceTree], Edit | None], *, author: Author) -> Revision | None:
        del edit, author
        raise UnsupportedError(f"{self._root} is a plain directory, which only people change")

    def publish(
        self, ref: str, path: str, edit: Callable[[bytes | None], Edit | None], *, author: Author
    ) -> Revision | None:
        del ref, path, edit, author
        raise UnsupportedError(f"{self._root} is a plain directory, which has no refs")

    def _kept(self) -> SourceTree | None:
        root = self._mirror.tree(LAST_GOOD, ".")
        if root is None:
            return None
        return GitTree(
            self._mirror,
            root,
            revision=Revision(f"dir@sha1:{root}"),
            limits=self._limits,
            large=lambda: self._newest or DirectoryTree(self._root, limits=self._limits),
        )


def _objects(tree: DirectoryTree) -> Iterator[tuple[Literal["blob", "tree"], bytes]]:
    """Yield every object of a tree once, large files excepted.

    Raises:
        BusyError: the directory was changed meanwhile.

    """
    ids = {path: entry.object_id for path, entry in tree.entries().items()}
    trees = tree_ids(ids)
    small = {object_id: path for path, object_id in ids.items() if not tree.large(path)}
    for _, data in tree.read_many(small.values()):
        yield "blob", data
    children = directories(ids)
    for directory in {trees[name]: name for name in children}.values():
        yield "tree", tree_bytes(children[directory], ids, trees)
