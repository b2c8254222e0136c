"""Conformance suite of engines: the contract of ``engines/base.py`` as tests.

For authors of engines. Inherit :class:`EngineSuite` in a test module and give it an
:class:`EngineHarness`; pytest (a development dependency) then runs every promise::

    @pytest.fixture(scope="module")
    def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineHarness]:
        harness = MyHarness(tmp_path_factory.mktemp("engine"))
        yield harness
        harness.close()

    class TestMyEngine(EngineSuite):
        pass
"""

from __future__ import annotations

import shutil
import time
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, ClassVar

import pytest

from reconciler.engines.base import BuildWork, CloneWork, LocalSource, UserWish
from reconciler.errors import CheckFailedError, NotInstalledError, ReconcilerError, ScriptError, SourceError
from reconciler.ids import CloneName, ImageName, InstallationId, Revision, ServerName, SnapshotId
from reconciler.state.desired import Check, Script
from reconciler.state.observed import SnapshotManifest
from reconciler.state.servers import Endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from reconciler.engines.base import Engine, Sealed
    from reconciler.proc import Account
    from reconciler.spec.gaps import Gap
    from reconciler.state.observed import Activity
    from reconciler.state.servers import ServerSpec

SNAPSHOT = SnapshotId("shop-20261122t020000z-1a2b3c4d")
_APP = UserWish("app", "owner", "correct horse")
_WRONG = UserWish("app", "owner", "wrong")
_ROTATED = UserWish("app", "owner", "new password")
_REPORT = UserWish("report", "readonly", "battery staple")


@dataclass(frozen=True, slots=True)
class Primary:
    """A live server: how to copy it with SQL alone, and something that changes a row in it."""

    source: LocalSource
    change: Callable[[], object]


