"""Which deliveries of a plan lack the attestation that their pool or runtime requires.

Called by :mod:`reconciler.plan.policy`. Pure: it goes by what manifests say; `apply`
looks at the attestation itself right before it delivers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from reconciler.ids import VolumeId
from reconciler.plan.actions import BuildSnapshot, CreateClone, CutPoint, LoadTemplate, ReplaceClone, RestoreClone
from reconciler.state.observed import CloneManifest, SnapshotManifest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from reconciler.ids import ImageName, RuntimeName, SnapshotId
    from reconciler.plan.actions import Action, Plan
    from reconciler.plan.settings import AttestationRules, Need
    from reconciler.state.desired import Desired
    from reconciler.state.observed import Manifest, Observed


_NOT_PROVED = "nobody can attest what the users of a clone put there: make it of a snapshot of its image"


def unattested(
    plan: Plan, desired: Desired, observed: Observed, *, rules: AttestationRules
) -> Iterator[tuple[Action, str]]:
    """Yield what must not be delivered, with what its snapshot lacks and what to do about it."""
    if not (rules.pools or rules.runtimes):
        return
    manifests = {volume.id: volume.manifest for volume in observed.volumes}
    pools = {volume.id: volume.pool for volume in observed.volumes}
    pools |= {
        VolumeId(action.snapshot): desired.images[action.image].pool
        for action in plan.everything
        if isinstance(action, BuildSnapshot) and action.image in desired.images
    }
    cuts = {VolumeId(a.snapshot): a for a in plan.everything if isinstance(a, CutPoint)}
    pools |= {volume: pools[cut.volume] for volume, cut in cuts.items() if cut.volume in pools}
    for action in plan.actions:
        wanted, subject = _delivered(action, manifests), _subject(action, desired)
        if wanted is None or subject is None:
            continue
        volume = VolumeId(wanted)
        needed = rules.needed(pools.get(volume, pools.get(action.volumes[0])), subject.runtime)
        if needed is None:
            continue
        need, who = needed
        lacks: str | None
        if volume in cuts:
            lacks, remedy = f"is to be a point in the life of clone {cuts[volume].clone}", _NOT_PROVED
        else:
            lacks, remedy = _lacks(rules, subject.image, manifests.get(volume), need, built=volume in pools)
        if lacks is not None:
            asks = f"{who} requires {'a signed one' if need == 'signed' else 'one'} (requireAttestation)"
            yield action, f"{subject.refused}: snapshot {wanted} {lacks}, and {asks}; {remedy}"


def _delivered(action: Action, manifests: Mapping[VolumeId, Manifest]) -> SnapshotId | None:
    """Return the snapshot of which an action delivers something."""
    match action:
        case CreateClone() | ReplaceClone() | LoadTemplate():
            return action.snapshot
        case RestoreClone():
            manifest = manifests.get(action.volume)
            return manifest.snapshot if isinstance(manifest, CloneManifest) else None
        case _:
            return None


class _Subject(NamedTuple):
    """Where something of an image is delivered, and how to say that it is not."""

    runtime: RuntimeName
    image: ImageName
    refused: str


def _subject(action: Action, desired: Desired) -> _Subject | None:
    match action:
        case CreateClone() | ReplaceClone() | RestoreClone() if action.clone in desired.clones:
            clone = desired.clones[action.clone]
            return _Subject(clone.runtime, clone.image, f"clone {clone.name} is not delivered")
        case LoadTemplate():
            return _Subject(action.runtime, action.image, f"nothing is loaded into {action.runtime}")
        case _:
            return None


def _lacks(
    rules: AttestationRules, image: ImageName, known: Manifest | None, need: Need, *, built: bool
) -> tuple[str | None, str]:
    """Return what a snapshot lacks, and the remedy; one that is built first is taken at its word."""
    if isinstance(known, SnapshotManifest):
        if known.clone is not None:
            return rules.problem(known, need), _NOT_PROVED
        return rules.problem(known, need), f"build another with: reconciler refresh {image}"
    if built:
        unsigned = need == "signed" and not rules.signs
        remedy = "name a key in this host's configuration: attestation.key"
        return ("will not be signed" if unsigned else None), remedy
    return "is gone, and its attestation with it", "what was made of it cannot be brought back"
