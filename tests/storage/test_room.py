from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reconciler.errors import ConfigError
from reconciler.storage.room import Reserve, existing, filesystem_room

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("10%", 100),
        ("0%", 0),
        ("2.5%", 25),
        (0, 0),
        (64, 64),
        ("64", 64),
        ("64 bytes", 64),
        ("1Ki", 1024),
        ("2Gi", 2 << 30),
        (" 5% ", 50),
    ],
)
def test_a_reserve_is_a_share_or_a_size(value: str | int, expected: int) -> None:
    assert Reserve.parse(value).of(1000) == expected


@pytest.mark.parametrize("value", ["", "x", "-1", "10 %", "1KB", "100%", "1e3", -5])
def test_what_is_no_reserve_is_refused(value: str | int) -> None:
    with pytest.raises(ConfigError, match="reserve"):
        Reserve.parse(value)


def test_room_of_a_path_that_is_not_there_is_that_of_its_parent(tmp_path: Path) -> None:
    assert existing(tmp_path / "a" / "b") == tmp_path
    assert filesystem_room(tmp_path / "a" / "b").total == filesystem_room(tmp_path).total
