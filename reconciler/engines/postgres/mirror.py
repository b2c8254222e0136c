"""Following a live primary: a private standby that builds are cut from.

Reached through :class:`reconciler.engines.base.Mirrors`. The standby streams through a
slot of its own, or is handed log from an archive (:mod:`.archived`). It takes connections on
its private socket only, from us only, and never becomes anything else: a build gets a copy
of its files (:func:`.physical.prepare_mirrored`).

Everything about the primary goes through the replication protocol, which whoever may
stream may speak; SQL is used where it is allowed, for figures.
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
from psycopg import conninfo

from reconciler.engines import files
from reconciler.engines.base import MIRROR_LOST, CopiedPrimary
from reconciler.engines.postgres import (
    archived,
    basebackup,
    control,
    mirrorlog,
    primary,
    replication,
    server,
    settings,
)
from reconciler.engines.postgres.cancellable import CancellableConnection
from reconciler.engines.postgres.failures import translated
from reconciler.engines.postgres.physical import newest_timeline
from reconciler.errors import BusyError, ReconcilerError, SourceError, UnavailableError, UnsupportedError
from reconciler.handover import give, give_tree
from reconciler.state.observed import ObservedMirror

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from reconciler.engines.base import InstalledServer, MirrorWork
    from reconciler.engines.postgres.primary import Primary
    from reconciler.state.servers import ServerSpec

_STOP = ((signal.SIGINT, 120.0), (signal.SIGQUIT, 30.0))
_RECOVERY_SECONDS = 3600.0
_PASSFILE = "primary.pass"
_TABLESPACE = "the primary made a tablespace in {}, which a mirror can only get by another copy"
# While it has replayed no transaction since it started, all in it are older than its restart point, told in seconds.
_FOLLOWING = """
SELECT pg_last_wal_replay_lsn()::text,
       coalesce(pg_last_xact_replay_timestamp(),
                (SELECT checkpoint_time + interval '1 second' FROM pg_control_checkpoint())),
       pg_get_wal_replay_pause_state(),
       EXISTS (SELECT FROM pg_stat_wal_receiver), (SELECT system_identifier::text FROM pg_control_system()),
       pg_size_bytes(current_setting('wal_segment_size')),
       coalesce(pg_last_xact_replay_timestamp(), (SELECT checkpoint_time FROM pg_control_checkpoint()))
