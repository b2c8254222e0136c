"""Giving files to the account of a server, as root, while processes of another account may still be at them.

Called by ``apply`` for new volumes and by engines for data directories. Whoever owned a
tree may have left a process behind that moves things about in it. So nothing is reached
by a path twice: a directory changes hands before its names are read, and its entries are
changed relative to it, links themselves and never what they point to. For an ordinary
user, who cannot give anything away, it does nothing.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from reconciler.errors import PermanentError
from reconciler.proc import Account

if TYPE_CHECKING:
    from pathlib import Path


def give(path: Path, account: Account | None) -> None:
    """Make ``account`` the owner of one file or directory; without one it stays as it is."""
    if account is not None and os.geteuid() == 0:
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


def give_tree(directory: Path, account: Account | None) -> None:
    """Make ``account`` the owner of a directory and of everything in it.

    The directory itself is ours meanwhile and given last: whoever finds that it belongs
    to the account knows that all of it does.

    Raises:
        PermanentError: a file has a second name, which may be outside of the tree.

    """
    if account is None or os.geteuid() != 0:
        return
    give(directory, _ours())
    for path, directories, names, handle in os.fwalk(directory, follow_symlinks=False):
        for name in directories:
            os.chown(name, account.uid, account.gid, dir_fd=handle, follow_symlinks=False)
        for name in names:
            status = os.stat(name, dir_fd=handle, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
                raise PermanentError(f"{os.path.join(path, name)} has another name, maybe outside of {directory}")  # noqa: PTH118 - fwalk hands out strings
            os.chown(name, account.uid, account.gid, dir_fd=handle, follow_symlinks=False)
    give(directory, account)


def owner_within(directory: Path) -> Account | None:
    """Return who owns what is in a directory, judged by its first directory; None: nobody but us."""
    with os.scandir(directory) as entries:
        found = sorted((entry for entry in entries if entry.is_dir(follow_symlinks=False)), key=lambda one: one.name)
        if not found or os.geteuid() != 0:
            return None
        status = found[0].stat(follow_symlinks=False)
    return Account(status.st_uid, status.st_gid) if status.st_uid != os.geteuid() else None


def lock_away(directory: Path, account: Account | None) -> None:
    """Make a directory one that only we get into, although what is in it belongs to ``account``.

    A snapshot's files belong to the account of the clones to come, which shares their
    blocks; on storage without read-only volumes nothing else keeps that account off them.
    """
    if account is not None and os.geteuid() == 0:
        give(directory, _ours())
        directory.chmod(0o700)


def take_tree(directory: Path) -> None:
    """Make a tree our own again, so that nobody moves things about in it while we work on it by path.

    Raises:
        PermanentError: as :func:`give_tree`.

    """
    give_tree(directory, _ours())


def _ours() -> Account:
    return Account(os.geteuid(), os.getegid())
