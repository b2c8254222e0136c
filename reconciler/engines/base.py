"""The contract of engines: knowledge of one database product.

Called by ``observe`` (``identify``), ``apply`` and the command line. An engine knows
nothing of storage, runtimes or plans: it is given directories, accounts and
settings, and says what to run as a :class:`~reconciler.state.servers.ServerSpec`.

A build goes: ``prepare`` (files, no server) → server → ``session`` (restore, keep
databases, scripts, checks, isolate, settle) → server stopped → ``finish`` (files, no
server). Everything happens in the build's own directory; a crash at any point is
answered by throwing the directory away, so no step needs to be repeatable.

A clone goes: ``clone_server`` (writes settings, says what to run) → server →
``deliver`` (users, idempotent, on every change) → scripts (once).

**Safety.** No SQL from specs or dumps runs with superuser rights unless
``superuser_scripts``; nothing in the data may reach the outside while the build's
server runs; ``finish`` leaves nothing that could call home and no usable production
login. No error or log carries a secret or a row's content.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from reconciler.proc import Account, CancelToken

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from datetime import datetime
    from pathlib import Path

    from reconciler.ids import CloneName, ImageName, InstallationId, ServerName, SnapshotId, VolumeId
    from reconciler.masking.assignment import Keys
    from reconciler.masking.classify.profiles import DatabaseProfile
    from reconciler.masking.evidence import Base, Evidence, Wiped
    from reconciler.masking.report import Masked
    from reconciler.state.desired import Check, MaskingStep, Script
    from reconciler.state.observed import Activity, ObservedMirror, SnapshotManifest
    from reconciler.state.servers import Endpoint, Hosted, ProductImage, ServerSpec, Software

Progress = Callable[[str], None]
"""Told what is going on, in a few words for people ("restoring 1.2 of 4.0 GiB")."""

SourceKind = Literal["dump", "backup", "files", "primary", "mirror", "image", "clone", "empty"]


@dataclass(frozen=True, slots=True)
class LiveServer:
    """A primary: the value of the secret with its connection URL, and how it is copied."""

    url: str = field(repr=False)
    """Never in a message, an argument, a log or a file that outlives the work."""
    secret: str
    """Name of the secret, for messages."""
    method: Literal["physical", "logical"]
    databases: tuple[str, ...] = ()
    """Databases that are wanted of it; empty: all of its users'."""


@dataclass(frozen=True, slots=True)
class BackupRepository:
    """Backups that a tool keeps in its own format; only its configuration knows where, and how to get in."""

    tool: str
    stanza: str
    """What the tool calls the server; empty for tools that know one server only."""
    config: Path


@dataclass(frozen=True, slots=True)
class LocalSource:
    """A source with its files at hand on this host, or with what it takes to reach it.

    For ``image`` the build's directory already is a writable copy of the base
    snapshot, described by ``base``; for ``mirror`` one of a mirror, taken in an instant or at rest,
    and for ``clone`` one of the clone at ``path``, taken likewise, which was made of ``base``.
    """

    kind: SourceKind
    path: Path | None = None
    globals: Path | None = None
    base: SnapshotManifest | None = None
    name: str = ""
    """What the document calls the file of ``path``, which may have been a link to it."""
    primary: LiveServer | None = None
    """For ``primary``, copied by SQL."""
    users: tuple[str, ...] = ()
    """For ``clone``, its users, who are nobody in what is made of it."""
    at: datetime | None = None
    """For ``mirror``, whose directory is ``path``: its log is replayed up to this moment."""
    ask: Callable[[], ObservedMirror] | None = None
    """Beside ``at``: asks the mirror how far it has replayed."""

    candidates: tuple[Path, ...] = ()
    """Where backups may lie: what the pattern of a document matches, or what is in the directory ``path``."""
    files: tuple[Path, ...] = ()
    """Regular files at the same places: some tools make one stream of a backup."""
    wal: Path | None = None
    """Archived WAL to replay after a backup."""
    repository: BackupRepository | None = None
    """Where a tool keeps backups, in place of ``path``."""
    chosen: str = ""
    """The identity that planning chose. Newer backups and WAL are for the next build; empty: the newest."""
    refused: tuple[str, ...] = ()
    """What was not handed on, and why: matches of a pattern that lead out of what is granted."""

    @property
    def physical(self) -> bool:
        """Whether files of a server are copied, which only its own version can serve."""
        return self.kind in ("backup", "files", "mirror")


