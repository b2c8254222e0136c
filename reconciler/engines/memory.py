"""An engine without processes or files, for tests of planning and of the loop.

Made by tests and by the registry for memory pools. It keeps the whole contract of
:mod:`reconciler.engines.base`: a build remembers databases and rows in this process,
a clone starts from what its snapshot's facts say. Its language has one statement a line::

    database NAME      make a database
    row                add a row
    expect NUMBER      fail unless there are that many rows
    fail               fail

A check is ``true``, ``false`` or a number of rows. Every parameter but ``forbidden`` may be
set; no clone's server starts with ``unservable``. A database called ``damaged`` is found to be.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from reconciler.engines.base import CopiedPrimary, InstalledServer, Sealed, SourceIdentity
from reconciler.errors import (
    CheckFailedError,
    MaskingError,
    NotInstalledError,
    PermanentError,
    ReconcilerError,
    ScriptError,
    SourceError,
    UnavailableError,
)
from reconciler.masking.classify.profiles import DatabaseProfile
from reconciler.masking.report import Masked
from reconciler.masking.schema import DatabaseSchema
from reconciler.state.desired import Script
from reconciler.state.observed import Activity, ObservedMirror
from reconciler.state.servers import ProductImage, ServerSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime

    from reconciler.engines.base import (
        BuildSession,
        BuildWork,
        CloneWork,
        DatabaseFiles,
        Instances,
        LocalSource,
        MaskingWork,
        Mirrors,
        MirrorWork,
        UserWish,
    )
    from reconciler.ids import ServerName
    from reconciler.masking.evidence import Base, Evidence
    from reconciler.state.desired import Check
    from reconciler.state.servers import Endpoint

UNSERVABLE = "unservable"
DAMAGED = "damaged"


@dataclass
class Content:
    """What a data directory, or a database on an instance, would hold."""

    major: str
    databases: tuple[str, ...] = ()
    rows: int = 0
    isolated: bool = False
    users: dict[str, UserWish] = field(default_factory=dict)
    connected: dict[str, datetime] = field(default_factory=dict)
    sessions: int = 0

    def execute(self, statement: str) -> None:
        """Run a statement."""
        _statement(self, statement)


class MemoryEngine:
    """A database product in this process. Safe to call from several threads for different servers.

    Other content of a source than nothing is given by :meth:`put_source`, that of a primary at its URL.
    """

    install_hint = "nothing to install: its servers are part of this process"

    def __init__(self, name: str = "memory", *, majors: tuple[str, ...] = ("2", "1")) -> None:
        self.name = name
        self.silent = False
        """Whether its servers do not answer when they are asked who uses them."""
        self._majors = majors
        self._contents: dict[Path, Content] = {}
        self._sources: dict[Path, tuple[str, ...]] = {}
        self._lock = threading.Lock()
        self.mirrors: Mirrors | None = MemoryMirrors(self)
        self.instances: Instances | None = None
        self.files: DatabaseFiles | None = None

    def put_source(self, path: Path, databases: tuple[str, ...]) -> None:
        """Let a source exist at ``path`` that holds these databases."""
        self._sources[path] = databases

    def servers(self) -> tuple[InstalledServer, ...]:
        return tuple(InstalledServer(f"{major}.0", major, "embedded", Path("/memory")) for major in self._majors)

    def container_image(self, major: str | None) -> ProductImage:
        return ProductImage(f"memory:{major or self._majors[-1]}", "memory")

    def identify(self, source: LocalSource) -> SourceIdentity:
        if source.kind == "empty":
            return SourceIdentity("empty", 0)
        if source.base is not None:
            return SourceIdentity(source.base.snapshot, 0)
        content = "\n".join(self._source(source))
        return SourceIdentity(hashlib.sha256(content.encode()).hexdigest(), len(content))

    def built_size(self, path: str, stored_bytes: int) -> int:  # noqa: ARG002 - nothing is packed here
        return stored_bytes

    def prepare(self, work: BuildWork) -> None:
        major = work.source.base.major if work.source.base is not None else work.version or self._majors[0]
        self._require(major)
        content = Content(major)
        if work.source.kind == "clone" and work.source.path is not None:
            there = self.content(work.source.path)
            content = replace(there, users=dict(there.users), connected={}, isolated=False)
        elif work.source.base is not None:
            content = _restored(work.source.base.major, work.source.base.databases, work.source.base.facts)
        elif work.source.kind == "mirror" and work.source.path is not None:
            content = replace(self.content(work.source.path), users={})
        else:
            content.databases = work.databases if work.source.kind == "empty" else self._source(work.source)
        self.put_content(work.directory, content)

    def put_content(self, directory: Path, content: Content) -> None:
        """Let a directory hold something."""
        with self._lock:
            self._contents[directory] = content

    def build_server(self, work: BuildWork) -> ServerSpec:
        return replace(_server(work.server, work.directory), account=work.account)

    @contextmanager
    def session(self, work: BuildWork) -> Iterator[BuildSession]:
        yield _MemorySession(work, self.content(work.directory))

    def finish(self, work: BuildWork) -> Sealed:
        content = self.content(work.directory)
        if not content.isolated:
            raise PermanentError("the build was not isolated")
        return Sealed(
            version=f"{content.major}.0",
            major=content.major,
            databases=content.databases,
            facts={"rows": str(content.rows)},
            position=str(content.rows),
        )

    def clone_server(self, work: CloneWork) -> ServerSpec:
        self._require(work.snapshot.major)
        self._clone(work)
        host = None if work.port is None else work.host
        spec = replace(_server(work.server, work.directory), host=host, port=work.port, account=work.account)
        return replace(spec, ready=lambda: UNSERVABLE not in work.parameters)

    def deliver(self, work: CloneWork, users: Sequence[UserWish], drop: Sequence[str]) -> None:
        content = self._clone(work)
        for name in drop:
            content.users.pop(name, None)
        content.users.update({user.name: user for user in users})

    def run_scripts(self, work: CloneWork, scripts: Sequence[Script]) -> None:
        for script in scripts:
            work.cancel.check()
            run_script(self._clone(work), script)

    def users(self, directory: Path) -> Mapping[str, Literal["owner", "readonly", "superuser"]]:
        """Return the users of a clone and their roles."""
        return {name: user.role for name, user in self.content(directory).users.items()}

    def execute(self, directory: Path, user: str, password: str, statement: str) -> None:
        """Run a statement as a user of the clone in ``directory``.

        Raises:
            ReconcilerError: there is no such user, the password is wrong, or the user may not.

        """
        content = self.content(directory)
        found = content.users.get(user)
        if found is None or not hmac.compare_digest(found.password.encode(), password.encode()):
            raise ReconcilerError(f"user {user} cannot log in")
        if found.role == "readonly" and not statement.startswith("expect"):
            raise ReconcilerError(f"user {user} may only read")
        _statement(content, statement)

    def activity(self, work: CloneWork) -> Activity:
        if self.silent:
            raise UnavailableError(f"the server {work.server} does not answer")
        content = self._clone(work)
        connected = content.connected
        at = max(connected.values(), default=None)
        return Activity(len(connected), at, tuple(sorted(connected)), content.sessions)

    def connect(self, directory: Path, application: str, at: datetime) -> None:
        """Let a program be connected to the clone in ``directory``."""
        content = self.content(directory)
        content.connected[application] = at
        content.sessions += 1

    def disconnect(self, directory: Path, application: str) -> None:
        """Let a program end its connection."""
        del self.content(directory).connected[application]

    def url(self, endpoint: Endpoint, password: str | None) -> str:
        secret = "" if password is None else ":" + quote(password, safe="")
        return f"memory://{endpoint.user}{secret}@{endpoint.host}:{endpoint.port}/{endpoint.database}"

    def shell(self, endpoint: Endpoint, password: str, major: str) -> tuple[tuple[str, ...], Mapping[str, str]]:
        self._require(major)
        return ("memory-shell", endpoint.host, str(endpoint.port), endpoint.user), {"MEMORY_PASSWORD": password}

    def _source(self, source: LocalSource) -> tuple[str, ...]:
        path = source.path if source.primary is None else Path(source.primary.url)
        if path is None or path not in self._sources:
            raise SourceError("there is no such source")
        return self._sources[path]

    def _require(self, major: str) -> None:
        if major not in self._majors:
            here = ", ".join(self._majors)
            raise NotInstalledError(f"{self.name} {major} is not on this host, which has {here}")

    def content(self, directory: Path) -> Content:
        """Return what a directory holds."""
        with self._lock:
            if directory not in self._contents:
                raise UnavailableError(f"nothing was prepared in {directory}")
            return self._contents[directory]

    def clone_content(self, work: CloneWork) -> Content:
        """Return what a clone holds."""
        return self._clone(work)

    def _clone(self, work: CloneWork) -> Content:
        """Return a clone's content: that of its snapshot until something was done to it."""
        snapshot = work.snapshot
        with self._lock:
            if work.directory not in self._contents:
                self._contents[work.directory] = _restored(snapshot.major, snapshot.databases, snapshot.facts)
            return self._contents[work.directory]


