"""Clones that nobody uses: when their server is stopped, and what starts it again.

Called by :mod:`.clones`, :mod:`.inplace` and :mod:`.timers`, and by ``apply``, which looks once more before
it stops one. Pure. Where it cannot be told whether somebody uses a clone, it runs on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.plan.actions import StartClone, StopClone
from reconciler.plan.fingerprints import document_digest, start_fingerprint
from reconciler.state.conditions import Condition, Kind, ObjectKey, ready

if TYPE_CHECKING:
    from datetime import datetime

    from reconciler.plan.draft import Draft
    from reconciler.plan.index import Generation, Index
    from reconciler.state.desired import DesiredClone
    from reconciler.state.observed import CloneManifest


def rests(clone: DesiredClone, manifest: CloneManifest) -> bool:
    """Whether a clone stays stopped because nobody used it: until somebody asks for it, or its document changes."""
    known = manifest.idle
    return known is not None and clone.idle is not None and known.document == document_digest(clone)


def idle_at(index: Index, clone: DesiredClone, current: Generation) -> datetime | None:
    """Return when a running clone is idle if nobody uses it; None when it never is, or that cannot be told."""
    used = index.observed.last_used.get(current.volume.id)
    if clone.idle is None or used is None or not clone.running or index.server(current.volume.id) is None:
        return None
    return used + clone.idle


def is_idle(index: Index, clone: DesiredClone, current: Generation) -> bool:
    """Whether nobody used a running clone for as long as its document says."""
    at = idle_at(index, clone, current)
    return at is not None and at <= index.now


def plan_idle(index: Index, clone: DesiredClone, current: Generation) -> StopClone | None:
    """Plan to stop a server that nobody uses, or whose stop was interrupted."""
    volume, manifest = current
    server = index.server(volume.id)
    if server is None:
        return None
    if rests(clone, manifest) and manifest.idle is not None:
        since = manifest.idle.since
    elif is_idle(index, clone, current):
        since = index.observed.last_used[volume.id]
    else:
        return None
    reason = f"nobody was connected since {_time(since)}; it starts again with: reconciler start {clone.name}"
    return StopClone(clone=clone.name, volume=volume.id, runtime=server.runtime, idle_since=since, reason=reason)


def idle_conditions(clone: DesiredClone, manifest: CloneManifest) -> tuple[Condition, ...]:
    """Return what is to be said of a clone that rests; the same in every pass."""
    since = _time(manifest.idle.since) if manifest.idle is not None else "?"
    message = f"stopped, as nobody was connected since {since}; start it with: reconciler start {clone.name}"
    idle = Condition(type="Idle", status="True", reason="NobodyConnected", message=message)
    return ready("Idle", message), idle


def plan_start(index: Index, draft: Draft, clone: DesiredClone, current: Generation) -> StartClone | None:
    """Answer requests to start a clone; the newest counts."""
    key = ObjectKey(Kind.CLONE, clone.name)
    requests = [r for r in index.requests.get(key, ()) if r.verb == "start"] if index.requests else []
    if not requests:
        return None
    for request in requests[:-1]:
        draft.served[request.id] = "a later request stands"
    request, (volume, manifest) = requests[-1], current
    if (why := index.quarantined.get(manifest.snapshot)) is not None:
        draft.declined[request.id] = f"its snapshot is quarantined: {why}"
    elif not clone.running:
        draft.declined[request.id] = "its document says state: stopped; change that in git"
    elif manifest.runtime in index.settings.serverless:
        draft.declined[request.id] = f"the runtime {manifest.runtime} has no servers"
    elif index.server(volume.id) is not None and not rests(clone, manifest):
        draft.served[request.id] = f"clone {clone.name} runs"
    else:
        fingerprint = start_fingerprint(manifest, volume.id)
        reason = "its start was requested"
        return StartClone(
            clone=clone.name, volume=volume.id, fingerprint=fingerprint, request=request.id, reason=reason
        )
    return None


def _time(at: datetime) -> str:
    return at.isoformat(timespec="seconds")
