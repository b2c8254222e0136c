"""Applying actions of templates: load a snapshot into an instance, drop it from there.

A physical snapshot cannot enter another server. So a copy of it is served for a while by a
private server of this host, dumped, and restored there. The copy is thrown away, whatever
happens; one that a killed reconciler left is dropped by the next plan.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from reconciler.apply.context import best_effort
from reconciler.apply.delivery import admit
from reconciler.apply.serving import software
from reconciler.engines.base import CloneWork
from reconciler.handover import give
from reconciler.ids import DEFAULT_RUNTIME, CloneName, ServerName, VolumeId
from reconciler.state.observed import BuildManifest

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.apply.context import Work
    from reconciler.ids import RuntimeName
    from reconciler.plan.actions import DropTemplate, LoadTemplate
    from reconciler.state.observed import SnapshotManifest
    from reconciler.storage.base import Storage


def load(work: Work, action: LoadTemplate) -> None:
    """Load a snapshot into an instance, or leave nothing there that could be taken for it.

    Raises:
        RefusedError: it may not be handed out.
        ReconcilerError: as :meth:`~reconciler.engines.base.Instance.load`.

    """
    storage, snapshot = work.snapshot(action.snapshot)
    admit(work, storage, snapshot, action.runtime)
    instance = work.host.instance(action.runtime)
    instance.check(snapshot)
    work.require_absent(action.volume)
    served_by = _server_of(work, snapshot)
    runtime, engine = work.runtime(served_by), work.host.engine(snapshot.engine)
    try:
        directory = _copied(work, action, storage, snapshot, served_by)
        job = _job(work, action, snapshot, served_by, directory)
        spec = engine.clone_server(job)  # not in the background: the clones that need it wait for it
        work.progress("starting a server for the snapshot")
        runtime.start(spec, fresh=True, cancel=work.cancel)
        instance.load(job, jobs=work.host.jobs, progress=work.progress)
    finally:
        best_effort(
            lambda: runtime.stop(ServerName(action.volume), at_once=True),
            lambda: work.forget_server(action.volume),
            lambda: storage.delete(action.volume),
        )


def drop(work: Work, action: DropTemplate) -> None:
    """Remove from an instance what clones of a snapshot were copied from."""
    work.host.instance(action.runtime).unload(action.snapshot)


def _server_of(work: Work, snapshot: SnapshotManifest) -> RuntimeName:
    """Return the runtime that serves a copy of a snapshot: the one of its image's builds."""
    image = work.desired.image_called(snapshot.image)
    return image.runtime if image is not None else DEFAULT_RUNTIME


def _copied(
    work: Work, action: LoadTemplate, storage: Storage, snapshot: SnapshotManifest, served_by: RuntimeName
) -> Path:
    manifest = BuildManifest(
        installation=work.host.installation,
        image=snapshot.image,
        template=action.runtime,
        snapshot=action.snapshot,
        engine=snapshot.engine,
        spec_digest=snapshot.spec_digest,
        revision=work.desired.revision,
        started_at=work.host.clock.now(),
        runtime=served_by,
    )
    directory = storage.clone(VolumeId(action.snapshot), action.volume, manifest)
    give(directory, work.runtime(served_by).account("clone", action.volume, frozenset()))
    return directory


def _job(
    work: Work, action: LoadTemplate, snapshot: SnapshotManifest, served_by: RuntimeName, directory: Path
) -> CloneWork:
    runtime, engine = work.runtime(served_by), work.host.engine(snapshot.engine)
    account = runtime.account("clone", action.volume, frozenset())
    image = work.desired.image_called(snapshot.image)
    job = CloneWork(
        clone=CloneName(action.snapshot),
        server=ServerName(action.volume),
        directory=directory,
        run_directory=work.run_directory(action.volume, account),
        snapshot=snapshot,
        account=account,
        parameters=snapshot.parameters,
        contained=runtime.traits.containers,
        cancel=work.cancel,
    )
    asked = image.container_image if image is not None else None
    return replace(job, software=software(work, engine, served_by, snapshot.major, asked))