@dataclass
class MemoryPrimary:
    """A live server of production: its rows are its log, and whoever follows it has a slot."""

    databases: tuple[str, ...]
    rows: int = 0
    away: bool = False
    slots: set[str] = field(default_factory=set)
    archived: int = 0
    """Rows that are in its archive."""
    held: int = 0
    """Bytes of log that it keeps for each of its slots."""


class MemoryMirrors:
    """Mirrors that always have what their primaries have; those are given by :attr:`primaries`, by URL."""

    def __init__(self, engine: MemoryEngine) -> None:
        self._engine = engine
        self.primaries: dict[str, MemoryPrimary] = {}

    def size(self, work: MirrorWork) -> int:
        return self._primary(work).rows

    def copy(self, work: MirrorWork) -> CopiedPrimary:
        primary = self._primary(work)
        primary.slots |= {work.slot} - {""}
        major = work.version or self._engine.servers()[0].major
        self._engine.put_content(work.directory, Content(major, primary.databases, primary.rows))
        return CopiedPrimary(major, work.primary.url.rpartition("/")[2])

    def server(self, work: MirrorWork) -> ServerSpec:
        return replace(_server(work.server, work.directory), account=work.account)

    def look(self, work: MirrorWork) -> ObservedMirror:
        content = self._engine.content(work.directory)
        if work.archive is not None:
            pending = max(0, self.primaries[work.primary.url].archived - content.rows)
            return ObservedMirror(following=True, position=str(content.rows), pending=pending)
        try:
            content.rows = self._primary(work).rows
        except UnavailableError as error:
            return ObservedMirror(following=False, position=str(content.rows), problem=str(error))
        return ObservedMirror(following=True, position=str(content.rows), lag_bytes=0, held_bytes=self.held(work))

    def held(self, work: MirrorWork) -> int | None:
        primary = self._primary(work)
        return primary.held if work.slot in primary.slots else None

    def replay(self, work: MirrorWork) -> None:
        self._engine.content(work.directory).rows = self.primaries[work.primary.url].archived

    def resting(self, work: MirrorWork) -> AbstractContextManager[None]:  # noqa: ARG002 - it never moves by itself
        return nullcontext()

    def forget_log(self, work: MirrorWork, raws: Sequence[Path]) -> None:
        """It keeps none."""

    def leave(self, work: MirrorWork) -> None:
        self._primary(work).slots.discard(work.slot)

    def _primary(self, work: MirrorWork) -> MemoryPrimary:
        found = self.primaries.get(work.primary.url)
        if found is None or found.away:
            raise UnavailableError("the primary does not answer", reason="PrimaryUnavailable")
        return found


