"""Applying actions of clones: create, replace, restore, update, restart, start, stop, rename, delete, expire.

The rules that nothing may break: a clone's current volume is its highest ready
generation; a replacement is complete and delivered before one manifest write makes it
current; the old volume is not touched by that; a volume that never became ready is
nobody's work and may be thrown away.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from reconciler.apply.context import best_effort
from reconciler.apply.delivery import admit, refuse_quarantined
from reconciler.apply.idle import rest
from reconciler.apply.serving import (
    allocated,
    apply_settings,
    begin,
    clone_account,
    delivered_users,
    hosted_of,
    own_account,
    server_of,
    serving,
    start,
    user_wishes,
    with_settings,
)
from reconciler.errors import BusyError, PermanentError, RefusedError
from reconciler.handover import give, give_tree
from reconciler.ids import ServerName, VolumeId
from reconciler.plan.idle import rests
from reconciler.state.observed import (
    BuildManifest,
    CloneManifest,
    ClonePhase,
    MirrorManifest,
    RawManifest,
    SnapshotManifest,
    Tombstone,
    VolumeState,
)
from reconciler.status.report import current_volume

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from reconciler.apply.context import Work
    from reconciler.apply.serving import Allocation, ServedByInstance, Serving
    from reconciler.plan.actions import (
        CreateClone,
        DeleteClone,
        DropVolume,
        ExpireClone,
        RenameClone,
        ReplaceClone,
        RestartClone,
        RestoreClone,
        StartClone,
        StopClone,
        UpdateClone,
    )
    from reconciler.runtimes.base import Runtime
    from reconciler.state.desired import DesiredClone
    from reconciler.state.observed import AppliedUser, Manifest, Volume
    from reconciler.storage.base import Storage


def create(work: Work, action: CreateClone) -> None:
    """Make a clone's first generation, deliver it, and only then call it ready."""
    clone = work.desired.clones[action.clone]
    storage, snapshot = work.snapshot(action.snapshot)
    admit(work, storage, snapshot, clone.runtime)
    with allocated(work, clone, action.volume) as allocation:
        draft = _draft(work, action, snapshot, allocation)
        with _made(work, storage, action.volume, draft, new=clone):
            with serving(work, storage, draft, action.volume, private=False, keep=clone.running, fresh=True) as running:
                users = _deliver(work, running, clone)
                running.run_scripts(clone.scripts)
            storage.update(action.volume, _ready(work, draft, users))


def replace_clone(work: Work, action: ReplaceClone) -> None:
    """Make the next generation on a private server, swap, and start it where the old one listened.

    While the old server is down, nothing is done but start the new one: all else comes before, also
    the write that makes the new generation current. Killed after that, the next pass stops and starts.
    """
    clone = work.desired.clones[action.clone]
    _pool, old = work.clone(action.current)
    _refuse_protected(work, (action.current,))
    resting = action.cause == "refresh" and rests(clone, old)  # nobody uses it: nobody waits for it either
    storage, snapshot = work.snapshot(action.snapshot)
    admit(work, storage, snapshot, clone.runtime)
    with allocated(work, clone, action.volume, port=old.port if old.runtime == clone.runtime else None) as allocation:
        draft = replace(
            _draft(work, action, snapshot, allocation),
            created_at=old.created_at,
            request=action.request or old.request,
            undone_at=_chosen_at(work, action, old),
            idle=old.idle if resting else None,
        )
        with _made(work, storage, action.volume, draft):
            with serving(work, storage, draft, action.volume, private=True, keep=False, fresh=True) as running:
                users = _deliver(work, running, clone)
                running.run_scripts(clone.scripts)
            ready = _ready(work, draft, users)
            spec = server_of(work, storage, action.volume, ready)
            storage.update(action.volume, ready)
    _stop(work, action.current, old)
    if clone.running and not resting:
        begin(work, ready, spec, fresh=True)  # it ran a moment ago, and was stopped by us


def _chosen_at(work: Work, action: ReplaceClone, old: CloneManifest) -> datetime | None:
    """Return when somebody chose the snapshot of a new generation, so that only later ones are followed."""
    if action.cause == "rebase":
        return work.host.clock.now()
    return old.undone_at if action.cause == "reset" else None


