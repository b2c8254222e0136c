from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
import yaml

from reconciler.engines.base import BackupRepository
from reconciler.engines.memory import MemoryEngine
from reconciler.errors import SourceError
from reconciler.sources import backup, identify, modified_at, paths, repositories
from reconciler.spec.config import Config
from reconciler.state.desired import BackupSource, DumpSource, EmptySource, SourcePath
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


def pattern(root: Path, path: str, wal: str | None = None) -> BackupSource:
    return BackupSource(SourcePath(f"{root}/{path}"), SourcePath(f"{root}/{wal}") if wal else None)


def test_a_pattern_matches_directories_and_no_hidden_ones(tmp_path: Path) -> None:
    for name in ("shop/a", "shop/b", "shop/.rsync", "other/c"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "shop" / "notes.txt").write_text("")
    found = backup(pattern(tmp_path, "shop/*", "wal"), (tmp_path,), repositories={}, chosen="x")
    assert found.candidates == (tmp_path / "shop" / "a", tmp_path / "shop" / "b")
    assert (found.path, found.wal, found.chosen, found.refused) == (None, tmp_path / "wal", "x", ())
    assert backup(pattern(tmp_path, "*/[bc]"), (tmp_path,), repositories={}).candidates == (
        tmp_path / "other" / "c",
        tmp_path / "shop" / "b",
    )


def test_matches_that_lead_out_of_the_roots_are_not_handed_on(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for path in (root / "full", outside):
        path.mkdir(parents=True)
    (root / "link").symlink_to(outside)
    found = backup(pattern(root, "*"), (root,), repositories={})
    assert found.candidates == (root / "full",)
    (refused,) = found.refused
    assert refused == f"{root}/link leads outside of the directories that this host grants to the image"


def test_an_archive_outside_of_the_roots_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    source = BackupSource(SourcePath(f"{tmp_path}/root/*"), SourcePath(f"{tmp_path}/wal"))
    with pytest.raises(SourceError, match="outside of the directories that this host grants"):
        backup(source, (tmp_path / "root",), repositories={})


def test_a_repository_is_one_of_the_hosts_configuration(tmp_path: Path) -> None:
    place = {"tool": "pgbackrest", "stanza": "main", "config": str(tmp_path / "pgbackrest.conf")}
    config = Config.model_validate({"sources": {"repositories": {"shop": place}}})
    source = BackupSource(None, repository="shop")
    found = backup(source, (), repositories=repositories(config))
    assert found.repository == BackupRepository("pgbackrest", "main", tmp_path / "pgbackrest.conf")
    with pytest.raises(SourceError, match="this host has no backup repository shop"):
        backup(source, (), repositories={})


@pytest.mark.parametrize(
    ("grants", "refused"),
    [
        (None, None),
        ([{"images": "shop", "repositories": ["sh*"]}], None),
        ([{"images": "hr", "repositories": ["*"]}], "the backup repository shop is not granted to image shop"),
        ([{"images": "shop"}], "the backup repository shop is not granted to image shop"),
    ],
)
def test_repositories_are_granted_like_roots(grants: list[dict[str, object]] | None, refused: str | None) -> None:
    place = {"tool": "pgbackrest", "stanza": "main", "config": "/etc/pgbackrest.conf"}
    written = {"sources": {"repositories": {"shop": place}}}
    config = Config.model_validate(written if grants is None else {**written, "grants": grants})
    found = Grants(config).refusal("shop", repository="shop")
    assert (None if found is None else found[1].partition(" on this host")[0]) == refused
    unknown = Grants(config).refusal("shop", repository="other")
    assert unknown is not None
    assert unknown[0] == "RepositoryUnknown"
