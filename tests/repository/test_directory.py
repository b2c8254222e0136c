from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from reconciler.errors import BusyError, InputError, UnavailableError
from reconciler.repository import DirectoryTree, Limits

if TYPE_CHECKING:
    from pathlib import Path


def test_ids_are_those_that_git_would_give(tmp_path: Path) -> None:
    files = {"a.yaml": "1", "b/c.yaml": "2", "b.d/e": "3", "b/f/g": "", "b-x": "ü"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    tree = DirectoryTree(tmp_path)
    entries = dict(tree.entries())

    def git(*words: str) -> str:
        argv = ["git", "-C", str(tmp_path), *words]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    git("add", "--all")
    root = git("write-tree")
    assert tree.revision == f"dir@sha1:{root}"
    assert tree.object_id(".") == root
    assert tree.object_id("b/f") == git("rev-parse", f"{root}:b/f")
    assert {name: entry.object_id for name, entry in entries.items()} == {
        name: git("rev-parse", f"{root}:{name}") for name in files
    }
    assert list(entries) == sorted(files)
    assert dict(DirectoryTree(tmp_path).entries()) == entries  # .git is hidden


def test_a_changed_file_is_seen_whatever_its_times_say(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    tree = DirectoryTree(tmp_path)
    before = tree.revision
    status = (tmp_path / "a").stat()
    (tmp_path / "a").write_text("two")
    os.utime(tmp_path / "a", ns=(status.st_atime_ns, status.st_mtime_ns))

    assert tree.again().revision != before


def test_bytes_other_than_those_listed_are_never_handed_out(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    (tmp_path / "b").write_text("x" * 100)
    tree = DirectoryTree(tmp_path, limits=Limits(read_bytes=50))
    tree.entries()
    (tmp_path / "a").write_text("two")
    (tmp_path / "b").write_text("y" * 100)

    with pytest.raises(BusyError):
        tree.read("a")
    with pytest.raises(BusyError):
        tree.extract("b", tmp_path / "out")
    (tmp_path / "a").unlink()
    with pytest.raises(BusyError):
        tree.read("a")


def test_a_directory_swapped_for_a_symlink_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "specs/sql").mkdir(parents=True)
    (tmp_path / "specs/sql/a").write_text("in")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/a").write_text("no")
    tree = DirectoryTree(tmp_path / "specs")
    tree.stamps()
    (tmp_path / "specs/sql").rename(tmp_path / "moved")
    (tmp_path / "specs/sql").symlink_to(tmp_path / "outside")

    with pytest.raises(BusyError):
        tree.entries()


@pytest.mark.parametrize("kind", ["symlink", "fifo"])
def test_other_than_regular_files_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    (tmp_path / "sub").mkdir()
    if kind == "symlink":
        (tmp_path / "sub/x").symlink_to("/etc/passwd")
    else:
        os.mkfifo(tmp_path / "sub/x")

    with pytest.raises(InputError, match="sub/x is "):
        DirectoryTree(tmp_path).entries()


def test_hidden_files_and_directories_are_skipped_whatever_they_are(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/a.yaml").write_text("x")
    (tmp_path / ".link").symlink_to("/etc")
    (tmp_path / "a.yaml").write_text("x")

    assert list(DirectoryTree(tmp_path).entries()) == ["a.yaml"]


def test_file_names_that_break_a_terminal_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a\x1b[2Jb.yaml").write_text("x")

    with pytest.raises(InputError, match="control characters") as caught:
        DirectoryTree(tmp_path).entries()
    assert "\x1b" not in str(caught.value)


def test_limits_hold(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("12345")
    (tmp_path / "b").write_text("12345")

    for limits in (Limits(files=1), Limits(file_bytes=4), Limits(total_bytes=9)):
        with pytest.raises(InputError):
            DirectoryTree(tmp_path, limits=limits).entries()
    with pytest.raises(InputError, match="documents and scripts may have 4"):
        DirectoryTree(tmp_path, limits=Limits(read_bytes=4)).read("a")


def test_endless_nesting_is_refused(tmp_path: Path) -> None:
    (tmp_path / "/".join(["d"] * 70)).mkdir(parents=True)

    with pytest.raises(InputError, match="64 deep"):
        DirectoryTree(tmp_path).entries()


def test_a_missing_directory_is_unavailable_not_empty(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="does not exist"):
        DirectoryTree(tmp_path / "absent").entries()


def test_a_directory_is_extracted_with_everything_below_it(tmp_path: Path) -> None:
    (tmp_path / "in/dump/data").mkdir(parents=True)
    (tmp_path / "in/dump/toc").write_text("t")
    (tmp_path / "in/dump/data/1").write_text("x" * 5000)
    tree = DirectoryTree(tmp_path / "in", limits=Limits(read_bytes=1000))

    tree.extract("dump", tmp_path / "out")

    assert (tmp_path / "out/toc").read_text() == "t"
    assert (tmp_path / "out/data/1").read_text() == "x" * 5000
    with pytest.raises(InputError):
        tree.extract("absent", tmp_path / "absent")
    with pytest.raises(FileExistsError):
        tree.extract("dump", tmp_path / "out")


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "", "-x", "absent"])
def test_paths_outside_or_absent_cannot_be_read(tmp_path: Path, path: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "x").write_text("x")

    with pytest.raises(InputError):
        DirectoryTree(tmp_path / "in").read(path)
