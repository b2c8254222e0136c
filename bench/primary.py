"""What clients of a primary wait for while it is copied and refreshes are cut from its mirror.

pgbench runs all the time at half of what the primary can do, which is measured before.
In turns nothing of ours is there at all, and the primary is copied anew and refreshed
from, without a pause. What counts is how long 95 of 100 transactions took in all of the
one and in all of the other. Primary, mirror and builds share the processors and the disk
of this host, as they would not in production.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bench.figures import Figure, Options
from bench.installation import Installation, installation, scratch_directory, size_of
from bench.traffic import Periods, Production, percentile

if TYPE_CHECKING:
    from bench.traffic import Waited

SCALES = {"quick": 1, "default": 20, "full": 133}
"""Of pgbench; 133 is 2 GB."""
_TURNS = {"quick": 1, "default": 4, "full": 8}
_QUIET_SECONDS = {"quick": 2.0, "default": 20.0, "full": 30.0}
_REFRESHES = {"quick": 1, "default": 5, "full": 8}
_PORT = 25580
_IMAGE = "busy"
_SHARE = 0.95
_WITHOUT, _COPY, _REFRESH = "without", "copy", "refresh"


def run(options: Options) -> list[Figure]:
    """Measure all of it."""
    size, periods = size_of(options), Periods()
    primary = Production(scratch_directory(options) / f"busy-{SCALES[size]}", SCALES[size], _PORT)
    with installation(options) as opened, primary.running():
        rate = primary.capacity(_QUIET_SECONDS[size] / 2) / 2
        with primary.load(rate, opened.scratch / "primary-waits") as seen:
            time.sleep(_QUIET_SECONDS[size] / 2)
            for _ in range(_TURNS[size]):
                _turn(opened, primary, periods, size)
    return _figures(periods, seen.waited, rate)


def _turn(opened: Installation, primary: Production, periods: Periods, size: str) -> None:
    with periods.of(_WITHOUT):
        time.sleep(_QUIET_SECONDS[size])
    with periods.of(_COPY):
        opened.follow(_IMAGE, primary.url)
        opened.settle()
    for _ in range(_REFRESHES[size]):
        opened.request("refresh", _IMAGE)
        with periods.of(_REFRESH):
            opened.settle()
    opened.forget_image(_IMAGE)


def _figures(periods: Periods, waited: list[Waited], rate: float) -> list[Figure]:
    without = percentile(periods.waits(waited, _WITHOUT), _SHARE)
    copying, refreshing, both = (
        percentile(periods.waits(waited, *kinds), _SHARE) for kinds in ((_COPY,), (_REFRESH,), (_COPY, _REFRESH))
    )
    note = (
        f"{rate:.0f} transactions a second; {periods.seconds(_COPY):.0f} s of copies and first builds,"
        f" {periods.seconds(_REFRESH):.0f} s of refreshes, {periods.seconds(_WITHOUT):.0f} s without"
    )
    return [
        Figure("p95 of a primary's transactions during copies and refreshes", both, without, 1.3, note=note),
        Figure("… during copies and first builds alone", copying, without, None),
        Figure("… during refreshes alone", refreshing, without, None),
    ]
