"""What ``pg_controldata`` and PG_VERSION say of a data directory without a server.

Called before a server is configured and before a snapshot is sealed. Reads only.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from reconciler import proc
from reconciler.engines import files
from reconciler.engines.postgres import server
from reconciler.engines.postgres.failures import told
from reconciler.errors import CommandError, SourceError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from reconciler.engines.base import InstalledServer

CLEAN = "shut down"
_TIME = "%a %b %d %H:%M:%S %Y"
_SETTINGS = {
    "max_connections setting": "max_connections",
    "max_worker_processes setting": "max_worker_processes",
    "max_prepared_xacts setting": "max_prepared_transactions",
    "max_locks_per_xact setting": "max_locks_per_transaction",
}
_DEFAULTS = {
    "max_connections": 100,
    "max_worker_processes": 8,
    "max_prepared_transactions": 0,
    "max_locks_per_transaction": 64,
}


@dataclass(frozen=True, slots=True)
class Control:
    """The control file: ``settings`` are those of the server that last wrote it, where above the defaults."""

    state: str
    system_identifier: str
    checksums: bool
    wal_segment_bytes: int
    settings: Mapping[str, str]
    wal_level: str
    wal_senders: int
    """``max_wal_senders`` of the server that last wrote it; a standby needs as many."""
    timeline: int
    """That of the latest checkpoint."""
    checkpoint_at: datetime
    redo: int
    """Where recovery begins, in bytes of log."""


def read_control(installed: InstalledServer, data: Path) -> Control:
    """Read the control file.

    Raises:
        SourceError: there is none, or it is damaged.

    """
    env = proc.environment({"LC_ALL": "C", "TZ": "UTC"})
    try:
        output = proc.run([server.program(installed, "pg_controldata"), "-D", data], env=env, timeout=60)
    except CommandError as error:
        raise SourceError(f"the control file of {data} cannot be read: {told(error.stderr)}") from error
    rows = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in output.text.splitlines())}
    settings = {setting: rows.get(label, "0") for label, setting in _SETTINGS.items()}
    return Control(
        state=rows.get("Database cluster state", "unknown"),
        system_identifier=rows.get("Database system identifier", ""),
        checksums=rows.get("Data page checksum version", "0") != "0",
        wal_segment_bytes=int(rows.get("Bytes per WAL segment", str(16 << 20))),
        settings={name: value for name, value in settings.items() if int(value) > _DEFAULTS[name]},
        wal_level=rows.get("wal_level setting", "minimal"),
        wal_senders=int(rows.get("max_wal_senders setting", "10")),
        timeline=int(rows.get("Latest checkpoint's TimeLineID", "1")),
        redo=_position(rows.get("Latest checkpoint's REDO location", "0/0")),
        checkpoint_at=datetime.strptime(rows["Time of latest checkpoint"], _TIME).replace(tzinfo=UTC),
    )


def _position(text: str) -> int:
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) | int(low, 16)


def required_settings(installed: InstalledServer, data: Path) -> dict[str, str]:
    """Return settings that a server on ``data`` needs at least: limits of the server before, where above defaults."""
    found = dict(read_control(installed, data).settings)
    with suppress(FileNotFoundError):
        if any((data / "pg_tblspc").iterdir()):
            found["allow_in_place_tablespaces"] = "on"
    return found


def data_major(data: Path) -> str | None:
    """Return the major version that a data directory belongs to; None when it is none."""
    text = files.read_small(data / "PG_VERSION")
    return text.strip() if text else None
