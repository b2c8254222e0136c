"""The status document and events as text for people: problems first, then images, snapshots and clones.

Called by the command line, which decides about colours and width. On a pipe (``width``
None) no line is wrapped or cut, so that ``grep`` and ``awk`` see whole values.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from reconciler.status.files import format_second, parse_time
from reconciler.status.page import Cell, Page, Sheet
from reconciler.status.words import age, plain, size, span

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from reconciler.status.events import Event
    from reconciler.status.values import Done

Json = dict[str, Any]

_GOOD, _BAD, _BUSY, _DIM = "green", "bold red", "yellow", "dim"
_MINUTE = 60
_EVENT_STYLE = {"error": _BAD, "warning": _BUSY, "info": "", "trace": _DIM}


def render_status(document: Json, *, colour: bool = False, width: int | None = None) -> str:
    """Return a status document (see :mod:`reconciler.status.report`) as text; ages count from when it was made."""
    now = parse_time(document["generatedAt"])
    page = Page(colour=colour, width=width)
    page.write(_headline(document, now), "bold")
    problems = list(_problems(document))
    if problems:
        page.write("")
        _write_problems(page, problems, now)
    waiting = list(_waiting(document))
    if waiting:
        page.write("")
        page.write("WAITING", "bold")
        for who, condition in waiting:
            page.write(f"· {plain(who)}  {plain(condition['message'])}", _BUSY)
    for sheet in (_pools(document), _images(document, now), _clones(document, now)):
        if sheet.rows:
            page.write("")
            page.table(sheet)
    if any(clone["protected"] for clone in document["clones"]):
        page.write("* protected", _DIM)
    if not document["images"] and not document["clones"]:
        page.write("no images, no clones")
    return page.text()


def render_events(events: Iterable[Event], *, colour: bool = False, width: int | None = None) -> str:
    """Return events as text in the order given: one line each on a pipe, the message below on a terminal."""
    page = Page(colour=colour, width=width)
    sheet = Sheet(("TIME", "OBJECT", "REASON", "MESSAGE"))
    for event in events:
        first = event.first_at or event.at
        said = plain(event.message) + (
            f" ({event.count} times since {format_second(first)})" if event.count > 1 else ""
        )
        cells = (format_second(event.at), str(event.object), plain(event.reason), said)
        style = _EVENT_STYLE[event.severity]
        if width is None:
            sheet.rows.append(tuple(Cell(cell, style) for cell in cells))
        else:
            page.write("  ".join(cells[:3]), style)
            page.write(cells[3], indent="  ")
    if sheet.rows:
        page.table(sheet)
    return page.text() or "no events\n"


def render_history(entries: Iterable[Done], *, colour: bool = False, width: int | None = None) -> str:
    """Return what was done to an object in the order given: a table on a pipe, reasons below on a terminal."""
    page = Page(colour=colour, width=width)
    sheet = Sheet(("TIME", "OBJECT", "ACTION", "TOOK", "SIZE", "OUTCOME", "WHY", "CHANGED BY"))
    for done in entries:
        style = {"failed": _BAD, "cancelled": _DIM}.get(done.outcome, "")
        again = f" ({done.count} times, last {format_second(done.last_at)})" if done.last_at and done.count > 1 else ""
        why = f"{done.reason}: {done.message}" if done.message else done.reason
        by = "; ".join(filter(None, [done.changed_by, f"asked for by {done.asked_by}" if done.asked_by else ""]))
        took = f"{done.seconds:.1f} s" if done.seconds < _MINUTE else span(done.seconds)
        what = (format_second(done.started_at), str(done.object), done.action)
        cells = [plain(text) for text in (*what, took, size(done.bytes), done.outcome + again, why, by)]
        if width is None:
            sheet.rows.append(tuple(Cell(cell, style) for cell in cells))
        else:
            page.write("  ".join(cells[:6]), style)
            for cell in filter(None, cells[6:]):
                page.write(cell, indent="  ")
    if sheet.rows:
        page.table(sheet)
    return page.text() or "no history\n"


def history_json(entries: Iterable[Done]) -> list[Json]:
    """Return what was done to an object as values that JSON has."""
    return [
        {
            "time": format_second(done.started_at),
            "lastTime": format_second(done.last_at or done.started_at),
            "count": done.count,
            "kind": str(done.object.kind),
            "name": done.object.name,
            "action": done.action,
            "outcome": done.outcome,
            "reason": done.reason,
            "message": done.message,
            "seconds": round(done.seconds, 3),
            "bytes": done.bytes,
            "volume": done.volume,
            "revision": done.revision,
            "changedBy": done.changed_by,
            "askedBy": done.asked_by,
        }
        for done in entries
    ]


def events_json(events: Iterable[Event]) -> list[Json]:
    """Return events as values that JSON has."""
    return [
        {
            "time": format_second(event.at),
            "kind": str(event.object.kind),
            "name": event.object.name,
            "severity": event.severity,
            "reason": event.reason,
            "message": event.message,
            "revision": event.revision,
            "metadata": dict(event.metadata),
            "count": event.count,
            "firstTime": format_second(event.first_at or event.at),
        }
        for event in events
    ]


def _headline(document: Json, now: datetime) -> str:
    revision, attempted = document["revision"], document["attemptedRevision"]
    if revision is None:
        return f"no good commit yet{f'; tried {plain(attempted)}' if attempted else ''}"
    since = document["appliedAt"]
    text = plain(revision) + (f", in force since {age(parse_time(since), now)}" if since else "")
    return text + (f"; NOT applied: {plain(attempted)}" if attempted not in (None, revision) else "")


def _problems(document: Json) -> Iterator[tuple[str, Json, Json]]:
    """Yield (who, condition, object) of every condition that needs a person."""
    for condition in document["conditions"]:
        if _is_problem(condition):
            yield "Repository", condition, {}
    for kind, key in (("Pool", "pools"), ("Image", "images"), ("Clone", "clones")):
        for item in document[key]:
            for condition in item["conditions"]:
                if _is_problem(condition) and not (condition["type"] == "Ready" and _window_of(item)):
                    yield f"{kind}/{item['name']}", condition, item
            for mirror in item.get("mirrors", ()):
                yield from ((f"Mirror/{item['name']}", c, item) for c in mirror["conditions"] if _is_problem(c))


def _waiting(document: Json) -> Iterator[tuple[str, Json]]:
    """Yield what waits for a maintenance window of the host, or as it is suspended, and says until when."""
    for kind, key in (("Image", "images"), ("Clone", "clones")):
        for item in document[key]:
            if condition := _window_of(item):
                yield f"{kind}/{item['name']}", condition
            yield from ((f"Mirror/{item['name']}", c) for m in item.get("mirrors", ()) if (c := _window_of(m)))


def _window_of(item: Json) -> Json | None:
    reasons = ("MaintenanceWindow", "HostSuspended")
    found = (c for c in item["conditions"] if c["type"] == "Waiting" and c["reason"] in reasons)
    return next(found, None)


def _is_problem(condition: Json) -> bool:
    """Whether a condition is abnormal: not ready, or abnormal-true (Stalled and its like)."""
    if condition["type"] == "Ready":
        return bool(condition["status"] != "True")
    passing = ("Reconciling", "Suspended", "Idle", "Waiting")
    return bool(condition["type"] not in passing and condition["status"] == "True")


def _write_problems(page: Page, problems: Sequence[tuple[str, Json, Json]], now: datetime) -> None:
    page.write("PROBLEMS", "bold")
    for told, alike in groupby(problems, key=_told):
        for who, condition, _item in alike:
            since = condition["lastTransitionTime"]
            when = f" ({age(parse_time(since), now)})" if since else ""
            name = "not ready" if condition["type"] == "Ready" else condition["type"]
            page.write(f"✗ {plain(who)}  {name}: {plain(condition['reason'])}{when}", _problem_style(condition))
        for line in told:
            if text := plain(line):  # a message keeps its lines, below its object: it can be YAML to be copied
                page.write(text, indent="  " + " " * (len(line) - len(line.lstrip(" "))))


def _told(problem: tuple[str, Json, Json]) -> tuple[str, ...]:
    """Return what is said of a problem; of many with one cause it is said once."""
    _who, condition, item = problem
    return (*condition["message"].splitlines(), _origin(item))


def _problem_style(condition: Json) -> str:
    return _BUSY if condition["status"] == "Unknown" or condition["type"] not in ("Ready", "Stalled") else _BAD


def _origin(item: Json) -> str:
    document, change = item.get("document"), item.get("changedBy")
    if document is None:
        return ""
    by = f", last changed by {plain(change['author'])} in {change['commit'][:8]}" if change else ""
    return f"{plain(document['file'])}:{document['line']}{by}"


def _pools(document: Json) -> Sheet:
    sheet = Sheet(("POOL", "DRIVER", "STATE", "FREE", "OF"), optional=("OF", "DRIVER", "FREE"))
    for pool in document["pools"]:
        state = Cell("available", _GOOD) if pool["available"] else Cell("unavailable", _BAD)
        cells = (pool["name"], pool["driver"], state, size(pool["freeBytes"]), size(pool["totalBytes"]))
        sheet.rows.append(_row(*cells))
    return sheet


def _images(document: Json, now: datetime) -> Sheet:
    """Return images, each with its builds and its snapshots below it, newest first."""
    columns = ("IMAGE / SNAPSHOT", "ENGINE", "STATE", "DATA", "SIZE", "FREES", "CLONES", "NOTES")
    sheet = Sheet(columns, optional=("ENGINE", "FREES", "CLONES", "SIZE", "NOTES", "DATA"))
    for image in document["images"]:
        clones = {clone for snapshot in image["snapshots"] for clone in snapshot["usedBy"]}
        name = Cell(plain(image["name"]), "bold")
        engine, state = image["engine"] or "-", _state_cell(image, "" if image["document"] else "no document")
        sheet.rows.append(_row(name, engine, state, "", "", "", str(len(clones)), _refreshes(image, now)))
        for build in image["builds"]:
            started = age(parse_time(build["startedAt"]), now)
            sheet.rows.append(_row(f"  {build['id']}", "", Cell("building", _BUSY), started, "", "", "", ""))
        sheet.rows += [_mirror_row(mirror, now) for mirror in image.get("mirrors", ())]
        sheet.rows += [_snapshot_row(snapshot, now) for snapshot in image["snapshots"]]
    return sheet


def _mirror_row(mirror: Json, now: datetime) -> tuple[Cell, ...]:
    data = _since(mirror["lastCommitAt"], now)
    notes = [f"{size(mirror['lagBytes'])} behind"] if mirror.get("lagBytes") else []
    notes += [f"moments since {_since(mirror['momentsSince'], now)}"] if mirror.get("momentsSince") else []
    if mirror["phase"] != "following":
        state = Cell(mirror["phase"], _BUSY)
    else:
        state = Cell("following", _GOOD) if mirror["following"] else Cell("not following", _BAD)
    sizes = (size(mirror["sizeBytes"]), size(mirror["exclusiveBytes"]))
    return _row(f"  {mirror['id']}", mirror["version"] or "-", state, data, *sizes, "", ", ".join(notes))


def _since(time: str | None, now: datetime) -> str:
    """Return how long ago something was that the primary's clock says, which may be ahead of ours."""
    return age(min(parse_time(time), now), now) if time else "-"


