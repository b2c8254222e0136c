"""Applying actions of images and snapshots: build, rename, quarantine, release, delete.

A build works on a private volume. Whatever fails, the volume is thrown away; only the
storage driver's ``seal`` makes it a snapshot, as one step. A build that was killed
leaves a volume in build state, which the next plan drops.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.apply import mirrors, sealing
from reconciler.apply.context import best_effort
from reconciler.apply.delivery import refuse_quarantined
from reconciler.apply.sealing import Proved
from reconciler.apply.serving import software
from reconciler.apply.verifying import verify_final, verify_restored
from reconciler.engines.base import BuildWork, LocalSource, Masker, MaskingWork
from reconciler.errors import BusyError, MaskingError, ReconcilerError, RefusedError, UnsupportedError
from reconciler.handover import give_tree
from reconciler.ids import ServerName, VolumeId
from reconciler.masking.assignment import Keys
from reconciler.plan.fingerprints import mirror_input
from reconciler.sources import backup, host_path, identify, live_server, modified_at, paths, repositories
from reconciler.state.desired import BackupSource, ImageSource, Phase, PrimarySource
from reconciler.state.grants import Grants
from reconciler.state.observed import (
    BuildManifest,
    CloneManifest,
    MirrorManifest,
    Quarantine,
    RawManifest,
    SnapshotManifest,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from reconciler.apply.context import Work
    from reconciler.engines.base import BuildSession, Engine, Sealed
    from reconciler.masking.report import Masked
    from reconciler.plan.actions import (
        BuildSnapshot,
        DeleteSnapshot,
        QuarantineSnapshot,
        ReleaseSnapshot,
        RenameImage,
    )
    from reconciler.proc import Account
    from reconciler.repository import SourceTree
    from reconciler.runtimes.base import Runtime
    from reconciler.state.desired import DesiredImage, SourcePath
    from reconciler.state.observed import Verified
    from reconciler.state.servers import ServerSpec, Software
    from reconciler.storage.base import Storage


_RENAMED = SnapshotManifest | CloneManifest | MirrorManifest | RawManifest
"""Manifests that bear the name of an image."""


def build(work: Work, action: BuildSnapshot) -> None:
    """Build a snapshot and seal it, or leave nothing.

    Raises:
        ReconcilerError: of the class that says whether trying again can help.

    """
    image = work.desired.images[action.image]
    engine, storage = work.host.engine(image.engine), work.storage(image.pool)
    volume = VolumeId(action.snapshot)
    if image.masking and not storage.traits.files:
        raise MaskingError(f"pool {storage.name} has no files in which originals could be looked for")
    system = (
        mirrors.system_of(work, action.mirror) if action.mirror is not None else ""
    )  # it may be left once it is cut
    signer = work.host.signer()  # a key that cannot be used is told now, not when the work of hours is done
    with private_build(work, image, action) as job:
        sealed, proved, verified = _run(work, action, engine, job)
        _unchanged(work, engine, image, action, sealed)
        manifest = replace(_manifest(work, image, action, sealed, system), verified=verified)
        if storage.traits.files:
            scanned = sealing.search(work, job.directory, proved, image)
            work.cancel.check()
            manifest = sealing.attest(work, image, job, manifest, scanned, proved, signer)
        work.progress("sealing")
        storage.seal(volume, manifest)
    work.forget_server(volume)
    best_effort(lambda: measure(work, storage, volume))


@contextmanager
def private_build(work: Work, image: DesiredImage, action: BuildSnapshot) -> Iterator[BuildWork]:
    """Make a build's private volume and put its source at hand; if the block fails, nothing of it is left."""
    runtime, storage = work.runtime(image.runtime), work.storage(image.pool)
    scratch = work.host.state.work_directory(VolumeId(action.snapshot))
    work.require_absent(VolumeId(action.snapshot))  # else a failure would throw away what was there before
    try:
        source = _local_source(work, image, action, scratch)
        directory = _volume(work, image, action, storage)
        job = _job(work, image, action, source, directory, runtime)
        give_tree(scratch, job.account)
        with _named_as_in_the_commit(image, scratch):
            yield job
    except BaseException:
        discard(work, image, action)
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def discard(work: Work, image: DesiredImage, action: BuildSnapshot) -> None:
    """Throw a build away, with its server; what cannot be done now is left to the next pass."""
    volume = VolumeId(action.snapshot)
    runtime, storage = work.runtime(image.runtime), work.storage(image.pool)
    best_effort(
        lambda: runtime.stop(ServerName(volume), at_once=True),
        lambda: work.forget_server(volume),
        lambda: storage.delete(volume),
    )


