"""Make a stopped build fit for sealing.

Called by ``engine`` when the build's server is gone. It removes what a server leaves
beside the data and what WAL still holds of the past: password hashes, credentials and
rows that were deleted. The result is one cleanly shut down data directory, and nothing else.
"""

from __future__ import annotations

import re
import shutil
from datetime import datetime
from typing import TYPE_CHECKING

from reconciler import proc
from reconciler.engines import files
from reconciler.engines.base import Sealed
from reconciler.engines.postgres import bootstrap, collations, physical, recovery, server
from reconciler.engines.postgres.control import CLEAN, read_control
from reconciler.engines.postgres.failures import told
from reconciler.errors import CommandError, PermanentError
from reconciler.handover import give_tree, take_tree

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.engines.base import BuildWork, InstalledServer
    from reconciler.engines.postgres.recovery import Recovered

_KEPT = frozenset(
    {"PG_VERSION", "base", "global", "pg_commit_ts", "pg_dynshmem", "pg_logical", "pg_multixact", "pg_notify"}
    | {"pg_replslot", "pg_serial", "pg_snapshots", "pg_stat", "pg_stat_tmp", "pg_subtrans", "pg_tblspc"}
    | {"pg_twophase", "pg_wal", "pg_xact"}
)
"""What a data directory consists of. Whatever else lies there (keys, passwords, logs, copies of files) goes."""
_FACTS = frozenset({"preload", "moments"})
"""Notes of a build that its snapshot keeps, beside what is known of collations."""
_SEGMENT = re.compile(r"[0-9A-F]{24}")
_EMPTIED = (
    *("pg_stat", "pg_stat_tmp", "pg_replslot", "pg_notify", "pg_snapshots", "pg_dynshmem"),
    *("pg_logical/mappings", "pg_logical/snapshots", "base/pgsql_tmp"),
)


def finish_build(work: BuildWork, installed: InstalledServer) -> Sealed:
    """Scrub the stopped build and hand its files over.

    Raises:
        PermanentError: it is not cleanly shut down, or a link leads out of it.

    """
    data = server.data_directory(work)
    control = read_control(installed, data)
    if control.state != CLEAN:
        raise PermanentError(f"the build's database is not cleanly shut down but {control.state!r}")
    required = bootstrap.required(work, installed)  # pg_resetwal forgets it
    reset_wal(work, installed)
    take_tree(work.directory)
    _refuse_links(data)
    _scrub(data)
    notes, admin = server.read_build_facts(work), server.admin_role(work)
    rolled = recovery.reached(work)
    _leave_only(work.directory, data)
    data.chmod(0o700)
    give_tree(work.directory, work.final_account or work.account)
    facts = {key: value for key, value in notes.items() if value and (key in _FACTS or collations.is_record(key))}
    return Sealed(
        version=installed.version,
        major=installed.major,
        databases=tuple(name for name in notes.get("databases", "").split("\n") if name),
        required=required,
        source_notes=tuple(note for note in notes.get(physical.NOTES, "").split("\n") if note),
        facts=facts
        | {
            "admin": admin,
            "system_identifier": control.system_identifier,
            "checksums": "on" if control.checksums else "off",
            "wal_segment_bytes": str(control.wal_segment_bytes),
        },
        data_as_of=_data_as_of(rolled, notes.get("as_of")),
        position=rolled.end_lsn if rolled is not None else None,
        input_id=notes.get("input_id"),
    )


def _data_as_of(rolled: Recovered | None, noted: str | None) -> datetime | None:
    """Return the moment of a copy: how far its log was replayed, or what a logical copy noted."""
    if rolled is not None:
        return rolled.data_as_of
    return None if noted is None else datetime.fromisoformat(noted)


def reset_wal(work: BuildWork, installed: InstalledServer) -> None:
    """Start an empty WAL behind the old one's end."""
    argv: list[str | Path] = [server.program(installed, "pg_resetwal"), "-D", server.data_directory(work)]
    try:
        proc.run(argv, account=work.account, env=proc.environment({"LC_ALL": "C"}), timeout=600)
    except CommandError as error:
        raise PermanentError(f"the build's WAL cannot be reset: {told(error.stderr)}") from error
    for segment in (server.data_directory(work) / "pg_wal").iterdir():
        if _SEGMENT.fullmatch(segment.name):
            files.make_sparse(segment)


def _refuse_links(data: Path) -> None:
    links = sorted(files.links_in(data))
    if links:
        names = ", ".join(links[:5])
        raise PermanentError(f"the data directory has symbolic links, which clones would share: {names}")


def _scrub(data: Path) -> None:
    for entry in data.iterdir():
        if entry.name not in _KEPT:
            _remove(entry)
    for entry in (data / "pg_wal").iterdir():
        if entry.is_file() and not _SEGMENT.fullmatch(entry.name):
            _remove(entry)
    for name in _EMPTIED:
        files.clear(data, name)
    for path in (*data.glob("base/*/pg_internal.init*"), *data.glob("global/pg_internal.init*")):
        path.unlink()


def _leave_only(directory: Path, data: Path) -> None:
    for entry in directory.iterdir():
        if entry != data:
            _remove(entry)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