"""
# Less a second: asynchronous commits are on the disk up to three times wal_writer_delay after they are stamped.
_CLOCK = "SELECT CASE WHEN NOT pg_is_in_recovery() THEN clock_timestamp() - interval '1 second' END"
_SIZE = "SELECT coalesce(sum(pg_database_size(oid)), 0) FROM pg_database WHERE has_database_privilege(oid, 'CONNECT')"
_WARM = {
    "hot_standby": "on",
    "hot_standby_feedback": "off",
    "max_standby_streaming_delay": "1s",  # our own questions are the only ones that could wait
    "max_standby_archive_delay": "1s",
    "wal_level": "replica",
    "wal_receiver_status_interval": "10s",
    "recovery_target_timeline": "latest",
    # a copy replays from the last restart point on: one follows every checkpoint of the primary
    "checkpoint_timeout": "30s",
    "checkpoint_completion_target": "0.5",
    "wal_recycle": "off",
    "wal_init_zero": "off",
    "min_wal_size": "80MB",
    "shared_buffers": "128MB",
    "fsync": "on",
    "full_page_writes": "on",
    "autovacuum": "off",
}


class PostgresMirrors:
    """Private standbys of PostgreSQL."""

    @translated()
    def size(self, work: MirrorWork) -> int:
        wanted = _primary(work)
        with replication.session(wanted) as conn:
            replication.identify(conn)
        try:
            with primary.connect(wanted) as conn:
                row = conn.execute(_SIZE).fetchone()
        except SourceError:
            return 0  # it lets us stream, and no more: nobody can tell
        return int(row[0]) if row is not None else 0

    @translated()
    def copy(self, work: MirrorWork) -> CopiedPrimary:
        wanted = _primary(work)
        with replication.session(wanted) as conn:
            system = replication.identify(conn)
            installed = _installed(work, conn.info.server_version // 10000)
            if work.slot:
                # Its copy begins with a checkpoint, which takes minutes on a primary that is to be spared. Log that
                # is kept meanwhile could not be used again at its end, and clients would wait for new segments.
                replication.ensure_slot(conn, work.slot, reserve=False)
            here = wanted.pinned(conn)  # the slot is on this very server
        data = work.directory / "data"
        basebackup.copy(work, installed, here)
        files.clear(data, "pg_replslot")
        files.write_file(data, "standby.signal", "", None)
        give_tree(work.directory, work.account)
        return CopiedPrimary(installed.major, system.identifier)

    @translated()
    def server(self, work: MirrorWork) -> ServerSpec:
        wanted, data = _primary(work), work.directory / "data"
        installed = _installed(work, int(control.data_major(data) or 0))
        if (place := basebackup.new_tablespace(installed, data)) is not None:
            raise SourceError(_TABLESPACE.format(place), reason=MIRROR_LOST)
        if work.archive is None:
            self._keep_slot(work, wanted)
        _write_settings(work, installed, wanted, data)
        spec = server.private_spec(installed, work.server, data, work.run_directory, work.account, server.SOCKET_PORT)
        return replace(spec, ready_timeout=_RECOVERY_SECONDS, stop_signals=_STOP)

    @translated()
    def look(self, work: MirrorWork) -> ObservedMirror:
        wanted = _primary(work)
        try:
            with _standby(work, wanted) as conn:
                row = conn.execute(_FOLLOWING).fetchone()
        except psycopg.Error as error:
            return self._silent(work, f"it cannot be asked: {wanted.redacted(str(error))}")
        if row is None or row[0] is None:
            return self._silent(work, "it has not begun to replay")
        position, last_commit, pause, following, system, segment_bytes, complete_until = row
        mirror = ObservedMirror(
            following=bool(following),
            position=position,
            last_commit=last_commit,
            complete_until=complete_until,
            outdated=pause == "paused",
        )
        if (place := basebackup.outside(work.directory / "data")) is not None:
            return replace(mirror, following=False, lost=_TABLESPACE.format(place))
        if work.archive is not None:
            mirror = archived.look(work, _standing(work, position, segment_bytes, pause), mirror)
        return _with_primary(work, wanted, mirror, system, segment_bytes)

    @translated()
    def held(self, work: MirrorWork) -> int | None:
        if not work.slot:
            return None
        wanted = _primary(work)
        with replication.session(wanted, look=True) as conn:
            return _held(conn, wanted, work.slot, replication.identify(conn))

    def _silent(self, work: MirrorWork, problem: str) -> ObservedMirror:
        """Return what is known of a mirror that does not answer; its primary may."""
        held = None
        with suppress(ReconcilerError):
            held = self.held(work)
        return ObservedMirror(following=False, problem=problem, held_bytes=held)

    @translated()
    def replay(self, work: MirrorWork) -> None:
        wanted = _primary(work)

        def ask() -> archived.Standing:
            try:
                with _standby(work, wanted) as conn:
                    row = conn.execute(_FOLLOWING).fetchone()
            except psycopg.Error as error:
                why = f"the mirror cannot be asked: {wanted.redacted(str(error))}"
                raise BusyError(why, reason="MirrorSilent") from None
            if row is None or row[0] is None:
                raise BusyError("the mirror has not begun to replay", reason="MirrorSilent")
            return _standing(work, row[0], row[5], row[2])

        archived.replay(work, ask)

    def resting(self, work: MirrorWork) -> AbstractContextManager[None]:  # noqa: ARG002 - of the contract
        return nullcontext()  # a copy replays its log from the last restart point, whatever went on

    @translated()
    def forget_log(self, work: MirrorWork, raws: Sequence[Path]) -> None:
        mirrorlog.forget(work.directory, raws)

    @translated()
    def leave(self, work: MirrorWork) -> None:
        with replication.session(_primary(work)) as conn:
            replication.drop_slot(conn, work.slot)

    def _keep_slot(self, work: MirrorWork, wanted: Primary) -> None:
        """Make the slot again if somebody dropped it; a primary that is away is followed once it is back."""
        try:
            with replication.session(wanted) as conn:
                replication.ensure_slot(conn, work.slot)
        except UnavailableError:
            return


def _primary(work: MirrorWork) -> Primary:
    return primary.parse(work.primary.url, work.primary.secret)


def _installed(work: MirrorWork, major: int) -> InstalledServer:
    if work.version is not None and work.version != str(major):
        raise UnsupportedError(
            f"the primary runs PostgreSQL {major}; the image asks for version {work.version}",
            hint="a copy of files is served by the version that wrote them; use method: logical to change versions",
        )
    return server.choose(str(major))


def _standing(work: MirrorWork, position: str, segment_bytes: int, pause: str) -> archived.Standing:
    timeline = newest_timeline(work.directory / "data") or 1
    return archived.Standing(position, timeline, segment_bytes, paused=pause == "paused")


def _write_settings(work: MirrorWork, installed: InstalledServer, wanted: Primary, data: Path) -> None:
    found = control.read_control(installed, data)
    values = {
        **_WARM,
        **control.required_settings(installed, data),
        "max_wal_senders": str(max(found.wal_senders, 1)),
        **(archived.settings(work) if work.archive is not None else _streaming(work, wanted)),
        **_keeping(work),
    }
    user = wanted.settings.get("user") or server.account_name(os.geteuid()) or "postgres"
    settings.write_standby(data, values, socket=work.run_directory, user=user, account=work.account)


def _streaming(work: MirrorWork, wanted: Primary) -> dict[str, str]:
    files.write_file(work.run_directory, _PASSFILE, _passfile(wanted), work.account)
    return {"primary_conninfo": _way_in(work, wanted), "primary_slot_name": work.slot}


def _keeping(work: MirrorWork) -> dict[str, str]:
    """Return the settings by which a mirror keeps its log, as whole files only."""
    if not work.keep_log:
        return {}
    place = work.directory / mirrorlog.KEPT
    place.mkdir(mode=0o700, exist_ok=True)
    give(place, work.account)
    quoted = "'" + str(place).replace("'", "'\\''").replace("%", "%%") + "'"
    # What is archived is removed from pg_wal: it has to be on the disk by then, its name too. What a host that
    # lost its power left of one, or what was kept before, is compared.
    kept = 'cp %p "$d/.%f.part" && sync "$d/.%f.part" && mv "$d/.%f.part" "$d/%f" && sync "$d"'
    command = f'd={quoted}; cmp -s %p "$d/%f" || {{ {kept}; }}'
    return {"archive_mode": "always", "archive_command": command}


def _way_in(work: MirrorWork, wanted: Primary) -> str:
    """Return the standby's connection string; the password lies in a file that no copy of the volume has."""
    known = {
        key: value for key, value in wanted.keywords().items() if key not in {"password", "dbname", "client_encoding"}
    }
    return conninfo.make_conninfo("", **{**known, "passfile": str(work.run_directory / _PASSFILE)})


