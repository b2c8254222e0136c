"""A live PostgreSQL on loopback, as production runs one: passwords for everybody, and nothing known of the reconciler.

with live_server("18") as shop:
    shop.sql("CREATE DATABASE shop")
    shop.url("boss", "shop")
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import psycopg
import pytest

from reconciler.engines.postgres import server
from tests.support import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.engines.base import InstalledServer

PASSWORD = "s3cret/of production"
"""Of every role: with characters that a URL has to escape."""
_NOBODY = 65534
_LEAVING_SECONDS = 30
_HBA = """\
local all all trust
local replication all trust
host all all 127.0.0.1/32 scram-sha-256
host replication all 127.0.0.1/32 scram-sha-256
"""


@dataclass
class LiveServer:
    """A running server; ``boss`` is its superuser."""

    root: Path
    programs: InstalledServer
    port: int
    settings: tuple[str, ...] = ()
    _running: bool = field(default=False, repr=False)

    def init(self) -> None:
        """Make its data directory."""
        self._tool("initdb", "-D", self.data, "-U", "boss", "--locale=C.UTF-8", "--encoding=UTF8", "--no-sync")
        (self.data / "pg_hba.conf").write_text(_HBA)
        self.start()
        self.sql(f"ALTER ROLE boss PASSWORD '{PASSWORD}'")

    @property
    def data(self) -> Path:
        return self.root / "data"

    def start(self) -> None:
        options = " ".join(
            f"-c {one}"
            for one in (
                "listen_addresses=127.0.0.1",
                f"port={self.port}",
                f"unix_socket_directories={self.root}",
                "fsync=off",
                *self.settings,
            )
        )
        self._tool("pg_ctl", "start", "-w", "-D", self.data, "-l", self.root / "log", "-o", options)
        self._running = True

    def stop(self, how: str = "fast") -> None:
        if self._running:
            self._tool("pg_ctl", "stop", "-w", "-m", how, "-D", self.data)
            self._running = False

    def url(self, user: str = "boss", database: str = "postgres", password: str = PASSWORD) -> str:
        return f"postgresql://{user}:{quote(password, safe='')}@127.0.0.1:{self.port}/{quote(database)}"

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """Open a session of the superuser, in autocommit mode."""
        return psycopg.connect(
            host=str(self.root), port=self.port, user="boss", dbname=database, autocommit=True, application_name="owner"
        )

    def sql(self, text: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run statements as the superuser; return the rows of the last."""
        with self.connect(database) as conn:
            cursor = conn.execute(text.encode())
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description is not None else []

    def require_left(self) -> None:
        """Insist that nobody else is connected any more; the end of a session takes a moment to be seen."""
        deadline = time.monotonic() + _LEAVING_SECONDS
        while strangers := self.strangers():
            assert time.monotonic() < deadline, strangers
            time.sleep(0.01)

    def strangers(self) -> list[str]:
        """Return the names of applications that are connected now, besides its own."""
        rows = self.sql(
            "SELECT application_name FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND application_name <> 'owner'"
        )
        return [str(row[0]) for row in rows]

    @contextmanager
    def standby(self) -> Iterator[LiveServer]:
        """Have a hot standby of it in the block."""
        root = _root()
        try:
            made = LiveServer(root, self.programs, free_port(), self.settings)
            self._tool(
                "pg_basebackup",
                "-D",
                made.data,
                "-h",
                self.root,
                "-p",
                str(self.port),
                "-U",
                "boss",
                "-R",
                "-N",
                "-c",
                "fast",
            )
            made.start()
            yield made
        finally:
            made.stop("immediate")
            shutil.rmtree(root)

    def _tool(self, program: str, *words: str | Path) -> None:
        env = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
        account = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        argv = [server.program(self.programs, program), *words]
        with (self.root / "tools.log").open("ab") as log:
            subprocess.run(argv, env=env, cwd="/", check=True, stdout=log, stderr=log, **account)  # type: ignore[call-overload] # keywords for one platform


@contextmanager
def live_server(major: str, *settings: str, parent: Path | None = None) -> Iterator[LiveServer]:
    """Have such a server in the block, below ``parent``; ``settings`` are like ``max_connections=10``."""
    found = [one for one in server.installed_servers() if one.major == major]
    if not found:
        pytest.skip(f"needs PostgreSQL {major} on this host")
    made = LiveServer(_root(parent), found[0], free_port(), settings)
    try:
        made.init()
        yield made
    finally:
        made.stop("immediate")
        shutil.rmtree(made.root)


def _root(parent: Path | None = None) -> Path:
    root = Path(tempfile.mkdtemp(prefix="live-", dir=parent))
    root.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(root, _NOBODY, _NOBODY)
    return root
