"""Following a live primary of MariaDB: a private replica that builds are cut from.

Reached through :class:`reconciler.engines.base.Mirrors`. It is copied by SQL
(:mod:`.copying`), which works wherever the primary is, and goes on from that place by
global transaction ids. Nothing is made at the primary, which keeps its binary log as long as
its owner says; a mirror that comes back later than that is copied anew. See
docs/decisions/0028.
"""

from __future__ import annotations

import signal
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from reconciler import proc
from reconciler.engines.base import BuildWork, CopiedPrimary, LocalSource
from reconciler.engines.mysql import bootstrap, catalog, copying, following, notes, primary, rights, server, settings
from reconciler.engines.mysql.failures import SqlError, translated
from reconciler.errors import (
    BusyError,
    CancelledError,
    CommandError,
    PermanentError,
    ReconcilerError,
    SourceError,
    UnavailableError,
    UnsupportedError,
)
from reconciler.handover import give_tree
from reconciler.ids import SnapshotId
from reconciler.state.observed import ObservedMirror
from reconciler.state.servers import ServerSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from reconciler.engines.base import InstalledServer, MirrorWork
    from reconciler.engines.mysql.link import Link
    from reconciler.engines.mysql.primary import Primary
    from reconciler.engines.mysql.product import Product

_STOP = ((signal.SIGTERM, 600.0),)
_READY_SECONDS = 3600.0
_START_SECONDS = 120.0
_POLL_SECONDS = 0.05
_WAKE_SECONDS = 10.0
_RIGHTS = ("REPLICATION SLAVE ON *.*", "RELOAD ON *.*")
_SETTINGS = "SELECT @@GLOBAL.log_bin, @@GLOBAL.binlog_format, @@GLOBAL.log_slave_updates, @@GLOBAL.gtid_slave_pos"


