"""Which backup is taken: of several, the newest that is complete, with the chain that it builds on.

Called by :mod:`.identify` when planning asks, and by :mod:`.physical` when it is built.
A build takes the backup and the WAL that planning chose, whatever came after it. Reads only
labels, manifests and sizes.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from reconciler.engines.postgres import repositories
from reconciler.engines.postgres.choice import WAL, Choice
from reconciler.engines.postgres.datafiles import is_tar_set
from reconciler.engines.postgres.label import MANIFEST, Backup, is_backup, lsn_text, read_backup, shortfall
from reconciler.engines.postgres.walarchive import directory_archive
from reconciler.errors import BusyError, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from reconciler.engines.base import LocalSource
    from reconciler.engines.postgres.walarchive import Reach

_TOLD = 8


def choose(source: LocalSource) -> Choice:
    """Return what a build of the source starts from.

    Raises:
        SourceError: there is no complete backup, or the WAL that makes it consistent is missing.
        BusyError: what planning chose is not there any more.

    """
    if source.repository is not None:
        return repositories.choose(source.repository, source.chosen)
    wanted, _, last = source.chosen.partition(WAL)
    if source.path is not None and (is_backup(source.path) or not source.candidates):
        backup = read_backup(source.path) if is_backup(source.path) else None
        return Choice((source.path,), backup, _reach(source, backup, last), ())
    chain, notes = _pick(source, wanted)
    reach = _reach(source, chain[-1], last)
    told = (*notes, *(() if reach is None or reach.gap is None else (reach.gap,)))
    more = (f"and {len(told) - _TOLD} more",) if len(told) > _TOLD else ()
    return Choice(tuple(one.path for one in chain), chain[-1], reach, told[:_TOLD] + more)


def short_of(backup: Path) -> str | None:
    """Say which file of a backup is missing or too short: it is being copied, or was interrupted."""
    name = shortfall(backup)
    return None if name is None else f"{backup} is not complete: {name} is missing or shorter than its manifest says"


def chain_identity(chain: tuple[Backup, ...]) -> str:
    """Return what identifies a backup with all that it builds on."""
    newest = chain[-1].checksum or ""
    if len(chain) == 1:
        return f"manifest:{newest}" + (f":{_bytes(chain[0].path)}" if is_tar_set(chain[0].path) else "")
    whole = hashlib.sha256(" ".join(f"{one.checksum} {_bytes(one.path)}" for one in chain).encode())
    return f"chain:{newest[:32]}:{whole.hexdigest()[:16]}"


def _bytes(path: Path) -> int:
    """Return what tar files add up to: truncated ones have the manifest of whole ones."""
    return sum(file.stat().st_size for file in path.iterdir() if file.is_file()) if is_tar_set(path) else 0


def _pick(source: LocalSource, wanted: str) -> tuple[tuple[Backup, ...], tuple[str, ...]]:
    complete, passed = _survey(source.candidates)
    for backup in sorted(complete, key=lambda one: one.order, reverse=True):
        found = _chain(backup, complete)
        if isinstance(found, str):
            passed.append((backup, found))
        elif wanted and chain_identity(found) != wanted:
            continue
        elif (short := next(filter(None, (short_of(one.path) for one in found)), None)) is not None:
            passed.append((backup, short))
        else:
            newer = [why for other, why in passed if other is None or other.order > backup.order]
            return found, (*source.refused, *newer)
    if wanted:
        raise BusyError("the backup that was chosen is not there any more", reason="SourceChanged")
    raise _none(source, [why for _, why in passed])


def _none(source: LocalSource, reasons: list[str]) -> SourceError:
    told = [*source.refused, *reasons]
    if not told:
        return SourceError(
            f"{source.name} is no backup of PostgreSQL, and there is none in it"
            if source.path is not None
            else f"there is no backup of PostgreSQL at {source.name}",
            hint="name the directory that pg_basebackup wrote, or a pattern of such directories",
        )
    more = f"; and {len(told) - _TOLD} more" if len(told) > _TOLD else ""
    return SourceError(f"no backup at {source.name} is complete: {'; '.join(told[:_TOLD])}{more}")


def _survey(candidates: Iterable[Path]) -> tuple[list[Backup], list[tuple[Backup | None, str]]]:
    """Return the backups whose manifest is complete, and the others, each with what is wrong with it."""
    complete: list[Backup] = []
    passed: list[tuple[Backup | None, str]] = []
    for path in filter(is_backup, candidates):
        try:
            backup = read_backup(path)
        except SourceError as error:
            passed.append((None, error.message))
            continue
        if not (path / MANIFEST).is_file():
            passed.append((backup, f"{path} has no {MANIFEST}: it is being written, or was interrupted"))
        elif backup is None:
            passed.append((None, f"{path} has no backup_label"))
        else:
            complete.append(backup)
    return complete, passed


def _chain(backup: Backup, known: list[Backup]) -> tuple[Backup, ...] | str:
    """Return a backup with what it builds on, oldest first; or what is missing."""
    chain = [backup]
    while (base := chain[0].base) is not None:
        before = list(_predecessors(chain[0], known))
        if not before:
            return (
                f"{backup.path} is incremental, and the backup that starts at {lsn_text(base[0])}"
                f" on timeline {base[1]}, on which {chain[0].path.name} builds, is missing"
            )
        chain.insert(0, min(before, key=lambda one: (one.base is not None, str(one.path))))
    return tuple(chain)


def _predecessors(backup: Backup, known: list[Backup]) -> Iterator[Backup]:
    """Yield what an incremental backup can be combined with: several where one was combined before, or copied."""
    for other in known:
        same = other.system == backup.system and (other.start, other.timeline) == backup.base
        if same and other.start < backup.start:
            yield other


def _reach(source: LocalSource, backup: Backup | None, last: str) -> Reach | None:
    if source.wal is None:
        return None
    if backup is None:
        raise SourceError(
            f"{source.name} has no backup_label, so that no WAL can be replayed on it",
            hint="take it with pg_basebackup",
        )
    return directory_archive(source.wal, backup).reach(last)