def rename(work: Work, action: RenameImage) -> None:
    """Give the snapshots of an image its new name; ids stay."""
    for wanted in action.volumes:
        volume = work.volume(wanted)
        if volume is not None and isinstance(volume.manifest, _RENAMED):
            work.storage(volume.pool).update(volume.id, replace(volume.manifest, image=action.image))


def quarantine(work: Work, action: QuarantineSnapshot) -> None:
    """Write into a snapshot's manifest that nothing is made of it any more: that outlives the state directory."""
    storage, manifest = work.snapshot(action.snapshot)
    known = Quarantine(work.host.clock.now(), action.why, action.by)
    storage.update(VolumeId(action.snapshot), replace(manifest, quarantine=known))


def release(work: Work, action: ReleaseSnapshot) -> None:
    """Take a quarantine out of a snapshot's manifest."""
    storage, manifest = work.snapshot(action.snapshot)
    storage.update(VolumeId(action.snapshot), replace(manifest, quarantine=None))


def delete(work: Work, action: DeleteSnapshot) -> None:
    """Delete a snapshot, unless a clone of it has appeared since the plan was made.

    Raises:
        RefusedError: something uses it now.

    """
    for volume in work.volumes():
        if isinstance(volume.manifest, CloneManifest) and volume.manifest.snapshot == action.snapshot:
            raise RefusedError(
                f"snapshot {action.snapshot} is used by clone {volume.manifest.clone}", reason="SnapshotInUse"
            )
    work.forget_server(VolumeId(action.snapshot))
    work.storage(action.pool).delete(VolumeId(action.snapshot))


def _local_source(work: Work, image: DesiredImage, action: BuildSnapshot, scratch: Path) -> LocalSource:
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700, parents=True)
    if isinstance(image.source, ImageSource):
        if action.base is None:
            raise BusyError(f"image {image.source.image} has no snapshot yet", reason="DependencyNotReady")
        refuse_quarantined(work, action.base)
        return LocalSource("image", base=work.snapshot(action.base)[1])
    if action.mirror is not None:
        path = work.storage(image.pool).path(action.mirror)
        return LocalSource("mirror", path=path, at=action.at, ask=partial(mirrors.ask, work, action.mirror))
    live = live_server(image, work.host.secrets.get)
    if live is not None:
        return LocalSource("primary", primary=live)
    named, roots = paths(image.source), _roots(work, image)
    if isinstance(image.source, BackupSource) and (not named or named[0].object_id is None):
        known = repositories(work.host.config)
        return backup(image.source, roots, repositories=known, chosen=action.input_id)
    files = [_at_hand(work.tree, path, place, roots) for path, place in _places(image, scratch)]
    first, second = (*files, None, None)[:2]
    name = Path(named[0].path).name if named else ""
    return LocalSource(image.source.kind, path=first, globals=second, name=name)


def _roots(work: Work, image: DesiredImage) -> tuple[Path, ...]:
    return Grants(work.host.config).roots(image.name)


def _places(image: DesiredImage, scratch: Path) -> list[tuple[SourcePath, Path]]:
    """Return where each file of a source is on this host; those of the commit keep their own names."""
    return [
        (path, Path(path.path) if path.object_id is None else scratch / str(number) / Path(path.path).name)
        for number, path in enumerate(paths(image.source))
    ]


