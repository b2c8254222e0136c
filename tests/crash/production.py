"""What images are built from: dumps and a base backup of a small ordinary PostgreSQL with three products."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.engines.postgres import server
from tests.support import PRODUCTS

if TYPE_CHECKING:
    from collections.abc import Iterator

_NOBODY = 65534


class Production:
    """A running server that knows nothing of the reconciler."""

    def __init__(self, root: Path, major: str | None = None) -> None:
        self._root = root
        self._programs = server.choose(major)
        self._start: tuple[str | Path, ...] = ()

    @property
    def data(self) -> Path:
        return self._root / "data"

    def start(self, *settings: str) -> None:
        self._run("initdb", "-D", self._root / "data", "-U", "boss", "--locale=C.UTF-8", "--no-sync")
        options = " ".join(
            f"-c {one}" for one in (f"unix_socket_directories={self._root}", "listen_addresses=", *settings)
        )
        self._start = ("-l", self._root / "log", "-o", options)
        self._run("pg_ctl", "start", "-w", "-D", self._root / "data", *self._start)
        self._run("psql", "-X", "-q", "-c", "CREATE DATABASE shop", "postgres")
        self._run("psql", "-X", "-q", "-c", PRODUCTS, "shop")

    def psql(self, script: str, database: str = "shop") -> None:
        """Run SQL as its superuser, statement by statement."""
        self._run("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, stdin=script)

    def ask(self, query: str, database: str = "shop") -> list[str]:
        """Return the rows of a query as text."""
        return self._run("psql", "-X", "-A", "-t", "-c", query, database).splitlines()

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", self._root / "data")

    def dump(self, target: Path, *options: str) -> None:
        """Write a dump of the database with the products."""
        self._run("pg_dump", *options, "-f", self._root / "dump", "shop")
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(self._root / "dump", target)

    def backup(self, target: Path) -> None:
        """Make a base backup of everything."""
        self._run("pg_basebackup", "-D", self._root / "backup", "--checkpoint=fast", "--no-sync")
        target.parent.mkdir(exist_ok=True)
        shutil.copytree(self._root / "backup", target)

    def files(self, target: Path) -> None:
        """Copy its data directory while it is shut down, and start it again."""
        self._run("pg_ctl", "stop", "-w", "-m", "fast", "-D", self._root / "data")
        target.parent.mkdir(exist_ok=True)
        shutil.copytree(self._root / "data", target)
        self._run("pg_ctl", "start", "-w", "-D", self._root / "data", *self._start)

    def _run(self, program: str, *words: str | Path, stdin: str | None = None) -> str:
        argv = [server.program(self._programs, program), *words]
        env = {"PATH": os.environ["PATH"], "LC_ALL": "C", "PGHOST": str(self._root), "PGUSER": "boss"}
        account = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        # pg_ctl leaves a server behind that keeps what it writes to
        told = subprocess.DEVNULL if program == "pg_ctl" else subprocess.PIPE
        done = subprocess.run(argv, env=env, cwd="/", check=True, input=stdin, text=True, stdout=told, **account)  # type: ignore[call-overload] # keywords for one platform
        return done.stdout or ""


@contextmanager
def production(*settings: str, major: str | None = None) -> Iterator[Production]:
    """Have such a server in the block; ``settings`` are like ``max_connections=10``, the default is the newest."""
    root = Path(tempfile.mkdtemp(prefix="production-"))
    if os.geteuid() == 0:
        os.chown(root, _NOBODY, _NOBODY)
    made = Production(root, major)
    try:
        made.start(*settings)
        yield made
    finally:
        made.stop()
        shutil.rmtree(root)