class EngineHarness(ABC):
    """What the suite needs to know of an engine: how its servers run, and a few words of its language."""

    engine: Engine
    create_database: str
    """A script that makes the database ``shop``."""
    create_table: str
    """A script that makes the table ``item`` in it, with a row."""
    broken_script: str
    true_check: str
    false_check: str
    count_items: str
    """A statement that fails unless ``item`` can be read."""
    add_item: str
    """A statement that adds a row to ``item``."""
    gaps: ClassVar[Mapping[str, Gap]] = {}
    """Promises that the engine does not keep, by the name of their test, which then has to fail."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._count = 0
        self._shop: tuple[Path, SnapshotManifest] | None = None

    @abstractmethod
    def run_directory(self) -> Path:
        """Return a new private directory with a short path."""

    @abstractmethod
    def start(self, spec: ServerSpec) -> None:
        """Run a server and wait until it is ready."""

    @abstractmethod
    def stop(self, spec: ServerSpec) -> None:
        """Stop it in an orderly way."""

    @abstractmethod
    def free_port(self) -> int:
        """Return a port that nobody listens on."""

    @abstractmethod
    def execute(self, endpoint: Endpoint, password: str, statement: str) -> None:
        """Run a statement as a user of a clone; raise :class:`ReconcilerError` when it fails."""

    @abstractmethod
    def connected(self, endpoint: Endpoint, password: str, application: str) -> AbstractContextManager[object]:
        """Be connected to a clone for a while, under the name of a program."""

    @abstractmethod
    def close(self) -> None:
        """Stop whatever is still running and remove what was made."""

    def primary(self) -> AbstractContextManager[Primary]:
        """Have a live server that holds the database ``shop`` with ``item``; without one its tests are skipped."""
        pytest.skip("this engine copies no live server")

    def account(self) -> Account | None:
        """Return the account that servers run under."""
        return None

    def copy(self, source: Path, target: Path) -> None:
        """Copy a sealed volume, as a storage driver does."""
        shutil.copytree(source, target, symlinks=True)

    def volume(self) -> Path:
        """Return a new empty volume."""
        self._count += 1
        path = self.root / f"volume{self._count}"
        path.mkdir()
        return path

    def build_work(self, *, source: LocalSource | None = None, databases: tuple[str, ...] = ()) -> BuildWork:
        """Return a new build in a volume of its own."""
        return BuildWork(
            snapshot=SNAPSHOT,
            server=ServerName(SNAPSHOT),
            directory=self.volume(),
            run_directory=self.run_directory(),
            account=self.account(),
            final_account=self.account(),
            source=source or LocalSource("empty"),
            databases=databases,
        )

    def build(self, work: BuildWork, *scripts: str) -> SnapshotManifest:
        """Build a snapshot from ``work`` with scripts on its default database or as they say themselves."""
        self.engine.prepare(work)
        with self.serving(self.engine.build_server(work)), self.engine.session(work) as session:
            session.restore()
            session.keep_databases()
            for number, text in enumerate(scripts):
                session.run(Script(f"script{number}", text, database=None if number == 0 else "shop"))
            session.isolate()
            session.settle()
        return manifest(self.engine, self.engine.finish(work))

    def shop(self) -> tuple[Path, SnapshotManifest]:
        """Return a sealed volume with the table ``item`` and its manifest; built once, not to be changed."""
        if self._shop is None:
            work = self.build_work()
            self._shop = work.directory, self.build(work, self.create_database, self.create_table)
        return self._shop

    def build_on_shop(self, *, databases: tuple[str, ...] = ()) -> BuildWork:
        """Return a new build in a copy of :meth:`shop`."""
        directory, snapshot = self.shop()
        work = self.build_work(source=LocalSource("image", base=snapshot), databases=databases)
        work.directory.rmdir()
        self.copy(directory, work.directory)
        return work

    def clone_of_shop(self, *, tcp: bool = True) -> CloneWork:
        """Return a new clone of :meth:`shop`."""
        return self.clone_work(*self.shop(), port=self.free_port() if tcp else None)

    def clone_work(self, directory: Path, snapshot: SnapshotManifest, *, port: int | None) -> CloneWork:
        """Return a clone of the volume in ``directory``, in a volume of its own."""
        target = self.root / f"clone{self._count}"
        self._count += 1
        self.copy(directory, target)
        return CloneWork(
            clone=CloneName("shop-dev"),
            server=ServerName("shop-dev.1"),
            directory=target,
            run_directory=self.run_directory(),
            snapshot=snapshot,
            account=self.account(),
            port=port,
        )

    @contextmanager
    def serving(self, spec: ServerSpec) -> Iterator[None]:
        """Run a server for a while."""
        self.start(spec)
        try:
            yield
        finally:
            self.stop(spec)


def manifest(engine: Engine, sealed: Sealed) -> SnapshotManifest:
    """Return the manifest that a snapshot gets from what ``finish`` says."""
    return SnapshotManifest(
        installation=InstallationId("0123456789abcdef"),
        image=ImageName("shop"),
        snapshot=SNAPSHOT,
        engine=engine.name,
        version=sealed.version,
        major=sealed.major,
        spec_digest="1a2b3c4d",
        input_id="empty",
        revision=Revision(f"main@sha1:{'0' * 40}"),
        created_at=datetime(2026, 11, 22, 2, 0, tzinfo=UTC),
        databases=sealed.databases,
        required=sealed.required,
        facts=sealed.facts,
        data_as_of=sealed.data_as_of,
        source_notes=sealed.source_notes,
    )


class EngineSuite:
    """Every promise of the contract, once; a subclass gives the fixture ``harness``."""

    @pytest.fixture(autouse=True)
    def _gap(self, request: pytest.FixtureRequest, harness: EngineHarness) -> None:
        gap = harness.gaps.get(request.node.originalname)
        if gap is not None:
            request.applymarker(pytest.mark.xfail(strict=True, reason=f"{gap.meaning}: {gap.reason}"))

    def test_an_empty_source_is_always_the_same(self, harness: EngineHarness) -> None:
        source = LocalSource("empty")
        assert harness.engine.identify(source) == harness.engine.identify(source)

    def test_a_source_that_cannot_be_looked_into_lets_expect_no_less_than_it_holds(
        self, harness: EngineHarness
    ) -> None:
        for path in ("dumps/shop.sql", "dumps/shop.dump"):
            sizes = [harness.engine.built_size(path, stored) for stored in (0, 1 << 20, 1 << 30)]
            assert sizes == sorted(sizes)
            assert sizes[-1] >= 1 << 30

    def test_there_is_a_server_and_each_says_its_major_version(self, harness: EngineHarness) -> None:
        servers = harness.engine.servers()
        assert servers
        assert all(one.version.startswith(one.major) for one in servers)

    def test_a_version_that_is_not_here_is_refused_before_anything_is_made(self, harness: EngineHarness) -> None:
        work = replace(harness.build_work(), version="9999")
        with pytest.raises(NotInstalledError):
            harness.engine.prepare(work)
        assert list(work.directory.iterdir()) == []

    def test_a_build_becomes_a_snapshot_of_the_databases_that_its_scripts_made(self, harness: EngineHarness) -> None:
        _directory, found = harness.shop()
        assert found.databases == ("shop",)
        assert found.version.startswith(f"{found.major}.")

    def test_an_empty_source_gets_the_databases_that_are_asked_for(self, harness: EngineHarness) -> None:
        found = harness.build(harness.build_work(databases=("depot", "shop")))
        assert found.databases == ("depot", "shop")

    def test_a_build_stops_at_broken_scripts_and_false_checks(self, harness: EngineHarness) -> None:
        work = harness.build_work(databases=("shop",))
        harness.engine.prepare(work)
        with harness.serving(harness.engine.build_server(work)), harness.engine.session(work) as session:
            session.restore()
            session.keep_databases()
            with pytest.raises(ScriptError, match=r"broken\.sql"):
                session.run(Script("broken.sql", harness.broken_script, database="shop"))
            session.check(Check(harness.true_check, database="shop"))
            with pytest.raises(CheckFailedError):
                session.check(Check(harness.false_check, database="shop"))

    def test_a_build_tells_what_its_databases_hold_without_a_representation_of_values(
        self, harness: EngineHarness
    ) -> None:
        work = harness.build_work()
        harness.engine.prepare(work)
        with harness.serving(harness.engine.build_server(work)), harness.engine.session(work) as session:
            session.run(Script("shop.sql", harness.create_database))
            session.run(Script("item.sql", harness.create_table, database="shop"))
            profiles = session.profile()
        assert [one.schema.database for one in profiles] == ["shop"]
        assert "zero" not in repr(profiles)

    def test_a_database_that_the_source_lacks_is_an_error_that_names_what_it_has(self, harness: EngineHarness) -> None:
        work = harness.build_on_shop(databases=("absent",))
        harness.engine.prepare(work)
        with harness.serving(harness.engine.build_server(work)), harness.engine.session(work) as session:
            session.restore()
            with pytest.raises(SourceError, match=r"absent.*shop"):
                session.keep_databases()

    def test_users_of_a_clone_are_exactly_those_delivered(self, harness: EngineHarness) -> None:
        clone = harness.clone_of_shop()
        with harness.serving(harness.engine.clone_server(clone)):
            harness.engine.deliver(clone, [_APP, _REPORT], [])
            harness.engine.deliver(clone, [_APP, _REPORT], [])
            harness.execute(_endpoint(clone, _APP), _APP.password, harness.add_item)
            harness.execute(_endpoint(clone, _REPORT), _REPORT.password, harness.count_items)
            _refused(harness, clone, _REPORT, harness.add_item)
            _refused(harness, clone, _WRONG, harness.count_items)
            harness.engine.deliver(clone, [_ROTATED], [_REPORT.name])
            harness.execute(_endpoint(clone, _ROTATED), _ROTATED.password, harness.count_items)
            _refused(harness, clone, _APP, harness.count_items)
            _refused(harness, clone, _REPORT, harness.count_items)

    def test_who_is_connected_to_a_clone_is_seen_and_that_somebody_was_there(self, harness: EngineHarness) -> None:
        clone = harness.clone_of_shop()
        with harness.serving(harness.engine.clone_server(clone)):
            harness.engine.deliver(clone, [_APP] if harness.engine.files is None else [], [])
            before = harness.engine.activity(clone)
            assert (before.connections, before.applications, before.last_activity) == (0, (), None)
            assert harness.engine.activity(clone).sessions == before.sessions
            with harness.connected(_endpoint(clone, _APP), _APP.password, "reports"):
                found = harness.engine.activity(clone)
                assert (found.connections, found.applications) == (1, ("reports",))
                assert found.last_activity is not None
            after = _once_alone(harness.engine, clone)
            assert (after.connections, after.sessions > before.sessions) == (0, True)

    def test_scripts_run_on_a_clone_and_stop_at_the_first_error(self, harness: EngineHarness) -> None:
        clone = harness.clone_of_shop()
        with harness.serving(harness.engine.clone_server(clone)):
            harness.engine.run_scripts(clone, [Script("add.sql", harness.add_item, database="shop")])
            with pytest.raises(ScriptError, match=r"broken\.sql"):
                harness.engine.run_scripts(clone, [Script("broken.sql", harness.broken_script, database="shop")])

    def test_settings_of_a_clone_can_be_written_again(self, harness: EngineHarness) -> None:
        clone = harness.clone_of_shop(tcp=False)
        first, second = harness.engine.clone_server(clone), harness.engine.clone_server(clone)
        assert replace(first, ready=bool) == replace(second, ready=bool)
        assert first.port is None

    def test_a_snapshot_of_a_version_that_is_not_here_is_not_served(self, harness: EngineHarness) -> None:
        clone = harness.clone_of_shop(tcp=False)
        clone = replace(clone, snapshot=replace(clone.snapshot, major="9999"))
        with pytest.raises(NotInstalledError):
            harness.engine.clone_server(clone)

    def test_a_build_goes_on_from_a_copy_of_its_base(self, harness: EngineHarness) -> None:
        _directory, snapshot = harness.shop()
        again = harness.build(harness.build_on_shop())
        assert (again.databases, again.major) == (snapshot.databases, snapshot.major)

    def test_a_primary_is_the_same_until_it_changes(self, harness: EngineHarness) -> None:
        with harness.primary() as primary:
            before = harness.engine.identify(primary.source).input_id
            assert harness.engine.identify(primary.source).input_id == before
            primary.change()
            assert harness.engine.identify(primary.source).input_id != before

    def test_a_copy_of_a_primary_goes_on_from_what_it_held(self, harness: EngineHarness) -> None:
        with harness.primary() as primary:
            found = harness.engine.identify(primary.source)
            work = harness.build_work(source=primary.source)
            harness.engine.prepare(work)
            with harness.serving(harness.engine.build_server(work)), harness.engine.session(work) as session:
                session.restore()
                session.keep_databases()
                session.run(Script("add.sql", harness.add_item, database="shop"))
                session.isolate()
                session.settle()
            sealed = harness.engine.finish(work)
        assert sealed.databases == ("shop",)
        assert sealed.input_id in (None, found.input_id)
        assert found.size_bytes > 0

    def test_a_password_is_in_no_url_and_no_command_unless_asked_for(self, harness: EngineHarness) -> None:
        endpoint = Endpoint("127.0.0.1", 5601, "shop", "app")
        assert "secret" not in harness.engine.url(endpoint, None)
        assert "secret" in harness.engine.url(endpoint, "secret")
        major = harness.engine.servers()[0].major
        argv, extra = harness.engine.shell(endpoint, "secret", major)
        assert "secret" not in " ".join(argv)
        assert "secret" in extra.values()


def _endpoint(work: CloneWork, user: UserWish) -> Endpoint:
    return Endpoint(work.host, work.port or 0, "shop", user.name)


def _once_alone(engine: Engine, clone: CloneWork) -> Activity:
    """Return who is connected once nobody is: a server may take a moment to end a connection."""
    seen = engine.activity(clone)
    for _ in range(200):
        if not seen.connections:
            break
        time.sleep(0.05)
        seen = engine.activity(clone)
    return seen


def _refused(harness: EngineHarness, work: CloneWork, user: UserWish, statement: str) -> None:
    with pytest.raises(ReconcilerError):
        harness.execute(_endpoint(work, user), user.password, statement)
