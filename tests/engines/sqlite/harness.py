"""SQLite under test: nothing to start or stop, so only its few words of SQL."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, ClassVar

from reconciler.engines.base import LocalSource
from reconciler.engines.sqlite.databases import file_of
from reconciler.engines.sqlite.engine import SqliteEngine
from reconciler.errors import ScriptError
from reconciler.ids import ServerName
from reconciler.spec.gaps import Gap
from reconciler.testing.engine import EngineHarness

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from reconciler.engines.base import BuildWork, CloneWork
    from reconciler.state.observed import SnapshotManifest
    from reconciler.state.servers import Endpoint, ServerSpec

ITEMS = "CREATE TABLE item (id integer PRIMARY KEY, name text); INSERT INTO item VALUES (1, 'one'), (2, 'two;2');"
_USER = """\
import sqlite3, sys
conn = sqlite3.connect(sys.argv[1], isolation_level=None)
conn.execute("INSERT INTO item SELECT count(*), 'more' FROM item")
print("open", flush=True)
sys.stdin.read()
"""


class SqliteHarness(EngineHarness):
    """Databases are files: a clone is reached by the path that its port stands for."""

    create_database = "PRAGMA user_version = 1"
    create_table = "CREATE TABLE item (id integer PRIMARY KEY, name text); INSERT INTO item VALUES (0, 'zero');"
    broken_script = "SELECT 1;\nSELECT * FROM nowhere;"
    true_check = "SELECT 1"
    false_check = "SELECT 0"
    count_items = "SELECT count(*) FROM item"
    add_item = "INSERT INTO item SELECT count(*), 'more' FROM item"
    gaps: ClassVar[Mapping[str, Gap]] = {
        "test_users_of_a_clone_are_exactly_those_delivered": Gap("never", "a file has no users"),
        "test_a_password_is_in_no_url_and_no_command_unless_asked_for": Gap("never", "a file has no password"),
    }

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.engine = SqliteEngine()
        self._paths: dict[int, Path] = {}

    def run_directory(self) -> Path:
        return self.root

    def build_work(self, *, source: LocalSource | None = None, databases: tuple[str, ...] = ()) -> BuildWork:
        """Return a new build; nothing in SQL makes a database, so an empty one is asked for by name."""
        if source is None and not databases:
            databases = ("shop",)
        return super().build_work(source=source, databases=databases)

    def clone_work(self, directory: Path, snapshot: SnapshotManifest, *, port: int | None) -> CloneWork:
        work = super().clone_work(directory, snapshot, port=port)
        if port is not None:
            self._paths[port] = file_of(work.directory, "shop")
        return work

    def start(self, spec: ServerSpec) -> None:
        assert spec.argv == ()
        assert spec.ready()

    def stop(self, spec: ServerSpec) -> None:
        assert spec.name in (ServerName("shop-dev.1"), self.build_work().server)

    def free_port(self) -> int:
        return 1 + len(self._paths)

    def execute(self, endpoint: Endpoint, password: str, statement: str) -> None:  # noqa: ARG002 - nobody asks for it
        try:
            with closing(sqlite3.connect(self._paths[endpoint.port], isolation_level=None)) as conn:
                conn.execute(statement).fetchall()
        except sqlite3.Error as error:
            raise ScriptError(str(error)) from error

    @contextmanager
    def connected(self, endpoint: Endpoint, password: str, application: str) -> Iterator[None]:  # noqa: ARG002 - as above
        program = self.root / application
        program.write_text(f"#!{sys.executable}\n{_USER}")
        program.chmod(0o700)
        path = self._paths[endpoint.port]
        with subprocess.Popen([program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as user:
            assert user.stdout is not None
            assert user.stdout.readline() == b"open\n"
            yield
            user.communicate()

    def close(self) -> None:
        """Nothing runs."""


def tables(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Return the rows of every table of a database."""
    with closing(sqlite3.connect(path)) as conn:
        names = [row[0] for row in conn.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
        return {name: conn.execute(f'SELECT * FROM "{name}"').fetchall() for name in names}


def files_of(path: Path, name: str = "") -> LocalSource:
    """Return a source ``files``."""
    return LocalSource("files", path, name=name or path.name)


def dump_of(path: Path) -> LocalSource:
    """Return a source ``dump``."""
    return LocalSource("dump", path, name=path.name)


def made(path: Path, sql: str = ITEMS, *, mode: str = "DELETE") -> Path:
    """Return a new database with what some SQL makes."""
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute(f"PRAGMA journal_mode = {mode}")
        conn.executescript(sql)
    return path
