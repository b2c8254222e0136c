"""Rolling a physical copy forward: what its first start is told, and what it reached.

Called by :mod:`.physical` and by whoever makes a data directory of a copy and WAL
(backups with an archive, mirrors, points in time). The start itself is
:func:`reconciler.engines.postgres.bootstrap.open_source`, in single-user mode: nobody can
connect to a server that recovers, it has no sockets, and it ends when it is done.

The server's account cannot read archives. It asks for files in a directory of the build,
and the reconciler puts them there, one after the other (:mod:`.feeding`).

Rules are those of the manual, "Write Ahead Log: Archive Recovery" and "Recovery Target",
and of ``xlogrecovery.c``: the time of the last transaction is only kept while archive
recovery was asked for, and a ``restore_command`` that ends with more than 125 ends recovery.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from reconciler.engines import files
from reconciler.engines.postgres import control, server
from reconciler.engines.postgres.failures import told
from reconciler.errors import BusyError, SourceError

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.engines.base import BuildWork, InstalledServer
    from reconciler.engines.postgres.feeding import WalSource

SIGNAL = "recovery.signal"
MISSED = "TargetNotReached"
"""Reason of the error when the log ends before the moment that was asked for."""
WANTED, ABSENT, FAILED = "want.", "absent.", "failed"
"""Names in the restore directory: what the server asks for, what there is none of, and that it must give up."""

QUERY = b"SELECT 'reached:' || coalesce(to_char(pg_last_xact_replay_timestamp() AT TIME ZONE 'UTC', \
'YYYY-MM-DD\"T\"HH24:MI:SS.US'), '-') || ' ' || coalesce(pg_last_wal_replay_lsn()::text, '-') AS name;\n\n"
"""For the single-user session that recovered: shared memory forgets the answer when it ends."""
_REACHED = re.compile(r"reached:(\S+) (\S+?)\"")
_PREFETCH_SETTING = 15
_TARGET_MISSED = "recovery ended before configured recovery target was reached"
_TOO_EARLY = re.compile(r"WAL ends before (?:end of online backup|consistent recovery point)")
_AS_OF, _END, _REPLAYED = "data_as_of", "end_lsn", "last_replayed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """How far to replay.

    Without ``source`` there is only the WAL in the copy's own ``pg_wal``. ``target_time`` has an
    offset; transactions that committed until then, inclusively, are replayed. ``timeline`` is
    the one to end on; None is the copy's own.
    """

    source: WalSource | None = None
    target_time: datetime | None = None
    timeline: int | None = None


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a copy reached: commit time of the last transaction in it, and the end of WAL (like ``0/3000148``)."""

    data_as_of: datetime
    end_lsn: str | None


def note_start(work: BuildWork, installed: InstalledServer) -> None:
    """Note the time of a copy before its first start: its last checkpoint's, in case no transaction is replayed.

    The control file has it in whole seconds; it is the end of that second, so that nothing in the copy is newer.
    """
    at = control.read_control(installed, server.data_directory(work)).checkpoint_at + timedelta(seconds=1)
    server.note_build_facts(work, {_AS_OF: at.isoformat()})


def request(work: BuildWork, recovery: Recovery) -> dict[str, str]:
    """Ask for archive recovery at the next start, and return the settings that it needs.

    The settings are for ``settings.write_build``, and only for that start.
    """
    files.write_file(server.data_directory(work), SIGNAL, "", work.account)
    values = {
        "restore_command": _restore_command(restore_directory(work)) if recovery.source is not None else "false",
        "recovery_target_timeline": str(recovery.timeline) if recovery.timeline is not None else "current",
        "recovery_target_action": "promote",
        # else limits of the primary, which change with time, would have to be ours before the WAL says so
        "hot_standby": "off",
    }
    data = server.data_directory(work)
    if recovery.source is not None and int(control.data_major(data) or 0) >= _PREFETCH_SETTING:
        # it asks for files far ahead of what is replayed, and what was asked for before is removed
        values["recovery_prefetch"] = "off"
    if recovery.target_time is not None:
        at = recovery.target_time.astimezone(UTC)
        values |= {
            "recovery_target_time": f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond:06d}+00",
            "recovery_target_inclusive": "on",
        }
    return values


def restore_directory(work: BuildWork) -> Path:
    """Return the directory of the build through which the server gets WAL."""
    return work.directory / "restore"


def note(work: BuildWork, output: str) -> None:
    """Note what :data:`QUERY` answered, for :func:`reached`."""
    found = _REACHED.search(output)
    if found is None:
        return
    facts = {} if found[1] == "-" else {_AS_OF: f"{found[1]}+00:00", _REPLAYED: f"{found[1]}+00:00"}
    server.note_build_facts(work, facts | ({} if found[2] == "-" else {_END: found[2]}))


def reached(work: BuildWork) -> Recovered | None:
    """Return how far a build's copy was rolled forward; None when its source was no copy.

    When no transaction was replayed, the time is the end of the second of the copy's last checkpoint.
    """
    notes = server.read_build_facts(work)
    if _AS_OF not in notes:
        return None
    return Recovered(datetime.fromisoformat(notes[_AS_OF]), notes.get(_END))


def require_not_after(work: BuildWork, at: datetime) -> None:
    """Refuse a copy that has a transaction after the moment that it is to be of.

    Raises:
        BusyError: it has one; made again, it will stop before.

    """
    last = server.read_build_facts(work).get(_REPLAYED)
    if last is not None and datetime.fromisoformat(last) > at:
        raise BusyError(
            f"the log went on beyond {at.isoformat()} while it was taken; the build is repeated", reason="SourceChanged"
        )


def failure(recovery: Recovery | None, stderr: str, what: str) -> SourceError:
    """Return the error for a recovery that ended with ``stderr``; ``what`` names the copy."""
    if recovery is not None and recovery.target_time is not None and _TARGET_MISSED in stderr:
        at = recovery.target_time.isoformat()
        return SourceError(
            f"the WAL of {what} ends before {at}",
            hint="ask for an earlier time, or wait until a later transaction is archived",
            reason=MISSED,
        )
    if _TOO_EARLY.search(stderr):
        return SourceError(
            f"the WAL of {what} ends before the copy is consistent",
            hint="take it with pg_basebackup --wal-method=stream, or put the missing WAL into the archive",
        )
    return SourceError(f"PostgreSQL cannot open {what}: {told(stderr, 1000)}")


def _restore_command(directory: Path) -> str:
    """Return the shell words that wait for a file, unless there is none; without a parent they end."""
    quoted = "'" + str(directory).replace("'", "'\\''").replace("%", "%%") + "'"
    return (
        f'd={quoted}; [ -e "$d/%f" ] || : > "$d/{WANTED}%f"; until [ -e "$d/%f" ]; do'
        f' [ -e "$d/{ABSENT}%f" ] && exit 1; [ -e "$d/{FAILED}" ] && exit 255;'
        f' kill -0 $PPID || exit 255; sleep 0.02; done; rm -f "$d/{WANTED}%f"; mv "$d/%f" "%p"'
    )
