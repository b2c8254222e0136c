"""What a mirror costs its primary, how far it is behind, and when that is too much.

Called by :mod:`reconciler.plan.mirrors`. Pure. The log that a primary keeps is a fact of
the primary, which is asked for it whether or not the mirror runs: production's disk is at
stake, so the limit holds whatever else is wrong with the mirror or said of its image.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from reconciler.state.conditions import Condition
from reconciler.state.desired import HELD_LIMIT
from reconciler.status import words

if TYPE_CHECKING:
    from datetime import datetime

    from reconciler.state.desired import DesiredImage
    from reconciler.state.observed import ObservedMirror

_WARN_AT = 2
"""From one over so much of the limit on, the log that a primary keeps is told."""
_FAR_BYTES = 1 << 30
"""From so much log on that it has not replayed, a mirror is far behind."""
_SOME_BYTES = 64 << 20
"""As much as an archive may lack in everyday life; with less, the time of the last commit says nothing."""
_FAR_TIME = timedelta(hours=1)


def over_limit(image: DesiredImage | None, seen: ObservedMirror | None) -> str | None:
    """Return that a primary keeps more log for a mirror than its image allows; None when it does not, or nobody knows.

    Without the image's document, or with one that this host cannot apply, no limit is known.
    """
    if image is None or image.mirrored is None or seen is None or seen.held_bytes is None:
        return None
    limit = image.mirrored.held_limit
    if seen.held_bytes <= limit:
        return None
    return (
        f"its primary keeps {words.size(seen.held_bytes)} of log for it, more than the walLimit of {words.size(limit)}"
    )


def conditions(image: DesiredImage | None, seen: ObservedMirror | None, now: datetime) -> tuple[Condition, ...]:
    """Return what is to be said of a mirror beside whether it follows: the log kept for it, and how far it is behind.

    The latter only while somebody can tell.
    """
    if seen is None:
        return ()
    return (*_held(image, seen), *_behind(seen, now))


def behind(seen: ObservedMirror, now: datetime) -> str:
    """Say how much log, and how long, a mirror is behind; empty when the primary does not say."""
    if seen.lag_bytes is None:
        return ""
    since = seen.lag(now)
    return f"{words.size(seen.lag_bytes)}{f' and {words.span(since.total_seconds())}' if since else ''} behind"


def _held(image: DesiredImage | None, seen: ObservedMirror) -> tuple[Condition, ...]:
    source = image.mirrored if image is not None else None
    limit = source.held_limit if source is not None else HELD_LIMIT
    if seen.held_bytes is None or seen.held_bytes * _WARN_AT <= limit:
        return ()
    dropped = f"at {words.size(limit)} its slot is dropped, and the mirror with it"
    if source is None:
        dropped = "no walLimit is known, for want of a document that this host can apply"
    message = f"the primary keeps {words.size(seen.held_bytes)} of log for it; {dropped}"
    return (Condition(type="HoldsLog", status="True", reason="BehindPrimary", message=message),)


def _behind(seen: ObservedMirror, now: datetime) -> tuple[Condition, ...]:
    if seen.behind:
        return (Condition(type="Behind", status="True", reason="ArchiveBehind", message=seen.behind),)
    told = behind(seen, now)
    if not told:
        return ()
    if _is_far(seen, now):
        return (Condition(type="Behind", status="True", reason="FarBehind", message=f"it is {told} its primary"),)
    return (Condition(type="Behind", status="False", reason="WithinBounds", message=told),)


def _is_far(seen: ObservedMirror, now: datetime) -> bool:
    lag, since = seen.lag_bytes or 0, seen.lag(now)
    return lag >= _FAR_BYTES or (lag >= _SOME_BYTES and since is not None and since >= _FAR_TIME)
