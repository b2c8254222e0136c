"""One pass's view of desired and observed, arranged for planning; built once per plan.

Called by :mod:`reconciler.plan.diff` only. Attributes volumes to documents (renames
included), separates finished work from leftovers, and knows what cannot be known:
volumes on a pool that is away, clones on a runtime that does not answer.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from reconciler.ids import CloneName, ImageName, ServerName, VolumeId
from reconciler.plan.actions import template_key
from reconciler.state.conditions import Condition, Kind, ObjectKey, reconciling, stalled, unknown
from reconciler.state.observed import (
    BuildManifest,
    CloneManifest,
    ClonePhase,
    MirrorManifest,
    MirrorPhase,
    RawManifest,
    ServerState,
    SnapshotManifest,
    VolumeState,
)
from reconciler.state.quarantine import quarantined

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from reconciler.ids import PoolName, SnapshotId
    from reconciler.plan.settings import PlanSettings
    from reconciler.state.desired import Desired, DesiredClone, DesiredImage
    from reconciler.state.observed import Manifest, Observed, ObservedServer, Request, Volume


_NOT_CONFIGURED = (
    "it was in use once and is not in this host's configuration: add it under `pools:` again,"
    " or strike it out of pools.json in the state directory if its volumes are gone for good"
)

MIRROR = "mirror"
"""How the volume ids of mirrors end, as those of clones end in a number."""

RAW = "raw"
"""How the volume ids of raw copies end, before their time."""

LOADED = "loaded"
"""How the volume ids of copies end that a snapshot is loaded into an instance from."""

_SUSPENDED = Condition(type="Suspended", status="True", reason="Suspended", message="its document says suspend: true")


class Snapshot(NamedTuple):
    """A sealed snapshot that can be seen."""

    volume: Volume
    manifest: SnapshotManifest


class Raw(NamedTuple):
    """A raw copy of a mirror that can be seen, finished or not."""

    volume: Volume
    manifest: RawManifest


class Generation(NamedTuple):
    """A ready generation of a clone that can be seen."""

    volume: Volume
    manifest: CloneManifest


class Mirror(NamedTuple):
    """A mirror that can be seen, whole or not."""

    volume: Volume
    manifest: MirrorManifest


@dataclass(slots=True)
class CloneVolumes:
    """The volumes of one clone: ready generations, oldest first, and what was interrupted."""

    ready: list[Generation] = field(default_factory=list)
    leftovers: list[Volume] = field(default_factory=list)

    @property
    def all(self) -> list[Volume]:
        """The volumes of every kind."""
        return [*(generation.volume for generation in self.ready), *self.leftovers]

    @property
    def current(self) -> Generation:
        """The generation that is served; only with ``ready``."""
        return self.ready[-1]

    @property
    def retired(self) -> list[Generation]:
        """The generations kept for undo, oldest first."""
        return self.ready[:-1]


@dataclass(slots=True, kw_only=True)
class Index:
    """What planning looks things up in."""

    desired: Desired
    observed: Observed
    now: datetime
    settings: PlanSettings
    away: Mapping[PoolName, str]
    """Pools whose volumes are unknown, with the reason. While there is one, what is not seen may live there."""
    image_names: Mapping[ImageName, ImageName]
    """Former name to name, for images with ``formerly``."""
    clone_names: Mapping[CloneName, CloneName]
    images: dict[ImageName, list[Snapshot]] = field(default_factory=lambda: defaultdict(list))
    snapshots: dict[SnapshotId, Snapshot] = field(default_factory=dict)
    image_leftovers: dict[ImageName, list[Volume]] = field(default_factory=lambda: defaultdict(list))
    mirrors: dict[ImageName, list[Mirror]] = field(default_factory=lambda: defaultdict(list))
    raws: dict[ImageName, list[Raw]] = field(default_factory=lambda: defaultdict(list))
    """Raw copies, the oldest first."""
    moments: dict[ImageName, list[Snapshot]] = field(default_factory=lambda: defaultdict(list))
    """Snapshots of moments that clones asked for: they are in ``snapshots``, and no image's newest."""
    points: dict[CloneName, list[Snapshot]] = field(default_factory=lambda: defaultdict(list))
    """Points in the lives of clones, the oldest first: they are in ``snapshots``, and of no image."""
    template_leftovers: dict[ObjectKey, list[Volume]] = field(default_factory=lambda: defaultdict(list))
    point_leftovers: dict[CloneName, list[Volume]] = field(default_factory=lambda: defaultdict(list))
    clones: dict[CloneName, CloneVolumes] = field(default_factory=dict)
    hidden: dict[ObjectKey, str] = field(default_factory=dict)
    """Objects of which a volume exists that cannot be looked at, and why: on a pool that is away, or unreadable."""
    unread: str = ""
    """Volumes with unreadable manifests that bear the name of no document: they may be anybody's (renamed)."""
    in_flight: frozenset[ObjectKey] = frozenset()
    volume_ids: frozenset[VolumeId] | None = None
    held_by: dict[SnapshotId, set[CloneName]] | None = None
    special_clones: frozenset[str] = frozenset()
    """Names of clones that have a failure, a tombstone, a request or the like: the quick path is not for them."""
    full_copies: bool = False
    """Whether clones on an instance are full copies, which is said of each: the quick path is not for them."""
    renaming: bool = False
    """Whether a document has a former name: the quick path is for nobody then."""
    quarantined: Mapping[SnapshotId, str] = field(default_factory=dict)
    """Snapshots of which nothing is made, and why."""
    requests: dict[ObjectKey, list[Request]] = field(default_factory=lambda: defaultdict(list))

    def newest(self, image: ImageName) -> Snapshot | None:
        """Return an image's newest snapshot that can be seen."""
        known = self.images.get(image)
        return known[-1] if known else None

    def usable(self, image: ImageName) -> Snapshot | None:
        """Return an image's newest snapshot that something may be made of: one that is not quarantined."""
        known = self.images.get(image, ())
        if not self.quarantined:
            return known[-1] if known else None
        return next((s for s in reversed(known) if s.manifest.snapshot not in self.quarantined), None)

    def base_of(self, image: DesiredImage, base: ImageName) -> DesiredImage | None:
        """Return the document of an image's base."""
        return self.desired.images.get(base) if base != image.name else None

    def left_alone(self, key: ObjectKey) -> Condition | None:
        """Return why nothing at all is done for an object in this pass, as far as its volumes have no say in it."""
        declared = ObjectKey(Kind.IMAGE, key.name) if key.kind is Kind.MIRROR else key
        if declared in self.desired.problems:
            return stalled(*self.desired.problems[declared])
        if _suspended(self.desired, key):
            return _SUSPENDED
        if key in self.in_flight:
            return reconciling("InProgress", "work is under way")
        return None

    def declared_image(self, name: ImageName) -> bool:
        """Whether a document of the commit declares the image, be it one with a problem."""
        return _declared(self.desired, Kind.IMAGE, name)

    def declared_clone(self, name: CloneName) -> bool:
        """Whether a document of the commit declares the clone, be it one with a problem."""
        return _declared(self.desired, Kind.CLONE, name)

    def free_volume(self, clone: CloneName) -> tuple[VolumeId, int]:
        """Return the volume id and number of a clone's next generation.

        Ids are checked against all others: a renamed clone's volumes keep their old ids.
        """
        volumes = self.clones.get(clone)
        known = [] if volumes is None else volumes.all
        numbers = (v.manifest.generation for v in known if isinstance(v.manifest, CloneManifest))
        generation = 1 + max(numbers, default=0)
        while VolumeId(f"{clone}.{generation}") in self.taken:
            generation += 1
        return VolumeId(f"{clone}.{generation}"), generation

    def whole_mirror(self, image: DesiredImage) -> Mirror | None:
        """Return the mirror that builds of an image can be cut from; None while there is none, or it asks for none."""
        whole = (
            mirror
            for mirror in self.mirrors.get(image.name, ())
            if mirror.volume.state is VolumeState.COMPLETE
            and mirror.volume.pool == image.pool
            and mirror.manifest.phase is MirrorPhase.FOLLOWING
        )
        return next(whole, None) if image.mirrored is not None else None

    def free_mirror(self, image: ImageName) -> VolumeId:
        """Return the volume id of a new mirror; a renamed image's keeps its old one."""
        number, wanted = 1, VolumeId(f"{image}.{MIRROR}")
        while wanted in self.taken:
            number += 1
            wanted = VolumeId(f"{image}.{MIRROR}{number}")
        return wanted

    def free_copy(self, snapshot: SnapshotId, instance: str) -> VolumeId:
        """Return the volume id of a copy that a snapshot is loaded into an instance from."""
        number, wanted = 1, VolumeId(f"{snapshot}.{LOADED}-{instance}")
        while wanted in self.taken:
            number += 1
            wanted = VolumeId(f"{snapshot}.{LOADED}-{instance}-{number}")
        return wanted

    @property
    def holders(self) -> Mapping[SnapshotId, set[CloneName]]:
        """The clones that have volumes of each snapshot, be they retired or unfinished."""
        if self.held_by is None:
            self.held_by = {}
            for name, volumes in self.clones.items():
                for volume in volumes.all:
                    if isinstance(volume.manifest, CloneManifest):
                        self.held_by.setdefault(volume.manifest.snapshot, set()).add(name)
        return self.held_by

    @property
    def taken(self) -> frozenset[VolumeId]:
        """The ids of all volumes."""
        if self.volume_ids is None:
            unread = (volume for pool in self.observed.pools.values() for volume in pool.unknown)
            self.volume_ids = frozenset((*(volume.id for volume in self.observed.volumes), *unread))
        return self.volume_ids

    def server(self, volume: VolumeId) -> ObservedServer | None:
        """Return the running server of a volume."""
        server = self.observed.servers.get(ServerName(volume))
        return server if server is not None and server.state is ServerState.RUNNING else None

    def users_of(self, volumes: Iterable[VolumeId]) -> str:
        """Say who is connected to volumes, as far as somebody was asked; empty when nobody is."""
        return ", ".join(filter(None, (a.text for v in volumes if (a := self.observed.activity.get(v)) is not None)))

    def owner_of(self, volume: VolumeId) -> ObjectKey:
        """Return whose a volume is that shows nothing but its id, under the name that it has now."""
        clone, dot, number = volume.rpartition(".")
        if number.startswith(LOADED):
            return ObjectKey(Kind.TEMPLATE, clone)
        if number.startswith((MIRROR, RAW)):
            mirrored = ImageName(clone)
            return ObjectKey(Kind.MIRROR, self.image_names.get(mirrored, mirrored))
        if dot:
            former = CloneName(clone)
            return ObjectKey(Kind.CLONE, self.clone_names.get(former, former))
        name = volume.rsplit("-", 2)[0]
        image, cut = ImageName(name), CloneName(name)
        cut = self.clone_names.get(cut, cut)
        if image not in self.image_names and not self.declared_image(image) and self.declared_clone(cut):
            return ObjectKey(Kind.POINT, cut)
        return ObjectKey(Kind.IMAGE, self.image_names.get(image, image))

    def away_text(self) -> str:
        """Name the pools that are away, for messages."""
        return ", ".join(f"{name} ({why})" if why else name for name, why in sorted(self.away.items()))

    def runtime_problem(self, clone: DesiredClone | None, volumes: CloneVolumes) -> Condition | None:
        """Say which runtime of a clone cannot be asked; None when all can."""
        names = {generation.manifest.runtime for generation in volumes.ready}
        names |= {clone.runtime} if clone is not None else set()
        for name in sorted(names & self.observed.unknown_runtimes.keys()):
            why = self.observed.unknown_runtimes[name]
            return unknown("RuntimeUnavailable", f"the runtime {name} does not answer: {why}")
        if self.settings.runtimes is not None:
            for name in sorted(names - self.settings.runtimes - self.settings.serverless):
                return stalled("RuntimeUnavailable", f"the runtime {name} is not available on this host")
        return None


