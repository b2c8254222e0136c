"""The last look before a server is stopped because nobody uses it.

Called by :mod:`.clones`. The manifest says why before the server stops: whatever ends the
reconciler in between, a later pass finishes it, or finds somebody connected and lets it run.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from reconciler.activity import is_used
from reconciler.errors import BusyError
from reconciler.ids import ServerName
from reconciler.plan.fingerprints import document_digest
from reconciler.state.observed import Idle

if TYPE_CHECKING:
    from reconciler.apply.context import Work
    from reconciler.plan.actions import StopClone
    from reconciler.state.observed import CloneManifest
    from reconciler.storage.base import Storage


def rest(work: Work, storage: Storage, action: StopClone, manifest: CloneManifest) -> None:
    """Note in a clone's manifest that its server is stopped because nobody uses it.

    Raises:
        BusyError: somebody does.
        UnavailableError: that cannot be told.

    """
    volume, server = work.volume(action.volume), work.runtime(action.runtime).servers().get(ServerName(action.volume))
    if volume is None or server is None or action.idle_since is None:
        return
    if is_used(work.host, volume, server):
        if manifest.idle is not None:
            storage.update(action.volume, replace(manifest, idle=None))
        work.host.store.forget_activity([action.volume])
        raise BusyError(f"somebody uses clone {manifest.clone} now", reason="InUse")
    digest = document_digest(work.desired.clones[manifest.clone])
    idle = Idle(since=action.idle_since, at=work.host.clock.now(), document=digest)
    storage.update(action.volume, replace(manifest, idle=idle))
