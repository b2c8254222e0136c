"""Applying cuts of clones: a snapshot of what a clone holds, for other clones to start from.

The copy is of one instant where the pool can do that, else of a clone at rest. It runs
through crash recovery on a private server under the account of builds, loses the users
of its clone and whatever reaches out, and is sealed as any build. No script of a
document runs on it, and nothing of it was proved: its attestation tells where it comes from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.activity import look_at
from reconciler.apply import sealing
from reconciler.apply.context import best_effort
from reconciler.apply.delivery import refuse_quarantined
from reconciler.apply.images import final_account, measure, start
from reconciler.apply.sealing import Proved
from reconciler.apply.serving import own_account, software
from reconciler.apply.serving import start as start_clone
from reconciler.engines.base import BuildWork, LocalSource
from reconciler.errors import BusyError, RefusedError
from reconciler.handover import give_tree
from reconciler.ids import ServerName, VolumeId
from reconciler.plan.fingerprints import point_digest
from reconciler.state.observed import BuildManifest, CloneManifest, ClonePhase, SnapshotManifest, snapshot_of
from reconciler.status.report import current_volume

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from reconciler.apply.context import Work
    from reconciler.engines.base import Sealed
    from reconciler.plan.actions import CutPoint
    from reconciler.state.observed import Volume
    from reconciler.storage.base import Storage


def cut(work: Work, action: CutPoint) -> None:
    """Make a snapshot of what a clone holds now, or leave nothing.

    Raises:
        BusyError: the clone is not what it was when that was planned, or somebody is connected to one that has to stop.
        RefusedError: it is protected, quarantined, or of a superuser.
        ReconcilerError: as a build.

    """
    storage, manifest = _source(work, action)
    engine, runtime = work.host.engine(manifest.engine), work.runtime(manifest.runtime)
    volume = VolumeId(action.snapshot)
    signer = work.host.signer()  # told now, not when the work is done
    base = _base(work, manifest)
    work.require_absent(volume)
    try:
        directory, at = _copied(work, action, storage, manifest)
        job = _job(work, action, manifest, base, directory, storage.path(action.volume))
        spec = start(engine, runtime, job)
        with engine.session(job) as session:
            job.progress("isolating")
            session.isolate()
            job.progress("vacuuming and analysing")
            session.settle()
        job.progress("stopping the build server")
        runtime.stop(job.server, spec=spec)
        made = _manifest(work, action, manifest, base, engine.finish(job), at)
        if storage.traits.files:
            scanned = sealing.search(work, job.directory, Proved())
            work.cancel.check()
            made = sealing.attest_point(job, made, scanned, base.attestation, signer)
        work.progress("sealing")
        storage.seal(volume, made)
    except BaseException:
        best_effort(
            lambda: runtime.stop(ServerName(volume), at_once=True),
            lambda: work.forget_server(volume),
            lambda: storage.delete(volume),
        )
        raise
    work.forget_server(volume)
    best_effort(lambda: measure(work, storage, volume))


def _source(work: Work, action: CutPoint) -> tuple[Storage, CloneManifest]:
    """Return the clone as it is now, if it still is what may be cut."""
    storage, manifest = work.clone(action.volume)
    current = current_volume(work.volumes(), manifest.clone)
    if manifest.phase is not ClonePhase.READY or current is None or current[0].id != action.volume:
        raise BusyError(f"clone {action.clone} is served from another volume by now", reason="SourceChanged")
    if manifest.account is not None or manifest.superuser:
        raise RefusedError(f"clone {action.clone} has, or had, a superuser: nothing is made of it", reason="Superuser")
    if not (action.at_rest or storage.traits.atomic_snapshots):
        raise BusyError(f"pool {storage.name} cannot copy clone {action.clone} while it runs", reason="SourceChanged")
    refuse_quarantined(work, manifest.snapshot)
    return storage, manifest


def _base(work: Work, manifest: CloneManifest) -> SnapshotManifest:
    """Return the snapshot that a clone was made of; what the clone knows of it, where it is gone."""
    volume = work.volume(VolumeId(manifest.snapshot))
    if volume is not None and isinstance(volume.manifest, SnapshotManifest):
        return volume.manifest
    return snapshot_of(manifest)


def _copied(work: Work, action: CutPoint, storage: Storage, manifest: CloneManifest) -> tuple[Path, datetime]:
    """Copy a clone, in one instant while it runs or at rest; return where the copy is and of when."""
    build = BuildManifest(
        installation=work.host.installation,
        image=action.image,
        clone=action.clone,
        snapshot=action.snapshot,
        engine=manifest.engine,
        spec_digest=point_digest(action.clone, action.volume),
        revision=work.desired.revision,
        started_at=work.host.clock.now(),
        runtime=manifest.runtime,
    )
    work.progress(f"copying clone {action.clone}")
    stopped = _stop(work, action, manifest) if action.at_rest else False
    try:
        at = work.host.clock.now()
        return storage.clone(action.volume, VolumeId(action.snapshot), build), at
    finally:
        if stopped:
            start_clone(work, storage, action.volume, manifest)


def _stop(work: Work, action: CutPoint, manifest: CloneManifest) -> bool:
    """Stop a clone that nobody uses; return whether it ran."""
    runtime = work.runtime(manifest.runtime)
    server = runtime.servers().get(ServerName(action.volume))
    if not runtime.traits.servers:
        _refuse_open_files(work, action)
    if server is None:
        return False
    document = work.desired.clones.get(manifest.clone)
    if manifest.protected or document is None or document.protected:
        raise RefusedError(f"clone {action.clone} is protected and would have to stop", reason="Protected")
    volume: Volume | None = work.volume(action.volume)
    used = look_at(work.host, volume, server).text if volume is not None else ""
    if used:
        raise BusyError(f"clone {action.clone} would have to stop, and is in use by {used}", reason="InUse")
    runtime.stop(ServerName(action.volume), own=own_account(manifest))
    return True


def _refuse_open_files(work: Work, action: CutPoint) -> None:
    """Insist that nobody has the files of a clone open which no server serves: nobody could be stopped."""
    volume = work.volume(action.volume)
    used = look_at(work.host, volume, None).text if volume is not None else ""
    if used:
        raise BusyError(f"clone {action.clone} cannot be copied now, as it is in use by {used}", reason="InUse")


def _job(
    work: Work, action: CutPoint, manifest: CloneManifest, base: SnapshotManifest, directory: Path, source: Path
) -> BuildWork:
    volume, runtime = VolumeId(action.snapshot), work.runtime(manifest.runtime)
    account = runtime.account("build", volume, frozenset())
    give_tree(directory, account)
    image = work.desired.images.get(action.image)
    clone = work.desired.clones.get(manifest.clone)
    asked = clone.container_image if clone is not None else None
    served = software(work, work.host.engine(manifest.engine), manifest.runtime, base.major, asked)
    return BuildWork(
        snapshot=action.snapshot,
        server=ServerName(volume),
        directory=directory,
        run_directory=work.run_directory(volume, account),
        account=account,
        source=LocalSource("clone", path=source, base=base, users=tuple(user.name for user in manifest.users)),
        databases=manifest.databases,
        parameters=image.parameters if image is not None else base.parameters,
        jobs=work.host.jobs,
        cancel=work.cancel,
        progress=work.progress,
        final_account=final_account(runtime, volume, served),
        software=served,
    )


def _manifest(
    work: Work, action: CutPoint, manifest: CloneManifest, base: SnapshotManifest, sealed: Sealed, at: datetime
) -> SnapshotManifest:
    earlier = (*((base.base,) if base.base is not None else ()), *base.origins)
    return SnapshotManifest(
        installation=work.host.installation,
        image=action.image,
        clone=action.clone,
        snapshot=action.snapshot,
        engine=manifest.engine,
        version=sealed.version,
        major=sealed.major,
        spec_digest=point_digest(action.clone, action.volume),
        input_id=f"clone:{action.volume}:{manifest.generation}:{at.isoformat()}",
        masked_by=base.masked_by,
        revision=work.desired.revision,
        created_at=work.host.clock.now(),
        data_as_of=at,
        base=base.snapshot,
        origins=earlier,
        databases=sealed.databases,
        parameters=work.desired.images[action.image].parameters if action.image in work.desired.images else {},
        required=sealed.required,
        facts=sealed.facts,
    )
