"""Applying actions of mirrors: copy a live primary, follow it, cut a build from it, leave it.

A mirror is raw. Its volume is never a snapshot, its server listens on a private socket
only and runs under the account of builds, which no clone has. The manifest is written
before anything is made at the primary and removed after that is gone, so whatever is
killed leaves a manifest that says what may still be there.
"""

from __future__ import annotations

import secrets
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

from reconciler.apply.context import best_effort
from reconciler.engines.base import MIRROR_LOST
from reconciler.errors import BusyError, RefusedError, SourceError
from reconciler.handover import give_tree
from reconciler.ids import DEFAULT_RUNTIME, ServerName, VolumeId
from reconciler.mirrors import mirror_work, mirrors_of
from reconciler.plan.fingerprints import mirror_settings
from reconciler.state.observed import MirrorManifest, MirrorPhase, RawManifest, VolumeState
from reconciler.status import words

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.apply.context import Work
    from reconciler.engines.base import MirrorWork
    from reconciler.ids import ImageName
    from reconciler.plan.actions import (
        BuildSnapshot,
        CopyPrimary,
        DropRaw,
        FollowPrimary,
        KeepRaw,
        LeavePrimary,
        ReplayArchive,
    )
    from reconciler.state.desired import DesiredImage, PrimarySource
    from reconciler.state.observed import BuildManifest, ObservedMirror, Volume
    from reconciler.storage.base import Storage

_SLOT_NAME = 24
"""Characters of an image's name that its slot shows; with the rest within the 63 bytes of a name."""


def copy(work: Work, action: CopyPrimary) -> None:
    """Copy a primary and follow it, or leave nothing.

    Raises:
        RefusedError: the pool has no room for it.
        ReconcilerError: as the engine says.

    """
    image = work.desired.images[action.image]
    source = image.mirrored
    if source is None:
        raise BusyError(f"image {image.name} does not follow a primary any more", reason="SourceChanged")
    mirrors, storage = mirrors_of(work.host, image.engine), work.storage(image.pool)
    work.require_absent(action.volume)
    manifest = _manifest(work, image, source)
    job = _job(work, storage, action.volume, manifest)
    work.progress("asking the primary")
    _admit(storage, mirrors.size(job))
    directory = storage.create(action.volume, manifest)
    try:
        give_tree(directory, job.account)
        work.run_directory(action.volume, job.account)
        copied = mirrors.copy(job)
        whole = replace(
            manifest,
            phase=MirrorPhase.FOLLOWING,
            major=copied.major,
            system=copied.system,
            copied_at=work.host.clock.now(),
        )
        storage.update(action.volume, whole)
        _serve(work, storage, action.volume, whole)
    except BaseException:
        best_effort(lambda: _leave(work, storage, action.volume, manifest))
        raise


def follow(work: Work, action: FollowPrimary) -> None:
    """Start a mirror's server with the settings of today; one that runs is stopped before.

    What the image does not ask for any more is removed at the
    primary when the server does without it; until that is done the settings count as old.

    Raises:
        BusyError: it can never go on; the next pass knows.
        UnavailableError: the primary does not answer, and a slot is left there.

    """
    storage, manifest = _mirror(work, action.volume)
    with work.host.cutting[action.volume]:
        work.runtime(manifest.runtime).stop(ServerName(action.volume))
        archived = _is_archived(work, manifest)
        if not archived and not manifest.slot:
            manifest = replace(manifest, slot=_slot(manifest.image))
            storage.update(action.volume, manifest)
        _start(work, storage, action.volume, manifest)
        if archived and manifest.slot:
            mirrors_of(work.host, manifest.engine).leave(_job(work, storage, action.volume, manifest))
            manifest = replace(manifest, slot="")
            storage.update(action.volume, manifest)
        _note_settings(work, storage, action.volume, manifest)


def replay(work: Work, action: ReplayArchive) -> None:
    """Have a mirror replay what has come into its archive.

    Raises:
        BusyError: it does not get on; what is to be done there is in the message.

    """
    storage, manifest = _mirror(work, action.volume)
    with work.host.cutting[action.volume]:
        mirrors_of(work.host, manifest.engine).replay(_job(work, storage, action.volume, manifest))


