from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
import yaml

from reconciler.engines.memory import MemoryEngine
from reconciler.errors import SourceError
from reconciler.sources import identify, modified_at, paths
from reconciler.spec.config import Config
from reconciler.state.desired import DumpSource, EmptySource, SourcePath
from reconciler.state.grants import Grants

if TYPE_CHECKING:
    from pathlib import Path


def test_the_identity_of_files_of_a_commit_is_their_objects() -> None:
    source = DumpSource(SourcePath("dumps/shop.sql", "a" * 40), SourcePath("dumps/roles.sql", "b" * 40))
    assert identify(MemoryEngine(), source, ()).input_id == f"git:{'a' * 40}+git:{'b' * 40}"
    assert [path.path for path in paths(source)] == ["dumps/shop.sql", "dumps/roles.sql"]


@pytest.mark.parametrize("object_id", [None, "a" * 40])
def test_a_source_tells_what_room_a_build_of_it_takes_wherever_it_lies(tmp_path: Path, object_id: str | None) -> None:
    engine, dump = MemoryEngine(), tmp_path / "shop.sql"
    engine.put_source(dump, ("shop",))
    source = DumpSource(SourcePath(str(dump), object_id, 0 if object_id is None else len("shop")))
    assert identify(engine, source, (tmp_path,)).size_bytes == len("shop")


def test_a_link_that_leads_out_of_the_roots_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.sql").write_text("SELECT 1;")
    (root / "link.sql").symlink_to(tmp_path / "secret.sql")
    with pytest.raises(SourceError, match="outside of the directories that this host grants"):
        identify(MemoryEngine(), DumpSource(SourcePath(str(root / "link.sql"))), (root,))


@pytest.mark.parametrize(
    ("grants", "expected"),
    [
        ("[]", []),
        ("[{images: shop, roots: [/backups/shop]}, {images: hr, roots: [/backups/hr]}]", ["/backups/shop"]),
        ("[{images: '*', roots: [/]}]", ["/backups"]),
        ("[{images: shop, roots: [/elsewhere]}]", []),
    ],
)
def test_what_an_image_may_read_is_granted_to_it_and_a_root_of_sources(grants: str, expected: list[str]) -> None:
    config = Config.model_validate({"sources": {"roots": ["/backups"]}, "grants": yaml.safe_load(grants)})
    assert [str(root) for root in Grants(config).roots("shop")] == expected


def test_the_data_of_a_dump_is_as_old_as_its_file(tmp_path: Path) -> None:
    dump = tmp_path / "shop.sql"
    dump.write_text("SELECT 1;")
    written = datetime(2026, 11, 20, 2, 0, tzinfo=UTC)
    os.utime(dump, (written.timestamp(), written.timestamp()))
    assert modified_at(DumpSource(SourcePath(str(dump)))) == written
    assert modified_at(EmptySource()) is None
