"""A scanner of its own: which markers are left in the files below a directory. Knows nothing of the product's scan."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_UTF8 = re.compile(rb"zq7([a-z]+)[0-9]", re.IGNORECASE)
_UTF16 = re.compile(rb"z\0q\0007\0((?:[a-z]\0)+)", re.IGNORECASE)


def markers(directory: Path) -> Counter[str]:
    """Return how often each place's marker occurs in the bytes of all files below ``directory``."""
    found: Counter[str] = Counter()
    for path in directory.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            found.update(match[1].decode().lower() for match in _UTF8.finditer(data))
            found.update(match[1].replace(b"\0", b"").decode().lower() for match in _UTF16.finditer(data))
    return found
