"""Following a live primary: a private standby that builds are cut from.

Reached through :class:`reconciler.engines.base.Mirrors`. The standby streams through a
slot of its own, takes connections on its private socket only, from us only, and never
becomes anything else: a build gets a copy of its files (:func:`.physical.prepare_mirrored`).

Everything about the primary goes through the replication protocol, which whoever may
stream may speak; SQL is used where it is allowed, for figures.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
from psycopg import conninfo

from reconciler import proc
from reconciler.engines.base import CopiedPrimary
from reconciler.engines.postgres import control, files, mirrorlog, primary, replication, server, settings
from reconciler.engines.postgres.failures import translated
from reconciler.engines.postgres.physical import newest_timeline
from reconciler.errors import CommandError, ReconcilerError, SourceError, UnavailableError, UnsupportedError
from reconciler.handover import give, give_tree
from reconciler.state.observed import ObservedMirror
from reconciler.status import words

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from reconciler.engines.base import InstalledServer, MirrorWork
    from reconciler.engines.postgres.primary import Primary
    from reconciler.state.servers import ServerSpec

_LOOK_SECONDS = 3
_TELL_EVERY = 1.0
_STOP = ((signal.SIGINT, 120.0), (signal.SIGQUIT, 30.0))
_RECOVERY_SECONDS = 3600.0
_PASSFILE = "primary.pass"
# While it has replayed no transaction since it started, all in it are older than its restart point, told in seconds.
_FOLLOWING = """
SELECT pg_last_wal_replay_lsn()::text,
       coalesce(pg_last_xact_replay_timestamp(),
                (SELECT checkpoint_time + interval '1 second' FROM pg_control_checkpoint())),
       pg_get_wal_replay_pause_state(),
       EXISTS (SELECT FROM pg_stat_wal_receiver), (SELECT system_identifier::text FROM pg_control_system())
"""
_SIZE = "SELECT coalesce(sum(pg_database_size(oid)), 0) FROM pg_database WHERE has_database_privilege(oid, 'CONNECT')"
_TABLESPACES = "SELECT oid::text, pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname !~ '^pg_'"
_NO_REPLICATION = re.compile(r"must be superuser or replication role|permission denied to start WAL sender")
_WARM = {
    "hot_standby": "on",
    "hot_standby_feedback": "off",
    "max_standby_streaming_delay": "1s",  # our own questions are the only ones that could wait
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
            replication.ensure_slot(conn, work.slot)
            here = wanted.pinned(conn)  # the slot is on this very server
        data = work.directory / "data"
        links = _tablespaces(wanted)
        _base_backup(work, installed, here, data, links)
        for oid in links:
            _bring_in(data, oid, work.directory)
        files.clear(data, "pg_replslot")
        files.write_file(data, "standby.signal", "", None)
        give_tree(work.directory, work.account)
        return CopiedPrimary(installed.major, system.identifier)

    @translated()
    def server(self, work: MirrorWork) -> ServerSpec:
        wanted, data = _primary(work), work.directory / "data"
        installed = _installed(work, int(control.data_major(data) or 0))
        self._keep_slot(work, wanted)
        _write_settings(work, installed, wanted, data)
        spec = server.private_spec(installed, work.server, data, work.run_directory, work.account, server.SOCKET_PORT)
        return replace(spec, ready_timeout=_RECOVERY_SECONDS, stop_signals=_STOP)

    def look(self, work: MirrorWork) -> ObservedMirror:
        wanted = _primary(work)
        try:
            with _standby(work, wanted) as conn:
                row = conn.execute(_FOLLOWING).fetchone()
        except psycopg.Error as error:
            return ObservedMirror(following=False, problem=f"it cannot be asked: {wanted.redacted(str(error))}")
        if row is None or row[0] is None:
            return ObservedMirror(following=False, problem="it has not begun to replay")
        position, last_commit, pause, following, system = row
        mirror = ObservedMirror(
            following=bool(following),
            position=position,
            last_commit=last_commit,
            outdated=pause == "paused",
        )
        return _with_primary(work, wanted, mirror, system)

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


def _tablespaces(wanted: Primary) -> dict[str, str]:
    """Return the directories of the primary's own tablespaces by oid; none where it allows no SQL."""
    try:
        with primary.connect(wanted) as conn:
            return {oid: place for oid, place in conn.execute(_TABLESPACES).fetchall() if place.startswith("/")}
    except SourceError:
        return {}


def _base_backup(
    work: MirrorWork, installed: InstalledServer, wanted: Primary, data: Path, links: dict[str, str]
) -> None:
    argv: list[str | Path] = [server.program(installed, "pg_basebackup"), "--pgdata", data, "--no-password"]
    argv += ["--wal-method=stream", "--checkpoint=fast", "--no-sync", f"--slot={work.slot}"]
    argv += [
        f"--tablespace-mapping={_escaped(place)}={work.directory / f'tablespace.{oid}'}" for oid, place in links.items()
    ]
    argv += ["--dbname", wanted.argument()]
    try:
        with _progress(work):
            proc.run(argv, env=wanted.environment(), cancel=work.cancel)
    except CommandError as error:
        told = wanted.redacted(error.stderr)
        if _NO_REPLICATION.search(told):
            raise SourceError(
                f"the primary {wanted.where} does not let us stream: {told}",
                hint="ALTER ROLE … REPLICATION, and a line for replication in its pg_hba.conf",
                reason="PrimaryRefused",
            ) from None
        raise primary.refusal(wanted, told) from None