def _snapshot_row(snapshot: Json, now: datetime) -> tuple[Cell, ...]:
    data = age(parse_time(snapshot["dataAsOf"]), now)
    used = str(len(snapshot["usedBy"]))
    state = Cell("quarantined", _BAD) if snapshot.get("quarantined") else "sealed"
    if snapshot.get("clone") and not snapshot.get("quarantined"):
        state = Cell(f"of clone {snapshot['clone']}")
    sizes = (size(snapshot["sizeBytes"]), size(snapshot.get("exclusiveBytes")))
    return _row(f"  {snapshot['id']}", snapshot["version"], state, data, *sizes, used, _notes(snapshot, now))


def _refreshes(image: Json, now: datetime) -> str:
    """Say what the last refresh came to, and when the next one may start."""
    last, coming = image.get("lastRefresh"), image.get("nextRefreshAt")
    told = []
    if last is not None:
        told.append(f"{_OUTCOMES.get(last['outcome'], last['outcome'])} {age(parse_time(last['at']), now)}")
    if coming is not None:
        told.append(f"next refresh {age(parse_time(coming), now)}")
    return ", ".join(told)


_OUTCOMES = {"Built": "built", "UpToDate": "found up to date", "Failed": "failed"}


def _notes(snapshot: Json, now: datetime) -> str:
    """Say why a snapshot is kept, and what was proved of it."""
    kept, verified = snapshot.get("keptBecause"), snapshot.get("verified")
    told = [] if kept is None else [f"kept: {', '.join(kept)}" if kept else "not kept"]
    if verified is not None:
        looked_at = verified["amcheck"]
        parts = [f"{looked_at['relations']} relations"] if looked_at is not None else []
        parts += [f"{verified['checks']} checks"] if verified["checks"] else []
        told.append(f"verified {age(parse_time(verified['at']), now)}: {', '.join(parts) or 'restored'}")
    return "; ".join(told)


