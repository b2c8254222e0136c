"""An instance that exists in memory only: the family's member for tests of planning and of the loop.

It keeps the contract of :class:`~reconciler.engines.base.Instance` without a server. What
survives a reconciler is the :class:`MemoryServer`; what others have there is in it as well.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from reconciler.engines.base import HostedTemplate
from reconciler.engines.instances import require_fit, too_old
from reconciler.engines.memory import Content, run_script
from reconciler.errors import BusyError, PermanentError, UnavailableError
from reconciler.state.hosted import login_name, private_name, public_name
from reconciler.state.observed import Activity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconciler.engines.base import CloneWork, Progress, UserWish
    from reconciler.engines.memory import MemoryEngine
    from reconciler.ids import CloneName, InstallationId, SnapshotId, VolumeId
    from reconciler.proc import CancelToken
    from reconciler.state.desired import Script
    from reconciler.state.observed import SnapshotManifest
    from reconciler.state.servers import Hosted


@dataclass
class _Template:
    content: Content


@dataclass
class _Clone:
    hosted: Hosted
    content: Content
    open: bool = False
    names: tuple[str, ...] = ()


@dataclass
class MemoryServer:
    """A server: what each installation has there, and databases of somebody else.

    ``away`` is the reason why it does not answer, while it is set.
    """

    major: str = "2"
    instant: bool | None = True
    away: str | None = None
    foreign: set[str] = field(default_factory=set)
    templates: dict[tuple[InstallationId, SnapshotId], _Template] = field(default_factory=dict)
    clones: dict[tuple[InstallationId, VolumeId], _Clone] = field(default_factory=dict)
    logins: dict[str, tuple[InstallationId, CloneName, str]] = field(default_factory=dict)
    """Whose it is, of which clone, and with which password, by login."""
    lock: threading.RLock = field(default_factory=threading.RLock)

    def names(self) -> set[str]:
        """Return the names under which databases of clones, and somebody else's, are now."""
        return self.foreign | {name for clone in self.clones.values() for name in clone.names}

    def execute(self, database: str, login: str, password: str, statement: str) -> None:
        """Run a statement as a login.

        Raises:
            UnavailableError: it is not let in.

        """
        found = next((one for one in self.clones.values() if database in one.names and one.open), None)
        known = self.logins.get(login)
        if found is None or found.hosted.private or known is None or known[1:] != (found.hosted.clone, password):
            raise UnavailableError(f"{login} is not let into {database}")
        found.content.execute(statement)