def leave(work: Work, action: LeavePrimary) -> None:
    """Remove a mirror; what cannot be removed at the primary keeps its manifest, without data, until it is forgotten.

    Raises:
        UnavailableError: the primary does not answer.
        SecretError: there is no way in any more.

    """
    volume = work.volume(action.volume)
    if volume is None or not isinstance(volume.manifest, MirrorManifest):
        return
    storage = work.storage(volume.pool)
    if volume.state is not VolumeState.COMPLETE:  # nothing was made at the primary before it was complete
        storage.delete(volume.id)
        return
    with work.host.cutting[volume.id]:
        manifest = volume.manifest
        if action.forgotten and manifest.phase is MirrorPhase.LEAVING:
            manifest = replace(manifest, slot="")
        _leave(work, storage, volume.id, manifest)


def keep_raw(work: Work, action: KeepRaw) -> None:
    """Keep a raw copy of a mirror, and say up to when what is in it has happened.

    The mirror is asked after the cut: what it had replayed before is not younger than that.

    Raises:
        BusyError: the mirror does not say how far it has come; the copy is not kept.

    """
    storage, known = _mirror(work, action.mirror)
    manifest = RawManifest(
        installation=work.host.installation,
        image=action.image,
        engine=known.engine,
        mirror=action.mirror,
        taken_at=work.host.clock.now(),
    )
    work.require_absent(action.volume)
    try:
        _copied(work, action.mirror, storage, manifest, action.volume)
        until = ask(work, action.mirror).last_commit
        if until is None:
            raise BusyError(f"the mirror {action.mirror} does not say how far it has come", reason="MirrorSilent")
        storage.seal(action.volume, manifest)
        storage.update(action.volume, replace(manifest, until=until))
    except BaseException:
        best_effort(lambda: storage.delete(action.volume))
        raise
    _forget_log(work, action.mirror)


def drop_raw(work: Work, action: DropRaw) -> None:
    """Drop a raw copy, and the log that only it needed."""
    volume = work.volume(action.volume)
    if volume is None or not isinstance(volume.manifest, RawManifest):
        return
    work.storage(action.pool).delete(action.volume)
    mirror = work.volume(volume.manifest.mirror)
    if mirror is not None and isinstance(mirror.manifest, MirrorManifest):
        best_effort(lambda: _forget_log(work, mirror.id))


def _forget_log(work: Work, mirror: VolumeId) -> None:
    """Remove log that no raw copy needs, unless there may be one among volumes whose manifests cannot be read."""
    storage, known = _mirror(work, mirror)
    raws = [
        storage.path(volume.id)
        for volume in storage.volumes()
        if isinstance(volume.manifest, RawManifest) and volume.manifest.mirror == mirror
    ]
    if not storage.probe().unknown:
        mirrors_of(work.host, known.engine).forget_log(_job(work, storage, mirror, known), raws)


def cut(work: Work, action: BuildSnapshot, storage: Storage, manifest: BuildManifest) -> Path:
    """Make a build's volume a copy of a mirror, or of a raw copy from which the mirror's log is replayed.

    Raises:
        BusyError: the mirror is not there any more.

    """
    volume = VolumeId(action.snapshot)
    if action.mirror is None:
        raise BusyError(f"image {action.image} has no mirror", reason="MirrorGone")
    if action.raw is not None:
        return storage.clone(action.raw, volume, manifest)
    pool, _known = _mirror(work, action.mirror)
    if pool.name != storage.name:
        raise BusyError(f"the mirror of image {action.image} is in pool {pool.name}", reason="MirrorElsewhere")
    work.progress("cutting from the mirror")
    directory = _copied(work, action.mirror, storage, manifest, volume)
    work.release(action.mirror)
    return directory


def _copied(
    work: Work, mirror: VolumeId, storage: Storage, manifest: BuildManifest | RawManifest, volume: VolumeId
) -> Path:
    """Copy a mirror: in one instant while it runs, or at rest."""
    _pool, known = _mirror(work, mirror)
    job = _job(work, storage, mirror, known)
    with work.host.cutting[mirror], mirrors_of(work.host, known.engine).resting(job):
        if storage.traits.atomic_snapshots:
            return storage.clone(mirror, volume, manifest)
        work.runtime(known.runtime).stop(ServerName(mirror))
        try:
            return storage.clone(mirror, volume, manifest)
        finally:
            _serve(work, storage, mirror, known)


def ask(work: Work, mirror: VolumeId) -> ObservedMirror:
    """Return how far a mirror has come."""
    storage, known = _mirror(work, mirror)
    return mirrors_of(work.host, known.engine).look(_job(work, storage, mirror, known))