@contextmanager
def _progress(work: MirrorWork) -> Iterator[None]:
    """Tell how much was copied while the block runs."""
    done = threading.Event()

    def tell() -> None:
        while not done.wait(_TELL_EVERY):
            work.progress(f"copying the primary: {words.size(_weight(work.directory))} so far")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()


def _weight(directory: Path) -> int:
    total = 0
    for base, _directories, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(base, name)).st_size  # noqa: PTH118 - walk hands out strings, of many files
            except FileNotFoundError:
                continue
    return total


def _escaped(place: str) -> str:
    return place.replace("\\", "\\\\").replace("=", "\\=")


def _bring_in(data: Path, oid: str, directory: Path) -> None:
    """Put a tablespace where its link was: a copy of the volume has to hold everything, and no link."""
    link = data / "pg_tblspc" / oid
    link.unlink()
    (directory / f"tablespace.{oid}").rename(link)


def _write_settings(work: MirrorWork, installed: InstalledServer, wanted: Primary, data: Path) -> None:
    found = control.read_control(installed, data)
    files.write_file(work.run_directory, _PASSFILE, _passfile(wanted), work.account)
    values = {
        **_WARM,
        **control.required_settings(installed, data),
        "max_wal_senders": str(max(found.wal_senders, 1)),
        "primary_conninfo": _way_in(work, wanted),
        "primary_slot_name": work.slot,
        **_keeping(work),
    }
    user = wanted.settings.get("user") or server.account_name(os.geteuid()) or "postgres"
    settings.write_standby(data, values, socket=work.run_directory, user=user, account=work.account)


def _keeping(work: MirrorWork) -> dict[str, str]:
    """Return the settings by which a mirror keeps its log, as whole files only."""
    if not work.keep_log:
        return {}
    place = work.directory / mirrorlog.KEPT
    place.mkdir(mode=0o700, exist_ok=True)
    give(place, work.account)
    quoted = "'" + str(place).replace("'", "'\\''").replace("%", "%%") + "'"
    command = f'd={quoted}; test -e "$d/%f" || {{ cp %p "$d/.%f.part" && mv "$d/.%f.part" "$d/%f"; }}'
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
    with psycopg.connect(
        host=str(work.run_directory),
        port=server.SOCKET_PORT,
        dbname=wanted.database,
        user=user,
        autocommit=True,
        connect_timeout=_LOOK_SECONDS,
        application_name="reconciler",
        options="-c statement_timeout=5s -c search_path=pg_catalog",
        passfile=server.NO_FILE,
        sslmode="disable",
        gssencmode="disable",
    ) as conn:
        yield conn


def _with_primary(work: MirrorWork, wanted: Primary, mirror: ObservedMirror, system: str) -> ObservedMirror:
    """Add what the primary says of a mirror."""
    try:
        with replication.session(wanted, connect_seconds=_LOOK_SECONDS) as conn:
            return _compared(work, wanted, conn, mirror, system)
    except ReconcilerError as error:
        return replace(mirror, problem=error.message)


def _compared(
    work: MirrorWork, wanted: Primary, conn: psycopg.Connection, mirror: ObservedMirror, system: str
) -> ObservedMirror:
    there = replication.identify(conn)
    if there.identifier != system:
        return replace(mirror, following=False, lost="the primary is another database system than the one copied")
    position = replication.lsn(mirror.position or "0/0")
    slot = replication.read_slot(conn, wanted, work.slot)
    held = there.position - slot.restart if slot is not None and slot.restart is not None else None
    lag = max(0, there.position - position)
    mirror = replace(mirror, lag_bytes=lag, held_bytes=held)
    if mirror.following:
        return mirror
    if held is not None and held > work.held_limit:
        return replace(mirror, lost=f"the primary would have to keep {words.size(held)} of log for it")
    return _stuck(work, wanted, conn, mirror, there, slot)


def _stuck(
    work: MirrorWork,
    wanted: Primary,
    conn: psycopg.Connection,
    mirror: ObservedMirror,
    there: replication.System,
    slot: replication.Slot | None,
) -> ObservedMirror:
    """Say why a mirror does not follow a primary that answers."""
    position, own = replication.lsn(mirror.position or "0/0"), newest_timeline(work.directory / "data") or 1
    if there.timeline < own:
        return replace(mirror, lost=f"the primary is on timeline {there.timeline}, and the mirror on {own} already")
    if there.timeline > own:
        fork = replication.fork_of(conn, timeline=there.timeline, of=own)
        if fork is None or fork < position:
            return replace(mirror, lost=f"timeline {there.timeline} of the primary left before what the mirror has")
    if there.timeline == own and there.position < position:
        return replace(mirror, lost="the primary was set back to before what the mirror has")
    if not replication.has_log(wanted, position=position, timeline=own):
        return replace(mirror, lost="the primary has removed log that the mirror needs")
    if slot is None or slot.restart is None:
        return replace(mirror, outdated=True, problem=f"the slot {work.slot} is gone at the primary")
    return replace(mirror, problem=mirror.problem or "it is about to connect")
