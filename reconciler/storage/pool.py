"""The directory of a pool: its layout, its marker and its lock.

::

    <pool>/.reconciler-pool.json     marker: pool id, installation id, driver
    <pool>/.reconciler-pool.lock     held by the one process that writes; names it
    <pool>/manifests/<volume>.json   one per volume, readable by us only
    <pool>/volumes/<volume>/         data; others may pass through, not list

Used by the directory drivers. The marker is written last, so a directory with a
marker is complete; whatever has no marker of this installation is never touched.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from reconciler import durable
from reconciler.errors import BusyError, ConfigError, UnavailableError
from reconciler.ids import InstallationId  # noqa: TC001 - pydantic reads the annotation at run time
from reconciler.locks import lock_exclusively
from reconciler.storage.manifests import ManifestStore

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.ids import PoolName, VolumeId

MARKER = ".reconciler-pool.json"
LOCK = ".reconciler-pool.lock"
_VOLUME_ID = re.compile(r"[a-z0-9][a-z0-9.-]{0,199}")
_PLAIN_DIRECTORIES = frozenset({"copy", "reflink"})


@dataclass(frozen=True, slots=True)
class PoolMarker:
    """Whose pool this is: written at its first use, never changed."""

    pool: str
    installation: InstallationId
    driver: str


_MARKER = TypeAdapter(PoolMarker)


def read_marker(path: Path) -> PoolMarker | None:
    """Return the marker of the pool at ``path``, or None when there is none.

    Raises:
        UnavailableError: there is one, and it cannot be read.

    """
    try:
        return _MARKER.validate_json((path / MARKER).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValidationError) as error:
        raise UnavailableError(
            f"the pool marker {path / MARKER} cannot be read", reason="PoolUnavailable", hint="restore it from a backup"
        ) from error


def remove_layout(path: Path, *, installation: InstallationId) -> tuple[Path, ...]:
    """Remove the layout of an empty pool, the marker last; return what lies there and is not ours.

    Raises:
        BusyError: it holds volumes, or belongs to another installation.
        UnavailableError: it cannot be removed.

    """
    marker = read_marker(path)
    if marker is not None and marker.installation != installation:
        raise BusyError(f"the pool at {path} belongs to the installation {marker.installation}", reason="PoolInUse")
    try:
        for directory in (path / "manifests", path / "volumes"):
            if directory.is_dir():
                durable.sweep(directory)
                directory.rmdir()
        for name in (LOCK, MARKER):
            (path / name).unlink(missing_ok=True)
        return tuple(sorted(path.iterdir()))
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise BusyError(f"{error.filename} is not empty: the pool at {path} is left as it is") from error
        raise UnavailableError(f"the pool at {path} cannot be removed: {error.strerror}") from error


class PoolDirectory:
    """One pool's directory. Every method looks at the disk again: a pool can be unmounted at any time."""

    def __init__(
        self, name: PoolName, path: Path, *, driver: str, installation: InstallationId, pool_id: str | None
    ) -> None:
        self.path = path
        self.volumes = path / "volumes"
        self.manifests = ManifestStore(path / "manifests")
        self._name = name
        self._driver = driver
        self._installation = installation
        self._pool_id = pool_id

    @property
    def known(self) -> bool:
        """Whether this installation used the pool before."""
        return self._pool_id is not None

    def volume(self, volume: VolumeId) -> Path:
        """Return the directory of a volume; pure.

        Raises:
            ValueError: the id could leave the pool; ids are made by us, so this is a defect.

        """
        if not _VOLUME_ID.fullmatch(volume):
            raise ValueError(f"not a volume id: {volume!r}")
        return self.volumes / volume

    def initialised(self) -> bool:
        """Return whether this is our pool, in order; False means that it was never used.

        Raises:
            UnavailableError: it was used, but is not there now.
            BusyError: it belongs to another installation.
            ConfigError: another driver made it.

        """
        marker = read_marker(self.path)
        if marker is None:
            self._check_unused()
            return False
        if marker.installation != self._installation:
            raise BusyError(
                f"the pool {self._name} at {self.path} belongs to the installation {marker.installation}, "
                f"not to this one ({self._installation}): two installations on one pool are refused",
                reason="PoolInUse",
                hint="give this installation a path of its own, or bring back the state directory that it lost",
            )
        if self._pool_id is not None and marker.pool != self._pool_id:
            raise self._away(f"holds the pool {marker.pool}, while {self._pool_id} was there before")
        if marker.driver != self._driver and not {marker.driver, self._driver} <= _PLAIN_DIRECTORIES:
            raise ConfigError(
                f"the pool {self._name} at {self.path} was made with the driver {marker.driver}, not {self._driver}",
                hint=f"set driver: {marker.driver}, or another path",
            )
        return True

    def initialise(self) -> str:
        """Make the directories and the marker unless they exist, and return the pool's id.

        Raises:
            UnavailableError, BusyError, ConfigError: as :meth:`initialised`.
            OSError: the directory cannot be made or written.

        """
        if not self.initialised():
            self.path.mkdir(parents=True, exist_ok=True)
            self._make_directory(self.path / "manifests", 0o700)
            self._make_directory(self.volumes, 0o711)
            self.path.chmod(0o711)
            self._write_marker()
            self.initialised()
        marker = read_marker(self.path)
        if marker is None:
            raise self._away("lost its marker a moment ago")
        self._pool_id = marker.pool
        return marker.pool

    def acquire(self) -> int:
        """Hold the pool until the descriptor is closed, which the end of the process does too, however it ends.

        Raises:
            BusyError: another process holds it; the message names it.
            OSError: the pool is not there, or cannot be written.

        """
        fd = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            lock_exclusively(fd)
            os.ftruncate(fd, 0)
            durable.write_all(fd, json.dumps({"pid": os.getpid(), "host": platform.node()}).encode())
            durable.sweep(self.path)
            self.manifests.sweep()
        except BlockingIOError as error:
            owner = _owner(fd)
            os.close(fd)
            raise BusyError(f"the pool {self._name} at {self.path} is held by {owner}") from error
        except OSError:
            os.close(fd)
            raise
        return fd

    def _check_unused(self) -> None:
        if self._pool_id is not None:
            raise self._away("has no pool marker; it is not mounted, or the marker is lost")
        for directory in (self.path / "manifests", self.volumes):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(directory) as entries:
                if next(entries, None) is not None:
                    raise self._away(f"has no pool marker, while {directory} is not empty")

    def _away(self, what: str) -> UnavailableError:
        return UnavailableError(
            f"the pool {self._name} at {self.path} {what}",
            reason="PoolUnavailable",
            hint="mount the file system that holds it; nothing of it is deleted or rebuilt meanwhile",
        )

    def _make_directory(self, path: Path, mode: int) -> None:
        path.mkdir(exist_ok=True)
        path.chmod(mode)

    def _write_marker(self) -> None:
        marker = PoolMarker(secrets.token_hex(8), self._installation, self._driver)
        durable.create_once(self.path / MARKER, _MARKER.dump_json(marker) + b"\n", mode=0o644)


def _owner(fd: int) -> str:
    since = datetime.fromtimestamp(os.fstat(fd).st_mtime, UTC).isoformat(timespec="seconds")
    try:
        owner = json.loads(os.pread(fd, 4096, 0))
        return f"process {owner['pid']} on {owner['host']} since {since}"
    except (ValueError, KeyError, TypeError):
        return f"another process since {since}"
