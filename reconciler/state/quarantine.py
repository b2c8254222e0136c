"""Which snapshots are quarantined, and why: nothing is made of them, and what was made is stopped.

Called by planning, ``apply``, the loop and whoever shows the status, so that all mean
the same. Pure. A quarantine stands in git (an image names the snapshot) or in the
snapshot's manifest (somebody asked for it); each is lifted where it stands. It holds
for snapshots that are built on a quarantined one as well: they have its data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.ids import SnapshotId
from reconciler.state.conditions import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from reconciler.state.desired import Desired
    from reconciler.state.observed import Observed, Request, SnapshotManifest

_WISHES = ("quarantine", "release")


def quarantined(
    desired: Desired, observed: Observed, snapshots: Iterable[SnapshotManifest]
) -> Mapping[SnapshotId, str]:
    """Return the quarantined snapshots, each with the reason for people; ``snapshots`` are those that can be seen.

    A request counts from the moment that it is seen, and until what serves it is done.
    """
    found = {**asked_for(observed.requests), **named(desired)}
    for key in observed.in_flight:
        if key.kind is Kind.SNAPSHOT:
            found.setdefault(SnapshotId(key.name), "being written down, or lifted")
    children: dict[SnapshotId, list[SnapshotId]] = {}
    for manifest in snapshots:
        if (marked := mark(manifest)) is not None:
            found.setdefault(manifest.snapshot, marked)
        for ancestor in ancestors(manifest):
            children.setdefault(ancestor, []).append(manifest.snapshot)
    return _with_descendants(found, children) if found else {}


def named(desired: Desired) -> dict[SnapshotId, str]:
    """Return the snapshots that documents quarantine."""
    return {
        snapshot: f"named in {image.document.file}:{image.document.line}"
        for image in desired.images.values()
        for snapshot in image.quarantine
    }


def mark(manifest: SnapshotManifest) -> str | None:
    """Return what a snapshot's own manifest says of a quarantine."""
    known = manifest.quarantine
    if known is None:
        return None
    by = f" by {known.by}" if known.by else ""
    why = f": {known.reason}" if known.reason else ""
    return f"asked for at {known.at.isoformat(timespec='seconds')}{by}{why}"


def ancestors(manifest: SnapshotManifest) -> tuple[SnapshotId, ...]:
    """Return what a snapshot is built on; for a point of a clone also what may be gone by now."""
    return (*((manifest.base,) if manifest.base is not None else ()), *manifest.origins)


def asked_for(requests: Iterable[Request]) -> dict[SnapshotId, str]:
    """Return the snapshots of which the last wish is that they be quarantined."""
    latest: dict[str, Request] = {}
    for request in sorted(requests, key=lambda request: (request.requested_at, request.id)):
        if request.verb in _WISHES:
            latest[request.object.name] = request
    wanted = {name: request for name, request in latest.items() if request.verb == "quarantine"}
    return {SnapshotId(name): f"asked for just now{_note(request)}" for name, request in wanted.items()}


def _note(request: Request) -> str:
    return f": {request.note}" if request.note else ""


def _with_descendants(
    found: Mapping[SnapshotId, str], children: Mapping[SnapshotId, list[SnapshotId]]
) -> dict[SnapshotId, str]:
    result = dict(found)
    waiting = sorted(found)
    for base in waiting:  # grows by what is built on it
        for child in children.get(base, ()):
            if child not in result:
                result[child] = f"built on {base}, which is quarantined ({result[base]})"
                waiting.append(child)
    return result
