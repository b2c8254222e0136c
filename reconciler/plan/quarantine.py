"""Quarantined snapshots: wishes for it and for its end, and the clones that have to be stopped.

Called by :mod:`reconciler.plan.diff`. Pure. That nothing is made of a quarantined
snapshot is the business of :mod:`.choice`, :mod:`.images` and :mod:`.replace`; that it
is kept, of :mod:`.retention`. Which ones they are says :mod:`reconciler.state.quarantine`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.ids import SnapshotId
from reconciler.plan.actions import (
    DeleteClone,
    DropVolume,
    ExpireClone,
    QuarantineSnapshot,
    ReleaseSnapshot,
    ReplaceClone,
    RestoreClone,
    StopClone,
    StopServer,
)
from reconciler.plan.draft import held_back
from reconciler.spec.suggest import did_you_mean
from reconciler.state.conditions import Condition, Kind, ObjectKey, stalled
from reconciler.state.quarantine import named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconciler.ids import CloneName
    from reconciler.plan.actions import Action
    from reconciler.plan.draft import Draft
    from reconciler.plan.index import CloneVolumes, Generation, Index, Snapshot
    from reconciler.state.desired import DesiredImage
    from reconciler.state.observed import Request


def plan_requests(index: Index, draft: Draft) -> None:
    """Plan what quarantines and releases snapshots that somebody asks for; the last wish of a snapshot counts."""
    for key, requests in index.requests.items():
        if key.kind is Kind.SNAPSHOT and key not in index.in_flight:
            for request in requests[:-1]:
                draft.served[request.id] = "a later request stands"
            _plan_request(index, draft, SnapshotId(key.name), requests[-1])


def _plan_request(index: Index, draft: Draft, wanted: SnapshotId, request: Request) -> None:
    snapshot = index.snapshots.get(wanted)
    if snapshot is None:
        away = f" among those that can be seen; away: {index.away_text()}" if index.away else ""
        draft.declined[request.id] = f"there is no snapshot {wanted}{away}"
    elif snapshot.volume.id in (index.observed.in_use or ()):
        return  # what goes on with it ends first: it may be writing the manifest
    elif request.verb == "quarantine":
        _quarantine(draft, snapshot, request)
    else:
        _release(index, draft, snapshot, request)


def _quarantine(draft: Draft, snapshot: Snapshot, request: Request) -> None:
    known, wanted = snapshot.manifest.quarantine, snapshot.manifest.snapshot
    if known is not None and request.note in ("", known.reason):
        draft.served[request.id] = f"snapshot {wanted} is quarantined already"
        return
    draft.add(
        QuarantineSnapshot(
            snapshot=wanted,
            why=request.note,
            by=request.requested_by,
            request=request.id,
            reason=f"its quarantine was requested{f': {request.note}' if request.note else ''}",
        )
    )


def _release(index: Index, draft: Draft, snapshot: Snapshot, request: Request) -> None:
    wanted = snapshot.manifest.snapshot
    if snapshot.manifest.quarantine is not None:
        draft.add(ReleaseSnapshot(snapshot=wanted, request=request.id, reason="its release was requested"))
    elif (document := named(index.desired).get(wanted)) is not None:
        draft.declined[request.id] = f"snapshot {wanted} is quarantined: {document}; take it out there"
    elif wanted in index.quarantined:
        draft.declined[request.id] = f"snapshot {wanted} cannot be released alone: {index.quarantined[wanted]}"
    else:
        draft.served[request.id] = f"snapshot {wanted} is not quarantined"


def quarantine_of_image(index: Index, image: DesiredImage, known: Sequence[Snapshot]) -> tuple[Condition, ...]:
    """Return what to say of an image with quarantined snapshots, or whose document names some that there are not."""
    told = [f"{s.manifest.snapshot} ({why})" for s in known if (why := index.quarantined.get(s.manifest.snapshot))]
    nowhere = [] if index.away else [wanted for wanted in image.quarantine if wanted not in index.snapshots]
    parts = [f"nothing is made of {', '.join(told)}"] if told else []
    for wanted in nowhere:
        hint = did_you_mean(wanted, [s.manifest.snapshot for s in known])
        parts.append(f"there is no snapshot {wanted}, which the document names; {hint or 'take it out'}")
    if not parts:
        return ()
    reason = "SnapshotUnknown" if nowhere else "Quarantined"
    return (Condition(type="Quarantined", status="True", reason=reason, message="; ".join(parts)),)


def withheld(index: Index, wanted: SnapshotId) -> str | None:
    """Return why nothing is made of a snapshot; None when it is not quarantined."""
    why = index.quarantined.get(wanted)
    return None if why is None else f"snapshot {wanted} is quarantined: {why}"


def stop_quarantined(index: Index, draft: Draft) -> None:
    """Stop what serves quarantined data, before all else that is planned for a clone, and say so.

    Also where a document is suspended, has a problem, or is gone: a leak is worse than a server that
    is down. Only where a runtime does not answer, or work goes on, it has to wait.
    """
    if not index.quarantined:
        return
    for name, volumes in index.clones.items():
        key = ObjectKey(Kind.CLONE, name)
        if key not in index.in_flight:
            for generation in volumes.ready:
                _stop(index, draft, name, generation)
            _say(index, draft, key, volumes)


def _stop(index: Index, draft: Draft, name: CloneName, generation: Generation) -> None:
    volume, snapshot = generation.volume.id, generation.manifest.snapshot
    server = index.server(volume)
    if server is None or snapshot not in index.quarantined or server.runtime in index.observed.unknown_runtimes:
        return
    key = ObjectKey(Kind.CLONE, name)
    if any(_ends(action) and volume in action.volumes for action in draft.actions.get(key, ())):
        return
    if (held := held_back(index, key, "")) is not None:
        draft.say(key, held)
        return
    reason = f"snapshot {snapshot} is quarantined: {index.quarantined[snapshot]}"
    stop = StopClone(clone=name, volume=volume, runtime=server.runtime, reason=reason)
    draft.actions.setdefault(key, []).insert(0, stop)


def _ends(action: Action) -> bool:
    return isinstance(action, StopClone | StopServer | DeleteClone | ExpireClone | DropVolume)


def _say(index: Index, draft: Draft, key: ObjectKey, volumes: CloneVolumes) -> None:
    if not volumes.ready or (problem := withheld(index, volumes.current.manifest.snapshot)) is None:
        return
    planned = draft.actions.get(key, ())
    if any(
        condition.reason == "Quarantined" and condition.type == "Stalled" for condition in draft.conditions.get(key, ())
    ):
        return
    if any(isinstance(action, ReplaceClone | RestoreClone | DeleteClone | ExpireClone) for action in planned):
        return
    what = "its server is stopped and its data kept; a reset takes another snapshot, if its document lets it"
    draft.say(key, stalled("Quarantined", f"{problem}; {what}"))