def restore(work: Work, action: RestoreClone) -> None:
    """Make a retired generation current again; the one that was current is retired in turn.

    Its users are those of when it was retired: they are brought to what the document says now.
    """
    storage, wanted = work.clone(action.volume)
    _pool, current = work.clone(action.current)
    clone = work.desired.clones[action.clone]
    _refuse_protected(work, (action.current,))
    _admit_again(work, storage, wanted)
    _stop(work, action.current, current)
    restored = replace(
        wanted,
        generation=action.generation,
        port=clone.port or current.port,
        ready_at=work.host.clock.now(),
        request=action.request or current.request,
        undone_at=work.host.clock.now() if action.request is not None else None,
        settings_digest="",
        idle=None,
        users=tuple(replace(user, password="") for user in wanted.users),
    )
    storage.update(action.volume, restored)
    if clone.running:
        apply_settings(work, storage, action.volume, restored)
        _update_users(work, storage, action.volume)


def _admit_again(work: Work, storage: Storage, wanted: CloneManifest) -> None:
    """Ask of a generation that comes back what is asked of a new one; its snapshot may be gone where nobody asks."""
    if work.host.attestation_rules.needed(storage.name, wanted.runtime) is None:
        refuse_quarantined(work, wanted.snapshot)
    else:
        admit(work, *work.snapshot(wanted.snapshot), wanted.runtime)


def update(work: Work, action: UpdateClone) -> None:
    """Bring users, owner and protection to what the document says, without a restart."""
    storage, manifest = work.clone(action.volume)
    clone = work.desired.clones[action.clone]
    if "users" in action.changes:
        manifest = _update_users(work, storage, action.volume)
    idle = manifest.idle if clone.running else None
    storage.update(action.volume, replace(manifest, owner=clone.owner, protected=clone.protected, idle=idle))


def _update_users(work: Work, storage: Storage, volume: VolumeId) -> CloneManifest:
    """Bring the users of a clone that exists to what its document says, and record that; return the manifest."""
    _pool, manifest = work.clone(volume)
    clone = work.desired.clones[manifest.clone]
    gone = {user.name for user in manifest.users} - {user.name for user in clone.users}
    contained = work.runtime(manifest.runtime).traits.containers
    if contained and not manifest.superuser and any(user.role == "superuser" for user in clone.users):
        manifest = replace(manifest, superuser=True)
        storage.update(volume, manifest)  # before it is true
    with serving(work, storage, manifest, volume, private=True, keep=clone.running) as running:
        users = _deliver(work, running, clone, gone)
    updated = replace(manifest, users=users)
    storage.update(volume, updated)
    return updated


def _deliver(
    work: Work, running: Serving | ServedByInstance, clone: DesiredClone, gone: Iterable[str] = ()
) -> tuple[AppliedUser, ...]:
    """Deliver a clone's users; return them as a manifest records them.

    A password that changes meanwhile is noticed by the next pass: its fingerprint was taken first.
    What was generated for others goes once it opens nothing, and before the manifest says that all is
    done: until then, a later pass delivers again.
    """
    users = delivered_users(work, clone)
    running.deliver(user_wishes(work, clone), sorted(gone))
    work.host.state.credentials.retain(clone.name, {user.name for user in clone.users if user.password is None})
    return users


def restart(work: Work, action: RestartClone) -> None:
    """Stop the server, apply port and settings, start it again; a stopped clone only gets them."""
    storage, manifest = work.clone(action.volume)
    clone = work.desired.clones[action.clone]
    if clone.running and not rests(clone, manifest):
        refuse_quarantined(work, manifest.snapshot)
        apply_settings(work, storage, action.volume, manifest)
    else:
        _stop(work, action.volume, manifest)
        storage.update(action.volume, with_settings(work, manifest))


def start_clone(work: Work, action: StartClone) -> None:
    """Start the server of a clone that should be running, as it ran before."""
    storage, manifest = work.clone(action.volume)
    refuse_quarantined(work, manifest.snapshot)
    start(work, storage, action.volume, manifest)
    if manifest.idle is not None:  # last: until it runs, it is known why it did not
        storage.update(action.volume, replace(manifest, idle=None))
    work.host.store.forget_activity([action.volume])


