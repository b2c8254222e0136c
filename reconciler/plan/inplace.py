"""What changes on a clone's current volume: its server, settings, users, owner and protection.

Called by :mod:`reconciler.plan.clones`. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.plan.actions import RestartClone, StartClone, StopClone, UpdateClone
from reconciler.plan.draft import held_back
from reconciler.plan.fingerprints import (
    applied_users,
    changed_settings,
    missing_secrets,
    serve_fingerprint,
    settings_digest,
    start_fingerprint,
    update_fingerprint,
)
from reconciler.plan.idle import idle_conditions, plan_idle, plan_start, rests
from reconciler.plan.templates import is_copied_in_full
from reconciler.state.conditions import Condition, Kind, ObjectKey, not_ready, ready, reconciling, stalled

if TYPE_CHECKING:
    from reconciler.plan.actions import Action
    from reconciler.plan.draft import Draft
    from reconciler.plan.index import Generation, Index
    from reconciler.state.desired import DesiredClone, DesiredImage
    from reconciler.state.observed import AppliedUser, ObservedServer

_UP_TO_DATE = ready("UpToDate")
_STOPPED = ready("Stopped", "stopped, as its document says")
_FULL_COPY = Condition(
    type="FullCopy",
    status="True",
    reason="FilesNotShared",
    message="it takes the room and time of a full copy: blocks are shared by PostgreSQL 18 on btrfs, XFS or ZFS only",
)


def plan_in_place(index: Index, draft: Draft, clone: DesiredClone, current: Generation) -> None:
    """Plan what brings a clone's current volume to its document, and say how it is."""
    key = ObjectKey(Kind.CLONE, clone.name)
    draft.say(key, *_state(index, clone, current))
    wish = plan_start(index, draft, clone, current)
    serve = None if current.manifest.snapshot in index.quarantined else _serve(index, clone, current)
    update = _update(index, draft, clone, current)
    if wish is not None and not isinstance(serve, RestartClone):
        serve, wish = wish, None
    elif serve is not None and _waits(index, draft, serve):
        serve = _as_before(index, clone, current) if isinstance(serve, RestartClone) else None
        if serve is not None and _waits(index, draft, serve):
            serve = None
        if serve is None and index.server(current.volume.id) is None:
            update = None
    if update is not None and _waits(index, draft, update):
        update = None
    # Users are delivered through a server: before one stops, after one starts.
    steps: tuple[Action | None, ...] = (update, serve) if isinstance(serve, StopClone) else (serve, update, wish)
    for action in steps:
        if action is not None:
            draft.add(action)
            draft.say(key, reconciling("Updating", action.reason))


def _waits(index: Index, draft: Draft, action: Action) -> bool:
    """Whether an action has to wait after a failure; then say so."""
    held = held_back(index, action.key, getattr(action, "fingerprint", ""))
    if held is None:
        return False
    draft.say(action.key, held)
    return True


def _state(index: Index, clone: DesiredClone, current: Generation) -> tuple[Condition, ...]:
    more: list[Condition] = []
    if current.manifest.snapshot in index.quarantined:
        state = not_ready("Quarantined", "its snapshot is quarantined")
    elif not clone.running:
        state = _STOPPED
    elif index.server(current.volume.id) is None and rests(clone, current.manifest):
        state, *more = idle_conditions(clone, current.manifest)
    elif current.manifest.runtime in index.settings.serverless or _runs(index.server(current.volume.id)):
        state = _UP_TO_DATE
    else:
        state = not_ready("NotRunning", "its server does not run")
    if is_copied_in_full(index, current.manifest.runtime, current.manifest.snapshot):
        more.append(_FULL_COPY)
    if current.manifest.scripts_digest == clone.scripts_digest:
        return (state, *more)
    message = "its scripts or params changed after they ran; a reset runs them again"
    return (state, *more, Condition(type="ScriptsOutdated", status="True", reason="ScriptsChanged", message=message))


