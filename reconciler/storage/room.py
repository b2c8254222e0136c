"""Room on a pool: what is free, and what must stay free.

Used by the directory drivers and by the loop-backed file. Pure except for asking the
file system.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

_FACTORS = {"": 1, " bytes": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_RESERVE = re.compile(r"(\d+(?:\.\d+)?)(%|Ki|Mi|Gi|Ti| bytes|)")
_WHOLE = 100


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes of a file system; ``note`` says what limits it, when that is not plain."""

    total: int
    free: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Reserve:
    """What must stay free: a share of the pool, or bytes."""

    percent: float = 0.0
    size: int = 0

    @classmethod
    def parse(cls, value: str | int) -> Reserve:
        """Read ``"10%"``, ``"20Gi"``, a number of bytes, or the same as text: ``"4096 bytes"``.

        Raises:
            ConfigError: it is none of them.

        """
        match = _RESERVE.fullmatch(str(value).strip())
        if match is None:
            raise ConfigError(f"reserve: {value!r} is neither a percentage like 10% nor a size like 20Gi")
        number, unit = float(match[1]), match[2]
        if unit == "%":
            if number >= _WHOLE:
                raise ConfigError(f"reserve: {value!r} leaves nothing of the pool")
            return cls(percent=number)
        return cls(size=int(number * _FACTORS[unit]))

    def of(self, total: int) -> int:
        """Return the reserve of a pool of ``total`` bytes."""
        return self.size + int(total * self.percent / _WHOLE)


def filesystem_room(path: Path) -> Room:
    """Return the room of the file system that ``path`` lies, or would lie, on, for an ordinary account.

    Raises:
        OSError: it cannot be asked.

    """
    status = os.statvfs(existing(path))
    return Room(status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize)


def existing(path: Path) -> Path:
    """Return ``path`` or its nearest parent that exists."""
    return next(candidate for candidate in (path.absolute(), *path.absolute().parents) if candidate.is_dir())
