"""Put the files of a physical source in place as a build's data directory.

Called by the engine before any server runs. The source is copied, checked against its
manifest when it has one, and stripped of everything that makes a server wait for,
follow, or write to another one: no replication slot, no standby mode, no link.
Recovery to consistency happens when the build's server starts; configuration is
replaced by :mod:`.settings`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from reconciler.engines import files
from reconciler.engines.postgres import backups, bootstrap, combine, control, recovery, repositories, server
from reconciler.engines.postgres.combine import copy_backup, verify
from reconciler.engines.postgres.datafiles import copy_data_directory
from reconciler.engines.postgres.identify import require_stopped, source_major
from reconciler.engines.postgres.mirrorlog import MirrorLog
from reconciler.engines.postgres.recovery import Recovery
from reconciler.engines.postgres.walarchive import Archive
from reconciler.errors import BusyError, SourceError, UnsupportedError
from reconciler.handover import give_tree, take_tree

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.engines.base import BuildWork, InstalledServer
    from reconciler.engines.postgres.choice import Choice

NOTES = "source_notes"
"""The build's note of what of its source was passed over."""
_UNWANTED_FILES = (
    "postmaster.pid",
    "postmaster.opts",
    "recovery.signal",
    "standby.signal",
    "recovery.conf",
    "recovery.done",
    "backup_label.old",
    "tablespace_map",  # it would make the server link tablespaces to production's again
    "tablespace_map.old",
    "backup_manifest",
    "current_logfiles",
)
_UNWANTED_TREES = ("log", "pg_log")
_EMPTIED = ("pg_replslot", "pg_stat_tmp", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_subtrans")
_TEMPORARY = re.compile(r"(?:.*/)?(?:pgsql_tmp.*|pg_internal\.init.*|core(?:\.\d+)?)")
_START_SEGMENT = re.compile(r"^START WAL LOCATION: \S+ \(file (\w+)\)", re.MULTILINE)
_SEGMENT = re.compile(r"[0-9A-F]{24}(?:\.partial)?")
_IN_PLACE_MAJOR = 15


def open_physical(work: BuildWork, installed: InstalledServer) -> None:
    """Prepare a physical source, and open it for the first time, rolled forward as far as its WAL goes.

    Raises:
        SourceError, UnsupportedError, BusyError: as :func:`prepare_physical`; or its WAL cannot be replayed.

    """
    wanted = prepare_physical(work, installed)
    bootstrap.open_source(work, installed, wanted)
    rolled = recovery.reached(work)
    if wanted is not None and isinstance(wanted.source, Archive) and rolled is not None:
        wanted.source.require_replayed(rolled.end_lsn)


def prepare_physical(work: BuildWork, installed: InstalledServer) -> Recovery | None:
    """Copy, verify and scrub a source of kind ``backup`` or ``files`` into ``work.directory/data``.

    Returns how to open it: what was not shut down is recovered as an archive is, if only with the WAL that
    it brought along, because only then PostgreSQL tells of when its last transaction is.

    Raises:
        SourceError: it is missing, damaged, incomplete, or cannot be consistent.
        UnsupportedError: this server version cannot use it.
        BusyError: a server runs on it, or what planning chose is not there any more.

    """
    data = server.data_directory(work)
    take_tree(work.directory)  # whoever the build runs as gets it when there is nothing left to do by path
    choice = _bring(work, installed, data)
    _check_tablespaces(data, installed)
    _scrub(data)
    give_tree(work.directory, work.account)
    if work.source.kind == "files" and work.source.path is not None:
        require_stopped(work.source.path)
    reach = choice.reach if choice is not None else None
    if reach is not None:
        return Recovery(source=reach.source, timeline=reach.timeline)
    found = control.read_control(installed, data)
    # WAL of level minimal is for crash recovery only
    return None if found.state == control.CLEAN or found.wal_level == "minimal" else Recovery()


def _bring(work: BuildWork, installed: InstalledServer, data: Path) -> Choice | None:
    """Put the source's files in place, and check them."""
    if work.source.kind == "files":
        if work.source.path is None:
            raise SourceError("the source has no path")
        _refuse_other_major(work, installed)
        require_stopped(work.source.path)
        work.progress(f"copying {work.source.path}")
        copy_data_directory(work.source.path, data, skip=_unwanted, cancel=work.cancel)
        _make_directories(data)
        _check_consistency(work.source.path, work, installed, data, archived=False)
        return None
    _refuse_other_major(work, installed)
    choice = backups.choose(work.source)
    if work.source.repository is not None:
        repositories.tool(work.source.repository).restore(work, choice, data)
        take_tree(work.directory)  # from accounts of the host that was backed up
    elif len(choice.places) > 1:
        combine.combine(work, installed, choice.places, data)
    else:
        copy_backup(work, choice.path, data)
    _make_directories(data)
    server.note_build_facts(work, {NOTES: "\n".join(choice.notes)})
    _check_consistency(choice.path, work, installed, data, archived=choice.reach is not None)
    if (data / "backup_manifest").is_file():
        give_tree(work.directory, work.account)
        verify(work, installed, data, choice.path, wal=choice.reach is None)
        take_tree(work.directory)
    return choice


def open_mirrored(work: BuildWork, installed: InstalledServer) -> None:
    """Open a copy of a mirror for the first time; it ends its recovery, and follows nobody.

    The mirror had come to the moment that is asked for, where one is. When its log has no
    transaction after that, PostgreSQL says that the moment was not reached, once it has replayed
    all of it: all of the log is the moment then, if it could be replayed as far as the mirror had come
    before it was taken. Where the mirror says so beforehand, it is replayed once and not twice.

    Raises:
        SourceError: it cannot be opened.
        UnavailableError: log that the mirror keeps is missing or damaged before the moment.
        BusyError: there was something after the moment, although the mirror knew of nothing; or it says nothing.

    """
    seen = work.source.ask() if work.source.at is not None and work.source.ask is not None else None
    wanted = prepare_mirrored(work, installed)
    log, at = wanted.source, wanted.target_time
    if at is None or not isinstance(log, MirrorLog):
        bootstrap.open_source(work, installed, wanted)
        return
    at_its_end = seen is not None and seen.last_commit is not None and seen.last_commit <= at
    if at_its_end or not _stops(work, installed, wanted, log):
        if seen is None or seen.position is None:
            raise BusyError("the mirror does not say how far it has come", reason="MirrorSilent")
        log.require_whole()
        bootstrap.open_source(work, installed, replace(wanted, target_time=None))
        reached = recovery.reached(work)
        log.require_replayed(reached.end_lsn if reached is not None else None, seen.position)
    recovery.require_not_after(work, at)


def _stops(work: BuildWork, installed: InstalledServer, wanted: Recovery, log: MirrorLog) -> bool:
    """Open a copy of a mirror as of a moment; tell whether there is a transaction after that, before which it ended."""
    try:
        bootstrap.open_source(work, installed, wanted)
    except SourceError as error:
        if error.reason == recovery.MISSED:
            return False
        log.require_whole()  # this says more, where that is why it could not be made consistent
        raise
    return True


def prepare_mirrored(work: BuildWork, installed: InstalledServer) -> Recovery:
    """Make a copy of a mirror one that ends its recovery where the copied WAL ends, and follows nobody.

    The mirror may have switched timelines since its last restart point, which is all that the
    control file knows of; the newest one that it received is in the names of its WAL.

    Raises:
        SourceError: its tablespaces cannot be used.

    """
    data = server.data_directory(work)
    take_tree(work.directory)
    _make_directories(data)
    _check_tablespaces(data, installed)
    _scrub(data)
    give_tree(work.directory, work.account)
    if work.source.at is None or work.source.path is None:
        return Recovery(timeline=newest_timeline(data))
    found = control.read_control(installed, data)
    return Recovery(
        source=MirrorLog(work.source.path, work.directory, redo=found.redo, segment_bytes=found.wal_segment_bytes),
        target_time=work.source.at,
        timeline=newest_timeline(work.source.path / "data"),
    )


def prepare_clone(work: BuildWork, installed: InstalledServer) -> None:
    """Make a copy of a clone, which may be of a running one, a data directory that recovers when its server starts.

    Raises:
        SourceError: there is in it what no clone of ours has: a link, or something else in place of its data.

    """
    data = server.data_directory(work)
    take_tree(work.directory)
    links = next(files.links_in(work.directory), None)
    if links is not None or not data.is_dir():
        raise SourceError(f"the copy of the clone is no data directory of ours (a link: {links or 'none'})")
    for entry in work.directory.iterdir():
        if entry != data and entry.is_file():
            entry.unlink()  # the attestation of its snapshot, which is not what this becomes
    preload = work.source.base.facts.get("preload", "") if work.source.base is not None else ""
    bootstrap.note_preload(work, preload)
    _make_directories(data)
    _check_tablespaces(data, installed)
    _scrub(data)
    give_tree(work.directory, work.account)


def newest_timeline(data: Path) -> int | None:
    """Return the newest timeline that there is WAL of; None without any WAL."""
    names = (entry.name for entry in (data / "pg_wal").iterdir())
    return max((int(name[:8], 16) for name in names if _SEGMENT.fullmatch(name)), default=None)


def _refuse_other_major(work: BuildWork, installed: InstalledServer) -> None:
    major = source_major(work.source)
    if major != installed.major:
        raise SourceError(
            f"{work.source.path or work.source.name} is of PostgreSQL {major}, and the server is {installed.version}",
            hint=f'set version: "{major}" and install postgresql-{major}',
        )


def _unwanted(name: str) -> bool:
    first, _, rest = name.partition("/")
    if rest:
        return first in _EMPTIED or bool(_TEMPORARY.fullmatch(name))
    return first in _UNWANTED_FILES or first in _UNWANTED_TREES or bool(_TEMPORARY.fullmatch(name))


def _make_directories(data: Path) -> None:
    """Make directories that a backup may leave out when they are empty."""
    data.chmod(0o700)
    for name in (*_EMPTIED, "pg_tblspc", "pg_twophase", "pg_commit_ts", "pg_wal", "pg_wal/archive_status"):
        (data / name).mkdir(mode=0o700, exist_ok=True)


def _check_consistency(
    source: Path, work: BuildWork, installed: InstalledServer, data: Path, *, archived: bool
) -> None:
    """Refuse what recovery could not make consistent, before a server tries and says it less clearly."""
    label = files.read_small(data / "backup_label")
    state = control.read_control(installed, data).state
    if label is None:
        if work.source.kind == "backup" and not state.startswith(control.CLEAN):
            raise SourceError(
                f"{source} has no backup_label, and its server was not shut down ({state}): it is no consistent backup",
                hint="take it with pg_basebackup, or name a copy made by an atomic snapshot as source.files",
            )
        return
    if "INCREMENTAL FROM LSN" in label:
        raise SourceError(
            f"{source} is an incremental backup",
            hint="name the directory in which it lies with those that it builds on, or a pattern of them",
        )
    start = _START_SEGMENT.search(label)
    if start is None:
        raise SourceError(f"the backup_label of {source} is damaged")
    if not archived and not (data / "pg_wal" / start[1]).is_file():
        raise SourceError(
            f"the backup {source} lacks the WAL that makes it consistent (from {start[1]} on)",
            hint="take it with pg_basebackup --wal-method=stream, or name the archive of its WAL as source.backup.wal",
        )


def _scrub(data: Path) -> None:
    for name in _UNWANTED_FILES:
        files.remove(data, name)
    for name in (*_UNWANTED_TREES, *_EMPTIED):
        files.clear(data, name)
    files.clear(data, "pg_wal/archive_status")  # nothing of production's is waiting to be archived by us
    forget_replication(data)


def forget_replication(data: Path) -> None:
    """Remove slots and progress of origins: more of them than a server's settings allow keep it from starting.

    Done before recovery, and after it, which brings back origins that the WAL mentions.
    """
    files.clear(data, "pg_replslot")  # a logical slot stops a server whose wal_level is minimal
    files.remove(data, "pg_logical/replorigin_checkpoint")


def _check_tablespaces(data: Path, installed: InstalledServer) -> None:
    names = _tablespaces(data)
    if names and int(installed.major) < _IN_PLACE_MAJOR:
        raise UnsupportedError(
            f"PostgreSQL {installed.major} cannot have tablespaces inside its data directory; there are {len(names)}",
            hint="use a dump instead",
        )
    left = next(files.links_in(data), None)
    if left is not None:
        raise SourceError(f"a symbolic link was left in the copy: {left}")


def _tablespaces(data: Path) -> list[str]:
    return [path.name for path in (data / "pg_tblspc").iterdir()]
