"""The proof of a build that its source restores: ``verify`` of an image.

Called by :mod:`.images`. It reads the build and writes nothing into it; what it finds
wrong, the caller throws away. Damage is looked for twice where the data files came from
elsewhere: right after they were restored, because what scripts, masking and vacuum write
anew hides damage, or fails at it without saying so; and in what is sealed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.state.observed import Damage, Verified

if TYPE_CHECKING:
    from datetime import datetime

    from reconciler.engines.base import BuildSession, BuildWork
    from reconciler.state.desired import DesiredImage

_FILES_FROM_ELSEWHERE = frozenset({"backup", "files", "primary"})


def verify_restored(session: BuildSession, image: DesiredImage, job: BuildWork) -> None:
    """Look at what was restored, before anything changes it.

    Raises:
        CheckFailedError: it is damaged, or a check is not true.
        ScriptError: a check could not be evaluated.
        NotInstalledError: this host cannot look for damage.

    """
    if image.verify is None:
        return
    if image.verify.amcheck and image.source.kind in _FILES_FROM_ELSEWHERE:
        job.progress("looking for damage")
        session.look_for_damage(final=False)
    for check in image.verify.checks:
        job.cancel.check()
        session.check(check)


def verify_final(session: BuildSession, image: DesiredImage, job: BuildWork, now: datetime) -> Verified | None:
    """Look at what will be sealed, and return what the build proved; None where nothing is asked for.

    Raises:
        CheckFailedError: it is damaged.
        NotInstalledError: this host cannot look for damage.

    """
    if image.verify is None:
        return None
    looked_at = None
    if image.verify.amcheck:
        job.progress("looking for damage")
        looked_at = Damage(session.look_for_damage(final=True))
    return Verified(now, looked_at, len(image.verify.checks))