def system_of(work: Work, mirror: VolumeId) -> str:
    """Return the identity of the database system that a mirror follows."""
    return _mirror(work, mirror)[1].system


def _leave(work: Work, storage: Storage, volume: VolumeId, manifest: MirrorManifest) -> None:
    storage.update(volume, replace(manifest, phase=MirrorPhase.LEAVING))
    work.runtime(manifest.runtime).stop(ServerName(volume), at_once=True)
    if storage.traits.files:
        _empty(storage.path(volume))
    if manifest.slot:
        mirrors_of(work.host, manifest.engine).leave(_job(work, storage, volume, manifest))
    work.forget_server(volume)
    storage.delete(volume)


def _empty(directory: Path) -> None:
    """Throw the raw data away at once, whatever becomes of the primary."""
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _serve(work: Work, storage: Storage, volume: VolumeId, manifest: MirrorManifest) -> None:
    _start(work, storage, volume, manifest)
    _note_settings(work, storage, volume, manifest)


def _start(work: Work, storage: Storage, volume: VolumeId, manifest: MirrorManifest) -> None:
    """Start a mirror's server; one that can never go on is noted as lost, which a later pass acts on."""
    job = _job(work, storage, volume, manifest)
    work.run_directory(volume, job.account)
    work.progress("starting the mirror")
    try:
        spec = mirrors_of(work.host, manifest.engine).server(job)
    except SourceError as error:
        if error.reason != MIRROR_LOST:
            raise
        storage.update(volume, replace(manifest, lost=error.message))
        raise BusyError(error.message, reason=MIRROR_LOST) from error
    work.runtime(manifest.runtime).start(replace(spec, background=True), cancel=work.cancel)


def _note_settings(work: Work, storage: Storage, volume: VolumeId, manifest: MirrorManifest) -> None:
    known = {manifest.url: work.host.secret_fingerprint(manifest.url)}
    image = work.desired.image_called(manifest.image)
    keep_log = image is not None and image.point_in_time is not None
    applied = mirror_settings(manifest.url, known, keep_log=keep_log, archived=_is_archived(work, manifest))
    if manifest.settings != applied:
        storage.update(volume, replace(manifest, settings=applied))


def _is_archived(work: Work, manifest: MirrorManifest) -> bool:
    image = work.desired.image_called(manifest.image)
    source = image.mirrored if image is not None else None
    return source is not None and source.archive is not None


def _mirror(work: Work, wanted: VolumeId) -> tuple[Storage, MirrorManifest]:
    volume: Volume | None = work.volume(wanted)
    if volume is None or not isinstance(volume.manifest, MirrorManifest) or volume.state is not VolumeState.COMPLETE:
        raise BusyError(f"mirror {wanted} is not there any more", reason="MirrorGone")
    return work.storage(volume.pool), volume.manifest


def _manifest(work: Work, image: DesiredImage, source: PrimarySource) -> MirrorManifest:
    return MirrorManifest(
        installation=work.host.installation,
        image=image.name,
        engine=image.engine,
        phase=MirrorPhase.COPYING,
        url=source.url,
        slot=_slot(image.name) if source.archive is None else "",
        runtime=DEFAULT_RUNTIME,  # it needs a network to production, which builds in containers have not
        revision=work.desired.revision,
        started_at=work.host.clock.now(),
    )


def _slot(image: ImageName) -> str:
    """Return a new slot's name, of one mirror alone: leaving that spares its successor."""
    readable = image[:_SLOT_NAME].replace("-", "_")
    return f"reconciler_{readable}_{secrets.token_hex(4)}"


def _job(work: Work, storage: Storage, volume: VolumeId, manifest: MirrorManifest) -> MirrorWork:
    return mirror_work(
        work.host,
        work.desired,
        manifest,
        volume,
        storage.path(volume),
        cancel=work.cancel,
        progress=work.progress,
    )


def _admit(storage: Storage, needed: int) -> None:
    pool = storage.probe()
    left = max(0, pool.free_bytes - pool.reserve_bytes)
    if needed > left:
        raise RefusedError(
            f"a copy of the primary takes about {words.size(needed)}; pool {pool.name} has {words.size(left)} above its"
            " reserve",
            reason="InsufficientDisk",
            hint="make room, or give the image another pool",
        )
