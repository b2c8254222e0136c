"""The ``zfs`` program: the only way to datasets that every version and every account has.

Used by the ZFS driver and by the choice of a driver. Each call is one process, so callers
ask for much at once. Runs with ``LC_ALL=C``, since what it complains of is read: messages
are those of ``lib/libzfs/libzfs_util.c`` (OpenZFS 0.8 to 2.3; zfs-fuse 0.7 has the same
words), translated into the errors of the contract. Knows nothing of manifests.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler import proc
from reconciler.errors import (
    BusyError,
    CommandError,
    ConfigError,
    NotInstalledError,
    ReconcilerError,
    RefusedError,
    UnavailableError,
    UnsupportedError,
)
from reconciler.storage.lineage import INSTALLATION, MADE_OF, VOLUME, Dataset, Lineage
from reconciler.storage.mounts import Mount, mounts

if TYPE_CHECKING:
    from pathlib import Path

PERMISSIONS = "create,destroy,mount,snapshot,clone,promote,readonly,canmount,mountpoint,userprop"
"""What has to be delegated to an account that is not root, as ``zfs allow`` writes it."""
FILE_SYSTEMS = frozenset({"zfs", "fuse.zfs"})
"""Types by which the kernel's ZFS and zfs-fuse are mounted."""

_TIMEOUT = 120.0
"""Seconds; a pool whose devices are gone makes commands wait for ever."""
_SYSTEM_PROGRAMS = ("/usr/sbin", "/sbin")
_BUSY_FOR = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
_LONGEST_COMPLAINT = 300
_NO_VALUE = "-"
_INSTALL = "install ZFS (Debian, Ubuntu: apt-get install zfsutils-linux)"


class MissingDatasetError(UnavailableError):
    """No such dataset now: it was destroyed, or its pool is not imported."""


class DependentsError(BusyError):
    """A dataset cannot be destroyed, because clones of its snapshots exist."""


class NoSpaceError(RefusedError):
    """The ZFS pool, or a quota, is full."""


@dataclass(frozen=True, slots=True)
class _Saying:
    """What ``zfs`` says, and what that means."""

    pattern: re.Pattern[str]
    error: type[ReconcilerError]
    reason: str
    hint: str = ""


def _saying(pattern: str, error: type[ReconcilerError], reason: str, hint: str = "") -> _Saying:
    return _Saying(re.compile(pattern, re.IGNORECASE), error, reason, hint)


_SAYINGS = (
    _saying(
        r"modules are not loaded|daemon is running|/dev/zfs.*(no such|not found)",
        UnavailableError,
        "PoolUnavailable",
        "load the module (modprobe zfs), or start the daemon of zfs-fuse",
    ),
    _saying(
        r"permission denied|only be mounted by root|operation not permitted",
        UnsupportedError,
        "Unsupported",
        f"run as root; an account with `zfs allow ACCOUNT {PERMISSIONS} DATASET` can do all but mount on Linux",
    ),
    _saying(r"has dependent clones", DependentsError, "VolumeInUse"),
    _saying(r"has children", BusyError, "VolumeInUse", "destroy the datasets below it first"),
    _saying(
        r"dataset already exists|dataset exists", BusyError, "VolumeExists", "it is not ours, and is left as it is"
    ),
    _saying(
        r"is busy|resource busy|umount failed|unmount failed",
        BusyError,
        "VolumeInUse",
        "something has files open there, or `zfs hold` keeps a snapshot",
    ),
    _saying(
        r"out of space|no space left|quota exceeded|exceeds quota",
        NoSpaceError,
        "PoolFull",
        "delete clones or snapshots, add a device to the ZFS pool, or raise the quota of the dataset",
    ),
    _saying(
        r"encryption key|key must be loaded|key not (loaded|available)",
        UnavailableError,
        "PoolUnavailable",
        "zfs load-key",
    ),
    _saying(
        r"does not exist|no such pool|no such dataset|could not find any snapshots",
        MissingDatasetError,
        "PoolUnavailable",
        "zpool import, if the pool is not imported; nothing of it is deleted or rebuilt meanwhile",
    ),
    _saying(
        r"suspended|pool is unavailable|i/o error|not connected", UnavailableError, "PoolUnavailable", "zpool status"
    ),
    _saying(r"directory is not empty", UnavailableError, "PoolUnavailable", "move away what lies there"),
    _saying(r"name is too long|invalid character|invalid name", ConfigError, "InvalidConfig", "use a shorter dataset"),
)


