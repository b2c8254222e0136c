from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from reconciler.engines.base import LocalSource
from reconciler.engines.mysql.mydumper import parts
from reconciler.errors import SourceError
from tests.engines.mysql.live import Production
from tests.engines.mysql.production import HELD, answers, script

if TYPE_CHECKING:
    from pathlib import Path

    from tests.engines.mysql.conftest import MariaDbHarness

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


@pytest.mark.long
def test_what_the_tool_itself_wrote_of_a_rich_production_becomes_a_clone_with_all_of_it(
    mariadb: MariaDbHarness,
) -> None:
    if shutil.which("mydumper") is None:
        pytest.skip("needs mydumper on this host")
    production = Production(mariadb.volume(), mariadb.account(), setup=())
    try:
        production.load(script())
        path = production.dump_directory("dumped", "--compress", "--rows=1")
    finally:
        production.stop(kill=True)
    work = mariadb.build_work(source=LocalSource("dump", path=path))
    snapshot = mariadb.build(work)
    assert snapshot.databases == ("depot", "shop")
    assert answers(mariadb, work.directory, snapshot) == HELD
