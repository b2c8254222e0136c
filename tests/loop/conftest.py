"""A whole host in memory: the loop and everything below it, without processes or volumes on disk."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from reconciler.engines.memory import MemoryEngine
from reconciler.host import Host
from reconciler.ids import CloneName, PoolName, RuntimeName
from reconciler.loop import Reconciler
from reconciler.runtimes.memory import MemoryHost, MemoryRuntime
from reconciler.secrets import SecretStore
from reconciler.spec.config import Config
from reconciler.state.conditions import Kind, ObjectKey
from reconciler.state.observed import CloneManifest, SnapshotManifest
from reconciler.status.directory import StateDirectory
from reconciler.status.report import current_volume
from reconciler.status.store import StatusStore
from reconciler.storage.memory import MemoryStorage

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import Any

    from reconciler.state.conditions import Condition
    from reconciler.state.observed import Verb, Volume
    from reconciler.status.requests import Outcome
    from reconciler.view import View

START = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)

IMAGE = """\
apiVersion: reconciler/v1
kind: Image
metadata: {name: shop}
spec:
  engine: postgres
  source: {empty: {}}
  scripts: [{inline: "database shop"}]
"""

CLONE = """\
apiVersion: reconciler/v1
kind: Clone
metadata: {name: dev}
spec:
  image: shop
  users: [{name: app}]
"""


class HandClock:
    """Time that a test moves by hand; waiting is real, so that threads get their turn."""

    def __init__(self, start: datetime = START) -> None:
        self._now = start

    def now(self) -> datetime:
        self._now += timedelta(milliseconds=1)
        return self._now

    def monotonic(self) -> float:
        return self._now.timestamp()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        return event.wait(min(seconds, 0.01))

    def advance(self, **amount: float) -> None:
        self._now += timedelta(**amount)


class World:
    """One installation: what a test writes into its specs, and what becomes of it."""

    def __init__(
        self, path: Path, stack: ExitStack, *, clock: HandClock | None = None, settings: Mapping[str, Any] | None = None
    ) -> None:
        self.specs = path / "specs"
        self.specs.mkdir()
        self.secrets = path / "secrets"
        self.secrets.mkdir()
        self.clock = clock or HandClock()
        self.state = StateDirectory(path / "state")
        self.store = stack.enter_context(StatusStore(self.state.status_file, self.clock))
        self.storage = MemoryStorage(PoolName("default"), installation=self.state.installation)
        self.servers = MemoryHost()
        self.engine = MemoryEngine("postgres")
        config = {"repository": {"path": str(self.specs)}, "state": str(path / "state"), **(settings or {})}
        self.host = Host(
            config=Config.model_validate(config, context={"base": path}),
            installation=self.state.installation,
            state=self.state,
            store=self.store,
            secrets=SecretStore(self.secrets, "RECONCILER_TEST_SECRET_"),
            pools={PoolName("default"): self.storage},
            runtimes={RuntimeName("process"): self._runtime()},
            engines={"postgres": self.engine},
            clock=self.clock,
            held=stack,
        )
        self.reconciler = Reconciler(self.host, self.host.commits())

    def _runtime(self) -> MemoryRuntime:
        return MemoryRuntime(
            RuntimeName("process"),
            installation=self.state.installation,
            host=self.servers,
            ports=range(5600, 5700),
            clock=self.clock,
        )

    def write(self, *documents: str, name: str = "specs.yaml") -> None:
        """Make these the documents of a spec file."""
        (self.specs / name).write_text("---\n".join(documents))

    def secret(self, name: str, value: str) -> None:
        (self.secrets / name).write_text(value)

    def apply(self) -> View:
        """Run one pass and wait for its work; return what was planned."""
        view = self.reconciler.one_pass()
        self.reconciler.settle(view)
        return view

    def ask(self, verb: Verb, target: str = "", *, plan_hash: str | None = None, snapshot: str = "") -> Outcome:
        """Leave a request, run a pass, and return the answer."""
        request = self.state.requests.submit(verb, target, now=self.clock.now(), plan_hash=plan_hash, snapshot=snapshot)
        self.apply()
        outcome = self.state.requests.outcome(request.id)
        assert outcome is not None
        return outcome

    def snapshots(self) -> list[str]:
        return [v.id for v in self.storage.volumes() if isinstance(v.manifest, SnapshotManifest)]

    def volumes(self) -> list[str]:
        return [volume.id for volume in self.storage.volumes()]

    def clone(self, name: str = "dev") -> CloneManifest:
        found = current_volume(self.storage.volumes(), CloneName(name))
        assert found is not None, f"there is no clone {name}"
        return found[1]

    def current(self, name: str = "dev") -> Volume:
        found = current_volume(self.storage.volumes(), CloneName(name))
        assert found is not None, f"there is no clone {name}"
        return found[0]

    def running(self) -> list[str]:
        return sorted(self.host.runtimes[RuntimeName("process")].servers())

    def conditions(self, kind: Kind, name: str) -> dict[str, Condition]:
        return {c.type: c for c in self.store.conditions().get(ObjectKey(kind, name), ())}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        made = World(tmp_path, stack)
        yield made
        made.reconciler.close(abandon=True)
