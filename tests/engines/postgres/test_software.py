"""Programs are reachable for every account."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reconciler import proc
from reconciler.engines.base import InstalledServer
from reconciler.engines.postgres import software
from reconciler.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture
def hidden(open_path: Path) -> InstalledServer:
    """An installation as of a wheel under a umask of 077; its program needs a library beside the package."""
    with umask(0o077):
        package = open_path / "site-packages" / "wheel"
        programs = package / "install" / "bin"
        programs.mkdir(parents=True)
        (programs / "postgres").write_text('#!/bin/sh\ncat "$(dirname "$0")/../../../wheel.libs/words"\n')
        (programs / "postgres").chmod(0o700)
        (package / "install" / "share").mkdir()
        (package / "install" / "share" / "sample").write_text("sample")
        package.with_name("wheel.libs").mkdir()
        (package.with_name("wheel.libs") / "words").write_text("copied\n")
    return InstalledServer("18.0", "18", "embedded", programs)


def test_a_server_below_a_private_directory_is_out_of_reach(hidden: InstalledServer) -> None:
    assert not software.world_reachable(hidden.directory / "postgres")
    assert software.world_reachable(Path("/bin/sh"))


def test_a_copy_is_made_once_whole_and_with_the_libraries_of_the_wheel(
    hidden: InstalledServer, open_path: Path
) -> None:
    root = open_path / "software"
    copy = software.shared_copy(hidden, root)
    assert copy == software.shared_copy(hidden, root)
    assert proc.run([copy / "postgres"]).text == "copied\n"
    assert (copy.parent / "share" / "sample").read_text() == "sample"
    assert len(list(root.iterdir())) == 1


def test_every_account_can_use_the_copy_whatever_the_umask(hidden: InstalledServer, open_path: Path) -> None:
    root = open_path / "new" / "software"
    with umask(0o077):
        software.shared_copy(hidden, root)
    for path in (root.parent, root, *root.rglob("*")):
        wanted = 0o755 if path.is_dir() or path.name == "postgres" else 0o644
        assert (path.name, stat.S_IMODE(path.stat().st_mode)) == (path.name, wanted)


def test_a_copy_that_is_out_of_reach_as_well_is_refused_with_a_way_out(
    hidden: InstalledServer, open_path: Path
) -> None:
    private = open_path / "private"
    private.mkdir(mode=0o700)
    with pytest.raises(UnsupportedError, match="cannot pass through"):
        software.shared_copy(hidden, private / "software")


def test_a_copy_that_cannot_be_made_is_refused_with_the_reason(hidden: InstalledServer, open_path: Path) -> None:
    (open_path / "file").write_text("in the way")
    with pytest.raises(UnsupportedError, match=r"cannot be copied to .*/file/software: "):
        software.shared_copy(hidden, open_path / "file" / "software")
