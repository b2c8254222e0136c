"""Facts that the host must not forget: known pools, tombstones, recent deletions.

Read by ``observe``, written by ``apply`` under the state lock. Each says what a
damaged file means, and no meaning leads to a deletion.
"""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import TYPE_CHECKING

from reconciler import durable
from reconciler.errors import ConfigError
from reconciler.ids import CloneName, PoolName
from reconciler.state.observed import Tombstone
from reconciler.status import files

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from reconciler.state.conditions import ObjectKey

LEDGER_WINDOW = timedelta(hours=1)
_COMPACT_BYTES = 64 * 1024
_POOLS_HINT = 'restore it, or write {"pools": {NAME: ID}} with the ids from each pool\'s .reconciler-pool.json'


class KnownPools:
    """Pools that were in use once, by name, with the id of their marker.

    A known pool without its marker is away, not new; so a damaged file is an error
    (``StateUnreadable``), never an empty list.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def all(self) -> Mapping[PoolName, str]:
        """Return pool ids by name.

        Raises:
            ConfigError: the file is damaged.

        """
        record = files.read_record(self._path, hint=_POOLS_HINT)
        pools = {} if record is None else record.get("pools")
        if not isinstance(pools, dict) or not all(isinstance(value, str) for value in pools.values()):
            raise files.unreadable(self._path, "it does not list pools", hint=_POOLS_HINT)
        return {PoolName(name): value for name, value in pools.items()}

    def remember(self, name: PoolName, identity: str) -> None:
        """Note a pool; the same again writes nothing."""
        pools = dict(self.all())
        if pools.get(name) != identity:
            self._write({**pools, name: identity})

    def forget(self, name: PoolName) -> None:
        """Strike a pool out; absent is fine."""
        pools = dict(self.all())
        if pools.pop(name, None) is not None:
            self._write(pools)

    def _write(self, pools: Mapping[PoolName, str]) -> None:
        files.write_atomic(self._path, files.encode({"pools": dict(pools)}))


class Tombstones:
    """Expired clones, one file each.

    A damaged one counts as absent: the clone may be made once more, and expires again.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def all(self) -> Mapping[CloneName, Tombstone]:
        """Return the tombstones by clone."""
        stones = (self._read(name) for name in files.names(self._directory) if name.endswith(".json"))
        return {stone.clone: stone for stone in stones if stone is not None}

    def put(self, stone: Tombstone) -> None:
        """Note that a clone expired; replaces an older note."""
        record = {"expiry": stone.expiry, "expiredAt": files.format_time(stone.expired_at)}
        files.write_atomic(self._directory / f"{stone.clone}.json", files.encode(record))

    def clear(self, clone: CloneName) -> None:
        """Forget that a clone expired; absent is fine."""
        files.remove(self._directory / f"{clone}.json")

    def _read(self, name: str) -> Tombstone | None:
        try:
            record = files.read_record(self._directory / name)
            if record is None:
                return None
            expired_at = files.parse_time(files.text(record, "expiredAt"))
            return Tombstone(CloneName(name.removesuffix(".json")), files.text(record, "expiry"), expired_at)
        except (ConfigError, ValueError):
            return None


class PruneLedger:
    """When objects were deleted because their documents vanished, for the limit per rolling hour.

    Lines are appended, before the deletion, so that a crash counts too much rather
    than too little. One object counts once however often its deletion is repeated.
    A line that cannot be read counts as one more deletion at the time of the file's
    last change: damage makes the limit tighter, never wider.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._compact_at = _COMPACT_BYTES

    def record(self, key: ObjectKey, now: datetime) -> None:
        """Note a deletion that is about to happen; durable when this returns."""
        line = files.encode({"object": str(key), "at": files.format_time(now)})
        with files.translated("write", self._path):
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                size = os.fstat(descriptor).st_size
                torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
                os.write(descriptor, b"\n" + line if torn else line)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if size == 0:
                durable.sync_directory(self._path.parent)
        if size > self._compact_at:
            self._compact(now)

    def recent(self, now: datetime) -> Mapping[str, datetime]:
        """Return the objects deleted within the last hour, each with the time of its last deletion."""
        return {name: at for name, at in self._entries().items() if at > now - LEDGER_WINDOW}

    def _entries(self) -> dict[str, datetime]:
        """Return the last deletion of each object; a damaged line is an object of its own."""
        with files.translated("read", self._path):
            try:
                data = self._path.read_bytes()
                changed = files.from_timestamp(self._path.stat().st_mtime)
            except FileNotFoundError:
                return {}
        entries: dict[str, datetime] = {}
        for number, line in enumerate(data.splitlines()):
            name, at = _ledger_line(line) or (f"#{number}", changed)
            entries[name] = max(at, entries.get(name, at))
        return entries

    def _compact(self, now: datetime) -> None:
        lines = [files.encode({"object": name, "at": files.format_time(at)}) for name, at in self.recent(now).items()]
        files.write_atomic(self._path, b"".join(lines))
        # Doubling keeps a mass deletion within one hour from being rewritten at every line.
        self._compact_at = max(_COMPACT_BYTES, 2 * sum(map(len, lines)))


def _ledger_line(line: bytes) -> tuple[str, datetime] | None:
    try:
        record = json.loads(line)
        return str(record["object"]), files.parse_time(record["at"])
    except (ValueError, TypeError, KeyError):
        return None