def build_index(desired: Desired, observed: Observed, now: datetime, *, settings: PlanSettings) -> Index:
    """Arrange desired and observed for planning; one walk over the volumes."""
    index = Index(
        desired=desired,
        observed=observed,
        now=now,
        settings=settings,
        away=_away(observed, settings),
        image_names=_former_images(desired),
        clone_names=_former_clones(desired),
    )
    index.in_flight = _in_flight(index)
    _place(index, observed.volumes)
    index.in_flight |= _touched(index)
    index.quarantined = quarantined(desired, observed, (snapshot.manifest for snapshot in index.snapshots.values()))
    _sort(index)
    for request in sorted(observed.requests, key=lambda request: (request.requested_at, request.id)):
        index.requests[request.object].append(request)
    if index.away:
        _hide_unseen(index)
    _hide_unreadable(index)
    index.full_copies = any(template.instant is False for template in observed.templates)
    index.renaming = bool(index.image_names or index.clone_names)
    index.special_clones = _special(index)
    return index


def _sort(index: Index) -> None:
    """Order what objects have, by age or name: plans do not depend on how pools list their volumes."""
    for known in index.images.values():
        if len(known) > 1:
            known.sort(key=lambda snapshot: (snapshot.manifest.created_at, snapshot.manifest.snapshot))
    for known in chain(index.points.values(), index.moments.values()):
        known.sort(key=lambda snapshot: (snapshot.manifest.created_at, snapshot.manifest.snapshot))
    for raws in index.raws.values():
        raws.sort(key=lambda raw: (raw.manifest.taken_at, raw.volume.id))
    for mirrors in index.mirrors.values():
        mirrors.sort(key=lambda mirror: mirror.volume.id)
    leftovers = (index.image_leftovers, index.point_leftovers, index.template_leftovers)
    for left in chain.from_iterable(known.values() for known in leftovers):
        left.sort(key=lambda volume: volume.id)
    for volumes in index.clones.values():
        if len(volumes.ready) > 1:
            volumes.ready.sort(key=lambda generation: (generation.manifest.generation, generation.volume.id))
        if volumes.leftovers:
            volumes.leftovers.sort(key=lambda volume: volume.id)