def _clones(document: Json, now: datetime) -> Sheet:
    asked = any(clone.get("activity") for clone in document["clones"])
    columns: tuple[str, ...] = ("CLONE", "STATE", "IMAGE", "DATA", "ADDRESS", "OWNER", "OWN SIZE", "EXPIRES")
    columns = (*columns, "USED BY") if asked else columns
    sheet = Sheet(columns, optional=("OWN SIZE", "DATA", "EXPIRES", "OWNER", "IMAGE", "ADDRESS"))
    for clone in document["clones"]:
        expires = clone["expiresAt"]
        sheet.rows.append(
            _row(
                Cell(plain(clone["name"]) + (" *" if clone["protected"] else ""), "bold"),
                _state_cell(clone, clone["state"]),
                clone["image"] or "-",
                _data(clone, now),
                _address(clone["endpoint"]),
                clone["owner"] or "-",
                size(clone["exclusiveBytes"]),
                age(parse_time(expires), now) if expires else "-",
                *([_used_by(clone.get("activity"), now)] if asked else []),
            )
        )
    return sheet


def _data(clone: Json, now: datetime) -> str:
    """Say how old a clone's data is, and how old it could be."""
    if not clone["dataAsOf"]:
        return "-"
    newer = clone.get("newer")
    there = f" (newer: {age(parse_time(newer['dataAsOf']), now)})" if newer else ""
    return age(parse_time(clone["dataAsOf"]), now) + there


