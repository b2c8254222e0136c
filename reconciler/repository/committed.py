"""The tree of a commit, read from the mirror by plumbing commands.

Made by :mod:`.remote` and :mod:`.plain`. The listing is one ``ls-tree``, taken when
first asked for and kept as long as the tree is; bytes are streamed by ``cat-file``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from reconciler.errors import InputError, ReconcilerError, SourceError, UnavailableError
from reconciler.repository.base import Entry, Limits
from reconciler.repository.limits import check_readable, check_refused, check_sizes
from reconciler.repository.paths import LFS_POINTER_BYTES, check_name, check_not_lfs, checked_path, hidden

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from reconciler.ids import Revision
    from reconciler.repository.base import SourceTree
    from reconciler.repository.plumbing import Blob, Mirror

_CHUNK = 1 << 20
_LIST_CHUNK = 1 << 16
_ROW_BYTES = 512
_REGULAR = ("100644", "100755", "100664")  # 100664: written by old versions of git
_REFUSED = {"120000": "a symlink", "160000": "a submodule"}


class _Listing(NamedTuple):
    entries: dict[str, Entry]
    trees: dict[str, str]
    absent: frozenset[str]
    """Files whose bytes the mirror does not keep."""


class GitTree:
    """Files of one commit (or tree) below ``path``.

    ``large`` gives the place where blobs that the mirror does not keep may still be
    found: the plain directory that the tree was taken from, as it is now.
    """

    def __init__(
        self,
        mirror: Mirror,
        treeish: str,
        *,
        revision: Revision,
        path: str = ".",
        limits: Limits,
        rewrite: str = "",
        large: Callable[[], SourceTree] | None = None,
    ) -> None:
        self.treeish = treeish
        self._mirror = mirror
        self._revision = revision
        self._path = path
        self._limits = limits
        self._rewrite = rewrite
        self._large = large
        self._listing: _Listing | None = None

    @property
    def revision(self) -> Revision:
        return self._revision

    @property
    def rewrite(self) -> str:
        return self._rewrite

    def entries(self) -> Mapping[str, Entry]:
        return self._listed().entries

    def object_id(self, path: str) -> str | None:
        listing = self._listed()
        name = checked_path(path)
        entry = listing.entries.get(name)
        return entry.object_id if entry else listing.trees.get(name)

    def read(self, path: str) -> bytes:
        return next(self.read_many([path]))[1]

    def read_many(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        wanted = [(path, self._readable(path).object_id) for path in paths]
        blobs = self._mirror.blobs([object_id for _, object_id in wanted], timeout=self._limits.command_seconds)
        for (path, _), blob in zip(wanted, blobs, strict=True):
            data = blob.content.read(blob.size)
            if len(data) != blob.size:
                raise UnavailableError(f"{path} could not be read from the git mirror to its end")
            check_not_lfs(path, data[:LFS_POINTER_BYTES])
            yield path, data

    def extract(self, path: str, target: Path) -> None:
        name = checked_path(path)
        listing = self._listed()
        if name in listing.entries:
            self._copy({name: target})
        elif name in listing.trees:
            prefix = "" if name == "." else f"{name}/"
            target.mkdir()
            self._copy({file: target / file[len(prefix) :] for file in listing.entries if file.startswith(prefix)})
        else:
            raise InputError(f"{path} does not exist at {self._revision}", reason="PathNotFound")

    def _copy(self, targets: Mapping[str, Path]) -> None:
        listing = self._listed()
        kept = {name: target for name, target in targets.items() if name not in listing.absent}
        blobs = self._mirror.blobs(
            [listing.entries[name].object_id for name in kept], timeout=self._limits.copy_seconds
        )
        for (name, target), blob in zip(kept.items(), blobs, strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            _write(blob, name, target)
        for name in targets.keys() - kept.keys():
            targets[name].parent.mkdir(parents=True, exist_ok=True)
            self._copy_absent(name, targets[name])

    def _copy_absent(self, name: str, target: Path) -> None:
        directory = self._large() if self._large else None
        if directory is None or directory.object_id(name) != self._listed().entries[name].object_id:
            raise SourceError(
                f"{name} was changed or removed since {self._revision}, and it was too large to keep a copy",
                hint="put the file back, or commit specs that are valid with what is there now",
            )
        directory.extract(name, target)

    def _readable(self, path: str) -> Entry:
        entry = self._listed().entries.get(path) or self._listed().entries.get(checked_path(path))
        if entry is None:
            raise InputError(f"{path} does not exist at {self._revision}", reason="PathNotFound")
        check_readable(path, entry, self._limits)
        return entry

    def _listed(self) -> _Listing:
        if self._listing is None:
            self._listing = self._list()
        return self._listing

    def _list(self) -> _Listing:
        root = self._mirror.tree(self.treeish, self._path)
        if root is None:
            raise InputError(f"the directory {self._path} does not exist at {self._revision}", reason="PathNotFound")
        entries: dict[str, Entry] = {}
        trees = {".": root}
        absent = set()
        refused = []
        for row in _rows(self._mirror, root, self._limits):
            head, _, name = row.partition("\t")
            if hidden(name):
                continue
            check_name(name)
            mode, kind, object_id, size = head.split()
            if kind == "tree":
                trees[name] = object_id
            elif mode not in _REGULAR:
                refused.append(f"{name} is {_REFUSED.get(mode, 'no regular file')}")
            elif size.isdigit():
                entries[name] = Entry(object_id, int(size))
            else:
                absent.add(name)
                entries[name] = Entry(object_id, self._absent_size(name, object_id))
        check_refused(refused, self._revision)
        check_sizes(entries, self._revision, self._limits)
        return _Listing(entries, trees, frozenset(absent))

    def _absent_size(self, name: str, object_id: str) -> int:
        try:
            entry = self._large().entries().get(name) if self._large else None
        except ReconcilerError:
            return 0  # a directory that cannot be looked at must not hide what the mirror has
        return entry.size if entry and entry.object_id == object_id else 0


def _rows(mirror: Mirror, root: str, limits: Limits) -> Iterator[str]:
    """Yield the rows of a recursive listing.

    A few small trees can list the same subtree again and again, to billions of files,
    so the listing is cut off while it is read, not when it is complete.
    """
    count = size = 0
    rest = b""
    with mirror.stream("ls-tree", "-r", "-t", "-z", "-l", "--full-tree", root) as out:
        while chunk := out.read(_LIST_CHUNK):
            size += len(chunk)
            *rows, rest = (rest + chunk).split(b"\0")
            count += len(rows)
            if count > 2 * limits.files or size > limits.files * _ROW_BYTES:
                raise InputError(
                    f"the repository has more than {limits.files:,} files and directories", reason="RepositoryTooLarge"
                )
            for row in rows:
                yield row.decode("utf-8", "surrogateescape")


def _write(blob: Blob, name: str, target: Path) -> None:
    left = blob.size
    with target.open("xb") as out:
        while left:
            chunk = blob.content.read(min(_CHUNK, left))
            if not chunk:
                raise UnavailableError(f"{name} could not be read from the git mirror to its end")
            if blob.size <= LFS_POINTER_BYTES:
                check_not_lfs(name, chunk)
            out.write(chunk)
            left -= len(chunk)