def _place(index: Index, volumes: Iterable[Volume]) -> None:
    """Attribute volumes to their objects; those of other installations do not exist for planning."""
    ours, away, clones = index.observed.installation, index.away, index.clones
    for volume in volumes:
        manifest = volume.manifest
        if manifest.installation != ours:
            continue
        if volume.pool in away:
            index.hidden[_object_of(index, manifest)] = index.away_text()
        elif isinstance(manifest, CloneManifest):
            name = index.clone_names.get(manifest.clone, manifest.clone)
            known = clones.get(name)
            if known is None:
                known = clones[name] = CloneVolumes([], [])
            if volume.state is VolumeState.COMPLETE and manifest.phase is ClonePhase.READY:
                known.ready.append(Generation(volume, manifest))
            else:
                known.leftovers.append(volume)
        elif isinstance(manifest, RawManifest):
            index.raws[index.image_names.get(manifest.image, manifest.image)].append(Raw(volume, manifest))
        elif isinstance(manifest, MirrorManifest):
            image = index.image_names.get(manifest.image, manifest.image)
            index.mirrors[image].append(Mirror(volume, manifest))
        else:
            _place_snapshot(index, volume, manifest)


def _place_snapshot(index: Index, volume: Volume, manifest: BuildManifest | SnapshotManifest) -> None:
    image = index.image_names.get(manifest.image, manifest.image)
    clone = None if manifest.clone is None else index.clone_names.get(manifest.clone, manifest.clone)
    if isinstance(manifest, BuildManifest) and manifest.template is not None:
        index.template_leftovers[template_key(manifest.template, manifest.snapshot)].append(volume)
        return
    if isinstance(manifest, BuildManifest) or volume.state is not VolumeState.COMPLETE:
        (index.image_leftovers[image] if clone is None else index.point_leftovers[clone]).append(volume)
        return
    snapshot = Snapshot(volume, manifest)
    index.snapshots[manifest.snapshot] = snapshot
    if clone is not None:
        index.points[clone].append(snapshot)
    else:
        (index.images if manifest.at is None else index.moments)[image].append(snapshot)