def _at_hand(tree: SourceTree, source: SourcePath, place: Path, roots: tuple[Path, ...]) -> Path:
    """Return where a host path really lies; write a path of the commit to its place."""
    if source.object_id is None:
        return host_path(source, roots)
    place.parent.mkdir(mode=0o700)
    tree.extract(source.path, place)
    return place


@contextmanager
def _named_as_in_the_commit(image: DesiredImage, scratch: Path) -> Iterator[None]:
    """Let errors name files of the commit as its documents do, not where they were put for the build."""
    try:
        yield
    except ReconcilerError as error:
        for path, place in _places(image, scratch):
            error.message = error.message.replace(str(place), path.path)
        raise


def _volume(work: Work, image: DesiredImage, action: BuildSnapshot, storage: Storage) -> Path:
    manifest = BuildManifest(
        installation=work.host.installation,
        image=image.name,
        snapshot=action.snapshot,
        engine=image.engine,
        spec_digest=image.spec_digest,
        revision=work.desired.revision,
        started_at=work.host.clock.now(),
        runtime=image.runtime,
    )
    volume = VolumeId(action.snapshot)
    if action.mirror is not None:
        return mirrors.cut(work, action, storage, manifest)
    if action.base is None:
        return storage.create(volume, manifest)
    base_pool, _base = work.snapshot(action.base)
    if base_pool.name != storage.name:
        raise UnsupportedError(
            f"image {image.name} is in pool {storage.name}, but its base {action.base} is in pool {base_pool.name}",
            hint="an image built on another one has to be in the same pool",
        )
    return storage.clone(VolumeId(action.base), volume, manifest)


def _job(
    work: Work, image: DesiredImage, action: BuildSnapshot, source: LocalSource, directory: Path, runtime: Runtime
) -> BuildWork:
    volume = VolumeId(action.snapshot)
    account = runtime.account("build", volume, frozenset())
    give_tree(directory, account)
    major = source.base.major if source.base is not None else image.version
    served = software(work, work.host.engine(image.engine), image.runtime, major, image.container_image)
    return BuildWork(
        snapshot=action.snapshot,
        server=ServerName(volume),
        directory=directory,
        run_directory=work.run_directory(volume, account),
        account=account,
        version=image.version,
        source=source,
        databases=image.databases,
        parameters=image.parameters,
        superuser_scripts=image.superuser_scripts,
        jobs=work.host.jobs,
        cancel=work.cancel,
        progress=work.progress,
        final_account=final_account(runtime, volume, served),
        software=served,
    )


def final_account(runtime: Runtime, volume: VolumeId, served: Software | None) -> Account | None:
    """Return who owns the files of a snapshot: the container image's own user, where there is one."""
    if served is not None and served.account is not None and os.geteuid() == 0:
        return served.account
    return runtime.account("clone", volume, frozenset())


def _masking(work: Work, image: DesiredImage) -> MaskingWork:
    """Return what masks an image, with the values of its keys.

    Raises:
        SecretError: there is no such key on this host, or it cannot be read.

    """
    keys = {name: work.host.secrets.get(name).encode() for name in image.masking_keys}
    known = work.host.config.masking.maskers
    maskers = {name: Masker(known[name].argv, known[name].timeout.total_seconds()) for name in image.maskers}
    return MaskingWork(image.masking, Keys(keys), maskers)


def _run(work: Work, action: BuildSnapshot, engine: Engine, job: BuildWork) -> tuple[Sealed, Proved, Verified | None]:
    image = work.desired.images[action.image]
    runtime, clock = work.runtime(image.runtime), work.host.clock
    masking = _masking(work, image)
    spec = start(engine, runtime, job)

    @contextmanager
    def stopped() -> Iterator[None]:
        runtime.stop(job.server, spec=spec)
        yield
        runtime.start(spec, cancel=job.cancel)

    with engine.session(job) as session:
        masked = _fill(session, image, job, masking)
        proved = Proved()
        if masked is not None:
            proved = sealing.wipe(session, sealing.compare(work, image, action, masked), stopped)
        verified = verify_final(session, image, job, clock.now())
        proved = sealing.prove(session, proved)
    job.progress("stopping the build server")
    runtime.stop(job.server, spec=spec)
    return engine.finish(job), proved, verified


