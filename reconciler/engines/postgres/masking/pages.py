"""Wipes the free space of pages: bytes of rows that were removed and that nobody can reach any more.

Called by :mod:`.remains`, for files of a stopped server. VACUUM takes a dead row off its
page by moving the others together (PageRepairFragmentation and PageIndexMultiDelete in
bufpage.c): what lay there stays between ``pd_lower`` and ``pd_upper`` until new rows
happen to be written over it. Everything outside of that space is left as it is, but the
page's checksum (checksum_impl.h).
"""

from __future__ import annotations

import os
import struct
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.errors import PermanentError
from reconciler.masking.sameness import other_parts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from reconciler.fiemap import Part
    from reconciler.proc import CancelToken

_HEADER = struct.Struct("=12xHHHH")
"""Of PageHeaderData: pd_lower, pd_upper, pd_special, pd_pagesize_version."""
_HEADER_BYTES = 24
_CHECKSUM = struct.Struct("=H")
_CHECKSUM_AT = 8
_ITEM = struct.Struct("=I")
"""Of ItemIdData: 15 bits of offset, 2 of flags, 15 of length."""
_TREE_SPECIAL = struct.Struct("=IIIHH")
"""BTPageOpaqueData: page before, page after, level, flags, cycle."""
_LEAF = 1
_TUPLE_HEADER = 8
"""Of IndexTupleData, before its values."""
_VALUE = struct.Struct("=II")
"""Of a compressed value: its header, and the size that it has uncompressed."""
_LITTLE = sys.byteorder == "little"
_PACKED = 2 if _LITTLE else 1
"""The two bits of a header that say so."""
_LAYOUT = 4
"""Of pages since PostgreSQL 8.3."""
_READ = 1 << 20

_LANES = 16
_LANE = (1 << 32) - 1
_PRIME = 16777619
_OFFSETS = (
    *(0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C),
    *(0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB),
    *(0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4),
    *(0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756),
)
"""Where the 32 sums of a page's checksum begin."""


def _in_lanes(values: tuple[int, ...]) -> int:
    """Return numbers of 32 bits as one, each in 64 bits of it: so all of them are multiplied at once."""
    return sum(value << 64 * lane for lane, value in enumerate(values))


_LOW = _in_lanes((_LANE,) * _LANES)
_SHIFTED = _in_lanes((_LANE >> 17,) * _LANES)
_EVEN, _ODD = _in_lanes(_OFFSETS[::2]), _in_lanes(_OFFSETS[1::2])


@dataclass(frozen=True, slots=True)
class Form:
    """What pages of a cluster are like: bytes of a page, pages of a file, and whether they have checksums."""

    page: int
    segment: int
    checksums: bool


@dataclass(slots=True)
class Seen:
    """What was seen in the pages of a relation: how many had something in their free space, and compressed keys.

    ``read`` and ``same``: bytes that were read, and that were left out.
    """

    wiped: int = 0
    read: int = 0
    same: int = 0
    packed: bool = False
    """A B-tree has compressed keys where it keeps those of removed rows: as limits of its pages (see :func:`wipe`)."""


def wipe(
    file: int,
    path: str,
    first: int,
    form: Form,
    seen: Seen,
    same: Sequence[Part] = (),
    *,
    tree: bool,
    cancel: CancelToken,
) -> None:
    """Wipe the free space of every page of an open file, and note what was ``seen``.

    ``first`` is the number that its first page has in the relation. Pages in ``same`` parts
    are left out: they are as they were when they were found to need nothing. Of a B-tree (``tree``)
    keys stay when their rows are gone: those that separate pages (nbtree/README, "pivot
    tuples"). A search of bytes sees them, save compressed ones.

    Raises:
        PermanentError: a page is damaged.
        CancelledError: ``cancel`` was set.

    """
    zeros, special, size = bytes(form.page), _TREE_SPECIAL.size if tree else 0, os.fstat(file).st_size
    read = seen.read
    for place, data in _blocks(file, other_parts(same, size, form.page)):
        cancel.check()
        seen.read += len(data)
        for start in range(0, len(data) - form.page + 1, form.page):
            lower, upper, end, version = _HEADER.unpack_from(data, start)
            number = first + (place + start) // form.page
            if upper == 0 or (tree and number == 0):
                continue  # never used; or about the tree as a whole
            sane = _HEADER_BYTES <= lower <= upper <= end == form.page - special and version == form.page + _LAYOUT
            if not sane:
                raise PermanentError(f"page {number} of {path} is damaged")
            if data[start + lower : start + upper] != zeros[: upper - lower]:
                page = bytearray(data[start : start + form.page])
                page[lower:upper] = zeros[: upper - lower]
                if form.checksums:
                    _CHECKSUM.pack_into(page, _CHECKSUM_AT, checksum(page, number))
                os.pwrite(file, page, place + start)
                seen.wiped += 1
            if tree and not seen.packed:
                seen.packed = _has_packed_limit(data[start : start + form.page], lower)
    seen.same += size - (seen.read - read)


def _blocks(file: int, parts: Iterable[Part]) -> Iterator[tuple[int, bytes]]:
    for start, end in parts:
        place = start
        while place < end and (data := os.pread(file, min(_READ, end - place), place)):
            yield place, data
            place += len(data)


def _has_packed_limit(page: bytes, lower: int) -> bool:
    """Tell whether a key that separates pages may be compressed: all of an inner page, the first of a leaf.

    Without a look at types: what could be a compressed value is taken for one.
    """
    _previous, following, _level, flags, _cycle = _TREE_SPECIAL.unpack_from(page, len(page) - _TREE_SPECIAL.size)
    items = (lower - _HEADER_BYTES) // _ITEM.size
    if flags & _LEAF:
        items = min(items, 1) if following else 0
    for number in range(items):
        (item,) = _ITEM.unpack_from(page, _HEADER_BYTES + number * _ITEM.size)
        place, size = (item & 0x7FFF, item >> 17) if _LITTLE else (item >> 17, item & 0x7FFF)
        for at in range(place + _TUPLE_HEADER, place + size - _VALUE.size, 4):
            header, raw = _VALUE.unpack_from(page, at)
            if _is_packed(header, raw, place + size - at):
                return True
    return False


def _is_packed(header: int, raw: int, room: int) -> bool:
    """Tell whether a compressed value can begin with two words (varattrib_4b in varatt.h)."""
    kind, size = (header & 3, header >> 2) if _LITTLE else (header >> 30, header & 0x3FFFFFFF)
    return kind == _PACKED and _VALUE.size < size <= room and raw & 0x3FFFFFFF > size - _VALUE.size


def checksum(page: bytes | bytearray, number: int) -> int:
    """Return the checksum of a page (pg_checksum_page): 32 sums over every 32nd word, each by FNV-1a with a twist."""
    even, odd = _EVEN, _ODD
    clean = bytearray(page)
    clean[8:10] = b"\0\0"
    for start in range(0, len(clean), 8 * _LANES):
        row = int.from_bytes(clean[start : start + 8 * _LANES], "little")
        even, odd = _mixed(even ^ (row & _LOW)), _mixed(odd ^ (row >> 32 & _LOW))
    for _ in range(2):
        even, odd = _mixed(even), _mixed(odd)
    folded = even ^ odd
    for lane in (8, 4, 2, 1):
        folded ^= folded >> 64 * lane
    return ((folded & _LANE) ^ number) % 65535 + 1


def _mixed(sums: int) -> int:
    return (sums * _PRIME & _LOW) ^ (sums >> 17 & _SHIFTED)