def _used_by(activity: Json | None, now: datetime) -> str:
    """Say who is connected to a clone, and since when nothing happened."""
    if activity is None:
        return "?"
    if not activity["connections"]:
        return "nobody"
    names = f" ({', '.join(activity['applications'])})" if activity["applications"] else ""
    last = f", last active {age(parse_time(activity['lastActivity']), now)}" if activity["lastActivity"] else ""
    return f"{activity['connections']}{names}{last}"


def _address(endpoint: Json | None) -> str:
    if not endpoint:
        return "-"
    return plain(endpoint.get("path") or f"{endpoint['host']}:{endpoint['port']}/{endpoint['database']}")


def _state_cell(item: Json, state: str) -> Cell:
    """Return one word for an object: the worst of its conditions, else what it is doing, else its state."""
    conditions = {condition["type"]: condition for condition in item["conditions"]}
    if "Stalled" in conditions:
        return Cell("stalled", _BAD)
    if conditions.get("Ready", {}).get("status") == "False" and "Reconciling" not in conditions:
        return Cell("waiting", _BUSY) if _window_of(item) else Cell("not ready", _BAD)
    if "Reconciling" in conditions:
        return Cell("working", _BUSY)
    if item["suspended"]:
        return Cell("suspended", _BUSY)
    if conditions.get("Ready", {}).get("status") == "Unknown" or state == "unknown":
        return Cell("unknown", _BUSY)
    state = "idle" if "Idle" in conditions and state == "stopped" else state
    return Cell(state or "ready", _DIM if state in ("idle", "stopped", "absent", "expired", "no document") else _GOOD)


def _row(*cells: str | Cell) -> tuple[Cell, ...]:
    """Return cells as text without control characters; only leading blanks stay, they show what is below what."""
    return tuple(cell if isinstance(cell, Cell) else Cell(_indent(cell) + plain(cell)) for cell in cells)


def _indent(text: str) -> str:
    return " " * (len(text) - len(text.lstrip(" ")))