def _object_of(index: Index, manifest: Manifest) -> ObjectKey:
    if isinstance(manifest, CloneManifest):
        return ObjectKey(Kind.CLONE, index.clone_names.get(manifest.clone, manifest.clone))
    if isinstance(manifest, BuildManifest) and manifest.template is not None:
        return template_key(manifest.template, manifest.snapshot)
    if isinstance(manifest, SnapshotManifest | BuildManifest) and manifest.clone is not None:
        return ObjectKey(Kind.POINT, index.clone_names.get(manifest.clone, manifest.clone))
    kind = Kind.MIRROR if isinstance(manifest, MirrorManifest | RawManifest) else Kind.IMAGE
    return ObjectKey(kind, index.image_names.get(manifest.image, manifest.image))


def _hide_unreadable(index: Index) -> None:
    """Mark the objects of volumes whose manifests cannot be read, by the names in their ids."""
    unread: list[VolumeId] = []
    for pool in index.observed.pools.values():
        for volume in pool.unknown:
            key = index.owner_of(volume)
            index.hidden[key] = f"the manifest of volume {volume} in pool {pool.name} cannot be read"
            if not _declared(index.desired, key.kind, key.name):
                unread.append(volume)
    index.unread = ", ".join(sorted(unread))


def _hide_unseen(index: Index) -> None:
    """Mark clones of which a server runs whose volume is not seen: it is in the pool that is away."""
    seen = {volume.id for volume in index.observed.volumes}
    for name in index.observed.servers:
        if VolumeId(name) not in seen:
            index.hidden[index.owner_of(VolumeId(name))] = index.away_text()


