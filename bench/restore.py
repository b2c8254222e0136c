"""Restore of a custom-format dump, against ``pg_restore --jobs`` by hand into the same running server.

Both restore the same dump in turns into one build server with one configuration.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench.figures import Figure, Options, SkippedError, in_turns
from reconciler.engines.base import BuildWork, LocalSource
from reconciler.engines.postgres import server
from reconciler.engines.postgres.engine import PostgresEngine
from reconciler.ids import InstallationId, RuntimeName, ServerName, SnapshotId, VolumeId
from reconciler.runtimes.accounts import AccountSettings
from reconciler.runtimes.process import ProcessRuntime

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.engines.base import Engine
    from reconciler.proc import Account
    from reconciler.state.servers import ServerSpec

_SCALE = {"quick": 1, "default": 20, "full": 100}
_NAME = "bench"


def run(options: Options) -> list[Figure]:
    """Measure the step of a build that restores."""
    scale = _SCALE["quick" if options.quick else "full" if options.full else "default"]
    with build_server() as work:
        dump = _dump(work, scale)
        ours, floor = in_turns(
            1 if options.quick else max(3, options.repetitions // 2),
            lambda: _ours(work, dump),
            lambda: _by_hand(work, dump),
        )
    return [Figure(f"restore of a custom-format dump of {scale * 15} MB", ours, floor, 1.15, note=f"{work.jobs} jobs")]


def _ours(work: BuildWork, dump: Path) -> float:
    job = _work(work, LocalSource("dump", path=dump))
    with PostgresEngine().session(job) as session:
        start = time.perf_counter()
        session.restore()
        seconds = time.perf_counter() - start
    _drop(work)
    return seconds


def _by_hand(work: BuildWork, dump: Path) -> float:
    start = time.perf_counter()
    _tool(work, "createdb", "--template=template0", _NAME)
    _tool(work, "pg_restore", f"--jobs={work.jobs}", f"--dbname={_NAME}", "--exit-on-error", dump)
    seconds = time.perf_counter() - start
    _drop(work)
    return seconds


def _drop(work: BuildWork) -> None:
    for database in (name for name in _databases(work) if name != "postgres"):
        _tool(work, "dropdb", database)
    with server.connect(work, "postgres") as connection:
        connection.execute("CHECKPOINT")


def _databases(work: BuildWork) -> tuple[str, ...]:
    with server.connect(work, "postgres") as connection:
        return server.user_databases(connection)


def _dump(work: BuildWork, scale: int) -> Path:
    """Make the dump on the server that it will be restored into."""
    dump = work.run_directory / f"{_NAME}.dump"
    _tool(work, "createdb", "--template=template0", _NAME)
    _tool(work, "pgbench", "--initialize", "--quiet", f"--scale={scale}", _NAME)
    _tool(work, "pg_dump", "--format=custom", f"--file={dump}", _NAME)
    dump.chmod(0o644)
    _drop(work)
    return dump


def _tool(work: BuildWork, name: str, *words: str | Path) -> None:
    env = server.socket_environment(work, "postgres", server.ADMIN)
    programs = server.program(server.choose(), "postgres").parent
    subprocess.run([programs / name, *words], env=env, check=True, capture_output=True)


def _work(base: BuildWork, source: LocalSource) -> BuildWork:
    return BuildWork(
        snapshot=base.snapshot,
        server=base.server,
        directory=base.directory,
        run_directory=base.run_directory,
        account=base.account,
        source=source,
        jobs=base.jobs,
    )


@contextmanager
def build_server(version: str | None = None) -> Iterator[BuildWork]:
    """Run an empty build server as the product does: of a major version, or the newest."""
    if not server.installed_servers():
        raise SkippedError("needs PostgreSQL")
    with served_build(PostgresEngine(), version) as (work, _runtime, _spec):
        yield work


@contextmanager
def served_build(engine: Engine, version: str | None = None) -> Iterator[tuple[BuildWork, ProcessRuntime, ServerSpec]]:
    """Run an empty build server of an engine, as :func:`build_server`."""
    with ExitStack() as stack:
        root = Path(tempfile.mkdtemp(prefix="rb-", dir="/var/tmp"))
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        root.chmod(0o711)
        for name in ("volume", "run", "logs"):
            (root / name).mkdir(mode=0o700)
        runtime = ProcessRuntime(
            RuntimeName("process"),
            installation=InstallationId(root.name),
            key=root.name.encode(),
            logs=root / "logs",
            ports=range(26200, 26300),
            accounts=AccountSettings("reconciler-build", "reconciler-clone", own=range(1)),
        )
        account = runtime.account("build", VolumeId(_NAME), frozenset())
        _give(root, account)
        work = BuildWork(
            snapshot=SnapshotId("bench-20260101t000000z-00000000"),
            server=ServerName(_NAME),
            directory=root / "volume",
            run_directory=root / "run",
            account=account,
            version=version,
            jobs=max(1, os.cpu_count() or 1),
        )
        engine.prepare(work)
        spec = engine.build_server(work)
        stack.callback(runtime.stop, work.server, spec=spec)
        runtime.start(spec)
        yield work, runtime, spec


def _give(root: Path, account: Account | None) -> None:
    for name in ("volume", "run"):
        if account is not None and account.uid != os.geteuid():
            os.chown(root / name, account.uid, account.gid)