def _passfile(wanted: Primary) -> str:
    if wanted.password is None:
        return ""
    return "*:*:*:*:" + wanted.password.replace("\\", "\\\\").replace(":", "\\:") + "\n"


@contextmanager
def _standby(work: MirrorWork, wanted: Primary) -> Iterator[psycopg.Connection]:
    user = wanted.settings.get("user") or server.account_name(os.geteuid()) or "postgres"
    with CancellableConnection.connect(
        host=str(work.run_directory),
        port=server.SOCKET_PORT,
        dbname=wanted.database,
        user=user,
        autocommit=True,
        connect_timeout=primary.LOOK_SECONDS,
        application_name="reconciler",
        options=f"-c statement_timeout={primary.ANSWER_SECONDS}s -c search_path=pg_catalog",
        passfile=server.NO_FILE,
        sslmode="disable",
        gssencmode="disable",
    ) as conn:
        conn.patience = primary.ANSWER_SECONDS + 1
        yield conn


def _with_primary(
    work: MirrorWork, wanted: Primary, mirror: ObservedMirror, system: str, segment_bytes: int
) -> ObservedMirror:
    """Add what the primary says of a mirror; one that lives on an archive needs it for nothing else."""
    try:
        with replication.session(wanted, look=True) as conn:
            there = replication.identify(conn)
            if there.identifier != system:
                why = "the primary is another database system than the one copied"
                return replace(mirror, following=False, lost=why)
            if work.slot:  # one that was left behind by another mode holds log as well
                mirror = replace(mirror, held_bytes=_held(conn, wanted, work.slot, there))
            if work.archive is not None:
                mirror = _archived(work, conn, mirror, there, segment_bytes)
            else:
                mirror = _compared(work, wanted, conn, mirror, there)
            return _with_clock(wanted, conn, mirror) if work.keep_log and mirror.lag_bytes == 0 else mirror
    except ReconcilerError as error:
        return replace(mirror, problem=mirror.problem or error.message)


