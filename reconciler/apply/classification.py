"""Looking at the data of an image as it is before masking, on a private copy that nobody else sees.

Called for ``reconciler classify``, by the command itself or by the loop. An image whose
newest snapshot was not masked is looked at through a copy of that; any other is built from
its source as far as masking would begin. The volume is one of a build that never ends:
killed at any point, it is dropped by the next pass.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from reconciler.apply.delivery import refuse_quarantined
from reconciler.apply.images import discard, load, private_build, start
from reconciler.errors import BusyError, RefusedError
from reconciler.ids import SnapshotId, VolumeId
from reconciler.plan.actions import BuildSnapshot, volumes_in_use
from reconciler.plan.schedule import snapshot_id_stamp
from reconciler.sources import identify, live_server, repositories
from reconciler.state.desired import ImageSource
from reconciler.state.grants import Grants
from reconciler.state.observed import SnapshotManifest
from reconciler.status import words

if TYPE_CHECKING:
    from reconciler.apply.context import Work
    from reconciler.masking.classify.profiles import DatabaseProfile
    from reconciler.state.desired import DesiredImage
    from reconciler.state.observed import Volume

_SUFFIX = "classify"


@dataclass(frozen=True, slots=True)
class Look:
    """What is built privately to be looked at, and how."""

    image: DesiredImage
    action: BuildSnapshot

    @property
    def volumes(self) -> frozenset[VolumeId]:
        """The private volume, and what it is a copy of."""
        return volumes_in_use(self.action)


def look(work: Work, image: DesiredImage) -> Look:
    """Return how an image will be looked at: on its newest snapshot if that has the data as it is, else by a build.

    Raises:
        BusyError: what it is built on has no snapshot.

    """
    return Look(*_build(work, image))


def profile(work: Work, chosen: Look) -> tuple[DatabaseProfile, ...]:
    """Return the schema of each database of an image, and some values of each column; leave nothing behind.

    Raises:
        ReconcilerError: of the class that says whether trying again can help.

    """
    wanted, action = chosen.image, chosen.action
    engine, runtime = work.host.engine(wanted.engine), work.runtime(wanted.runtime)
    _require_room(work, wanted, action)
    try:
        with private_build(work, wanted, action) as job:
            start(engine, runtime, job)
            with engine.session(job) as session:
                load(session, wanted, job)
                return session.profile()
    finally:
        discard(work, wanted, action)


def _build(work: Work, image: DesiredImage) -> tuple[DesiredImage, BuildSnapshot]:
    newest = _newest(work, image)
    if newest is not None and not newest[1].masked_by:
        volume, manifest = newest
        source = ImageSource(image.name)
        copy = replace(image, source=source, pool=volume.pool, version=None, scripts=(), databases=())
        return copy, _action(work, image, manifest.snapshot)
    if not isinstance(image.source, ImageSource):
        return image, _action(work, image, None)
    base = work.desired.image_called(image.source.image)
    found = None if base is None else _newest(work, base)
    if found is None:
        raise BusyError(f"image {image.source.image} has no snapshot yet", reason="DependencyNotReady")
    return image, _action(work, image, found[1].snapshot)


def _newest(work: Work, image: DesiredImage) -> tuple[Volume, SnapshotManifest] | None:
    """Return the newest snapshot of an image that something may be made of."""
    found = [
        (volume, volume.manifest)
        for volume in work.volumes()
        if isinstance(volume.manifest, SnapshotManifest)
        and volume.manifest.image in (image.name, image.formerly)
        and _usable(work, volume.manifest.snapshot)
    ]
    return max(found, key=lambda one: one[1].created_at, default=None)


def _usable(work: Work, snapshot: SnapshotId) -> bool:
    try:
        refuse_quarantined(work, snapshot)
    except RefusedError:
        return False
    return True


def _action(work: Work, image: DesiredImage, base: SnapshotId | None) -> BuildSnapshot:
    stamp = snapshot_id_stamp(work.host.clock.now())
    return BuildSnapshot(
        image=image.name,
        snapshot=SnapshotId(f"{image.name}-{stamp}-{_SUFFIX}"),
        input_id="",
        base=base,
        fingerprint="",
        reason="its columns are classified",
    )


def _require_room(work: Work, image: DesiredImage, action: BuildSnapshot) -> None:
    """Insist that the pool has room for the private copy, with its reserve left.

    Raises:
        RefusedError: it has not (with figures).

    """
    storage = work.storage(image.pool)
    if action.base is None:
        roots = Grants(work.host.config).roots(image.name)
        live, known = live_server(image, work.host.secrets.get), repositories(work.host.config)
        engine = work.host.engine(image.engine)
        need = identify(engine, image.source, roots, live=live, repositories=known).size_bytes
    else:
        base = VolumeId(action.base)
        used = {} if storage.traits.instant_clones else storage.usage([base])
        need = used[base].logical_bytes if base in used else 0
    pool = storage.probe()
    room = pool.free_bytes - pool.reserve_bytes
    if need > room:
        raise RefusedError(
            f"a private copy of image {image.name} needs about {words.size(need)},"
            f" pool {image.pool} has room for {words.size(max(room, 0))}",
            reason="NoRoom",
        )
