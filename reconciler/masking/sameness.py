"""Which parts of a file of a build are, byte for byte, what a sealed volume has in its file of that name.

Called by :mod:`.reader`, and by engines that need not look again at what was looked at
when the sealed volume was built. It reads no content. Two reasons are good enough:

- **The whole file is the other's copy.** Same inode number, size and time of change, and
  that time lies before the sealed volume was begun (:func:`is_the_same`). Whoever wrote to one
  of them since has given it a later time; copies on write keep inode numbers and times.
- **The part is one on disk** (:mod:`reconciler.fiemap`). This also tells the pages of a
  large file that were not written to from those that were.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from reconciler import fiemap

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reconciler.fiemap import Part
    from reconciler.masking.evidence import Base

_SECOND_NS = 1_000_000_000
RACY_NS = 100_000_000
"""A file written so shortly before it was read may be written again with the same time."""


def stamp(status: os.stat_result) -> tuple[int, int]:
    """Return time of change and inode, by which an unchanged file is recognised."""
    return status.st_mtime_ns, status.st_ino


def is_the_same(path: str, status: os.stat_result, base: Base) -> bool:
    """Tell whether a file (its path in the volume) shares its blocks with that of the base, both unwritten since."""
    begun = None if base.begun_at is None else int(base.begun_at.timestamp()) * _SECOND_NS
    if begun is None or path not in base.digests or status.st_mtime_ns >= begun - RACY_NS:
        return False
    try:
        there = (base.directory / path).stat(follow_symlinks=False)
    except OSError:
        return False
    return (there.st_size, stamp(there)) == (status.st_size, stamp(status))


def same_parts(path: str, descriptor: int, base: Base) -> list[Part]:
    """Return the parts of an open file that are as in the base, in their order; nobody may be writing to it."""
    status = os.fstat(descriptor)
    if path not in base.digests:
        return []
    if is_the_same(path, status, base):
        return [(0, status.st_size)]
    try:
        there = os.open(base.directory / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return []
    try:
        size = min(status.st_size, os.fstat(there).st_size)
        return [(start, min(end, size)) for start, end in fiemap.common(descriptor, there) if start < size]
    finally:
        os.close(there)


def other_parts(same: Sequence[Part], size: int, page: int) -> Iterator[Part]:
    """Yield what of a file's ``size`` bytes is not in ``same`` parts, in whole pages: one in half is not the same."""
    place = 0
    for start, end in same:
        first, last = -(-start // page) * page, end // page * page
        if first >= last:
            continue
        if place < first:
            yield place, first
        place = max(place, last)
    if place < size:
        yield place, size
