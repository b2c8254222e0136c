"""The state directory: what one installation keeps on its host besides its pools.

Opened by every command that has a configuration; written by whoever holds its lock
(requests excepted). Nothing here is the truth about volumes: that lies beside them.

::

    installation.json   id of the installation, made once
    fingerprint.key     32 random bytes for keyed fingerprints
    pools.json          pools that were in use once
    tombstones/         expired clones
    prunes.jsonl        deletions of the last hour
    requests/           wishes of the command line
    outcomes/           their answers
    credentials/        generated passwords: <clone>/<user>
    status.sqlite3      conditions, events, history; can be thrown away
    repository.git      mirror of the spec repository
    published.git       where commits are made that publish the status
    signers/            OpenPGP keys whose commits count
    logs/ run/ work/    logs and sockets of servers, scratch space of builds
    last-pass           its time is that of the loop's last pass
    lock, lock-owner    one writer at a time
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.errors import ConfigError, UnavailableError
from reconciler.ids import InstallationId, ServerName, VolumeId
from reconciler.status import files
from reconciler.status.credentials import Credentials
from reconciler.status.lock import LockOwner, StateLock, lock_owner
from reconciler.status.records import KnownPools, PruneLedger, Tombstones
from reconciler.status.requests import RequestInbox

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from collections.abc import Set as AbstractSet
    from datetime import datetime

    from reconciler.ids import CloneName
    from reconciler.state.conditions import ObjectKey
    from reconciler.state.observed import Tombstone

_CROSSABLE = 0o711
_CROSSED = ("run", "work")
_PRIVATE = ("tombstones", "requests", "outcomes", "credentials", "logs", "starting")
_ANSWERS = "images"
"""What images of containers answered; where there are none, nobody makes it."""
_FORMAT = 1
"""Of the directory as a whole. It grows when an older program could do harm here, never for what it can ignore."""
_OURS = frozenset(
    {
        *_CROSSED,
        *_PRIVATE,
        _ANSWERS,
        "signers",
        "fingerprint.key",
        "prunes.jsonl",
        "run-directory",
        "last-pass",
    }
)
_LAST = ("pools.json", "installation.json", "lock-owner", "lock")
_KEY_BYTES = 32
_SOCKET_PATH_BYTES = 107
"""Longest path of a unix socket on Linux: sun_path has 108 bytes with the final NUL (unix(7))."""
_SOCKET_NAME = "/.s.PGSQL.65535"
"""The longest name that an engine gives a socket in its run directory."""


class StateDirectory:
    """One installation's state; making the object makes the directory tree.

    The directory itself can be crossed by other accounts (servers reach their sockets
    through it), but not listed; what is private in it has mode 0700.

    Raises:
        UnavailableError: it cannot be made or belongs to another account.

    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        _make_parents(self.path)
        files.make_directory(self.path, _CROSSABLE)
        for name in _CROSSED:
            files.make_directory(self.path / name, _CROSSABLE)
        for name in _PRIVATE:
            files.make_directory(self.path / name, 0o700)
        self.known_pools = KnownPools(self.path / "pools.json")
        self.requests = RequestInbox(self.path / "requests", self.path / "outcomes")
        self.credentials = Credentials(self.path / "credentials")
        self._tombstones = Tombstones(self.path / "tombstones")
        self._prunes = PruneLedger(self.path / "prunes.jsonl")

    @property
    def status_file(self) -> Path:
        """The file of the status store."""
        return self.path / "status.sqlite3"

    @property
    def mirror(self) -> Path:
        """The directory of the repository's mirror; made by the repository."""
        return self.path / "repository.git"

    @property
    def publishing_mirror(self) -> Path:
        """The directory where commits that publish the status are made; made by the repository."""
        return self.path / "published.git"

    @property
    def logs(self) -> Path:
        """The directory for logs of servers."""
        return self.path / "logs"

    @cached_property
    def installation(self) -> InstallationId:
        """The id of this installation, made at its first use.

        Raises:
            ConfigError: the file is damaged, or missing although pools are known: a new
                id would make every volume a stranger's. Or a newer program wrote this
                directory (``StateTooNew``).

        """
        path = self.path / "installation.json"
        data = files.read(path)
        if data is None:
            if self.known_pools.all():
                raise files.unreadable(path, "it is missing although pools are in use", hint=_INSTALLATION_HINT)
            data = files.create_once(path, files.encode({"installation": secrets.token_hex(8), "format": _FORMAT}))
        record = files.decode(path, data, hint=_INSTALLATION_HINT)
        self._require_known_format(record.get("format", 1))
        identity = record.get("installation")
        if not isinstance(identity, str) or not identity:
            raise files.unreadable(path, "it names no installation", hint=_INSTALLATION_HINT)
        return InstallationId(identity)

    def _require_known_format(self, written: object) -> None:
        if not isinstance(written, int) or written > _FORMAT:
            raise ConfigError(
                f"the state directory {self.path} was written by a newer reconciler (format {written}; this one knows"
                f" up to {_FORMAT}): nothing is done with it",
                reason="StateTooNew",
                hint="install that version again, or restore the back-up from before the upgrade",
            )

    @cached_property
    def fingerprint_key(self) -> bytes:
        """32 random bytes that key the fingerprints of secrets, made at their first use.

        Raises:
            ConfigError: the file is damaged.

        """
        path = self.path / "fingerprint.key"
        key = files.read(path) or files.create_once(path, secrets.token_bytes(_KEY_BYTES))
        if len(key) != _KEY_BYTES:
            hint = "remove it to have a new one made: users get their passwords again, masked images are rebuilt"
            raise files.unreadable(path, f"it does not have {_KEY_BYTES} bytes", hint=hint)
        return key

    def lock(self, command: str, *, now: datetime) -> StateLock:
        """Become the one writer; ``command`` is shown to others. What dead writers left unfinished goes.

        Raises:
            BusyError: somebody else is; the message names the owner.

        """
        lock = StateLock.take(self.path, command, now=now)
        try:
            passwords = (f"credentials/{clone}" for clone in files.names(self.path / "credentials"))
            for name in (".", *_PRIVATE, _ANSWERS, *passwords):
                files.sweep_unfinished(self.path / name)
        except BaseException:
            lock.release()
            raise
        return lock

    def remove(self) -> tuple[Path, ...]:
        """Remove all that lies here and is ours, the identity last; return what is left because it is not.

        For whoever holds the lock and has closed the store; pools that lie below are gone already.
        """
        made = (self.status_file.name, self.mirror.stem, self.publishing_mirror.stem)
        with files.translated("remove", self.path):
            if self._run_base != self.path / "run":
                shutil.rmtree(self._run_base, ignore_errors=True)
            for name in files.names(self.path):
                entry = self.path / name
                if name in _OURS or name.startswith(made):
                    shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
            with suppress(OSError):  # somebody put something into a pool
                (self.path / "pools").rmdir()
            for name in _LAST:
                (self.path / name).unlink(missing_ok=True)
            left = tuple(sorted(self.path.iterdir()))
            if not left:
                self.path.rmdir()
            return left

    def beat(self) -> None:
        """Note that a pass of the loop was completed just now. Only housekeeping: losing it costs nothing."""
        with suppress(OSError):
            self._last_pass.touch()

    def rest(self) -> None:
        """Note that the loop was stopped on purpose."""
        with suppress(OSError):
            self._last_pass.unlink(missing_ok=True)

    def last_beat(self) -> datetime | None:
        """Return when the loop completed a pass last; None where none runs, or where it was stopped on purpose."""
        try:
            return files.from_timestamp(self._last_pass.stat().st_mtime)
        except OSError:
            return None

    @property
    def _last_pass(self) -> Path:
        return self.path / "last-pass"

    def lock_owner(self) -> LockOwner | None:
        """Return who is the writer now, without taking the lock; None when nobody is."""
        return lock_owner(self.path)

    def tombstones(self) -> Mapping[CloneName, Tombstone]:
        """Return the expired clones; a damaged tombstone counts as absent."""
        return self._tombstones.all()

    def write_tombstone(self, stone: Tombstone) -> None:
        """Note that a clone expired; durable when this returns."""
        self._tombstones.put(stone)

    def clear_tombstone(self, clone: CloneName) -> None:
        """Forget that a clone expired; absent is fine."""
        self._tombstones.clear(clone)

    def record_deletion(self, key: ObjectKey, now: datetime) -> None:
        """Note, before it happens, that an object is deleted because its document vanished.

        An object counts once within the hour, however many volumes go or attempts it takes.
        """
        self._prunes.record(key, now)

    def recent_deletions(self, now: datetime) -> Mapping[str, datetime]:
        """Return the objects deleted so within the last hour, and when; damage counts as deletions."""
        return self._prunes.recent(now)

    def work_directory(self, volume: VolumeId) -> Path:
        """Return the scratch directory of a build; the caller makes and removes it. Its parent exists."""
        return self.path / "work" / volume

    def work_directories(self) -> tuple[VolumeId, ...]:
        """Return the volumes that have a scratch directory."""
        return tuple(VolumeId(name) for name in files.names(self.path / "work"))

    @contextmanager
    def starting(self, server: ServerName) -> Iterator[None]:
        """Have it known, while the block runs and if it comes to no end, that a server is being started.

        Not durable: what ends the host ends the server.
        """
        mark = self._starting(server)
        with files.translated("write", mark):
            mark.touch()
        yield
        self.forget_start(server)

    def forget_start(self, server: ServerName) -> None:
        """Have a server's start known as over; absent is fine."""
        mark = self._starting(server)
        with files.translated("remove", mark):
            mark.unlink(missing_ok=True)

    def unfinished_starts(self) -> frozenset[ServerName]:
        """Return the servers whose start did not come to its end: it goes on, failed, or was killed."""
        return frozenset(ServerName(name) for name in files.names(self.path / "starting"))

    def _starting(self, server: ServerName) -> Path:
        return self.path / "starting" / server

    def stale_run_directories(self, keep: AbstractSet[ServerName]) -> tuple[Path, ...]:
        """Return the run directories that belong to none of the servers in ``keep``."""
        kept = {self.run_directory(server).name for server in keep}
        return tuple(self._run_base / name for name in files.names(self._run_base) if name not in kept)

    def run_directory(self, server: ServerName) -> Path:
        """Return the directory for a server's sockets: always the same for a server, short enough for a socket.

        The caller makes and removes it. Its parent exists.
        """
        name = hashlib.sha256(server.encode()).hexdigest()[:12]
        return self._run_base / name

    @cached_property
    def _run_base(self) -> Path:
        own = self.path / "run"
        if _fits(own):
            return own
        # Written down, because another process may see another temporary directory.
        record = files.create_once(self.path / "run-directory", os.fsencode(self._short_base()))
        base = Path(os.fsdecode(record))
        _make_private(base)
        return base

    def _short_base(self) -> Path:
        name = f"reconciler-{self.installation}"
        candidates = (Path(tempfile.gettempdir()), Path("/tmp"))  # noqa: S108 - made private and checked below
        base = next((base / name for base in candidates if _fits(base / name)), None)
        if base is None:
            raise ConfigError(f"no directory with a path short enough for sockets was found for {self.path}")
        return base


_INSTALLATION_HINT = 'restore it, or write {"installation": ID} with the id from a pool\'s .reconciler-pool.json'


def _fits(base: Path) -> bool:
    return len(os.fsencode(base)) + len("/") + 12 + len(_SOCKET_NAME) <= _SOCKET_PATH_BYTES


def _make_parents(path: Path) -> None:
    missing = [parent for parent in path.parents if not parent.exists()]
    for parent in reversed(missing):
        files.make_directory(parent, 0o755)


def _make_private(path: Path) -> None:
    """Make a directory in a place where anybody may write; refuse one that somebody else put there."""
    if not path.is_symlink():
        files.make_directory(path, _CROSSABLE)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) != _CROSSABLE:
        raise UnavailableError(f"{path} is not a private directory of this account", hint="remove it")
