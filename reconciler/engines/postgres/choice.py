"""What a build of backups starts from, as planning chose it: one value for directories and for tools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.engines.postgres.label import Backup
    from reconciler.engines.postgres.walarchive import Reach

WAL = "/wal:"
"""Between the identity of a backup and that of the WAL that is replayed."""


@dataclass(frozen=True, slots=True)
class Stock:
    """A backup in a tool's repository: what the tool calls it, which of its repositories has it, and of which server.

    ``size_bytes`` is that of the database; ``major`` the version that wrote it.
    """

    label: str
    repository: int
    size_bytes: int
    major: str


@dataclass(frozen=True, slots=True)
class Choice:
    """What a build starts from: directories, oldest first, of which all but the first are incremental; or a stock."""

    places: tuple[Path, ...]
    backup: Backup | None
    """The newest of them, as far as it says something of itself."""
    reach: Reach | None
    """The archived WAL that is replayed."""
    notes: tuple[str, ...]
    """What was passed over, and why."""
    stock: Stock | None = None

    @property
    def path(self) -> Path:
        """The backup; of a stock, only its name."""
        return self.places[-1]
