"""Requests for a look at data while a loop runs: ``classify``, served by the loop beside its passes.

Used by the loop, which alone may write to the pools while it runs. No pass plans this: it
changes nothing that lasts, and has to work while the newest commit lacks a policy. So it
is told to passes as what it is to them, work in flight.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING

import structlog

from reconciler.errors import CancelledError, ReconcilerError
from reconciler.ids import VolumeId
from reconciler.proc import CancelToken
from reconciler.status import redact
from reconciler.status.requests import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from reconciler.apply.classification import Look
    from reconciler.apply.context import Work
    from reconciler.host import Host
    from reconciler.ids import SnapshotId
    from reconciler.state.conditions import ObjectKey
    from reconciler.state.observed import Request
    from reconciler.status.requests import OutcomeStatus

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Task:
    """A request that is being served."""

    request: Request
    chosen: Look
    work: Work
    cancel: CancelToken


class Classifications:
    """The requests of one host for a look at its data, served by the loop beside its passes, one after the other.

    Not thread-safe: the loop calls it between its passes.
    """

    def __init__(self, host: Host, on_done: Callable[[], None]) -> None:
        self._host = host
        self._on_done = on_done
        self._tasks: dict[str, _Task] = {}
        self._ended: SimpleQueue[str] = SimpleQueue()
        self._pool = ThreadPoolExecutor(1, "classify")

    @property
    def in_flight(self) -> frozenset[ObjectKey]:
        """The images that are looked at, or are to be; passes leave them alone meanwhile."""
        while not self._ended.empty():
            del self._tasks[self._ended.get()]
        return frozenset(task.request.object for task in self._tasks.values())

    @property
    def in_use(self) -> frozenset[VolumeId]:
        """The private copies, and what they are copies of."""
        return frozenset[VolumeId]().union(*(task.chosen.volumes for task in self._tasks.values()))

    def begin(self) -> None:
        """Begin to serve what was asked for since, and stop what was taken back; what cannot be served is answered."""
        asked = {one.id: one for one in self._host.state.requests.pending() if one.verb == "classify"}
        for known, task in self._tasks.items():
            if known not in asked:
                task.cancel.cancel()
        for request in asked.values():
            if request.id not in self._tasks:
                self._begin(request)

    def _begin(self, request: Request) -> None:
        from reconciler.classification import choose  # noqa: PLC0415 - large, and seldom needed

        cancel = CancelToken()
        try:
            chosen, work = choose(self._host, request.object.name, cancel)
        except Exception as error:  # noqa: BLE001 - whatever it is, who asked is told
            self._answer(request, "refused", error)
            return
        self._tasks[request.id] = _Task(request, chosen, work, cancel)
        self._pool.submit(self._serve, self._tasks[request.id])

    def cancel(self, quarantined: Container[SnapshotId]) -> None:
        """Stop looking at snapshots of which nothing may be made any more."""
        for task in self._tasks.values():
            if task.chosen.action.base in quarantined:
                task.cancel.cancel()

    def close(self) -> None:
        """Stop all of it; what was not answered is served by the next loop."""
        for task in self._tasks.values():
            task.cancel.cancel()
        self._pool.shutdown()

    def _serve(self, task: _Task) -> None:
        try:
            from reconciler.classification import look_at, proposal_document  # noqa: PLC0415 - as above

            task.cancel.check()
            found = proposal_document(look_at(task.work, task.chosen))
            done = Outcome(
                status="succeeded",
                message=f"image {task.chosen.action.image} was classified",
                at=self._host.clock.now(),
                document=found,
            )
            self._host.state.requests.answer(task.request.id, done)
        except CancelledError:
            pass
        except Exception as error:  # noqa: BLE001 - as above
            self._answer(task.request, "failed", error)
        finally:
            self._ended.put(task.request.id)
            self._on_done()

    def _answer(self, request: Request, status: OutcomeStatus, error: Exception) -> None:
        if isinstance(error, ReconcilerError):
            message = redact.text(str(error))
        else:
            log.error("unexpected error", action="classify", object=str(request.object), exc_info=error)
            message = f"unexpected {type(error).__name__}; see the log"
        outcome = Outcome(status=status, message=message, at=self._host.clock.now())
        self._host.state.requests.answer(request.id, outcome)