def stop_clone(work: Work, action: StopClone) -> None:
    """Stop the server of a clone; its data stays.

    Raises:
        BusyError: it was to be stopped because nobody used it, and somebody does now.

    """
    storage, manifest = work.clone(action.volume)
    if action.idle_since is not None:
        rest(work, storage, action, manifest)
    work.runtime(action.runtime).stop(ServerName(action.volume), own=own_account(manifest))


def _stop(work: Work, volume: VolumeId, manifest: CloneManifest) -> None:
    work.runtime(manifest.runtime).stop(ServerName(volume), own=own_account(manifest))


def rename(work: Work, action: RenameClone) -> None:
    """Give every generation of a clone its new name, and what is of its points; nothing restarts."""
    work.host.state.credentials.rename(action.formerly, action.clone)
    _rename_on_instances(work, action)
    for wanted in action.volumes:
        volume = work.volume(wanted)
        if volume is None or not isinstance(volume.manifest, CloneManifest | SnapshotManifest):
            continue
        manifest = volume.manifest
        if manifest.clone == action.formerly:
            manifest = replace(manifest, clone=action.clone)
        if isinstance(manifest, CloneManifest) and manifest.source_clone == action.formerly:
            manifest = replace(manifest, source_clone=action.clone)
        work.storage(volume.pool).update(wanted, manifest)


def _rename_on_instances(work: Work, action: RenameClone) -> None:
    """Give databases and logins their new names before manifests say so: until then the rename is tried again."""
    volumes = [work.volume(wanted) for wanted in action.volumes]
    manifests = [volume.manifest for volume in volumes if volume is not None]
    names = {m.runtime for m in manifests if isinstance(m, CloneManifest) and m.clone == action.formerly}
    for name in sorted(names & work.host.instances.keys()):
        work.host.instance(name).rename(action.formerly, action.clone)


def delete(work: Work, action: DeleteClone) -> None:
    """Stop and delete every generation of a clone whose document is gone.

    Raises:
        RefusedError: it is protected now.

    """
    _refuse_protected(work, action.volumes)
    for volume in action.volumes:
        destroy(work, volume)
    work.host.state.credentials.forget(action.clone)


def expire(work: Work, action: ExpireClone) -> None:
    """Delete a clone whose time is over; the tombstone comes first, so that it does not come back by itself."""
    _refuse_protected(work, action.volumes)
    now = work.host.clock.now()
    work.host.state.write_tombstone(Tombstone(clone=action.clone, expiry=action.expiry, expired_at=now))
    for volume in action.volumes:
        destroy(work, volume)
    work.host.state.credentials.forget(action.clone)


def drop(work: Work, action: DropVolume) -> None:
    """Delete a volume that is nobody's.

    Raises:
        BusyError: it is somebody's now: a sealed snapshot, or what a clone is served from.

    """
    volume = work.volume(action.volume)
    if volume is not None and volume.state is VolumeState.COMPLETE and _is_current(work, volume):
        raise BusyError(f"volume {action.volume} is in use now", reason="VolumeInUse")
    destroy(work, action.volume)


def _is_current(work: Work, volume: Volume) -> bool:
    manifest = volume.manifest
    if isinstance(manifest, CloneManifest):
        found = current_volume(work.volumes(), manifest.clone)
        return found is not None and found[0].id == volume.id
    return isinstance(manifest, SnapshotManifest)


def destroy(work: Work, wanted: VolumeId) -> None:
    """Stop whatever serves a volume, then delete what is kept of its server, and the volume last.

    While there is a volume, a later pass knows that there is something to finish.
    """
    volume = work.volume(wanted)
    manifest = volume.manifest if volume is not None else None
    own = own_account(manifest) if isinstance(manifest, CloneManifest) else None
    for runtime in _runtimes(work, manifest):
        runtime.stop(ServerName(wanted), own=own, at_once=True)
        if runtime.traits.databases:
            work.host.instance(runtime.name).remove(wanted)
    work.forget_server(wanted)
    if volume is not None:
        work.storage(volume.pool).delete(wanted)