class _MemorySession:
    """An open build."""

    def __init__(self, work: BuildWork, content: Content) -> None:
        self._work = work
        self._content = content

    def restore(self) -> None:
        """Nothing to do: ``prepare`` has loaded everything."""

    def keep_databases(self) -> None:
        wanted = self._work.databases
        missing = sorted(set(wanted) - set(self._content.databases))
        if missing:
            here = ", ".join(self._content.databases) or "none"
            raise SourceError(f"the source has no database {', '.join(missing)}; it has: {here}")
        if wanted:
            self._content.databases = tuple(name for name in self._content.databases if name in wanted)

    def look_for_damage(self, *, final: bool) -> int:  # noqa: ARG002 - nothing is sorted here
        if DAMAGED in self._content.databases:
            raise CheckFailedError(f"database {DAMAGED} is damaged", reason="DataDamaged")
        return len(self._content.databases)

    def run(self, script: Script) -> None:
        self._work.cancel.check()
        run_script(self._content, script)

    def mask(self, masking: MaskingWork) -> Masked:
        """Its rows are numbers: there is nothing that a rule could name, but scripts run."""
        for step in masking.steps:
            if not isinstance(step, Script):
                raise MaskingError("the memory engine has no tables to mask", reason="MaskingUncovered")
            self.run(step)
        return Masked()

    def profile(self) -> tuple[DatabaseProfile, ...]:
        """Databases without tables: its rows have no columns."""
        return tuple(DatabaseProfile(DatabaseSchema(name, ()), {}) for name in self._content.databases)

    def wipe(self, stopped: Callable[[], AbstractContextManager[None]], base: Base | None = None) -> None:
        """Nothing of it is in files."""

    def prove(self, masked: Masked, base: Base | None = None) -> Evidence:  # noqa: ARG002 - there are no files
        """Nothing of it is in files."""
        from reconciler.masking.evidence import Evidence, Scan  # noqa: PLC0415 - large, and only builds need it
        from reconciler.masking.matcher import Matcher  # noqa: PLC0415 - as above

        scan = Scan(files=(), columns=(), full=True, patterns=0)
        return Evidence(accepted={}, excluded={}, exposed=(), scan=scan, matcher=Matcher(masked.samples))

    def check(self, check: Check) -> None:
        if check.sql not in {"true", str(self._content.rows)}:
            raise CheckFailedError(f"the check {check.sql!r} did not return true")

    def isolate(self) -> None:
        self._content.users.clear()
        self._content.isolated = True

    def settle(self) -> None:
        """Nothing to do: nothing was left to be done later."""


def _server(name: ServerName, directory: Path) -> ServerSpec:
    return ServerSpec(name=name, argv=("memory-server",), directory=directory, ready=lambda: True)


def _restored(major: str, databases: tuple[str, ...], facts: Mapping[str, str]) -> Content:
    return Content(major, databases, int(facts.get("rows", "0")))


def run_script(content: Content, script: Script) -> None:
    """Run a script, a statement a line, to its end or first error."""
    for number, line in enumerate(script.text.splitlines(), start=script.first_line):
        try:
            _statement(content, line.strip())
        except ReconcilerError as error:
            raise ScriptError(f"{script.origin}:{number}: {error}") from error


def _statement(content: Content, line: str) -> None:
    words = line.split()
    match words:
        case []:
            return
        case ["database", name]:
            content.databases = tuple(sorted({*content.databases, name}))
        case ["row"]:
            content.rows += 1
        case ["expect", number] if number == str(content.rows):
            return
        case _:
            raise ReconcilerError(f"the statement {line!r} failed")