@dataclass(frozen=True, slots=True)
class SourceIdentity:
    """What a source is now: equal ids mean equal content.

    ``size_bytes`` estimates the room that a build of it takes at its peak, for most data
    rather too much than too little: work is let into a pool by it.
    """

    input_id: str
    size_bytes: int
    modified_at: datetime | None = None
    notes: tuple[str, ...] = ()
    """What was passed over, and why, for people."""


MIRROR_LOST = "MirrorLost"
"""Reason of the error of a mirror that can never go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorWork:
    """One mirror: where it lies and whom it follows."""

    image: ImageName
    server: ServerName
    directory: Path
    run_directory: Path
    """As of a build; what lies in it (the way into the primary, sockets) is never part of a copy."""
    account: Account | None
    primary: LiveServer
    slot: str
    """The name of what is made at the primary, so that it keeps its log for the mirror; empty: nothing is."""
    archive: Path | None = None
    """Directory into which the primary archives its log, where the mirror gets it from there; only we may read it."""
    version: str | None = None
    copy_rate: int | None = None
    """Bytes a second at which the primary may be copied; None: as fast as can be."""
    keep_log: bool = False
    """Whether it keeps the log that it replays, for moments to come back to."""
    jobs: int = 1
    cancel: CancelToken = field(default_factory=CancelToken)
    progress: Progress = lambda _text: None


@dataclass(frozen=True, slots=True)
class CopiedPrimary:
    """What was copied: the version that must serve it, and which database system it is."""

    major: str
    system: str


class Mirrors(Protocol):
    """Following a live primary by copies of its files. All of it can be repeated."""

    def size(self, work: MirrorWork) -> int:
        """Return the bytes that a copy of the primary takes.

        Raises:
            SourceError: it refuses us, or is not what can be followed; the message says what to change there.
            UnavailableError: it does not answer.

        """
        ...

    def copy(self, work: MirrorWork) -> CopiedPrimary:
        """Copy the primary into the empty directory, and have it keep its log from there on.

        Raises:
            SourceError, UnavailableError: as :meth:`size`.
            NotInstalledError: no server of its version is on this host.

        """
        ...

    def server(self, work: MirrorWork) -> ServerSpec:
        """Write the settings of a copied mirror and return how to start it: it follows, and nobody can reach it.

        Raises:
            SourceError: with the reason :data:`MIRROR_LOST`, it can never go on, and has to be copied anew.

        """
        ...

    def replay(self, work: MirrorWork) -> None:
        """Hand a running mirror what its archive has more than it, and return when it has replayed that.

        Raises:
            UnavailableError: the archive cannot be read.
            BusyError: it does not get on: the log is damaged, or its server waits for something.

        """
        ...

    def look(self, work: MirrorWork) -> ObservedMirror:
        """Return how far a running mirror has come, within seconds; what cannot be asked is left out.

        A mirror that does not answer has no ``position``, and still the ``held_bytes`` of :meth:`held`.
        """
        ...

    def held(self, work: MirrorWork) -> int | None:
        """Return the bytes of log that the primary keeps for a mirror, running or not; None if it keeps none.

        Raises:
            SourceError, UnavailableError: as :meth:`size`, within seconds.

        """
        ...

    def resting(self, work: MirrorWork) -> AbstractContextManager[None]:
        """Give a block in which a running mirror is fit to be copied in one instant, or to be stopped and copied.

        The server may have been started anew when the block ends, and does follow again then.

        Raises:
            UnavailableError: it cannot be brought to rest now.
            BusyError: it does not get on.

        """
        ...

    def forget_log(self, work: MirrorWork, raws: Sequence[Path]) -> None:
        """Remove the kept log that none of the raw copies in these directories needs to be replayed from."""
        ...

    def leave(self, work: MirrorWork) -> None:
        """Remove what was made at the primary; absent is fine. The directory need not exist any more.

        Raises:
            UnavailableError: the primary does not answer; it has to be tried again.

        """
        ...


@dataclass(frozen=True, slots=True)
class InstalledServer:
    """Server programs on this host: ``host`` ones are preferred over the ``embedded`` wheel.

    Of ``container`` ones nothing is on the host: only ``software`` runs them.
    """

    version: str
    major: str
    origin: Literal["host", "embedded", "container"]
    directory: Path
    software: Software | None = None
    """The image whose programs serve, if need be beside those of the host, which work on files only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildWork:
    """One build: where it happens, what goes in, how it may be told to stop."""

    snapshot: SnapshotId
    server: ServerName
    directory: Path
    """The volume's directory; what lies in it is the engine's."""
    run_directory: Path
    """Private directory for sockets and temporary files; short path; made and removed by the caller."""
    account: Account | None = None
    version: str | None = None
    source: LocalSource = LocalSource("empty")
    databases: tuple[str, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    superuser_scripts: bool = False
    jobs: int = 1
    cancel: CancelToken = field(default_factory=CancelToken)
    progress: Progress = lambda _text: None
    final_account: Account | None = None
    """Account that clones run under: ``finish`` hands the files over to it."""
    software: Software | None = None
    """Programs of its server, where that runs in a container."""


@dataclass(frozen=True, slots=True)
class Masker:
    """A masking program of the host, which gets the connection in its environment."""

    argv: tuple[str, ...]
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class MaskingWork:
    """What masks a build: the steps in order, the keys of its policies, the programs of the host by name."""

    steps: tuple[MaskingStep, ...]
    keys: Keys
    maskers: Mapping[str, Masker]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """What a finished build is; goes into the snapshot's manifest."""

    version: str
    major: str
    databases: tuple[str, ...]
    required: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    data_as_of: datetime | None = None
    position: str | None = None
    """How far a copy of a mirror had come, as its mirror tells it."""
    input_id: str | None = None
    """What went in, where a build knows that better than whoever looked before it: a primary goes on changing."""
    source_notes: tuple[str, ...] = ()
    """What of the source is not in it, and why."""


class BuildSession(Protocol):
    """An open build server. Methods are called in this order, each at most once but ``run`` and ``check``.

    ``mask`` comes between the scripts of the two phases.
    """

    def restore(self) -> None:
        """Load a logical source; nothing to do for the others.

        Raises:
            SourceError: it is truncated, corrupt, of another product, or its SQL failed.

        """
        ...

    def keep_databases(self) -> None:
        """Drop user databases that the image does not keep.

        Raises:
            SourceError: a database to keep does not exist (the message lists what does).

        """
        ...

    def look_for_damage(self, *, final: bool) -> int:
        """Read every table and index that holds data and return how many were found whole.

        After ``keep_databases``, and with ``final`` after ``settle``: what this host's
        software sorts differently is rebuilt only in between, and no damage before that.

        Raises:
            CheckFailedError: one is damaged (``DataDamaged``); names the database and the relation, never a value.
            NotInstalledError: this host lacks the product's tool for that; the message says how to get it.

        """
        ...

    def run(self, script: Script) -> None:
        """Run a script to its end or first error.

        Raises:
            ScriptError: file, line and statement of the failure.

        """
        ...

    def mask(self, masking: MaskingWork) -> Masked:
        """Give every column the values that the policies ask for, in place, with nothing of the database running.

        Maskers of the host and scripts do as they like; what they leave behind is scrubbed
        and looked for all the same.

        Before the first write the policies are matched with the real schema. Originals to
        look for later, and the counts that prove each rule, are part of the result.

        Raises:
            MaskingError: a rule names what is not there or does not fit, something is not
                covered, or the database refused; names table and column, never a value.

        """
        ...

    def profile(self) -> tuple[DatabaseProfile, ...]:
        """Return the schema of each database and a bounded number of values of each column, before masking.

        In place of everything that follows: a build that was profiled is thrown away.
        """
        ...

    def check(self, check: Check) -> None:
        """Evaluate a check.

        Raises:
            CheckFailedError: it did not return one row with one true value.
            ScriptError: it could not be evaluated.

        """
        ...

    def isolate(self) -> None:
        """Cut everything in the data that could reach production or act on the world; lock production's logins."""
        ...

    def settle(self) -> None:
        """Do the work that clones would each do again (vacuum, freeze, analyse, reindex), and collect facts."""
        ...

    def wipe(self, stopped: Callable[[], AbstractContextManager[None]], base: Base | None = None) -> Wiped | None:
        """Wipe from the files of a masked build what was removed from its data before it began; after ``settle``.

        ``stopped`` gives a block in which the build's server does not run, if that takes one.
        What certainly is as in ``base`` need not be read, if that went through the same
        wiping (its ``wiped`` is the version of today). None: there was nothing to wipe.
        """
        ...

    def prove(self, masked: Masked, base: Base | None = None) -> Evidence:
        """Look for originals with the database's own eyes: in masked columns, and where files hide them (compressed).

        Called last, after everything that writes; the search of the files follows. Of
        ``base`` (files in which an earlier scan found nothing) the evidence names what that
        search may leave out while it is as it was: relations without rules at most.

        Raises:
            MaskingError: an original is left, or a rule changed too little (``MaskingLeak``).

        """
        ...


@dataclass(frozen=True, slots=True)
class UserWish:
    """A user that a clone gets, with the password's value in clear (never logged)."""

    name: str
    role: Literal["owner", "readonly", "superuser"]
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CloneWork:
    """One clone: what it is a copy of and how it is to be served."""

    clone: CloneName
    server: ServerName
    directory: Path
    run_directory: Path
    snapshot: SnapshotManifest
    account: Account | None = None
    host: str = "127.0.0.1"
    port: int | None = None
    """None: a private server without TCP, for work before delivery."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    allow: tuple[str, ...] = ()
    """Client networks besides loopback, as CIDR."""
    tls: tuple[Path, Path] | None = None
    """Certificate and key files of the host's configuration."""
    users: tuple[str, ...] = ()
    """Names of the users that it was delivered with."""
    superuser_scripts: bool = False
    contained: bool = False
    """Whether its server is in a container: there it listens on the product's own port, to which ``port`` leads."""
    software: Software | None = None
    """Programs of its server in a container; given when it is to be started."""
    cancel: CancelToken = field(default_factory=CancelToken)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceReach:
    """How a server that exists already is reached, and how many sessions a clone's database may have there."""

    name: str
    """The instance's name in the host's configuration, for messages."""
    installation: InstallationId
    """Whose mark everything bears that is made there."""
    secret: str
    url: Callable[[], str] = field(repr=False)
    """Returns the value of ``secret`` now; never in a message, an argument, a log or a file that outlives the work."""
    connections: int
    data_directory: Path | None = None
    """Where its files are on this host, for engines that copy these; None: it is not at hand."""


@dataclass(frozen=True, slots=True)
class HostedTemplate:
    """What is on an instance of a snapshot; see :class:`~reconciler.state.observed.ObservedTemplate`."""

    snapshot: SnapshotId
    databases: tuple[str, ...]
    instant: bool | None


class Instance(Protocol):
    """A server that exists already, and what is ours on it.

    **Only ours.** What we make there is marked with the installation from the first moment on; a
    database or role without that mark is never connected to, changed, renamed or removed, whatever it
    is called. All of it can be repeated, and a kill at any point leaves nothing that a later call of
    the same kind, or the removal of the same thing, does not find.

    Every method raises :class:`~reconciler.errors.UnavailableError` when the server does not answer,
    and :class:`~reconciler.errors.SecretError` when the secret with its URL cannot be used.
    """

    def address(self) -> tuple[str, int]:
        """Return the host and port that clients of clones connect to; asks nobody."""
        ...

    def version(self) -> str:
        """Return the server's version, for people."""
        ...

    def templates(self) -> tuple[HostedTemplate, ...]:
        """Return what clones are copied from, unfinished ones with the databases that are complete."""
        ...

    def served(self) -> frozenset[VolumeId]:
        """Return the generations of clones that somebody is let into now."""
        ...

    def check(self, snapshot: SnapshotManifest) -> None:
        """Insist that a snapshot can be loaded.

        Raises:
            UnsupportedError: the server is of another product, older than what wrote it, or too old at all.

        """
        ...

    def load(self, work: CloneWork, *, jobs: int, progress: Progress) -> None:
        """Load a snapshot, which a private server of this host serves, into databases that clones are copied from.

        They are complete only once all of it is there, and nobody can connect to them from then on.

        Raises:
            UnsupportedError: something in it cannot be had there (an extension, a locale); the message names it.
            SourceError: the server refused an object.
            BusyError: a database that is not ours has the name.

        """
        ...

    def unload(self, snapshot: SnapshotId) -> None:
        """Remove what clones of a snapshot are copied from; clones stay."""
        ...

    def create(self, hosted: Hosted, users: Sequence[UserWish] = ()) -> None:
        """Make the databases of a new generation of a clone, that nobody is let into; what a try before left goes.

        ``users`` are those of a new clone: their logins may be made with it. They are delivered afterwards
        all the same.

        Raises:
            BusyError: a database that is not ours has the name, or what they are copied from is not there.

        """
        ...

    def serve(self, hosted: Hosted) -> None:
        """Let a clone's users in under its own names, in place of another generation; if private, us alone.

        Raises:
            PermanentError: a database of it is not there any more.
            BusyError: a database that is not ours has its name.

        """
        ...

    def refuse(self, volume: VolumeId) -> None:
        """Let nobody into a generation, and end the sessions that there are; absent is fine."""
        ...

    def remove(self, volume: VolumeId) -> None:
        """Remove the databases of a generation, and the logins of its clone with its last one; absent is fine."""
        ...

    def rename(self, formerly: CloneName, clone: CloneName) -> None:
        """Give the databases and logins of a clone its new name; sessions in them end."""
        ...

    def deliver(self, hosted: Hosted, users: Sequence[UserWish], drop: Sequence[str]) -> None:
        """Bring a clone's logins to exactly ``users``; those of the users in ``drop`` go. Repeatable."""
        ...

    def run_scripts(self, hosted: Hosted, scripts: Sequence[Script], cancel: CancelToken) -> None:
        """Run a clone's scripts with the rights of its owners, stopping at the first error.

        Raises:
            ScriptError: file, line and statement of the failure.

        """
        ...

    def activity(self, volume: VolumeId) -> Activity:
        """Return who is connected to a generation of a clone."""
        ...

    def close(self) -> None:
        """End what is kept open between calls; it can be used again."""
        ...


class Instances(Protocol):
    """Clones as databases on servers that exist already."""

    def at(self, reach: InstanceReach) -> Instance:
        """Return a server; nothing is connected to before a method is called."""
        ...


class DatabaseFiles(Protocol):
    """Databases that are files: their product is a library of whoever opens them."""

    def path(self, directory: Path, database: str) -> Path:
        """Return the file of a database in the directory of a volume."""
        ...


class Engine(Protocol):
    """One database product on this host."""

    name: str
    install_hint: str
    """How to get its server programs, for people."""
    mirrors: Mirrors | None
    """How live primaries are followed; None: this product cannot be."""
    instances: Instances | None
    """How clones are databases on servers that exist already; None: they cannot be."""
    files: DatabaseFiles | None
    """Where its databases are; None: a server serves them.

    With files there are no servers, ports, users or passwords: specs of servers have nothing to
    run, ``deliver`` gets nobody, and a clone is reached by the path of a database.
    """

    def servers(self) -> tuple[InstalledServer, ...]:
        """Return the server programs that were found, best first."""
        ...

    def container_image(self, major: str | None) -> ProductImage:
        """Return the product's own image of containers for a version; None: for builds of any version."""
        ...

    def identify(self, source: LocalSource) -> SourceIdentity:
        """Identify a source by cheap looks (sizes, times, checksums that exist already), never by reading it all.

        Raises:
            SourceError: it is missing or is not what it should be.
            BusyError: it is being written.

        """
        ...

    def built_size(self, path: str, stored_bytes: int) -> int:
        """Estimate, as in :class:`SourceIdentity`, for a source that is in git and can only be looked into by a build.

        ``stored_bytes`` is what its files add up to; how they are packed, only the name of ``path`` can tell.
        """
        ...

    def prepare(self, work: BuildWork) -> None:
        """Put a data directory in place: initialise, or copy and verify a physical source.

        Raises:
            SourceError: the source cannot be used.
            NotInstalledError: no server of the version is on this host (the message says how to get it).

        """
        ...

    def build_server(self, work: BuildWork) -> ServerSpec:
        """Return how to start the build's private server: no TCP, nothing that reaches out."""
        ...

    def session(self, work: BuildWork) -> AbstractContextManager[BuildSession]:
        """Open a session on the build's running server."""
        ...

    def finish(self, work: BuildWork) -> Sealed:
        """Make the stopped build fit for sealing: scrubbed, cleanly shut down, owned by ``final_account``.

        Raises:
            PermanentError: the data directory is not cleanly shut down.

        """
        ...

    def clone_server(self, work: CloneWork) -> ServerSpec:
        """Write the clone's settings into its directory and return how to start it; repeatable.

        Raises:
            UnsupportedError: this host must not serve the snapshot (collations); the message says why.
            NotInstalledError: no server of the version is on this host.

        """
        ...

    def deliver(self, work: CloneWork, users: Sequence[UserWish], drop: Sequence[str]) -> None:
        """Bring the users of a running clone to exactly ``users``; roles named in ``drop`` go. Repeatable."""
        ...

    def run_scripts(self, work: CloneWork, scripts: Sequence[Script]) -> None:
        """Run a clone's scripts on its running server, stopping at the first error.

        Raises:
            ScriptError: file, line and statement of the failure.

        """
        ...

    def activity(self, work: CloneWork) -> Activity:
        """Return who is connected to a running clone: a cheap look, within seconds, that leaves nothing behind.

        A look may count itself as a session where no clone's user works (a maintenance database), nowhere else.

        Raises:
            UnavailableError: the server does not answer, or not soon enough.

        """
        ...

    def url(self, endpoint: Endpoint, password: str | None) -> str:
        """Return a connection URL; without ``password`` it carries none."""
        ...

    def shell(self, endpoint: Endpoint, password: str, major: str) -> tuple[tuple[str, ...], Mapping[str, str]]:
        """Return argv and extra environment of the product's own shell; the password never is in argv."""
        ...
