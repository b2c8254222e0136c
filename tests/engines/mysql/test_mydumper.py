from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reconciler.engines.mysql.mydumper import parts
from reconciler.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

_FILES = """
metadata shop-schema-create.sql shop-schema-post.sql shop.item-schema.sql shop.item.00000.sql.gz shop.item.00001.sql
shop.item-schema-triggers.sql shop.names-schema.sql shop.names-schema-view.sql my-db.x.sql shop.s-schema-sequence.sql
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in _FILES.split():
        (tmp_path / name).touch()
    (tmp_path / "metadata").write_text("Started dump at: x\n# Finished dump at: 2026-11-20 03:00:00\n")
    return tmp_path


def test_files_are_run_in_an_order_in_which_each_finds_what_it_needs(directory: Path) -> None:
    assert [(part.database, part.path.name) for part in parts(directory)] == [
        ("shop", "shop-schema-create.sql"),
        ("shop", "shop.item-schema.sql"),
        ("shop", "shop.names-schema.sql"),
        ("shop", "shop.s-schema-sequence.sql"),
        ("my-db", "my-db.x.sql"),
        ("shop", "shop.item.00000.sql.gz"),
        ("shop", "shop.item.00001.sql"),
        ("shop", "shop-schema-post.sql"),
        ("shop", "shop.names-schema-view.sql"),
        ("shop", "shop.item-schema-triggers.sql"),
    ]


def test_a_dump_that_is_not_finished_is_refused(directory: Path) -> None:
    (directory / "metadata").write_text("Started dump at: x\n")
    with pytest.raises(SourceError, match="is not complete"):
        parts(directory)


def test_rows_that_only_a_server_could_read_are_refused(directory: Path) -> None:
    (directory / "shop.item.00002.dat.zst").touch()
    with pytest.raises(SourceError, match="LOAD DATA"):
        parts(directory)