def start(engine: Engine, runtime: Runtime, job: BuildWork) -> ServerSpec:
    """Put a build's data directory in place and start its private server; return what was started."""
    job.progress("preparing")
    engine.prepare(job)
    spec = replace(engine.build_server(job), background=True)
    job.progress("starting the build server")
    runtime.start(spec, cancel=job.cancel)
    return spec


def load(session: BuildSession, image: DesiredImage, job: BuildWork, *, verify: bool = False) -> None:
    """Bring a build to where masking begins."""
    job.progress("restoring")
    session.restore()
    session.keep_databases()
    if verify:
        verify_restored(session, image, job)
    _run_scripts(session, image, job, Phase.BEFORE_MASKING)


def _run_scripts(session: BuildSession, image: DesiredImage, job: BuildWork, phase: Phase) -> None:
    for script in image.scripts:
        if script.phase is phase:
            job.cancel.check()
            job.progress(f"running {script.origin}")
            session.run(script)


def _fill(session: BuildSession, image: DesiredImage, job: BuildWork, masking: MaskingWork) -> Masked | None:
    load(session, image, job, verify=True)
    masked = session.mask(masking) if masking.steps else None
    _run_scripts(session, image, job, Phase.AFTER_MASKING)
    for check in image.checks:
        job.cancel.check()
        session.check(check)
    job.progress("isolating")
    session.isolate()
    job.progress("vacuuming and analysing")
    session.settle()
    return masked


def _unchanged(work: Work, engine: Engine, image: DesiredImage, action: BuildSnapshot, sealed: Sealed) -> None:
    """Refuse a build whose source changed meanwhile: a file that is still being copied in is never taken.

    A primary changes all the time, and what is taken from it is of one moment; so do database
    files, where the engine reads them as their product does and knows what it read.
    """
    if not isinstance(image.source, ImageSource | PrimarySource) and sealed.input_id is None:
        roots, known = _roots(work, image), repositories(work.host.config)
        now = identify(engine, image.source, roots, repositories=known, chosen=action.input_id)
        if now.input_id != action.input_id:
            raise BusyError("the source changed while it was being read; the build is repeated", reason="SourceChanged")


def measure(work: Work, storage: Storage, volume: VolumeId) -> None:
    """Note the size of a new snapshot at once: the next pass has to know what a copy of it takes."""
    work.host.store.write_usage(storage.usage([volume]), work.host.clock.now())


def _input_id(action: BuildSnapshot, sealed: Sealed, system: str) -> str:
    """Return what a build started from; a mirror, of that database system, has gone on since the plan was made."""
    if action.mirror is None or action.at is not None or sealed.position is None:
        return sealed.input_id or action.input_id
    return mirror_input(system, sealed.position)


def _as_old_as(work: Work, image: DesiredImage, action: BuildSnapshot) -> datetime | None:
    """Return the time of data whose files do not tell: that of the base, or of the files."""
    return modified_at(image.source) if action.base is None else work.snapshot(action.base)[1].data_as_of


def _manifest(work: Work, image: DesiredImage, action: BuildSnapshot, sealed: Sealed, system: str) -> SnapshotManifest:
    return SnapshotManifest(
        installation=work.host.installation,
        image=image.name,
        snapshot=action.snapshot,
        engine=image.engine,
        version=sealed.version,
        major=sealed.major,
        spec_digest=image.spec_digest,
        input_id=_input_id(action, sealed, system),
        key_id=action.key_id,
        masked_by=image.masked_by,
        revision=work.desired.revision,
        created_at=work.host.clock.now(),
        data_as_of=sealed.data_as_of or _as_old_as(work, image, action),
        at=action.at,
        base=action.base,
        base_spec=None if action.base is None else work.snapshot(action.base)[1].spec_digest,
        databases=sealed.databases,
        parameters=image.parameters,
        required=sealed.required,
        facts=sealed.facts,
        source_notes=sealed.source_notes,
        asked=image.asked,
    )
