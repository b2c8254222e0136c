"""The inbox of requests: durable one-time wishes from the command line to the next pass.

Written by ``apply``, ``reset``, ``rebase``, ``refresh``, ``quarantine``, ``forget``, ``classify``
and approvals; listed and answered by the loop; outcomes are read by whoever asked. One file per request, named so that
names sort by time. A request is answered by writing its outcome and then removing
it, so a crash in between leaves both, and the outcome counts. An approval is taken
before what it approves is begun: it never counts for a second pass, whatever crashes.

A file that cannot be read is never served: a torn approval approves nothing.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Literal, get_args

from reconciler import durable
from reconciler.errors import ConfigError
from reconciler.state.conditions import Kind, ObjectKey
from reconciler.state.observed import Request, Verb
from reconciler.status import files

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

OutcomeStatus = Literal["succeeded", "failed", "refused"]

KEPT = timedelta(days=1)
"""How long an outcome can be read."""

_TAKEN = ".taken"
_UNREADABLE = "the request could not be read and was not served; ask again"


@dataclass(frozen=True, slots=True)
class ObjectResult:
    """What became of one object: ``action`` is the verb of the plan's action."""

    object: ObjectKey
    action: str
    status: OutcomeStatus
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The answer to a request."""

    status: OutcomeStatus
    message: str
    at: datetime
    results: tuple[ObjectResult, ...] = ()
    document: dict[str, object] | None = None
    """The pass as ``apply -o json`` writes it, or a proposal of ``classify``, for who asked for one."""

    @property
    def ok(self) -> bool:
        """Whether the wish was granted."""
        return self.status == "succeeded"


class RequestInbox:
    """The requests of one state directory; safe to use from several processes."""

    def __init__(self, directory: Path, outcomes: Path) -> None:
        self.directory = directory
        """Where requests arrive; the loop watches it. Outcomes lie elsewhere, or each answer would wake the loop."""
        self._outcomes = outcomes

    def submit(
        self,
        verb: Verb,
        target: str = "",
        *,
        now: datetime,
        requested_by: str = "",
        plan_hash: str | None = None,
        note: str = "",
        snapshot: str = "",
        at_once: bool = False,
    ) -> Request:
        """Leave a request for the next pass; durable when this returns."""
        request = Request(
            id=f"{now.astimezone(UTC):%Y%m%dt%H%M%S%f}z-{secrets.token_hex(4)}",
            verb=verb,
            target=target,
            requested_at=now,
            requested_by=requested_by,
            plan_hash=plan_hash,
            note=note,
            snapshot=snapshot,
            at_once=at_once,
        )
        files.write_atomic(self.directory / f"{request.id}.json", files.encode(_request_record(request)))
        return request

    def pending(self) -> tuple[Request, ...]:
        """Return the requests that wait for an answer, oldest first; unreadable ones are left out."""
        answered = set(files.names(self._outcomes))
        found = []
        for name in self._request_names():
            request = None if name in answered else self._read(name)
            if request is not None:
                found.append(request)
        return tuple(sorted(found, key=lambda request: (request.requested_at, request.id)))

    def take(self, request: str) -> None:
        """Make a request one that is not pending any more and still waits for its answer; durable."""
        with files.translated("take", self.directory):
            (self.directory / f"{request}.json").rename(self.directory / f"{request}{_TAKEN}")
            durable.sync_directory(self.directory)

    def taken(self) -> frozenset[str]:
        """Return the ids of the requests that were taken and have no answer."""
        names = (name for name in files.names(self.directory) if name.endswith(_TAKEN))
        return frozenset(name.removesuffix(_TAKEN) for name in names)

    def withdraw(self, request: str) -> None:
        """Take a wish back, unless it was taken or answered meanwhile."""
        files.remove(self.directory / f"{request}.json")

    def answer(self, request: str, outcome: Outcome) -> None:
        """Write a request's outcome, then remove the request. Repeatable."""
        files.write_atomic(self._outcomes / f"{request}.json", files.encode(_outcome_record(outcome)))
        for suffix in (".json", _TAKEN):
            files.remove(self.directory / f"{request}{suffix}")

    def outcome(self, request: str) -> Outcome | None:
        """Return the answer to a request, None while there is none.

        Raises:
            ConfigError: the answer is there and cannot be read.

        """
        path = self._outcomes / f"{request}.json"
        record = files.read_record(path)
        try:
            return None if record is None else _outcome(record)
        except ValueError as error:
            raise files.unreadable(path, str(error)) from error

    def collect(self, now: datetime) -> None:
        """Tidy up: outcomes of more than a day go, answered requests go, unreadable ones are answered so."""
        for name in self._request_names():
            if (self._outcomes / name).exists():
                files.remove(self.directory / name)
            elif self._read(name) is None and (self.directory / name).exists():
                self.answer(name.removesuffix(".json"), Outcome(status="failed", message=_UNREADABLE, at=now))
        for name in files.names(self._outcomes):
            path = self._outcomes / name
            with files.translated("read", path):
                age = now.timestamp() - path.stat().st_mtime
            if age > KEPT.total_seconds():
                files.remove(path)

    def _request_names(self) -> list[str]:
        return [name for name in files.names(self.directory) if name.endswith(".json")]

    def _read(self, name: str) -> Request | None:
        try:
            record = files.read_record(self.directory / name)
            return None if record is None else _request(name.removesuffix(".json"), record)
        except (ConfigError, ValueError):
            return None


