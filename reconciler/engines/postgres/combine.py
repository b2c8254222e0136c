"""Copy backups into a build, check them, and combine a chain of incremental ones.

Called by :mod:`.physical`. The parts of a chain are copied into the build first, as any backup
is: a file of another account's, or a link that appears meanwhile, is not for a program that
follows links. Where the pool can, copies share their blocks, so that this takes no room.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from reconciler import proc
from reconciler.engines.postgres import server
from reconciler.engines.postgres.datafiles import copy_data_directory, extract_tar_set, is_tar_set, share_blocks
from reconciler.engines.postgres.failures import told
from reconciler.errors import CommandError, SourceError
from reconciler.handover import give_tree, take_tree

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from reconciler.engines.base import BuildWork, InstalledServer

_PARTS = "chain"
_REFUSED_LINES = 3


def copy_backup(work: BuildWork, source: Path, target: Path) -> None:
    """Copy a backup, a directory or tar files, to what will be a data directory."""
    work.progress(f"copying {source}")
    if is_tar_set(source):
        extract_tar_set(source, target, work.cancel)
    else:
        copy_data_directory(source, target, skip=lambda name: name == "postmaster.pid", cancel=work.cancel)


def combine(work: BuildWork, installed: InstalledServer, places: Sequence[Path], data: Path) -> None:
    """Combine a chain, oldest first, to the whole backup that its last part stands for.

    Raises:
        SourceError: a part is damaged, or the parts do not fit.
        NotInstalledError: this installation cannot combine.

    """
    program = server.program(installed, "pg_combinebackup")
    parts = work.directory / _PARTS
    parts.mkdir(mode=0o700)
    copies = [parts / str(number) for number in range(len(places))]
    for place, copy in zip(places, copies, strict=True):
        copy_backup(work, place, copy)
    give_tree(work.directory, work.account)
    for place, copy in zip(places, copies, strict=True):
        verify(work, installed, copy, place, wal=False)
    work.progress(f"combining {len(places)} backups")
    how = "--clone" if _can_share(parts) else "--copy"
    try:
        proc.run(
            [program, how, "--no-sync", "-o", data, *copies],
            account=work.account,
            cancel=work.cancel,
            cwd=work.directory,
            env=proc.environment({"LC_ALL": "C"}),
        )
    except CommandError as error:
        told = _told(error, "pg_combinebackup")
        raise SourceError(f"{places[-1]} cannot be combined with what it builds on: {told}") from error
    take_tree(work.directory)
    shutil.rmtree(parts)


def verify(work: BuildWork, installed: InstalledServer, copy: Path, source: Path, *, wal: bool = True) -> None:
    """Check a copy of ``source`` against its manifest, with ``wal`` also the WAL that makes it consistent.

    Raises:
        SourceError: it is damaged or incomplete.

    """
    work.progress(f"verifying {source} against its manifest")
    words = [] if wal else ["--no-parse-wal"]  # else recovery finds out
    try:
        proc.run(
            [server.program(installed, "pg_verifybackup"), *words, copy],
            account=work.account,
            cancel=work.cancel,
            env=proc.environment({"LC_ALL": "C"}),
        )
    except CommandError as error:
        raise SourceError(
            f"the backup {source} does not match its manifest: {_told(error, 'pg_verifybackup')}"
        ) from error


def _told(error: CommandError, program: str) -> str:
    said = told(error.stderr, len(error.stderr))
    lines = [line.removeprefix(f"{program}: ") for line in said.splitlines()]
    return "; ".join(lines[:_REFUSED_LINES])


def _can_share(directory: Path) -> bool:
    """Whether files in the build can share blocks."""
    one, other = directory / "one", directory / "other"
    one.write_bytes(b"x" * 4096)
    try:
        with one.open("rb", buffering=0) as read, other.open("xb", buffering=0) as write:
            return share_blocks(read, write)
    finally:
        one.unlink()
        other.unlink(missing_ok=True)