def run(*words: str) -> str:
    """Run ``zfs`` and return what it prints.

    Raises:
        MissingDatasetError: there is no such dataset or snapshot, or no such pool.
        DependentsError: a dataset has clones, so it cannot be destroyed.
        BusyError: it is in use, or exists already.
        NoSpaceError: no space, or over a quota.
        UnsupportedError: this account must not do that; NotInstalledError: there is no ``zfs``.
        UnavailableError: ZFS cannot be asked, or says something that is not known.

    """
    try:
        return proc.run(["zfs", *words], env=_environment(), timeout=_TIMEOUT).text
    except NotInstalledError as error:
        raise NotInstalledError("the program zfs is not installed on this host", hint=_INSTALL) from error
    except CommandError as error:
        raise translated(words[0], error.stderr) from error


def translated(command: str, complaint: str) -> ReconcilerError:
    """Return the error that a complaint of ``zfs`` comes to; pure."""
    text = " ".join(complaint.split())[:_LONGEST_COMPLAINT]
    for saying in _SAYINGS:
        if saying.pattern.search(complaint):
            return saying.error(f"zfs {command}: {text}", reason=saying.reason, hint=saying.hint or None)
    return UnavailableError(f"zfs {command}: {text}", reason="PoolUnavailable")


def destroy(name: str) -> None:
    """Destroy a snapshot, or a dataset with everything below it; never anything that was cloned of it.

    A dataset is busy for a moment after it was unmounted, which ``zfs`` does first.

    Raises:
        DependentsError, MissingDatasetError, BusyError, UnsupportedError: as :func:`run`.

    """
    words = ("destroy", name) if "@" in name else ("destroy", "-r", name)
    for seconds in _BUSY_FOR:
        try:
            run(*words)
        except DependentsError:
            raise
        except BusyError:
            time.sleep(seconds)
        else:
            return
    run(*words)


def destroy_empty(name: str) -> None:
    """Destroy a dataset that nothing is below, not even a snapshot.

    Raises:
        BusyError: there is something, or it is in use.
        UnsupportedError: as :func:`run`.

    """
    for seconds in _BUSY_FOR:
        try:
            run("destroy", name)
        except BusyError:
            time.sleep(seconds)
        else:
            return
    run("destroy", name)


def own_property(name: str, key: str) -> str | None:
    """Return a user property of a dataset; None where it has none of its own, or does not exist."""
    try:
        rows = _rows(run("get", "-H", "-o", "value,source", key, name))
    except MissingDatasetError:
        return None
    return next((value for value, source in rows if source == "local"), None)


def exists(name: str) -> bool:
    """Return whether there is such a dataset or snapshot."""
    try:
        run("list", "-H", "-o", "name", "-t", "all", name)
    except MissingDatasetError:
        return False
    return True


def lineage(root: str) -> Lineage:
    """Return everything at and below ``root``: file systems and snapshots, older snapshots first."""
    fields = f"name,origin,{VOLUME},{INSTALLATION},{MADE_OF}"
    rows = _rows(run("list", "-H", "-t", "filesystem,snapshot", "-o", fields, "-r", root))
    entries = [Dataset(name, *map(_value, rest)) for name, *rest in rows]
    return Lineage(
        root,
        {entry.name: entry for entry in entries if "@" not in entry.name},
        tuple(entry.name for entry in entries if "@" in entry.name),
    )


def unmounted(root: str) -> list[str]:
    """Return the volumes below ``root`` that are not mounted."""
    rows = _rows(run("list", "-H", "-t", "filesystem", "-o", f"name,mounted,{VOLUME}", "-r", root))
    return [name for name, mounted, volume in rows if mounted != "yes" and _value(volume) is not None]


def sizes(name: str, *properties: str, deep: bool = False) -> dict[str, dict[str, int]]:
    """Return sizes in bytes by dataset and property; with ``deep`` of everything below as well."""
    options = ["-r"] if deep else []
    found: dict[str, dict[str, int]] = {}
    for dataset, key, value in _rows(
        run("get", "-H", "-p", *options, "-o", "name,property,value", ",".join(properties), name)
    ):
        if value.isdigit():
            found.setdefault(dataset, {})[key] = int(value)
    return found


def holding(path: Path) -> Mount | None:
    """Return the file system that ``path`` lies on, if it is a dataset."""
    over = [mount for mount in mounts() if path == mount.point or path.is_relative_to(mount.point)]
    deepest = max(over, key=lambda mount: (len(mount.point.parts), mount.id), default=None)
    return deepest if deepest is not None and deepest.kind in FILE_SYSTEMS else None


def installed() -> bool:
    """Return whether this host has the program."""
    try:
        proc.require_program("zfs", env=_environment())
    except NotInstalledError:
        return False
    return True


def _environment() -> dict[str, str]:
    """Root's programs are found as well: an ordinary user's PATH often lacks them."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *_SYSTEM_PROGRAMS])
    return proc.environment({"LC_ALL": "C", "PATH": path})


def _rows(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines()]


def _value(field: str) -> str | None:
    return None if field == _NO_VALUE else field