def _request_record(request: Request) -> dict[str, object]:
    return {
        "verb": request.verb,
        "target": request.target,
        "requestedAt": files.format_time(request.requested_at),
        "requestedBy": request.requested_by,
        "planHash": request.plan_hash,
        "note": request.note,
        "snapshot": request.snapshot,
        "atOnce": request.at_once,
    }


def _request(identity: str, record: dict[str, object]) -> Request:
    verb = next((verb for verb in _VERBS if verb == record.get("verb")), None)
    if verb is None:
        raise ValueError("verb is not known")
    # An absent hash approves any plan, so it must be absent as written, not by damage.
    if "planHash" not in record:
        raise ValueError("planHash is missing")
    return Request(
        id=identity,
        verb=verb,
        target=files.text(record, "target"),
        requested_at=files.parse_time(files.text(record, "requestedAt")),
        requested_by=files.text(record, "requestedBy"),
        plan_hash=None if record["planHash"] is None else files.text(record, "planHash"),
        note=files.text(record, "note") if "note" in record else "",
        snapshot=files.text(record, "snapshot") if "snapshot" in record else "",
        at_once=record.get("atOnce") is True,
    )


def _outcome_record(outcome: Outcome) -> dict[str, object]:
    return {
        "status": outcome.status,
        "message": outcome.message,
        "at": files.format_time(outcome.at),
        "results": [
            {
                "kind": str(result.object.kind),
                "name": result.object.name,
                "action": result.action,
                "status": result.status,
                "message": result.message,
            }
            for result in outcome.results
        ],
        "document": outcome.document,
    }


def _outcome(record: dict[str, object]) -> Outcome:
    results = record.get("results")
    if not isinstance(results, list):
        raise ValueError("results is not a list")  # noqa: TRY004 - one class for every malformed field
    document = record.get("document")
    if document is not None and not isinstance(document, dict):
        raise ValueError("document is not an object")
    return Outcome(
        status=_status(record),
        message=files.text(record, "message"),
        at=files.parse_time(files.text(record, "at")),
        results=tuple(_result(item) for item in results),
        document=document,
    )


def _result(item: dict[str, object]) -> ObjectResult:
    key = ObjectKey(Kind(files.text(item, "kind")), files.text(item, "name"))
    return ObjectResult(key, files.text(item, "action"), _status(item), files.text(item, "message"))


def _status(record: dict[str, object]) -> OutcomeStatus:
    status = next((status for status in _STATUSES if status == record.get("status")), None)
    if status is None:
        raise ValueError("status is not known")
    return status


_VERBS: tuple[Verb, ...] = get_args(Verb)
_STATUSES: tuple[OutcomeStatus, ...] = get_args(OutcomeStatus)
