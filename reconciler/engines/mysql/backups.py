"""Which physical backup is taken: of several, the newest that is complete, with what it builds on.

Called by :mod:`.identify` when planning asks, and by :mod:`.physical` when it is built, which
takes what planning chose. Reads only what the tools note beside their files: the checkpoints
that an incremental backup goes from and to, and which server it was (mariadb-backup's and
XtraBackup's manuals, "Files created by").
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.engines import files
from reconciler.errors import BusyError, SourceError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from reconciler.engines.base import LocalSource
    from reconciler.engines.mysql.product import Product

_CHECKPOINTS = ("xtrabackup_checkpoints", "mariadb_backup_checkpoints")
_INFO = ("xtrabackup_info", "mariadb_backup_info")
_COMPRESSED = ("*.qp", "*.zst", "*.lz4")
_VERSION = re.compile(r"(\d+)\.(\d+)\.\d+")
_SETTING = re.compile(r"^(\w+)\s*=\s*(.*?)\s*$", re.MULTILINE)
_TOLD = 8


@dataclass(frozen=True, slots=True)
class Backup:
    """One directory that the tool wrote; log positions (LSN) say what it starts from and holds."""

    path: Path
    incremental: bool
    begin: int
    checkpoint: int
    end: int
    version: str
    major: str
    mark: str
    """Equal for equal backups: of what its tool noted."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A full backup and the incremental ones to apply, oldest first."""

    parts: tuple[Backup, ...]
    notes: tuple[str, ...] = ()

    @property
    def major(self) -> str:
        """The version that must serve it."""
        return self.parts[0].major

    @property
    def identity(self) -> str:
        """What identifies all of it."""
        return "chain:" + hashlib.sha256(" ".join(part.mark for part in self.parts).encode()).hexdigest()[:40]


def is_backup(path: Path) -> bool:
    """Tell whether a directory is what the tool wrote, complete or not."""
    return any((path / name).is_file() for name in _CHECKPOINTS) or (path / "backup-my.cnf").is_file()


def choose(source: LocalSource, product: Product) -> Chain:
    """Return what a build of the source starts from.

    Raises:
        SourceError: there is no complete backup; the message says what is wrong with each.
        BusyError: what planning chose is not there any more.
        UnsupportedError: it asks for what this version cannot do.

    """
    if source.repository is not None:
        raise UnsupportedError(
            "repositories of tools are not supported for this engine in this version",
            reason="SourceUnsupported",
            hint="name directories of full and incremental backups",
        )
    one = source.path is not None and is_backup(source.path)
    places = (source.path,) if one and source.path is not None else source.candidates
    known, passed = _survey(places, product)
    for last in sorted(known, key=lambda backup: (backup.end, backup.checkpoint), reverse=True):
        found = _chain(last, known)
        if isinstance(found, str):
            passed.append(found)
            continue
        chain = Chain(found, tuple((*source.refused, *passed)[:_TOLD]))
        if not source.chosen or chain.identity == source.chosen.partition("+")[0]:
            return chain
    if source.chosen:
        raise BusyError("the backup that was chosen is not there any more", reason="SourceChanged")
    told = (*source.refused, *passed)
    if not told:
        raise SourceError(
            f"{source.name or source.path} is no backup of {product.title}, and there is none in it",
            hint=f"name the directory that {product.backups[0]} wrote, or one with such directories",
        )
    raise SourceError(f"no backup at {source.name or source.path} is complete: {'; '.join(told[:_TOLD])}")


def read(path: Path, product: Product) -> Backup:
    """Return what is noted of a backup.

    Raises:
        SourceError: it is not complete, of another product, or cannot be used as it is.

    """
    checkpoints, info = _noted(path, _CHECKPOINTS), _noted(path, _INFO)
    if not checkpoints or not info:
        raise SourceError(
            f"{path} is not complete: it has no {_CHECKPOINTS[0]}: it is being written, or was interrupted"
        )
    facts = dict(_SETTING.findall(checkpoints)) | dict(_SETTING.findall(info))
    server = facts.get("server_version", "")
    version = _VERSION.search(server)
    if version is None or ("MariaDB" in server) != (product.name == "mariadb"):
        raise SourceError(f"{path} is a backup of {server or 'an unknown server'}, not of {product.title}")
    if facts.get("partial") == "Y":
        raise SourceError(f"{path} is a partial backup: it has not all tables", hint="take a full one")
    if any(next(path.rglob(pattern), None) is not None for pattern in _COMPRESSED):
        raise SourceError(f"{path} is compressed by its tool", hint=f"{product.backups[0]} --decompress")
    return Backup(
        path=path,
        incremental=facts.get("backup_type") == "incremental",
        begin=int(facts.get("from_lsn", "0")),
        checkpoint=int(facts.get("to_lsn", "0")),
        end=int(facts.get("last_lsn", "0")),
        version=version[0],
        major=f"{version[1]}.{version[2]}",
        mark=hashlib.sha256(f"{path.name}\n{checkpoints}\n{info}".encode()).hexdigest(),
    )


def _noted(path: Path, names: Iterable[str]) -> str:
    return next((text for name in names if (text := files.read_small(path / name)) is not None), "")


def _survey(places: Iterable[Path], product: Product) -> tuple[list[Backup], list[str]]:
    known: list[Backup] = []
    passed: list[str] = []
    for path in filter(is_backup, places):
        try:
            known.append(read(path, product))
        except SourceError as error:
            passed.append(str(error))
    return known, passed


def _chain(last: Backup, known: list[Backup]) -> tuple[Backup, ...] | str:
    """Return a backup with what it builds on, oldest first; or what is wrong."""
    chain = [last]
    while chain[0].incremental:
        first = chain[0]
        before = [one for one in known if _precedes(one, first)]
        if not before:
            return (
                f"{last.path} is incremental, and the backup up to {first.begin} that {first.path.name} builds on is"
                " missing"
            )
        chain.insert(0, min(before, key=lambda one: (one.incremental, -one.end)))
        if chain[0].major != last.major:
            return (
                f"{last.path} is of version {last.version}, and {chain[0].path.name}, on which it builds, of"
                f" {chain[0].version}"
            )
    return tuple(chain)


def _precedes(one: Backup, after: Backup) -> bool:
    """Whether ``after`` goes on from a backup. Checkpoints of several are equal where little was written between."""
    return one.checkpoint == after.begin and one.end < after.end and one.path != after.path
