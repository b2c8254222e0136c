"""What wakes the loop: wishes and edits, never its own work."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.triggers import is_of_people


@pytest.mark.parametrize(
    ("path", "matters"),
    [
        ("/srv/specs/shop.yaml", True),
        ("/srv/specs/state/requests/1.json", True),
        ("/srv/specs/state/status.sqlite3-wal", False),
        ("/srv/specs/pool/volumes/dev.1/data/pg_wal/1", False),
    ],
)
def test_state_and_pools_inside_the_watched_directory_wake_nobody(path: str, *, matters: bool) -> None:
    own = (Path("/srv/specs/state"), Path("/srv/specs/pool"))
    assert is_of_people(Path(path), requests=Path("/srv/specs/state/requests"), own=own) is matters
