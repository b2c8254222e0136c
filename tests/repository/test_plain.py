from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reconciler.errors import InputError, SourceError, UnavailableError
from reconciler.ids import Revision
from reconciler.repository import Limits, Repository, open_repository

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def specs(tmp_path: Path) -> Path:
    root = tmp_path / "specs"
    (root / "sql").mkdir(parents=True)
    (root / "a.yaml").write_text("one")
    (root / "sql/x.sql").write_text("SELECT 1;")
    return root


def opened(specs: Path, *, limits: Limits | None = None) -> Repository:
    return open_repository(mirror=specs.parent / "state/repository.git", path=str(specs), limits=limits)


def test_an_unchanged_directory_gives_the_same_tree_object(specs: Path) -> None:
    repository = opened(specs)
    tree = repository.fetch()

    assert repository.fetch() is tree
    (specs / "a.yaml").touch()
    assert repository.fetch() is tree
    (specs / "a.yaml").write_text("two")
    assert repository.fetch().read("a.yaml") == b"two"


def test_a_broken_edit_leaves_the_last_good_files_readable_also_after_a_restart(specs: Path, tmp_path: Path) -> None:
    repository = opened(specs)
    good = repository.fetch()
    repository.mark_good(good.revision)
    (specs / "a.yaml").write_text("broken")
    (specs / "sql/x.sql").unlink()
    assert repository.fetch().revision != good.revision

    for kept in (repository.last_good(), opened(specs).last_good(), repository.tree(good.revision)):
        assert kept is not None
        assert kept.revision == good.revision
        assert dict(kept.entries()) == {path: kept.entries()[path] for path in ("a.yaml", "sql/x.sql")}
        assert dict(kept.read_many(kept.entries())) == {"a.yaml": b"one", "sql/x.sql": b"SELECT 1;"}
    kept = opened(specs).last_good()
    assert kept is not None
    kept.extract("sql", tmp_path / "out")
    assert (tmp_path / "out/x.sql").read_bytes() == b"SELECT 1;"


def test_a_missing_directory_is_unavailable_and_the_last_good_files_stay(specs: Path) -> None:
    repository = opened(specs)
    repository.mark_good(repository.fetch().revision)
    specs.rename(specs.with_name("away"))

    for missing in (repository, opened(specs)):
        with pytest.raises(UnavailableError, match="does not exist"):
            missing.fetch()
    kept = opened(specs).last_good()
    assert kept is not None
    assert kept.read("a.yaml") == b"one"


def test_large_files_are_used_while_unchanged_and_missed_loudly_after(specs: Path, tmp_path: Path) -> None:
    limits = Limits(read_bytes=100)
    (specs / "dump.sql").write_text("x" * 500)
    repository = opened(specs, limits=limits)
    repository.mark_good(repository.fetch().revision)
    (specs / "a.yaml").write_text("broken")
    repository.fetch()
    specs.rename(specs.with_name("away"))
    gone = opened(specs, limits=limits).last_good()
    assert gone is not None
    assert gone.read("a.yaml") == b"one"
    specs.with_name("away").rename(specs)
    kept = opened(specs, limits=limits).last_good()
    assert kept is not None
    assert kept.entries()["dump.sql"].size == 500
    kept.extract("dump.sql", tmp_path / "out.sql")
    assert (tmp_path / "out.sql").read_text() == "x" * 500

    (specs / "dump.sql").write_text("y" * 500)
    changed = opened(specs, limits=limits).last_good()
    assert changed is not None
    assert changed.read("a.yaml") == b"one"
    with pytest.raises(SourceError, match=r"dump\.sql was changed or removed"):
        changed.extract("dump.sql", tmp_path / "again.sql")


def test_the_store_of_last_good_files_does_not_grow_with_every_edit(specs: Path) -> None:
    repository = opened(specs)
    for number in range(5):
        (specs / "a.yaml").write_text(f"edit {number}")
        repository.mark_good(repository.fetch().revision)

    packs = list((specs.parent / "state").rglob("*.pack"))
    kept = opened(specs).last_good()
    assert len(packs) == 2
    assert kept is not None
    assert dict(kept.read_many(kept.entries())) == {"a.yaml": b"edit 4", "sql/x.sql": b"SELECT 1;"}


def test_only_what_is_at_hand_can_be_named_or_marked(specs: Path) -> None:
    repository = opened(specs)
    tree = repository.fetch()

    assert repository.tree(tree.revision) is tree
    assert opened(specs).tree(tree.revision).read("a.yaml") == b"one"
    with pytest.raises(InputError):
        repository.tree("main")
    with pytest.raises(InputError):
        repository.mark_good(Revision(f"dir@sha1:{'0' * 40}"))


def test_a_directory_has_no_history(specs: Path) -> None:
    repository = opened(specs)

    assert repository.history(repository.fetch().entries()) == {}
    assert repository.last_good() is None
