"""Which snapshots of an image retention keeps, and by which of its rules.

Called by :mod:`.retention`. Pure. The rules are those of restic's ``forget``
(https://restic.readthedocs.io/en/stable/060_forget.html): each looks at all snapshots,
and what any of them keeps is kept. ``daily: 7`` keeps the newest snapshot of each of the
last seven days that have one; days without one do not count. Weeks are ISO 8601 weeks.
Which day a snapshot is of, its data says (``dataAsOf``), by the clock of the image's
refresh time zone. What restic does besides, keeping the oldest one of all while a rule
has not its number, is left out: databases are large.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.plan.schedule import ScheduleError, zone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime, tzinfo

    from reconciler.ids import SnapshotId
    from reconciler.plan.index import Snapshot
    from reconciler.state.desired import DesiredImage

Period = tuple[int, ...]
_PERIODS: tuple[tuple[str, Callable[[datetime], Period]], ...] = (
    ("daily", lambda at: (at.year, at.month, at.day)),
    ("weekly", lambda at: at.isocalendar()[:2]),
    ("monthly", lambda at: (at.year, at.month)),
)


def kept(
    image: DesiredImage, known: Sequence[Snapshot], now: datetime, *, building: bool = False
) -> dict[SnapshotId, tuple[str, ...]]:
    """Return the snapshots that retention keeps, each with the rules that keep it, by their names in a spec.

    ``known`` is oldest first. ``building``: one more is being made, which counts as the
    newest by number and age; what it is the newest of is told when it is there. On a host
    that does not know the time zone nothing goes.
    """
    try:
        found = list(_by_rules(image, known, building=building))
    except ScheduleError:
        found = [(snapshot, "timezone") for snapshot in known]
    reasons: dict[SnapshotId, tuple[str, ...]] = {}
    for snapshot, rule in found:
        name = snapshot.manifest.snapshot
        reasons[name] = (*reasons.get(name, ()), rule)
    newest = known[-1].manifest.snapshot if known and not building else None
    age = image.retention.max_age
    if age is not None:
        old = {s.manifest.snapshot for s in known if s.manifest.created_at + age <= now}
        reasons = {name: rules for name, rules in reasons.items() if name == newest or name not in old}
    return reasons


def _by_rules(image: DesiredImage, known: Sequence[Snapshot], *, building: bool) -> Iterator[tuple[Snapshot, str]]:
    number = max(1, image.retention.keep) - (1 if building else 0)
    yield from ((snapshot, "keep") for snapshot in known[max(0, len(known) - number) :])
    counts = {rule: getattr(image.retention, rule) for rule, _period_of in _PERIODS}
    if not any(counts.values()):
        return
    where = zone(image.refresh.timezone if image.refresh is not None else "UTC")
    for rule, period_of in _PERIODS:
        if counts[rule]:
            yield from ((snapshot, rule) for snapshot in _newest_of_each(known, where, period_of)[: counts[rule]])


def _newest_of_each(
    known: Sequence[Snapshot], where: tzinfo, period_of: Callable[[datetime], Period]
) -> list[Snapshot]:
    """Return the newest snapshot of each period that has one, the last period first."""
    found: dict[Period, Snapshot] = {}
    for snapshot in sorted(known, key=_age_of):
        found[period_of(_data_time(snapshot).astimezone(where))] = snapshot
    return [snapshot for _period, snapshot in sorted(found.items(), reverse=True, key=lambda item: item[0])]


def _age_of(snapshot: Snapshot) -> tuple[datetime, datetime]:
    return _data_time(snapshot), snapshot.manifest.created_at


def _data_time(snapshot: Snapshot) -> datetime:
    return snapshot.manifest.data_as_of or snapshot.manifest.created_at
