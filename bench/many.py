"""A host with many objects on memory drivers, all of which exist already: what reading and the loop are measured on."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from reconciler.clock import SystemClock
from reconciler.engines.memory import MemoryEngine
from reconciler.host import Host
from reconciler.ids import PoolName, RuntimeName, ServerName, SnapshotId, VolumeId
from reconciler.loop import Reconciler
from reconciler.plan.fingerprints import applied_users, settings_digest
from reconciler.runtimes.memory import MemoryRuntime
from reconciler.secrets import SecretStore
from reconciler.spec.config import Config
from reconciler.state.observed import CloneManifest, ClonePhase, SnapshotManifest, Volume, VolumeState
from reconciler.state.servers import ServerSpec
from reconciler.status.directory import StateDirectory
from reconciler.status.store import StatusStore
from reconciler.storage.memory import MemoryStorage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    from reconciler.commits import Commits
    from reconciler.state.desired import Desired, DesiredClone, DesiredImage

_POOL, _RUNTIME = PoolName("default"), RuntimeName("process")
_CLONES_OF_AN_IMAGE = 99
_FIRST_PORT = 10_000
_IMAGE = """\
# an image of the {name} service
apiVersion: reconciler/v1
kind: Image
metadata:
  name: {name}
  labels: {{team: payments}}
spec:
  engine: postgres
  source: {{empty: {{}}}}
  databases: [shop]
  refresh: {{schedule: "0 2 * * *", timezone: Europe/Paris, jitter: 10m}}
  retention: {{keep: 3, maxAge: 30d}}
  parameters: {{work_mem: 64MB}}
"""
CLONE = """\
# a clone for somebody of the payments team
apiVersion: reconciler/v1
kind: Clone
metadata:
  name: {name}
  labels: {{team: payments, stage: dev}}
spec:
  image: {image}
  snapshot: latest
  runtime: process
  owner: {owner}
  state: running
  ttl: 800h
  onRefresh: keep
  protected: false
  users:
    - {{name: app, role: owner}}
    - name: report
      role: readonly
  params:
    region: eu
  parameters:
    work_mem: 64MB
    max_connections: 100
"""


def write_specs(directory: Path, number: int) -> list[Path]:
    """Write ``number`` spec files, of which one in a hundred is an image; return them."""
    written = []
    for place in ("images", "clones"):
        (directory / place).mkdir(parents=True)
    for one in range(max(1, number // (_CLONES_OF_AN_IMAGE + 1))):
        image = f"shop-{one:03}"
        written.append(directory / "images" / f"{image}.yaml")
        written[-1].write_text(_IMAGE.format(name=image))
        for other in range(min(_CLONES_OF_AN_IMAGE, number - 1)):
            clone = f"{image}-{other:03}"
            written.append(directory / "clones" / f"{clone}.yaml")
            written[-1].write_text(CLONE.format(name=clone, image=image, owner="payments"))
    return written


@contextmanager
def many(directory: Path, specs: Path) -> Iterator[tuple[Host, Commits]]:
    """Open a host on which everything exists that the specs ask for, with a reader that has read them."""
    config = Config.model_validate({"repository": {"path": str(specs)}, "state": str(directory / "state")})
    clock = SystemClock()
    state = StateDirectory(config.state)
    with ExitStack() as stack:
        store = stack.enter_context(StatusStore(state.status_file, clock))
        runtime = MemoryRuntime(_RUNTIME, installation=state.installation, ports=range(_FIRST_PORT, 65_536))
        storage = MemoryStorage(_POOL, installation=state.installation)
        host = Host(
            config=config,
            installation=state.installation,
            state=state,
            store=store,
            secrets=SecretStore(config.secrets.directory, config.secrets.environment),
            pools={_POOL: storage},
            runtimes={_RUNTIME: runtime},
            engines={"postgres": MemoryEngine("postgres")},
            clock=clock,
            held=stack,
        )
        commits = host.commits()
        _make_everything(host, commits, storage, runtime)
        yield host, commits


def _make_everything(host: Host, commits: Commits, storage: MemoryStorage, runtime: MemoryRuntime) -> None:
    desired = commits.newest().desired
    if desired is None:
        raise RuntimeError("the specs are not valid")
    for volume in volumes_of(host, desired, host.clock.now()):
        storage.put(volume, {})
        if isinstance(volume.manifest, CloneManifest):
            runtime.start(_server(storage, volume, volume.manifest.port or 0))
            (host.state.path / "credentials" / volume.manifest.clone).mkdir()  # where its passwords would be
    plan = Reconciler(host, commits).look().plan
    if plan is None or plan.actions:
        raise RuntimeError(f"what exists is not what the specs ask for: {plan}")


def volumes_of(host: Host, desired: Desired, now: datetime) -> Iterator[Volume]:
    """Yield the volumes that there are once everything was made, snapshots first."""
    snapshots = {image.name: _snapshot(host, desired, image, now) for image in desired.images.values()}
    for manifest in snapshots.values():
        yield Volume(VolumeId(manifest.snapshot), _POOL, VolumeState.COMPLETE, manifest)
    for port, clone in enumerate(desired.clones.values(), _FIRST_PORT):
        delivered = _clone(host, desired, clone, snapshots[clone.image], port)
        yield Volume(VolumeId(f"{clone.name}.1"), _POOL, VolumeState.COMPLETE, delivered)


def _snapshot(host: Host, desired: Desired, image: DesiredImage, now: datetime) -> SnapshotManifest:
    return SnapshotManifest(
        installation=host.installation,
        image=image.name,
        snapshot=SnapshotId(f"{image.name}-{now:%Y%m%dt%H%M%Sz}-{image.spec_digest.removeprefix('sha256:')[:8]}"),
        engine=image.engine,
        version="2.0",
        major="2",
        spec_digest=image.spec_digest,
        input_id="empty",
        revision=desired.revision,
        created_at=now,
        databases=image.databases,
        parameters=image.parameters,
    )


def _clone(host: Host, desired: Desired, clone: DesiredClone, snapshot: SnapshotManifest, port: int) -> CloneManifest:
    return CloneManifest(
        installation=host.installation,
        clone=clone.name,
        generation=1,
        phase=ClonePhase.READY,
        image=clone.image,
        snapshot=snapshot.snapshot,
        engine=snapshot.engine,
        major=snapshot.major,
        runtime=clone.runtime,
        port=port,
        revision=desired.revision,
        created_at=snapshot.created_at + timedelta(seconds=1),
        ready_at=snapshot.created_at + timedelta(seconds=2),
        owner=clone.owner,
        protected=clone.protected,
        users=applied_users(clone, {}),
        scripts_digest=clone.scripts_digest,
        settings_digest=settings_digest(clone, desired.images[clone.image]),
        databases=snapshot.databases,
    )


def _server(storage: MemoryStorage, volume: Volume, port: int) -> ServerSpec:
    return ServerSpec(
        name=ServerName(volume.id),
        argv=("memory",),
        directory=storage.path(volume.id),
        env={},
        account=None,
        host="127.0.0.1",
        port=port,
        ready=lambda: True,
        ready_timeout=1,
        stale_files=(),
    )
