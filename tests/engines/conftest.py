"""A host for engines under test: runs what a ServerSpec says, with short paths that every account can reach."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from reconciler import proc
from reconciler.engines.base import LiveServer, LocalSource
from reconciler.engines.postgres import server
from reconciler.engines.postgres.engine import PostgresEngine
from reconciler.errors import ScriptError
from reconciler.testing.engine import EngineHarness, Primary
from tests.live import live_server
from tests.support import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from reconciler.engines.base import BuildWork, InstalledServer
    from reconciler.proc import Account
    from reconciler.state.servers import Endpoint, ServerSpec

_START_SECONDS = 60


class ServerHost(EngineHarness):
    """Runs what a ServerSpec says, under another account where this is root."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._running: dict[Path, subprocess.Popen[bytes]] = {}

    def account(self) -> Account | None:
        if os.geteuid() != 0:
            return None
        nobody = pwd.getpwnam("nobody")
        return proc.Account(nobody.pw_uid, nobody.pw_gid)

    def volume(self) -> Path:
        return self._given(super().volume())

    def run_directory(self) -> Path:
        return self._given(Path(tempfile.mkdtemp(prefix="run", dir=self.root)))

    def copy(self, source: Path, target: Path) -> None:
        proc.run(["cp", "-a", "--reflink=auto", source, target])

    def _given(self, path: Path) -> Path:
        account = self.account()
        if account is not None:
            os.chown(path, account.uid, account.gid)
        path.chmod(0o700)
        return path

    def start(self, spec: ServerSpec) -> None:
        for path in spec.stale_files:
            path.unlink(missing_ok=True)
        log = self.log(spec)
        process = proc.spawn(spec.argv, log=log, env=spec.env, cwd=spec.directory, account=spec.account)
        self._running[spec.directory] = process
        deadline = time.monotonic() + _START_SECONDS
        while not spec.ready():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.01)

    def stop(self, spec: ServerSpec) -> None:
        process = self._running.pop(spec.directory)
        process.send_signal(spec.stop_signals[0][0])
        process.wait(60)

    def kill(self, spec: ServerSpec) -> None:
        """End a server as a power failure does."""
        process = self._running.pop(spec.directory)
        process.kill()
        process.wait(60)

    def log(self, spec: ServerSpec) -> Path:
        return self.root / f"{spec.directory.parent.name}.log"

    def free_port(self) -> int:
        return free_port()

    def close(self) -> None:
        """End every server that runs, whatever comes of another, and remove everything."""
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, self.root, ignore_errors=True)
            for process in self._running.values():
                stack.callback(_end, process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGQUIT)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


class PostgresHarness(ServerHost):
    """Runs PostgreSQL; ``major`` is what builds ask for when their source leaves it open."""

    create_database = "CREATE DATABASE shop"
    create_table = "CREATE TABLE item (id int PRIMARY KEY, name text); INSERT INTO item VALUES (0, 'zero');"
    broken_script = "SELECT 1;\nSELECT FROM nowhere;"
    true_check = "SELECT true"
    false_check = "SELECT false"
    count_items = "SELECT count(*) FROM item"
    add_item = "INSERT INTO item SELECT count(*), 'more' FROM item"

    def __init__(self, root: Path, major: str) -> None:
        super().__init__(root)
        self.major = major
        self.engine = PostgresEngine()

    @property
    def installed(self) -> InstalledServer:
        return server.choose(self.major)

    def build_work(self, *, source: LocalSource | None = None, databases: tuple[str, ...] = ()) -> BuildWork:
        return replace(super().build_work(source=source, databases=databases), version=self.major)

    def connected(self, endpoint: Endpoint, password: str, application: str) -> AbstractContextManager[object]:
        return self.connect(endpoint, password, application)

    def connect(self, endpoint: Endpoint, password: str, application: str = "") -> psycopg.Connection:
        return psycopg.connect(
            host=endpoint.host,
            port=endpoint.port,
            dbname=endpoint.database,
            user=endpoint.user,
            password=password,
            application_name=application,
            autocommit=True,
        )

    def execute(self, endpoint: Endpoint, password: str, statement: str) -> None:
        try:
            with self.connect(endpoint, password) as conn:
                conn.execute(statement.encode())
        except psycopg.Error as error:
            raise ScriptError(str(error)) from error

    @contextmanager
    def primary(self) -> Iterator[Primary]:
        with live_server(self.major) as made:
            made.sql("CREATE DATABASE shop")
            made.sql(self.create_table, "shop")
            source = LocalSource("primary", primary=LiveServer(made.url(), "shop-dsn", "logical"))
            yield Primary(source, lambda: made.sql(self.add_item, "shop"))


@pytest.fixture(scope="module")
def make_harness() -> Iterator[Callable[[str], PostgresHarness]]:
    """Return a maker of harnesses for a major version; all of them end with the module's tests."""

    def make(major: str) -> PostgresHarness:
        if not any(one.major == major for one in server.installed_servers()):
            pytest.skip(f"needs PostgreSQL {major} on this host")
        root = Path(tempfile.mkdtemp(prefix="rpg-"))
        root.chmod(0o755)
        made = PostgresHarness(root, major)
        stack.callback(made.close)
        return made

    with ExitStack() as stack:
        yield make


@pytest.fixture(scope="module")
def postgres(make_harness: Callable[[str], PostgresHarness]) -> PostgresHarness:
    """A harness of the newest version on this host."""
    return make_harness(server.choose().major)