class MemoryInstance:
    """One installation's view of a :class:`MemoryServer`."""

    def __init__(self, engine: MemoryEngine, server: MemoryServer, installation: InstallationId) -> None:
        self._engine, self._server, self._installation = engine, server, installation

    def address(self) -> tuple[str, int]:
        return "memory", 1

    def version(self) -> str:
        self._require_there()
        return f"{self._server.major}.0"

    def templates(self) -> tuple[HostedTemplate, ...]:
        self._require_there()
        with self._server.lock:
            mine = [(key[1], one) for key, one in self._server.templates.items() if key[0] == self._installation]
        instant = self._server.instant
        return tuple(HostedTemplate(snapshot, one.content.databases, instant) for snapshot, one in mine)

    def served(self) -> frozenset[VolumeId]:
        self._require_there()
        with self._server.lock:
            return frozenset(
                volume
                for (owner, volume), one in self._server.clones.items()
                if owner == self._installation and one.open
            )

    def check(self, snapshot: SnapshotManifest) -> None:
        self._require_there()
        require_fit(snapshot, "the instance", engine=self._engine.name, product=self._engine.name)
        if int(self._server.major) < int(snapshot.major):
            raise too_old(snapshot, "the instance", f"{self._engine.name} {self._server.major}")

    def load(self, work: CloneWork, *, jobs: int, progress: Progress) -> None:  # noqa: ARG002 - it takes no time
        self._require_there()
        work.cancel.check()
        with self._server.lock:
            content = self._engine.clone_content(work)
            self._server.templates[self._installation, work.snapshot.snapshot] = _Template(replace(content, users={}))

    def unload(self, snapshot: SnapshotId) -> None:
        self._require_there()
        with self._server.lock:
            self._server.templates.pop((self._installation, snapshot), None)

    def create(self, hosted: Hosted, users: Sequence[UserWish] = ()) -> None:  # noqa: ARG002 - of the contract
        self._require_there()
        with self._server.lock:
            self._server.clones.pop((self._installation, hosted.volume), None)
            template = self._server.templates.get((self._installation, hosted.snapshot))
            if template is None:
                raise BusyError(f"snapshot {hosted.snapshot} is not loaded", reason="TemplateGone")
            names = tuple(private_name(hosted.volume, name, hosted.databases) for name in hosted.databases)
            self._require_free(names)
            content = replace(template.content, users={}, connected={})
            self._server.clones[self._installation, hosted.volume] = _Clone(hosted, content, names=names)

    def serve(self, hosted: Hosted) -> None:
        self._require_there()
        with self._server.lock:
            mine = self._server.clones.get((self._installation, hosted.volume))
            if mine is None:
                raise PermanentError(f"clone {hosted.clone} is not there any more", reason="DatabaseGone")
            if not hosted.private:
                names = tuple(public_name(hosted.clone, name, hosted.databases) for name in hosted.databases)
                self._make_room(hosted, names)
                mine.names = names
            mine.hosted, mine.open = hosted, True

    def refuse(self, volume: VolumeId) -> None:
        self._require_there()
        with self._server.lock:
            found = self._server.clones.get((self._installation, volume))
            if found is not None:
                found.open = False
                found.content.connected.clear()

    def remove(self, volume: VolumeId) -> None:
        self._require_there()
        with self._server.lock:
            self._server.clones.pop((self._installation, volume), None)
            left = {one.hosted.clone for (owner, _), one in self._server.clones.items() if owner == self._installation}
            for login, (owner, clone, _password) in list(self._server.logins.items()):
                if owner == self._installation and clone not in left:
                    del self._server.logins[login]

    def rename(self, formerly: CloneName, clone: CloneName) -> None:
        self._require_there()
        with self._server.lock:
            for login, (owner, known, password) in list(self._server.logins.items()):
                if (owner, known) == (self._installation, formerly):
                    del self._server.logins[login]
                    new = login_name(clone, login.removeprefix(f"{formerly}_"))
                    self._server.logins[new] = (owner, clone, password)
            for one in self._of_clone(formerly):
                served = one.names[0] == public_name(formerly, one.hosted.databases[0], one.hosted.databases)
                one.hosted = replace(one.hosted, clone=clone)
                if served:
                    one.names = tuple(public_name(clone, n, one.hosted.databases) for n in one.hosted.databases)

    def deliver(self, hosted: Hosted, users: Sequence[UserWish], drop: Sequence[str]) -> None:
        self._require_there()
        with self._server.lock:
            for user in drop:
                self._server.logins.pop(login_name(hosted.clone, user), None)
            for wish in users:
                login = login_name(hosted.clone, wish.name)
                self._server.logins[login] = (self._installation, hosted.clone, wish.password)

    def run_scripts(self, hosted: Hosted, scripts: Sequence[Script], cancel: CancelToken) -> None:
        self._require_there()
        content = self._server.clones[self._installation, hosted.volume].content
        for script in scripts:
            cancel.check()
            run_script(content, script)

    def activity(self, volume: VolumeId) -> Activity:
        self._require_there()
        content = self._server.clones[self._installation, volume].content
        at = max(content.connected.values(), default=None)
        return Activity(len(content.connected), at, tuple(sorted(content.connected)), content.sessions)

    def close(self) -> None:
        """Nothing is open."""

    def _of_clone(self, clone: CloneName) -> list[_Clone]:
        owned = [one for (owner, _), one in self._server.clones.items() if owner == self._installation]
        return [one for one in owned if one.hosted.clone == clone]

    def _make_room(self, hosted: Hosted, names: tuple[str, ...]) -> None:
        """Move another generation of the clone out of the way."""
        for one in self._of_clone(hosted.clone):
            if one.hosted.volume != hosted.volume and set(one.names) & set(names):
                one.open = False
                one.names = tuple(
                    private_name(one.hosted.volume, n, one.hosted.databases) for n in one.hosted.databases
                )
        mine = self._server.clones[self._installation, hosted.volume].names
        self._require_free(tuple(name for name in names if name not in mine))

    def _require_free(self, names: tuple[str, ...]) -> None:
        for name in names:
            if name in self._server.names():
                raise BusyError(f"there is a database {name} that is not ours; it is left alone", reason="NameTaken")

    def _require_there(self) -> None:
        if self._server.away is not None:
            raise UnavailableError(f"the instance cannot be reached: {self._server.away}")
