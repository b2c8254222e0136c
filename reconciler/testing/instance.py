"""Conformance suite of instances: the contract of ``Instance`` in ``engines/base.py`` as tests.

For authors of engines whose clones can be databases on a server that exists already. Inherit
:class:`InstanceSuite` in a test module and give it an :class:`InstanceHarness`::

    @pytest.fixture(scope="module")
    def harness() -> Iterator[InstanceHarness]: ...

    class TestMyInstances(InstanceSuite):
        pass
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import closing
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

import pytest

from reconciler.engines.base import UserWish
from reconciler.errors import BusyError, PermanentError, ReconcilerError, ScriptError, UnsupportedError
from reconciler.ids import CloneName, InstallationId, VolumeId
from reconciler.proc import CancelToken
from reconciler.state.desired import Script
from reconciler.state.hosted import login_name
from reconciler.state.servers import Hosted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from reconciler.engines.base import CloneWork, Instance
    from reconciler.testing.engine import EngineHarness

_OURS = InstallationId("0123456789abcdef")
_OTHER = InstallationId("fedcba9876543210")
_APP = UserWish("app", "owner", "correct horse")
_ROTATED = UserWish("app", "owner", "battery staple")


class InstanceHarness(ABC):
    """What the suite needs to know: the engine's own harness, an instance, and what others do there."""

    engine: EngineHarness
    count_one: str
    """A statement that fails unless ``item`` holds what the shop of the engine's harness holds."""
    count_two: str
    """One that fails unless it holds one row more."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._loaded: CloneWork | None = None

    @abstractmethod
    def instance(self, installation: InstallationId) -> Instance:
        """Return a new object for the same server, as a restarted reconciler would make it."""

    @abstractmethod
    def foreign(self, name: str) -> AbstractContextManager[object]:
        """Have a database of somebody else, with something in it that is looked for at the end."""

    @abstractmethod
    def execute(self, database: str, login: str, password: str, statement: str) -> None:
        """Run a statement in a database as a login; raise :class:`ReconcilerError` when it fails."""

    @abstractmethod
    def serving(self, work: CloneWork) -> AbstractContextManager[object]:
        """Have the private server of a copy of a snapshot run."""

    def loaded(self, instance: Instance) -> CloneWork:
        """Have the shop of the engine's harness loaded."""
        work = self.engine.clone_of_shop(tcp=False)
        with self.serving(work):
            instance.load(work, jobs=1, progress=lambda _text: None)
        return work

    def loaded_once(self, instance: Instance) -> CloneWork:
        """Have it loaded, unless it is."""
        self._loaded = self._loaded or self.loaded(instance)
        return self._loaded

    def hosted(self, work: CloneWork, *, clone: str = "", generation: int = 1) -> Hosted:
        """Return a generation of a clone that nobody has yet."""
        name = clone or f"dev{next(self._numbers)}"
        return Hosted(
            volume=VolumeId(f"{name}.{generation}"),
            clone=CloneName(name),
            snapshot=work.snapshot.snapshot,
            databases=work.snapshot.databases,
        )