class MariaDbMirrors:
    """Private replicas of MariaDB."""

    def __init__(self, product: Product) -> None:
        self._product = product

    @translated()
    def size(self, work: MirrorWork) -> int:
        here = _followable(work)
        with primary.session(here) as link:
            _require(link, here)
            return catalog.size(link, copying.wanted(link, here, self._product, ()))

    @translated()
    def copy(self, work: MirrorWork) -> CopiedPrimary:
        here = _followable(work)
        build = _as_build(work)
        installed = copying.choose_server(build, self._product)
        with primary.session(here) as link:
            _require(link, here)
            system, private = str(link.value("SELECT @@GLOBAL.server_id")), primary.is_private(link)
            known = {name: str(link.value(f"SELECT @@GLOBAL.{name}")) for name in following.AS_PRIMARY}
        bootstrap.initialise(build, self._product, installed)
        settings.write_build(build, self._product, notes.read(build))
        server.prepare_admin(build, self._product)
        with _running(build, self._product, installed):
            absent = copying.restore_whole(build, self._product)
            found = notes.read(build)
            with server.connect(build) as admin:
                admin.rows("SET GLOBAL gtid_slave_pos = %s", found.get("gtid", ""))
                layout = {name: str(admin.value(f"SELECT @@GLOBAL.{name}")) for name in settings.LAYOUT}
                position = following.position(admin)
        known["lower_case_table_names"] = layout["lower_case_table_names"]
        state = {**layout, **known, "major": installed.major, "gtid": position, "as_of": found["as_of"]}
        following.write_state(work, {**state, "absent": " ".join(absent), "tls": str(int(private))})
        give_tree(work.directory, work.account)
        return CopiedPrimary(installed.major, f"{here.where}/{system}")

    @translated()
    def server(self, work: MirrorWork) -> ServerSpec:
        here = _followable(work)
        state = following.read_state(work.directory)
        installed = server.choose(self._product, state.get("major"))
        following.write(work, self._product, here, private=_is_private(work, here, state))
        socket, pid = server.socket(work), server.pid_file(work)
        return ServerSpec(
            name=work.server,
            argv=(
                str(server.server_program(self._product, installed)),
                f"--defaults-file={server.settings_file(work)}",
            ),
            directory=work.directory,
            env=server.environment(),
            account=work.account,
            ready=pid.exists,
            ready_timeout=_READY_SECONDS,
            stale_files=(pid, socket, socket.with_name(socket.name + ".lock")),
            stop_signals=_STOP,
        )

    def look(self, work: MirrorWork) -> ObservedMirror:
        here = _followable(work)
        try:
            with server.connect(work, look=True) as link:
                found = following.standing(work, link)
        except (SqlError, UnavailableError) as error:
            return ObservedMirror(following=False, problem=f"it cannot be asked: {here.redacted(str(error))}")
        problem, lost = here.redacted(found.refused), ""
        if found.gone:
            lost = f"the primary has not the log that the mirror needs: {problem}"
        elif found.stuck:
            lost = found.stuck
        stopped = found.begun and not (found.applying or found.stuck)
        running = found.receiving and found.applying
        if stopped:
            problem = "its replication was stopped"
        elif running and not problem:
            problem = _lag(here, found.gtid)
        return ObservedMirror(
            following=running and not lost,
            position=found.gtid,
            last_commit=found.as_of,
            problem=problem or ("" if running else "it is about to connect"),
            lost=lost,
            outdated=stopped,
        )

    def replay(self, work: MirrorWork) -> None:
        raise UnsupportedError(f"the mirror of {work.image} has no archive", reason="SourceUnsupported")

    @contextmanager
    def resting(self, work: MirrorWork) -> Iterator[None]:
        try:
            with ExitStack() as stack:
                with translated():
                    link = stack.enter_context(server.connect(work))
                    self._rest(work, link)
                yield
        finally:
            self._wake(work)

    def held(self, work: MirrorWork) -> int | None:  # noqa: ARG002 - part of the contract
        return None  # a primary keeps its binary logs as long as it says, for whoever follows

    def forget_log(self, work: MirrorWork, raws: Sequence[Path]) -> None:
        """It keeps none."""

    def leave(self, work: MirrorWork) -> None:
        """Nothing was made at the primary; what sends log there ends with the connection."""

    def _rest(self, work: MirrorWork, link: Link) -> None:
        """Have all that was applied in the files, note what that is, and let nothing be applied."""
        link.rows("STOP SLAVE SQL_THREAD")
        found = following.standing(work, link)
        if found.stuck:
            raise BusyError(f"the mirror cannot be cut: {found.stuck}", reason="MirrorStuck")
        following.note(work, found)
        for statement in ("FLUSH LOCAL TABLES", *self._product.holds[0]):  # what has no log is whole when it is closed
            link.rows(statement)

    def _wake(self, work: MirrorWork) -> None:
        """Let a mirror go on, and wait a little until it does; one that was started anew does so by itself."""
        with suppress(SqlError, ReconcilerError), server.connect(work) as link:
            link.rows("START SLAVE SQL_THREAD")
            deadline = time.monotonic() + _WAKE_SECONDS
            while time.monotonic() < deadline and not work.cancel.cancelled:
                found = following.standing(work, link)
                if (found.receiving and found.applying) or found.refused or found.stuck:
                    return
                time.sleep(_POLL_SECONDS)


def _followable(work: MirrorWork) -> Primary:
    """Return the primary of a mirror.

    Raises:
        UnsupportedError: its image asks for what this version cannot do.
        SecretError: its secret holds no connection URL.

    """
    if work.archive is not None or work.keep_log:
        what = "mode: archive" if work.archive is not None else "pointInTime"
        raise UnsupportedError(f"{what} is not supported for this engine in this version", reason="SourceUnsupported")
    here = primary.parse(work.primary.url, work.primary.secret)
    if here.socket is not None:
        raise UnsupportedError(
            f"the secret {here.secret} names a socket, by which no mirror can follow", hint="name host and port"
        )
    return here


