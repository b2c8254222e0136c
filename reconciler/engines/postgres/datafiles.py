"""Copy the files of a physical source: a directory, or the tar files of pg_basebackup.

Called by :mod:`.physical`. No symbolic link is ever written. The two kinds of links that
a data directory may have (pg_wal and tablespaces) are followed once, and become
ordinary directories inside of it; every other link is refused or, for configuration, left out.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tarfile
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from reconciler.engines.compressed import compression_of, open_stream
from reconciler.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from reconciler.proc import CancelToken

_FICLONE = 0x40049409  # linux/fs.h
_BLOCK = 1 << 22
_SMALL = 1 << 16
_TABLESPACES = "pg_tblspc"
_WAL = "pg_wal"
_CONFIGURATION = (".conf", ".crt", ".key", ".pem", ".crl")


def copy_data_directory(source: Path, target: Path, *, skip: Callable[[str], bool], cancel: CancelToken) -> None:
    """Copy a data directory; ``skip`` is asked with paths relative to it.

    Raises:
        SourceError: it cannot be read, or holds a link that leads somewhere else.

    """
    try:
        _Copy(source, skip, cancel).tree(source, target, "")
    except OSError as error:
        raise SourceError(f"cannot copy {error.filename or source}: {error.strerror}") from error


class _Copy:
    def __init__(self, root: Path, skip: Callable[[str], bool], cancel: CancelToken) -> None:
        self._root = root
        self._skip = skip
        self._cancel = cancel

    def tree(self, source: Path, target: Path, inside: str) -> None:
        target.mkdir(mode=0o700, exist_ok=True)
        with os.scandir(source) as entries:
            for entry in entries:
                name = f"{inside}/{entry.name}" if inside else entry.name
                if self._skip(name):
                    continue
                self._cancel.check()
                if entry.is_symlink():
                    self._link(Path(entry.path), target / entry.name, name)
                elif entry.is_dir(follow_symlinks=False):
                    self.tree(Path(entry.path), target / entry.name, name)
                elif entry.is_file(follow_symlinks=False):
                    copy_file(Path(entry.path), target / entry.name, self._cancel)

    def _link(self, link: Path, target: Path, name: str) -> None:
        if name == _WAL:
            self.tree(self._followed(link), target, name)
        elif name.startswith(_TABLESPACES + "/"):
            place = self._followed(link)
            target.mkdir(mode=0o700)
            for version in place.glob("PG_*"):
                if version.is_dir() and not version.is_symlink():
                    self.tree(version, target / version.name, f"{name}/{version.name}")
        elif "/" in name or not name.endswith(_CONFIGURATION):
            raise SourceError(f"{link} is a symbolic link, which no data directory of PostgreSQL has there")

    def _followed(self, link: Path) -> Path:
        """Return where a link leads, which must be within the source or beside it."""
        root = self._root.resolve()
        place = link.resolve()
        allowed = root if root.parent == Path(root.anchor) else root.parent
        if not place.is_dir() or not place.is_relative_to(allowed):
            raise SourceError(
                f"{link} leads to {link.readlink()}, which is not part of this source",
                hint=f"put a copy of it below {allowed} and let the link lead there,"
                " or use pg_basebackup --format=tar, or its --tablespace-mapping",
            )
        return place


def copy_file(source: Path, target: Path, cancel: CancelToken) -> None:
    """Copy one regular file; its blocks are shared where the file system can."""
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW)
    with open(descriptor, "rb", buffering=0) as read, target.open("xb", buffering=0) as write:  # noqa: PTH123 - a descriptor
        target.chmod(0o600)
        if not share_blocks(read, write):
            copy_blocks(read, write, cancel)


def share_blocks(read: IO[bytes], write: IO[bytes]) -> bool:
    """Make a new file share all blocks of another; return whether the file system could (a reflink)."""
    try:
        fcntl.ioctl(write.fileno(), _FICLONE, read.fileno())
    except OSError:
        return False
    return True


def copy_blocks(read: IO[bytes], write: IO[bytes], cancel: CancelToken) -> None:
    """Copy a file from its present position to its end; both are unbuffered."""
    while True:
        cancel.check()
        if os.sendfile(write.fileno(), read.fileno(), None, _BLOCK) == 0:  # from the file's own position
            return


def is_tar_set(source: Path) -> bool:
    """Tell whether a directory holds what ``pg_basebackup --format=tar`` writes."""
    return bool(_tars(source, "base"))


def extract_tar_set(source: Path, target: Path, cancel: CancelToken) -> None:
    """Unpack base, tablespaces and WAL into a data directory.

    Raises:
        SourceError: an archive is damaged, truncated, or holds something that does not belong there.

    """
    target.mkdir(mode=0o700)
    for archive in sorted(path for path in source.iterdir() if path.is_file() and ".tar" in path.suffixes):
        stem = archive.name.split(".tar")[0]
        if stem == "base":
            place = target
        elif stem == _WAL:
            place = target / _WAL
        elif stem.isdigit():
            place = target / _TABLESPACES / stem
        else:
            raise SourceError(f"{archive} is no part of a base backup (base.tar, pg_wal.tar, OID.tar)")
        _extract(archive, place, cancel)
    manifest = source / "backup_manifest"
    if manifest.is_file():
        copy_file(manifest, target / "backup_manifest", cancel)


def read_from_tar(source: Path, name: str) -> bytes | None:
    """Return a small file at the top of the base archive; None when it has none.

    Raises:
        SourceError: the archive is damaged.

    """
    archive = _tars(source, "base")[0]
    with _damage_of(archive):
        for member, content in _members(archive):
            if PurePosixPath(member.name) == PurePosixPath(name):
                return content.read(_SMALL) if content else None
    return None


def names_in_tar(source: Path, stem: str) -> list[str]:
    """Return the names of all files in one of the archives of a set.

    Raises:
        SourceError: the archive is damaged.

    """
    names = []
    for archive in _tars(source, stem):
        with _damage_of(archive):
            names += [str(PurePosixPath(member.name)) for member, _content in _members(archive)]
    return names


def _members(archive: Path) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """Yield the members of an archive in order, each with its content when it is a regular file."""
    compression = compression_of(archive)
    with open_stream(archive, compression) as stream:
        reader: IO[bytes] = stream  # type: ignore[assignment] # tarfile only reads, and seeks in uncompressed ones
        with tarfile.open(fileobj=reader, mode="r|" if compression else "r:") as tar:
            for member in tar:
                yield member, tar.extractfile(member) if member.isreg() else None
        while stream.read(_BLOCK):
            pass  # to the end of a compressed file, where its checksum is


@contextmanager
def _damage_of(archive: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError) as error:
        raise SourceError(f"{archive} is damaged or truncated: {error}") from error


def _tars(source: Path, stem: str) -> list[Path]:
    return [path for path in source.glob(f"{stem}.tar*") if path.is_file()]


def _extract(archive: Path, place: Path, cancel: CancelToken) -> None:
    with _damage_of(archive):
        for member, content in _members(archive):
            cancel.check()
            _put(member, content, place, archive)


def _put(member: tarfile.TarInfo, content: IO[bytes] | None, place: Path, archive: Path) -> None:
    inner = PurePosixPath(member.name)
    if inner.is_absolute() or ".." in inner.parts:
        raise SourceError(f"{archive} names a file outside of the backup: {member.name}")
    path = place / inner
    if member.isdir() or (member.issym() and _becomes_directory(inner)):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    elif content is None:
        raise SourceError(f"{archive} holds {member.name}, which is neither a file nor a directory")
    else:
        _write(content, path)


def _write(content: IO[bytes], path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.open("wb") as file:
        path.chmod(0o600)
        shutil.copyfileobj(content, file, _BLOCK)


def _becomes_directory(inner: PurePosixPath) -> bool:
    """Tell whether a link stands for something that comes in an archive of its own."""
    parts = [part for part in inner.parts if part != "."]
    return parts == [_WAL] or (len(parts) == 2 and parts[0] == _TABLESPACES)  # noqa: PLR2004 - pg_tblspc/OID
