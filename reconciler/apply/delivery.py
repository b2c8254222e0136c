"""May this be made of a snapshot: the last look before anything of it is handed out.

Called by the other modules of ``apply``. The plan has asked already; what it was made
from may have changed since.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.errors import RefusedError
from reconciler.ids import VolumeId
from reconciler.masking.attestation import examine, read
from reconciler.state.observed import SnapshotManifest
from reconciler.state.quarantine import ancestors, asked_for, mark, named

if TYPE_CHECKING:
    from reconciler.apply.context import Work
    from reconciler.ids import RuntimeName, SnapshotId
    from reconciler.storage.base import Storage


def admit(work: Work, storage: Storage, manifest: SnapshotManifest, runtime: RuntimeName) -> None:
    """Insist that a clone on a runtime may be made of a sealed snapshot.

    Raises:
        RefusedError: it is quarantined, or has not the attestation that its pool or the runtime requires.

    """
    refuse_quarantined(work, manifest.snapshot)
    rules, wanted = work.host.attestation_rules, manifest.snapshot
    needed = rules.needed(storage.name, runtime)
    if needed is None:
        return
    need, who = needed
    asks = f"{who} requires one (requireAttestation: {need})"
    if (lacks := rules.problem(manifest, need)) is not None:
        raise RefusedError(f"snapshot {wanted} {lacks}, and {asks}", reason="AttestationRequired")
    data = read(storage.path(VolumeId(wanted)))
    if data is None:
        raise RefusedError(f"the attestation of snapshot {wanted} is gone, and {asks}", reason="AttestationInvalid")
    seen = examine(data, manifest, work.host.trust.keys)
    if seen.problems or (need == "signed" and seen.signer is None):
        why = "; ".join(seen.problems) or "it is not signed"
        hint = f"see reconciler attest {wanted} --files"
        raise RefusedError(f"the attestation of snapshot {wanted}: {why}", reason="AttestationInvalid", hint=hint)


def refuse_quarantined(work: Work, wanted: SnapshotId) -> None:
    """Insist that neither a snapshot nor what it is built on is quarantined, or about to be.

    Raises:
        RefusedError: one is.

    """
    said, step, seen = {**asked_for(work.host.state.requests.pending()), **named(work.desired)}, wanted, set[str]()
    while step not in seen:
        seen.add(step)
        volume = work.volume(VolumeId(step))
        manifest = volume.manifest if volume is not None else None
        known = manifest if isinstance(manifest, SnapshotManifest) else None
        for older in ancestors(known) if known is not None else ():
            if older in said:
                message = f"snapshot {wanted} goes back to {older}, which is quarantined: {said[older]}"
                raise RefusedError(message, reason="Quarantined")
        why = said.get(step) or (mark(known) if known is not None else None)
        if why is not None:
            below = "" if step == wanted else f", on which {wanted} is built"
            raise RefusedError(f"snapshot {step} is quarantined{below}: {why}", reason="Quarantined")
        if known is None or known.base is None:
            return
        step = known.base