def _with_clock(wanted: Primary, conn: psycopg.Connection, mirror: ObservedMirror) -> ObservedMirror:
    """Add until when a mirror that has caught up is complete, although nothing was committed: by the primary's clock.

    The clock is read before it is looked whether the mirror still has everything. It takes SQL; where
    that is not allowed, and of a standby, the last commit is all that is known.
    """
    try:
        with primary.connect(wanted.pinned(conn), look=True) as here:
            row = here.execute(_CLOCK).fetchone()
    except (ReconcilerError, psycopg.Error):
        return mirror
    known = [at for at in (mirror.complete_until, row[0] if row is not None else None) if at is not None]
    if not known or replication.identify(conn).position != replication.lsn(mirror.position or "0/0"):
        return mirror
    return replace(mirror, complete_until=max(known))


def _archived(
    work: MirrorWork, conn: psycopg.Connection, mirror: ObservedMirror, there: replication.System, segment_bytes: int
) -> ObservedMirror:
    """Compare a mirror that lives on an archive with its primary."""
    position, own = replication.lsn(mirror.position or "0/0"), newest_timeline(work.directory / "data") or 1
    lag = max(0, there.position - position)
    mirror = replace(mirror, lag_bytes=lag)
    if (lost := _left_behind(conn, there, position, own)) is not None:
        return replace(mirror, following=False, lost=lost)
    if mirror.pending or not mirror.following:
        return mirror
    if there.timeline > own and archived.lacks_timeline(work, there.timeline):
        told = f"the primary is on timeline {there.timeline}, of which there is nothing in the archive {work.archive}"
        return replace(
            mirror, following=False, problem=f"{told}: let it archive there, and the mirror goes on by itself"
        )
    return replace(mirror, behind=archived.behind(work, segment_bytes, lag))


def _compared(
    work: MirrorWork, wanted: Primary, conn: psycopg.Connection, mirror: ObservedMirror, there: replication.System
) -> ObservedMirror:
    position = replication.lsn(mirror.position or "0/0")
    mirror = replace(mirror, lag_bytes=max(0, there.position - position))
    return mirror if mirror.following else _stuck(work, wanted, conn, mirror, there)


def _held(conn: psycopg.Connection, wanted: Primary, slot: str, there: replication.System) -> int | None:
    """Return the bytes of log that a primary keeps for a slot; None when it is gone, or has lost its log."""
    found = replication.read_slot(conn, wanted, slot)
    return max(0, there.position - found.restart) if found is not None and found.restart is not None else None


def _left_behind(conn: psycopg.Connection, there: replication.System, position: int, own: int) -> str | None:
    """Return why what the primary writes now does not go on from what a mirror has; None when it does."""
    if there.timeline < own:
        return f"the primary is on timeline {there.timeline}, and the mirror on {own} already"
    if there.timeline == own:
        return None
    fork = replication.fork_of(conn, timeline=there.timeline, of=own)
    if fork is None or fork < position:
        return f"timeline {there.timeline} of the primary left before what the mirror has"
    return None


def _stuck(
    work: MirrorWork,
    wanted: Primary,
    conn: psycopg.Connection,
    mirror: ObservedMirror,
    there: replication.System,
) -> ObservedMirror:
    """Say why a mirror does not follow a primary that answers."""
    position, own = replication.lsn(mirror.position or "0/0"), newest_timeline(work.directory / "data") or 1
    if (lost := _left_behind(conn, there, position, own)) is not None:
        return replace(mirror, lost=lost)
    if there.timeline == own and there.position < position:
        return replace(mirror, lost="the primary was set back to before what the mirror has")
    if not replication.has_log(wanted, position=position, timeline=own):
        return replace(mirror, lost="the primary has removed log that the mirror needs")
    if mirror.held_bytes is None:
        return replace(mirror, outdated=True, problem=f"the slot {work.slot} is gone at the primary")
    return replace(mirror, problem=mirror.problem or "it is about to connect")