def _serve(index: Index, clone: DesiredClone, current: Generation) -> RestartClone | StartClone | StopClone | None:
    """Plan what the server needs: new settings, a start, a stop."""
    volume, manifest = current
    if manifest.runtime in index.settings.serverless:
        return None
    changes = _settings_changes(index, clone, current)
    server = index.server(volume.id)
    if server is not None and server.port not in (None, manifest.port) and "port" not in changes:
        changes = ("port", *changes)
    if changes:
        fingerprint = serve_fingerprint(clone, _image(index, current), volume.id)
        reason = f"{' and '.join(changes)} changed"
        return RestartClone(clone=clone.name, volume=volume.id, changes=changes, fingerprint=fingerprint, reason=reason)
    if (stop := plan_idle(index, clone, current)) is not None:
        return stop
    if clone.running and not _runs(server) and not rests(clone, manifest):
        fingerprint = serve_fingerprint(clone, _image(index, current), volume.id)
        reason = "its server should run and does not" if manifest.idle is None else "its document changed"
        reason = reason if server is None else "its start was interrupted"
        return StartClone(clone=clone.name, volume=volume.id, fingerprint=fingerprint, reason=reason)
    if server is not None and not clone.running:
        return StopClone(
            clone=clone.name, volume=volume.id, runtime=server.runtime, reason="its document says state: stopped"
        )
    return None


def _runs(server: ObservedServer | None) -> bool:
    return server is not None and not server.starting


def _as_before(index: Index, clone: DesiredClone, current: Generation) -> StartClone | None:
    """Plan a start with the settings that a clone had, while it cannot be served with those that are asked for."""
    volume, manifest = current
    if not clone.running or manifest.parameters is None or index.server(volume.id) is not None:
        return None
    fingerprint = start_fingerprint(manifest, volume.id)
    reason = "its server should run and does not; with the settings that it had, as those asked for failed"
    return StartClone(clone=clone.name, volume=volume.id, fingerprint=fingerprint, reason=reason)


def _image(index: Index, current: Generation) -> DesiredImage | None:
    name = current.manifest.image
    return index.desired.images.get(index.image_names.get(name, name))


def _settings_changes(index: Index, clone: DesiredClone, current: Generation) -> tuple[str, ...]:
    manifest = current.manifest
    port = () if clone.port in (None, manifest.port) else ("port",)
    image = _image(index, current)
    if image is None:
        return port
    return (*port, *changed_settings(manifest.settings_digest, settings_digest(clone, image)))


def _update(index: Index, draft: Draft, clone: DesiredClone, current: Generation) -> UpdateClone | None:
    manifest, secrets = current.manifest, index.observed.secrets
    if missing := missing_secrets(clone, secrets):
        message = f"there is no secret {', '.join(missing)} on this host; its users stay as they are"
        draft.say(ObjectKey(Kind.CLONE, clone.name), stalled("SecretUnavailable", message))
        return None
    texts: dict[str, str] = {}
    users = _user_changes(manifest.users, applied_users(clone, secrets))
    if manifest.snapshot in index.quarantined:
        pass  # users are delivered through a server, and none is started on it
    elif users:
        texts["users"] = users
    elif manifest.clone in index.observed.lost_credentials:
        texts["users"] = "its generated passwords are lost and made anew"
    if manifest.owner != clone.owner:
        texts["owner"] = f"owner {clone.owner or 'nobody'}"
    if manifest.protected != clone.protected:
        texts["protected"] = "protected" if clone.protected else "no longer protected"
    if manifest.idle is not None and not clone.running:
        texts["idle"] = "stopped by its document, not because nobody uses it"
    if not texts:
        return None
    return UpdateClone(
        clone=clone.name,
        volume=current.volume.id,
        changes=tuple(texts),
        fingerprint=update_fingerprint(clone, secrets),
        reason="; ".join(texts.values()),
    )


def _user_changes(applied: tuple[AppliedUser, ...], wanted: tuple[AppliedUser, ...]) -> str:
    """Say in words how users differ; empty when they do not."""
    before = {user.name: user for user in applied}
    after = {user.name: user for user in wanted}
    parts = [f"new user {name}" for name in after if name not in before]
    parts += [f"user {name} goes" for name in sorted(before.keys() - after.keys())]
    for name in sorted(before.keys() & after.keys()):
        if before[name].role != after[name].role:
            parts.append(f"user {name} becomes {after[name].role}")
        if before[name].password != after[name].password:
            parts.append(f"new password of user {name}")
    return ", ".join(parts)
