"""May this be made of a snapshot: the last look before anything of it is handed out.

Called by the other modules of ``apply``. The plan has asked already; what it was made
from may have changed since.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.errors import RefusedError
from reconciler.ids import VolumeId
from reconciler.state.observed import SnapshotManifest
from reconciler.state.quarantine import mark, named

if TYPE_CHECKING:
    from reconciler.apply.context import Work
    from reconciler.ids import SnapshotId


def refuse_quarantined(work: Work, wanted: SnapshotId) -> None:
    """Insist that neither a snapshot nor what it is built on is quarantined.

    Raises:
        RefusedError: one is.

    """
    documents, step, seen = named(work.desired), wanted, set[str]()
    while step not in seen:
        seen.add(step)
        volume = work.volume(VolumeId(step))
        manifest = volume.manifest if volume is not None else None
        known = manifest if isinstance(manifest, SnapshotManifest) else None
        why = documents.get(step) or (mark(known) if known is not None else None)
        if why is not None:
            below = "" if step == wanted else f", on which {wanted} is built"
            raise RefusedError(f"snapshot {step} is quarantined{below}: {why}", reason="Quarantined")
        if known is None or known.base is None:
            return
        step = known.base
