"""What a base backup says of itself: its label and its manifest, read without reading all of it.

Called by :mod:`.backups`. The formats are those of the manual, "Backup Manifest Format", and
of ``build_backup_content`` in ``xlogbackup.c``; what only newer versions write may be absent.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING

from reconciler.engines import files
from reconciler.engines.postgres.datafiles import is_tar_set, read_from_tar
from reconciler.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = "backup_manifest"
_START = re.compile(r"^START WAL LOCATION: ([0-9A-F]+/[0-9A-F]+) \(file ([0-9A-F]{24})\)", re.MULTILINE)
_TIME = re.compile(r"^START TIME: (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (\S+)", re.MULTILINE)
_BASE_LSN = re.compile(r"^INCREMENTAL FROM LSN: ([0-9A-F]+/[0-9A-F]+)", re.MULTILINE)
_BASE_TIMELINE = re.compile(r"^INCREMENTAL FROM TLI: (\d+)", re.MULTILINE)
_CHECKSUM = re.compile(rb'"Manifest-Checksum":\s*"([0-9a-f]+)"\s*\}\s*\Z')
_END = re.compile(rb'"End-LSN":\s*"([0-9A-F]+/[0-9A-F]+)"')
_SYSTEM = re.compile(rb'"System-Identifier":\s*(\d+)')
_FILE = re.compile(rb'"Path":\s*("(?:[^"\\]|\\.)*"),\s*"Size":\s*(\d+)')
_EDGE_BYTES = 1 << 16
_CHANGED_LATER = "postgresql.auto.conf"
"""Changed by pg_basebackup itself when it is asked for --write-recovery-conf."""
_NUMERIC_ZONE = re.compile(r"([+-])(\d\d)(?::?(\d\d))?")
# Zones with daylight saving, in hours: only these have two names, so that the order of their times needs both.
# The names are those of PostgreSQL's timezonesets/Default.
_ZONES = {"WET": 0, "WEST": 1, "GMT": 0, "BST": 1, "CET": 1, "CEST": 2, "EET": 2, "EEST": 3} | {
    "EST": -5,
    "EDT": -4,
    "CST": -6,
    "CDT": -5,
    "MST": -7,
    "MDT": -6,
    "PST": -8,
    "PDT": -7,
    "AEST": 10,
    "AEDT": 11,
    "NZST": 12,
    "NZDT": 13,
}


@dataclass(frozen=True, slots=True)
class Backup:
    """A base backup. Positions in the WAL are numbers of bytes; ``base`` is where its predecessor starts."""

    path: Path
    started_at: datetime
    start: int
    segment: str
    timeline: int
    checksum: str | None = None
    system: str | None = None
    end: int | None = None
    """Where it is consistent; None without a manifest."""
    base: tuple[int, int] | None = None
    """Of an incremental backup: position and timeline of the start of the backup that it builds on."""

    @property
    def order(self) -> tuple[datetime, int, int]:
        """By this, later backups are greater."""
        return self.started_at, self.timeline, self.start


def lsn(text: str) -> int:
    """Return a position like ``0/3000148`` as a number."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) | int(low, 16)


def lsn_text(position: int) -> str:
    """Return a position as PostgreSQL writes it."""
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"


def is_backup(path: Path) -> bool:
    """Whether a directory holds a backup, or the beginning of one."""
    return (path / "PG_VERSION").is_file() or (path / "global" / "pg_control").is_file() or is_tar_set(path)


def read_backup(path: Path) -> Backup | None:
    """Return what a backup says of itself; None without a label (a copy of a stopped server).

    Raises:
        SourceError: its label or manifest is damaged or truncated.
        OSError: it cannot be read.

    """
    text = _label(path)
    if text is None:
        return None
    start, at = _START.search(text), _TIME.search(text)
    if start is None or at is None:
        raise SourceError(f"the backup_label of {path} is damaged")
    base, base_timeline = _BASE_LSN.search(text), _BASE_TIMELINE.search(text)
    head, tail = _edges(path / MANIFEST)
    checksum = manifest_checksum(path / MANIFEST)
    ends = [lsn(end.decode()) for end in _END.findall(tail)]
    system = _SYSTEM.search(head)
    return Backup(
        path=path,
        started_at=_moment(at[1], at[2]),
        start=lsn(start[1]),
        segment=start[2],
        timeline=int(start[2][:8], 16),
        checksum=checksum,
        system=system[1].decode() if system else None,
        end=max(ends, default=None),
        base=(lsn(base[1]), int(base_timeline[1])) if base and base_timeline else None,
    )


def manifest_checksum(manifest: Path) -> str | None:
    """Return the checksum at the manifest's end, which covers all files' checksums; None without a manifest.

    Raises:
        SourceError: the manifest is there but incomplete: the backup was interrupted, or is still being written.

    """
    if not manifest.is_file():
        return None
    found = _CHECKSUM.search(_edges(manifest)[1])
    if found is None:
        raise SourceError(f"{manifest} is truncated: the backup is incomplete, or still being written")
    return found[1].decode()


def shortfall(backup: Path) -> str | None:
    """Return the first file that is missing in a backup, or shorter than its manifest says; None when all is there.

    Tar files say nothing of what is missing in them before they are read.
    """
    if is_tar_set(backup):
        return None
    with (backup / MANIFEST).open("rb") as manifest:
        for line in manifest:
            found = _FILE.search(line)
            if found is not None:
                name = str(json.loads(found[1]))
                if name != _CHANGED_LATER and _size(backup / name) < int(found[2]):
                    return name
    return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def _label(path: Path) -> str | None:
    if is_tar_set(path):
        content = read_from_tar(path, "backup_label")
        return None if content is None else content.decode("utf-8", "replace")
    return files.read_small(path / "backup_label")


def _edges(path: Path) -> tuple[bytes, bytes]:
    """Return the first and the last bytes of a file; nothing when there is none."""
    if not path.is_file():
        return b"", b""
    with path.open("rb") as file:
        head = file.read(_EDGE_BYTES)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _EDGE_BYTES))
        return head, file.read()


def _moment(text: str, zone: str) -> datetime:
    """Return a label's time. A zone that is not known counts as UTC: within one installation, order is what matters."""
    numeric = _NUMERIC_ZONE.fullmatch(zone)
    if numeric is not None:
        offset = timedelta(hours=int(numeric[2]), minutes=int(numeric[3] or 0)) * (-1 if numeric[1] == "-" else 1)
    else:
        offset = timedelta(hours=_ZONES.get(zone, 0))
    return datetime.fromisoformat(text).replace(tzinfo=timezone(offset)).astimezone(UTC)
