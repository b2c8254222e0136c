"""Server settings: SQLite has none."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def validate_parameters(parameters: Mapping[str, str]) -> list[str]:
    """Return what is wrong with the settings of a document, a message each."""
    return [
        f"SQLite has no server settings, so {name} cannot be set; what a database keeps can be set by a script (PRAGMA)"
        for name in parameters
    ]
