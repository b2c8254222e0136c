"""An archive that the build's account may not read, put where pg_restore can read it.

Called by :mod:`.archive`. An archive is not to be trusted: the files that the table of
contents of a directory names are opened by pg_restore, which so never runs as root.
What root hands out is regular files of the archive alone, found without following a link.
"""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from reconciler import proc
from reconciler.engines.postgres.datafiles import copy_blocks, share_blocks
from reconciler.errors import CommandError, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from reconciler.engines.base import BuildWork
    from reconciler.engines.postgres.formats import Format

_COPY = "archive"
_HINT = "let the account that builds run under read it: chmod or setfacl"


@dataclass(frozen=True, slots=True)
class Handout:
    """An archive for pg_restore: by its path, or, where only root may open that, as standard input."""

    path: Path
    as_stdin: bool = False


@contextmanager
def handed_out(work: BuildWork, path: Path, found: Format) -> Iterator[Handout]:
    """Make an archive readable for ``work.account`` until the end of the block.

    Blocks are shared with the original where the file system can do that. Where it
    cannot, a directory is copied, and a single file is given as standard input, from
    which nothing can be restored in parallel.

    Raises:
        SourceError: a directory can neither be read by the account nor be copied.

    """
    if work.account is None or os.geteuid() != 0 or _readable(path, work.account):
        yield Handout(path)
        return
    copy = work.directory / _COPY
    try:
        if found.layout == "directory":
            _copy_directory(work, path, copy)
            yield Handout(copy)
        elif found.layout == "custom" and work.jobs > 1 and _share(path, copy, work.account):
            yield Handout(copy)
        else:
            yield Handout(path, as_stdin=True)
    finally:
        _remove(copy)


def _readable(path: Path, account: proc.Account) -> bool:
    probe = path / "toc.dat" if path.is_dir() else path
    try:
        proc.run(["test", "-r", str(probe)], account=account)
    except CommandError:
        return False
    return True


def _share(path: Path, copy: Path, account: proc.Account) -> bool:
    with path.open("rb") as read, _created(copy) as write:
        if share_blocks(read, write):
            _give(write.fileno(), account)
            return True
    copy.unlink()
    return False


def _copy_directory(work: BuildWork, path: Path, copy: Path) -> None:
    """Copy the regular files of a directory, which are all that pg_dump makes in one."""
    work.progress(f"copying {path}, which the build's account may not read")
    try:
        copy.mkdir(mode=0o700)
        with _opened(path) as source, _opened(copy, os.O_NOFOLLOW) as target, os.scandir(source) as entries:
            if os.fstat(target).st_uid != os.geteuid():  # the account put another one into its place
                raise SourceError(f"{copy} was replaced while the build ran")
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    _copy_regular(work, entry.name, source, target)
            _give(target, work.account)  # last: nobody else changes names in it meanwhile
    except OSError as error:
        raise SourceError(f"the dump {path} cannot be copied for the build: {error.strerror}", hint=_HINT) from error


def _copy_regular(work: BuildWork, name: str, source: int, target: int) -> None:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=source)
    with open(descriptor, "rb", buffering=0) as read, _created(name, target) as write:  # noqa: PTH123 - a descriptor
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return
        if not share_blocks(read, write):
            copy_blocks(read, write, work.cancel)
        _give(write.fileno(), work.account)


def _give(descriptor: int, account: proc.Account | None) -> None:
    if account is not None:
        os.fchown(descriptor, account.uid, account.gid)


@contextmanager
def _opened(directory: Path, flags: int = 0) -> Iterator[int]:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | flags)
    try:
        yield handle
    finally:
        os.close(handle)


def _created(path: str | Path, directory: int | None = None) -> IO[bytes]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=directory)
    return open(descriptor, "wb", buffering=0)  # noqa: PTH123 - a descriptor


def _remove(copy: Path) -> None:
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(copy.lstat().st_mode):
            shutil.rmtree(copy)
        else:
            copy.unlink()