def _require(link: Link, here: Primary) -> None:
    """Insist that a primary can be followed.

    Raises:
        SourceError: it cannot; the message says what to change there.

    """
    grants = [str(row[0]) for row in link.rows("SHOW GRANTS")]
    lacking = [right for right in _RIGHTS if not rights.has(grants, right)]
    logged, kind, updates, follows = link.rows(_SETTINGS)[0]
    problem = hint = ""
    if lacking:
        problem, hint = f"its user lacks {', '.join(lacking)}", f"GRANT {lacking[0]} TO the user of {here.secret}"
    elif not logged:
        problem, hint = "it has no binary log", "log_bin in its settings"
    elif kind == "STATEMENT":
        problem, hint = (
            "its binary log has statements whose effects differ from server to server",
            "binlog_format MIXED",
        )
    elif follows and not updates:
        problem, hint = "it follows a server whose changes it does not log", "log_slave_updates in its settings"
    if problem:
        raise SourceError(f"the primary {here.where} cannot be followed: {problem}", reason="PrimaryRefused", hint=hint)


def _is_private(work: MirrorWork, here: Primary, state: dict[str, str]) -> bool:
    """Tell whether the mirror uses TLS: where the URL leaves that open, as the primary had it last."""
    if here.tls != "PREFERRED":
        return here.tls != "DISABLED"
    try:
        with primary.look(here) as link:
            found = primary.is_private(link)
    except ReconcilerError:
        if "tls" not in state:  # not a guess: rows would cross the network in the clear
            raise
        return state["tls"] == "1"
    following.write_state(work, {**state, "tls": str(int(found))})
    return found


def _lag(here: Primary, own: str) -> str:
    """Return what a mirror is behind its primary, in words; empty: nothing, or nobody can tell."""
    try:
        with primary.look(here) as link:
            theirs = str(link.value("SELECT @@GLOBAL.gtid_binlog_pos") or "")
    except ReconcilerError:
        return ""
    count = following.behind(own, theirs)
    return f"{count} transaction{'s' if count > 1 else ''} behind" if count else ""


def _as_build(work: MirrorWork) -> BuildWork:
    """Return the first copy as what it is: a build of all databases, by SQL."""
    return BuildWork(
        snapshot=SnapshotId(work.server),
        server=work.server,
        directory=work.directory,
        run_directory=work.run_directory,
        account=work.account,
        version=work.version,
        source=LocalSource("primary", primary=work.primary),
        jobs=work.jobs,
        cancel=work.cancel,
        progress=work.progress,
    )


@contextmanager
def _running(work: BuildWork, product: Product, installed: InstalledServer) -> Iterator[None]:
    """Run the server of a copy within the block, bound to this process; it is shut down in an orderly way."""
    failures: list[ReconcilerError] = []
    ended = proc.CancelToken()
    argv: list[str | Path] = [
        server.server_program(product, installed),
        f"--defaults-file={server.settings_file(work)}",
    ]

    def run() -> None:
        try:
            proc.run(argv, account=work.account, env=server.environment(), cwd=work.directory, cancel=ended)
        except CancelledError:
            return
        except ReconcilerError as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        _await(work, thread, failures)
        yield
        with server.connect(work) as admin, suppress(SqlError):
            admin.rows("SHUTDOWN")
        thread.join()
    finally:
        ended.cancel()
        thread.join()
    if failures:
        raise _ended(failures)


def _await(work: BuildWork, thread: threading.Thread, failures: list[ReconcilerError]) -> None:
    pid = server.pid_file(work)
    waited = 0.0
    while not pid.exists():
        work.cancel.check()
        if not thread.is_alive() or waited > _START_SECONDS:
            raise _ended(failures)
        thread.join(_POLL_SECONDS)
        waited += _POLL_SECONDS


def _ended(failures: Sequence[ReconcilerError]) -> PermanentError:
    said = failures[0] if failures else None
    told = bootstrap.first_error(said.stderr) if isinstance(said, CommandError) else "it did not start in time"
    return PermanentError(f"the server of the copy ended: {told}")
