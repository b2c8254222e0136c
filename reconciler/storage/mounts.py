"""What is mounted where, as /proc/self/mountinfo has it (proc(5)).

Used by the drivers whose pools are file systems of their own. Mounts nothing.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One mounted file system; ``source`` is its device or dataset."""

    id: int
    point: Path
    kind: str
    source: str


def mounts() -> tuple[Mount, ...]:
    """Return what is mounted, in the order in which it was."""
    found = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        before, _, after = os.fsdecode(line).partition(" - ")
        own, rest = before.split(" "), after.split(" ")
        found.append(Mount(int(own[0]), Path(_plain(own[4])), rest[0], _plain(rest[1])))
    return tuple(found)


def mounted_at(path: Path) -> Mount | None:
    """Return what is mounted at ``path``, on top of all else."""
    return next((mount for mount in reversed(mounts()) if mount.point == path), None)


def _plain(field: str) -> str:
    r"""Return a field of mountinfo with its octal escapes (``\040`` for a space) resolved."""
    return os.fsdecode(_ESCAPED.sub(lambda match: chr(int(match[1], 8)), field).encode("latin-1", "surrogateescape"))
