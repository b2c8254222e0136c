"""Writing git's pack format (gitformat-pack(5)): many objects into the mirror with one process."""

from __future__ import annotations

import hashlib
import zlib
from typing import IO, TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

_TYPES = {"tree": 2, "blob": 3}
_HEADER_BYTES = 12
_QUICK = 1
_CHUNK = 1 << 20


def write_pack(file: IO[bytes], objects: Iterable[tuple[Literal["blob", "tree"], bytes]]) -> None:
    """Write ``objects`` into an empty, seekable file as a pack without deltas."""
    file.write(b"\0" * _HEADER_BYTES)
    count = 0
    for kind, data in objects:
        file.write(_object_header(_TYPES[kind], len(data)) + zlib.compress(data, _QUICK))
        count += 1
    file.seek(0)
    file.write(b"PACK" + (2).to_bytes(4) + count.to_bytes(4))
    file.seek(0)
    digest = hashlib.sha1(usedforsecurity=False)
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    file.write(digest.digest())


def _object_header(number: int, size: int) -> bytes:
    """Return type and size: 4 bits of the size in the first byte, then 7 in each, lowest first."""
    parts = [number << 4 | size & 0x0F]
    size >>= 4
    while size:
        parts[-1] |= 0x80
        parts.append(size & 0x7F)
        size >>= 7
    return bytes(parts)