def _runtimes(work: Work, manifest: Manifest | None) -> Iterable[Runtime]:
    """Return the runtimes that may serve a volume: a silent one keeps those volumes from going, and no others."""
    if isinstance(manifest, BuildManifest | MirrorManifest | CloneManifest):
        return [work.runtime(manifest.runtime)]
    if isinstance(manifest, SnapshotManifest | RawManifest):  # nothing serves these
        return ()
    return [runtime for runtime in work.host.runtimes.values() if not runtime.traits.databases]


class _made:  # noqa: N801 - a context manager, read like a function
    """A new volume that is thrown away when the block fails; ``new``: the clone whose first one it is."""

    def __init__(
        self,
        work: Work,
        storage: Storage,
        volume: VolumeId,
        manifest: CloneManifest,
        new: DesiredClone | None = None,
    ) -> None:
        self._work, self._storage, self._volume, self._manifest = work, storage, volume, manifest
        self._new = new

    def __enter__(self) -> None:
        self._work.require_absent(self._volume)  # else a failure would throw away what was there before
        if self._work.runtime(self._manifest.runtime).traits.databases:
            self._make_on_instance()
            return
        try:
            directory = self._storage.clone(VolumeId(self._manifest.snapshot), self._volume, self._manifest)
            account = clone_account(self._work, self._manifest, self._volume, directory)
            if self._manifest.account is not None:
                give_tree(directory, account)
            else:
                give(directory, account)
        except BaseException:
            best_effort(lambda: self._storage.delete(self._volume))
            raise

    def _make_on_instance(self) -> None:
        """Make an empty volume, whose manifest tells that there is something to remove, and then the databases."""
        try:
            self._storage.create(self._volume, self._manifest)
            hosted = hosted_of(self._manifest, self._volume)
            users = user_wishes(self._work, self._new) if self._new is not None else ()
            self._work.host.instance(self._manifest.runtime).create(hosted, users)
        except BaseException:
            best_effort(lambda: destroy(self._work, self._volume))
            raise

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        if kind is not None:
            best_effort(lambda: destroy(self._work, self._volume))


def _draft(
    work: Work, action: CreateClone | ReplaceClone, snapshot: SnapshotManifest, allocation: Allocation
) -> CloneManifest:
    clone = work.desired.clones[action.clone]
    image = work.desired.image_called(snapshot.image)
    if image is None or image.name != clone.image:
        raise PermanentError(f"snapshot {action.snapshot} is of image {snapshot.image}, not of {clone.image}")
    if snapshot.clone != clone.source_clone:
        raise BusyError(
            f"snapshot {action.snapshot} is not what clone {clone.name} starts from", reason="SourceChanged"
        )
    return CloneManifest(
        installation=work.host.installation,
        clone=clone.name,
        generation=action.generation,
        phase=ClonePhase.CREATING,
        image=clone.image,
        snapshot=action.snapshot,
        source_clone=clone.source_clone,
        engine=snapshot.engine,
        major=snapshot.major,
        runtime=clone.runtime,
        port=allocation.port,
        revision=work.desired.revision,
        created_at=work.host.clock.now(),
        owner=clone.owner,
        protected=clone.protected,
        databases=snapshot.databases,
        facts=snapshot.facts,
        account=allocation.account.uid if allocation.account else None,
        superuser=work.runtime(clone.runtime).traits.containers and _has_superuser(clone),
    )


def _has_superuser(clone: DesiredClone) -> bool:
    """Whether somebody acts in a clone as a superuser: nothing is made of what such a clone holds, for good."""
    return any(user.role == "superuser" for user in clone.users) or (bool(clone.scripts) and clone.superuser_scripts)


def _ready(work: Work, manifest: CloneManifest, users: tuple[AppliedUser, ...]) -> CloneManifest:
    clone = work.desired.clones[manifest.clone]
    return replace(
        with_settings(work, manifest),
        phase=ClonePhase.READY,
        ready_at=work.host.clock.now(),
        users=users,
        scripts_digest=clone.scripts_digest,
    )


def _refuse_protected(work: Work, volumes: Iterable[VolumeId]) -> None:
    for wanted in volumes:
        volume = work.volume(wanted)
        if volume is not None and isinstance(volume.manifest, CloneManifest) and volume.manifest.protected:
            clone = work.desired.clones.get(volume.manifest.clone)
            if clone is None or clone.protected:
                raise RefusedError(f"clone {volume.manifest.clone} is protected", reason="Protected")