class InstanceSuite:
    """Every promise of the contract, once; a module gives the fixture ``harness``, whose server its tests share."""

    @pytest.fixture
    def instance(self, harness: InstanceHarness) -> Iterator[Instance]:
        with closing(harness.instance(_OURS)) as made:
            yield made

    @pytest.fixture
    def work(self, harness: InstanceHarness, instance: Instance) -> CloneWork:
        return harness.loaded_once(instance)

    def test_what_was_loaded_is_complete_and_clones_can_be_made_of_it(
        self, harness: InstanceHarness, instance: Instance, work: CloneWork
    ) -> None:
        (template,) = instance.templates()
        assert (template.snapshot, template.databases) == (work.snapshot.snapshot, work.snapshot.databases)
        _delivered(harness, instance, work)

    def test_a_snapshot_of_another_product_cannot_be_loaded(self, instance: Instance, work: CloneWork) -> None:
        instance.check(work.snapshot)
        with pytest.raises(UnsupportedError) as raised:
            instance.check(replace(work.snapshot, engine="another"))
        assert raised.value.reason == "OtherProduct"

    def test_nobody_is_let_in_before_a_clone_is_served(
        self, harness: InstanceHarness, instance: Instance, work: CloneWork
    ) -> None:
        hosted = harness.hosted(work)
        instance.create(hosted)
        assert hosted.volume not in instance.served()
        instance.serve(replace(hosted, private=True))
        instance.deliver(replace(hosted, private=True), [_APP], [])
        assert hosted.volume in instance.served()
        with pytest.raises(ReconcilerError):
            _count(harness, hosted, database=hosted.volume)
        instance.refuse(hosted.volume)
        instance.serve(hosted)
        _count(harness, hosted)

    def test_a_later_reconciler_finds_what_an_earlier_one_made(
        self, harness: InstanceHarness, instance: Instance, work: CloneWork
    ) -> None:
        hosted = _delivered(harness, instance, work)
        with closing(harness.instance(_OURS)) as later:
            assert hosted.volume in later.served()
            assert later.templates() == instance.templates()
            later.remove(hosted.volume)
        assert hosted.volume not in instance.served()

    def test_another_generation_takes_the_name_and_the_one_before_can_be_brought_back(
        self, harness: InstanceHarness, instance: Instance, work: CloneWork
    ) -> None:
        first = _delivered(harness, instance, work)
        harness.execute(first.clone, login_name(first.clone, "app"), _APP.password, harness.engine.add_item)
        second = harness.hosted(work, clone=first.clone, generation=2)
        instance.create(second)
        instance.serve(second)
        assert {first.volume, second.volume} & instance.served() == {second.volume}
        _count(harness, second)
        instance.refuse(second.volume)
        instance.serve(first)
        _more(harness, first)

    def test_what_is_refused_lets_nobody_in_and_keeps_what_it_holds(
        self, harness: InstanceHarness, instance: Instance, work: CloneWork
    ) -> None:
        hosted = _delivered(harness, instance, work)
        instance.refuse(hosted.volume)
        assert hosted.volume not in instance.served()
        with pytest.raises(ReconcilerError):
            _count(harness, hosted)
        instance.serve(hosted)
        _count(harness, hosted)

    def test_users_are_exactly_those_delivered(
        self, harness: InstanceHarness, instance: Instance, work: CloneWork
    ) -> None:
        hosted = _delivered(harness, instance, work)
        instance.deliver(hosted, [_ROTATED], [])
        with pytest.raises(ReconcilerError):
            _count(harness, hosted)
        harness.execute(hosted.clone, login_name(hosted.clone, "app"), _ROTATED.password, harness.count_one)
        instance.deliver(hosted, [], ["app"])
        with pytest.raises(ReconcilerError):
            harness.execute(hosted.clone, login_name(hosted.clone, "app"), _ROTATED.password, "SELECT 1")

    def test_users_who_were_told_early_are_those_delivered_all_the_same(
        self, harness: InstanceHarness, instance: Instance, work: CloneWork
    ) -> None:
        same, changed = (harness.hosted(work) for _ in range(2))
        for hosted, user in (same, _APP), (changed, _ROTATED):
            instance.create(hosted, [_APP])
            with pytest.raises(ReconcilerError):
                _count(harness, hosted)
            instance.serve(hosted)
            instance.deliver(hosted, [user], [])
            harness.execute(hosted.clone, login_name(hosted.clone, "app"), user.password, harness.count_one)
        with pytest.raises(ReconcilerError):
            _count(harness, changed)

    def test_users_of_one_clone_are_not_let_into_another(
        self, harness: InstanceHarness, instance: Instance, work: CloneWork
    ) -> None:
        one, two = (_delivered(harness, instance, work) for _ in range(2))
        with pytest.raises(ReconcilerError):
            harness.execute(two.clone, login_name(one.clone, "app"), _APP.password, harness.count_one)

    def test_scripts_stop_at_the_first_error_and_say_where(
        self, harness: InstanceHarness, instance: Instance, work: CloneWork
    ) -> None:
        hosted = _delivered(harness, instance, work)
        instance.run_scripts(hosted, [Script("more.sql", harness.engine.add_item, database="shop")], CancelToken())
        _more(harness, hosted)
        broken = Script("broken.sql", harness.engine.broken_script, database="shop")
        with pytest.raises(ScriptError, match=r"broken\.sql:2"):
            instance.run_scripts(hosted, [broken], CancelToken())

    def test_a_renamed_clone_is_reached_under_the_new_name_only(
        self, harness: InstanceHarness, instance: Instance, work: CloneWork
    ) -> None:
        hosted = _delivered(harness, instance, work)
        for _ in range(2):
            instance.rename(hosted.clone, CloneName(f"new-{hosted.clone}"))
        _count(harness, replace(hosted, clone=CloneName(f"new-{hosted.clone}")))
        with pytest.raises(ReconcilerError):
            _count(harness, hosted)

    def test_what_is_removed_is_gone_and_absent_things_are_fine(
        self, harness: InstanceHarness, instance: Instance, work: CloneWork
    ) -> None:
        hosted = _delivered(harness, instance, work)
        for _ in range(2):
            instance.remove(hosted.volume)
            instance.refuse(hosted.volume)
        with pytest.raises(PermanentError) as raised:
            instance.serve(hosted)
        assert raised.value.reason == "DatabaseGone"

    def test_a_database_of_somebody_else_is_left_alone(
        self, harness: InstanceHarness, instance: Instance, work: CloneWork
    ) -> None:
        hosted = harness.hosted(work)
        with harness.foreign(hosted.clone):
            instance.create(hosted)
            with pytest.raises(BusyError, match=hosted.clone):
                instance.serve(hosted)
            instance.remove(hosted.volume)

    def test_installations_do_not_see_each_other(
        self, harness: InstanceHarness, instance: Instance, work: CloneWork
    ) -> None:
        hosted = _delivered(harness, instance, work)
        with closing(harness.instance(_OTHER)) as other:
            assert (other.templates(), other.served()) == ((), frozenset())
            other.refuse(hosted.volume)
            other.remove(hosted.volume)
            other.unload(hosted.snapshot)
            _count(harness, hosted)
            with pytest.raises(BusyError):
                other.create(hosted)

    def test_clones_outlive_what_they_were_copied_from(
        self, harness: InstanceHarness, instance: Instance, work: CloneWork
    ) -> None:
        hosted = _delivered(harness, instance, work)
        for _ in range(2):
            instance.unload(hosted.snapshot)
        assert instance.templates() == ()
        _count(harness, hosted)
        with pytest.raises(BusyError):
            instance.create(harness.hosted(work))
        harness.loaded(instance)


def _delivered(harness: InstanceHarness, instance: Instance, work: CloneWork) -> Hosted:
    """Make a clone that its user ``app`` works with."""
    hosted = harness.hosted(work)
    instance.create(hosted)
    instance.serve(hosted)
    instance.deliver(hosted, [_APP], [])
    _count(harness, hosted)
    return hosted


def _count(harness: InstanceHarness, hosted: Hosted, *, database: str | None = None) -> None:
    statement = harness.count_one
    harness.execute(database or hosted.clone, login_name(hosted.clone, "app"), _APP.password, statement)


def _more(harness: InstanceHarness, hosted: Hosted) -> None:
    """Insist that something was added to the table."""
    harness.execute(hosted.clone, login_name(hosted.clone, "app"), _APP.password, harness.count_two)
