"""Build servers and production servers for the tests of this package.

A server is a throwaway cluster below a short path (socket paths are limited to 107
bytes), run under an unprivileged account when the tests run as root.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reconciler import proc
from reconciler.engines.base import BuildWork, InstalledServer, LocalSource
from reconciler.engines.postgres import server, settings
from reconciler.errors import UnavailableError
from reconciler.ids import ServerName, SnapshotId
from tests.support import OLDER_MAJOR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

_START_SECONDS = 60


def installed(major: str) -> InstalledServer:
    found = [one for one in server.installed_servers() if one.major == major]
    if not found:
        pytest.skip(f"needs PostgreSQL {major} on this host")
    return found[0]


def account() -> proc.Account | None:
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return proc.Account(nobody.pw_uid, nobody.pw_gid)


class Cluster:
    """A running private server, described as the build that it would belong to."""

    def __init__(self, root: Path, programs: InstalledServer) -> None:
        self.root = root
        self.programs = programs
        self.account = account()
        self._process: subprocess.Popen[bytes] | None = None
        for name in ("volume", "run"):
            (root / name).mkdir(mode=0o755)
            if self.account:
                os.chown(root / name, self.account.uid, self.account.gid)

    def work(
        self,
        path: Path | None = None,
        *,
        kind: str = "dump",
        globals_: Path | None = None,
        databases: tuple[str, ...] = (),
        superuser: bool = False,
        jobs: int = 2,
    ) -> BuildWork:
        source = LocalSource("empty") if path is None else LocalSource(kind, path, globals_)  # type: ignore[arg-type] # the tests pass literals
        return BuildWork(
            snapshot=SnapshotId("test-20260101t000000z-00000000"),
            server=ServerName("test"),
            directory=self.root / "volume",
            run_directory=self.root / "run",
            account=self.account,
            source=source,
            databases=databases,
            superuser_scripts=superuser,
            jobs=jobs,
        )

    def init(self, *options: str) -> None:
        data = self.root / "volume" / "data"
        options = options or ("--locale=C.UTF-8", "--encoding=UTF8", "--no-instructions")
        proc.run(
            [server.program(self.programs, "initdb"), "-D", data, "-U", server.ADMIN, "--no-sync", *options],
            account=self.account,
            env=proc.environment({"LC_ALL": "C"}),
        )

    def start(self, required: dict[str, str] | None = None) -> None:
        settings.write_build(self.work(), self.programs, required or {})
        self.launch()
        with server.connect(self.work(), "postgres") as conn:
            server.ensure_builder(conn)

    def restart(self) -> None:
        """Start again with the configuration as it is."""
        self.stop()
        self.launch()

    def launch(self) -> None:
        log = (self.root / "log").open("ab")
        argv = [str(server.program(self.programs, "postgres")), "-D", str(self.root / "volume" / "data")]
        user = {} if self.account is None else {"user": self.account.uid, "group": self.account.gid, "extra_groups": []}
        self._process = subprocess.Popen(argv, stdout=log, stderr=log, cwd="/", start_new_session=True, **user)  # type: ignore[call-overload] # keywords for one platform
        log.close()
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                server.connect(self.work(), "postgres").close()
            except UnavailableError:
                assert self._process is not None
                ended = self._process.poll() is not None
                assert not ended, (self.root / "log").read_text()
                assert time.monotonic() < deadline, (self.root / "log").read_text()
                time.sleep(0.02)
            else:
                return

    def crash(self) -> None:
        """End the server without a shutdown, and start it again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(_START_SECONDS)
        self.launch()

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(_START_SECONDS)
            self._process = None

    def query(self, database: str, text: str) -> list[tuple[object, ...]]:
        with server.connect(self.work(), database, role=server.ADMIN) as conn:
            return conn.execute(text.encode()).fetchall()

    def tool(
        self,
        name: str,
        *words: str | Path,
        database: str = "postgres",
        stdin: bytes | None = None,
        as_account: bool = False,
    ) -> bytes:
        """Run a client program as the administrator."""
        env = server.socket_environment(self.work(), database, server.ADMIN) | {"PGOPTIONS": ""}
        account = self.account if as_account else None
        return proc.run([server.program(self.programs, name), *words], env=env, stdin=stdin, account=account).stdout


@contextmanager
def cluster(major: str, *, running: bool = True) -> Iterator[Cluster]:
    root = Path(tempfile.mkdtemp(prefix="rt-", dir="/tmp"))
    root.chmod(0o755)
    made = Cluster(root, installed(major))
    try:
        if running:
            made.init()
            made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(root)


def wipe(made: Cluster) -> None:
    """Take a shared build server back to how it was made."""
    with server.connect(made.work(), "template1") as conn:
        for name in server.user_databases(conn):
            conn.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())
        made_roles = conn.execute("SELECT rolname FROM pg_roles WHERE oid >= 16384").fetchall()
        for database in ("postgres", "template1"):
            with server.connect(made.work(), database) as inner:
                for (name,) in made_roles:
                    inner.execute(f'DROP OWNED BY "{name}" CASCADE'.encode())
        for (name,) in made_roles:
            conn.execute(f'DROP ROLE "{name}"'.encode())
        server.ensure_builder(conn)


@pytest.fixture(scope="session")
def make_cluster() -> Callable[..., AbstractContextManager[Cluster]]:
    """Return what makes a throwaway cluster of a major version."""
    return cluster


@pytest.fixture(scope="session")
def _build_servers() -> Iterator[dict[str, Cluster]]:
    with ExitStack() as stack:

        class Lazy(dict[str, Cluster]):
            def __missing__(self, major: str) -> Cluster:
                self[major] = stack.enter_context(cluster(major))
                return self[major]

        yield Lazy()


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that everybody can pass through; those of pytest are private."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        yield Path(path)


@pytest.fixture
def build(_build_servers: dict[str, Cluster]) -> Iterator[Cluster]:
    """A running, empty build server of PostgreSQL 18."""
    yield _build_servers["18"]
    wipe(_build_servers["18"])


@pytest.fixture
def build_older(_build_servers: dict[str, Cluster]) -> Iterator[Cluster]:
    """A running, empty build server of the distribution's PostgreSQL."""
    yield _build_servers[OLDER_MAJOR]
    wipe(_build_servers[OLDER_MAJOR])
