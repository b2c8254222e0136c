"""Refreshes of an image: whether one is due by schedule or request, and when it may start.

Called by :mod:`.images` and :mod:`.timers`. Pure; says and adds nothing.

A refresh that is due is due once, however many were missed: what counts is when the
source was last looked at. What was due while ``refresh.suspend`` was true is not made up
for: there was no schedule then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from reconciler.plan.schedule import next_opening, next_refresh, started_at
from reconciler.state.conditions import Condition, Kind, ObjectKey, stalled

if TYPE_CHECKING:
    from datetime import datetime

    from reconciler.ids import ImageName
    from reconciler.plan.draft import Draft
    from reconciler.plan.index import Index, Snapshot
    from reconciler.state.desired import DesiredImage
    from reconciler.state.observed import Request


@dataclass(frozen=True, slots=True)
class Due:
    """Why a snapshot is due.

    ``binding``: what exists is not what the commit asks for, so a new clone waits for
    the build. Otherwise it is a refresh, which a new clone does not wait for.
    """

    cause: Literal["first", "spec", "key", "source", "base", "request", "schedule"]
    reason: str
    binding: bool
    request: str | None = None


def due_refresh(index: Index, image: DesiredImage, newest: Snapshot) -> Due | None:
    """Return why a refresh of an image is due now; None when none is.

    Raises:
        ScheduleError: this host cannot tell when the image's schedule is due.

    """
    pending = pending_refresh(index, image.name, newest)
    if pending is not None:
        return Due("request", "a refresh was requested", binding=False, request=pending.id)
    if pending_annotation(index, image, newest) is not None:
        return Due("request", "its annotation asks for a refresh", binding=False)
    if image.refresh is None or image.refresh.suspend:
        return None
    due = next_refresh(image.name, image.refresh, scheduled_since(index, image.name, newest))
    if due > index.now:
        return None
    return Due("schedule", f"a refresh was due at {due.isoformat(timespec='seconds')}", binding=False)


def last_looked(index: Index, name: ImageName, newest: Snapshot) -> datetime:
    """Return when an image's source was last looked at with an outcome."""
    started = started_at(newest.manifest)
    checked = index.observed.refreshed.get(name)
    return started if checked is None else max(started, checked)


def scheduled_since(index: Index, name: ImageName, newest: Snapshot) -> datetime:
    """Return since when the next scheduled refresh is looked for: the last look, or a time that was skipped."""
    looked = last_looked(index, name, newest)
    skipped = index.observed.skipped.get(name)
    return looked if skipped is None else max(looked, skipped)


def pending_refresh(index: Index, name: ImageName, newest: Snapshot | None) -> Request | None:
    """Return the newest refresh request of an image that nothing has answered yet."""
    requests = index.requests.get(ObjectKey(Kind.IMAGE, name)) if index.requests else None
    if not requests:
        return None
    latest = requests[-1]
    return latest if newest is None or latest.requested_at > last_looked(index, name, newest) else None


def pending_annotation(index: Index, image: DesiredImage, newest: Snapshot) -> str | None:
    """Return the annotation's value if it asks for a refresh: if the last look at the source was under another.

    A snapshot carries the value that it answers. Of looks that built nothing only the
    status store knows; without it one of them is repeated.
    """
    started, looked = started_at(newest.manifest), index.observed.refreshed.get(image.name)
    built = looked is None or looked < started
    answered = newest.manifest.asked if built else index.observed.answered.get(image.name)
    return image.asked if image.asked != answered else None


def opening_for(index: Index, image: DesiredImage, newest: Snapshot | None, due: Due) -> datetime | None:
    """Return when the window opens that a refresh waits for; None when it may start now.

    What exists must be what the commit asks for: such builds do not wait. Nor does who said so.

    Raises:
        ScheduleError: this host cannot tell when a window opens.

    """
    refresh = image.refresh
    if due.binding or refresh is None or not refresh.windows or _at_once(index, image, newest):
        return None
    opening = next_opening(refresh, index.now)
    return opening if opening > index.now else None


def _at_once(index: Index, image: DesiredImage, newest: Snapshot | None) -> bool:
    looked = None if newest is None else last_looked(index, image.name, newest)
    requests = index.requests.get(ObjectKey(Kind.IMAGE, image.name), ()) if index.requests else ()
    return any(request.at_once and (looked is None or request.requested_at > looked) for request in requests)


def wait_for_window(
    index: Index, draft: Draft, image: DesiredImage, newest: Snapshot | None, due: Due, opening: datetime
) -> list[Condition]:
    """Keep the request that waits, and return what there is to say: the wait, and a failure that stands until then."""
    pending = pending_refresh(index, image.name, newest)
    if pending is not None:
        draft.waiting.add(pending.id)
    at = opening.isoformat(timespec="seconds")
    message = f"{due.reason}; it waits for the image's refresh window, which opens at {at}"
    said = [Condition(type="Waiting", status="True", reason="RefreshWindow", message=message)]
    failure = index.observed.failure(ObjectKey(Kind.IMAGE, image.name), "build:")
    if failure is not None and failure.permanent:
        said.append(stalled(failure.reason, failure.message))
    return said


def note_skipped(index: Index, draft: Draft, image: DesiredImage, newest: Snapshot | None) -> None:
    """Note that a scheduled refresh is due while they are suspended: it is not made up for later.

    Raises:
        ScheduleError: this host cannot tell when the image's schedule is due.

    """
    refresh = image.refresh
    if newest is None or refresh is None or not refresh.suspend:
        return
    if next_refresh(image.name, refresh, scheduled_since(index, image.name, newest)) <= index.now:
        draft.skipped.add(image.name)