def _away(observed: Observed, settings: PlanSettings) -> dict[PoolName, str]:
    away = {name: pool.message for name, pool in observed.pools.items() if not pool.available}
    away |= {name: _NOT_CONFIGURED for name in settings.pools if name not in observed.pools}
    away |= {volume.pool: "not observed" for volume in observed.volumes if volume.pool not in observed.pools}
    return away


def _declared(desired: Desired, kind: Kind, name: str) -> bool:
    """Whether a document declares an object, be it one with a problem."""
    if kind is Kind.CLONE:
        return CloneName(name) in desired.clones or ObjectKey(kind, name) in desired.problems
    return ImageName(name) in desired.images or ObjectKey(Kind.IMAGE, name) in desired.problems


def _suspended(desired: Desired, key: ObjectKey) -> bool:
    if key.kind in (Kind.IMAGE, Kind.MIRROR):
        image = desired.images.get(ImageName(key.name))
        return image is not None and image.suspend
    clone = desired.clones.get(CloneName(key.name))
    return clone is not None and clone.suspend


def _former_images(desired: Desired) -> dict[ImageName, ImageName]:
    """Former names that no document claims any more; of two heirs the first by name."""
    found: dict[ImageName, ImageName] = {}
    for image in desired.images.values():
        former = image.formerly
        if former is not None and not _declared(desired, Kind.IMAGE, former):
            found[former] = min(found.get(former, image.name), image.name)
    return found


def _former_clones(desired: Desired) -> dict[CloneName, CloneName]:
    found: dict[CloneName, CloneName] = {}
    for clone in desired.clones.values():
        former = clone.formerly
        if former is not None and not _declared(desired, Kind.CLONE, former):
            found[former] = min(found.get(former, clone.name), clone.name)
    return found


def _in_flight(index: Index) -> frozenset[ObjectKey]:
    """Objects with work in flight, under the names that they have now as well."""
    heirs: list[ObjectKey] = []
    for key in index.observed.in_flight:
        if key.kind in (Kind.IMAGE, Kind.MIRROR) and ImageName(key.name) in index.image_names:
            heirs.append(ObjectKey(key.kind, index.image_names[ImageName(key.name)]))
        elif key.kind in (Kind.CLONE, Kind.POINT) and CloneName(key.name) in index.clone_names:
            heirs.append(ObjectKey(key.kind, index.clone_names[CloneName(key.name)]))
    return index.observed.in_flight.union(heirs)


def _touched(index: Index) -> frozenset[ObjectKey]:
    """Clones of which work in flight for another object changes a volume: the rename of their image."""
    in_use = index.observed.in_use
    if not in_use:
        return frozenset()
    return frozenset(
        ObjectKey(Kind.CLONE, name)
        for name, volumes in index.clones.items()
        if any(volume.id in in_use for volume in volumes.all)
    )


def _special(index: Index) -> frozenset[str]:
    keyed: Iterable[ObjectKey] = (
        *index.in_flight,
        *index.observed.failures,
        *index.desired.problems,
        *index.requests,
        *index.hidden,
    )
    return frozenset(
        (
            *(key.name for key in keyed if key.kind is Kind.CLONE),
            *index.observed.tombstones,
            *index.observed.lost_credentials,
        )
    )
