"""Running a plan: objects in parallel, the actions of one object in order.

Builds and everything else have lanes of their own, so that hours of building delay no
clone. Work goes on after ``submit`` returned; an object with work in flight is left
alone by later plans until it is done. A failed action fails the rest of its object and
whatever waits for it, nothing more.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from reconciler.apply.context import Work, permanent
from reconciler.apply.worker import perform
from reconciler.errors import (
    CancelledError,
    DependencyError,
    NotInstalledError,
    ReconcilerError,
    RefusedError,
    TransientError,
)
from reconciler.plan.actions import (
    BuildSnapshot,
    CopyPrimary,
    CreateClone,
    CutPoint,
    LoadTemplate,
    RenameClone,
    RenameImage,
    ReplaceClone,
    origin,
    volumes_in_use,
)
from reconciler.plan.policy import pruned_objects
from reconciler.proc import CancelToken
from reconciler.state.conditions import ObjectKey
from reconciler.state.observed import Failure
from reconciler.status import redact
from reconciler.status.events import Event, Severity
from reconciler.status.values import Done

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from reconciler.host import Host
    from reconciler.ids import SnapshotId, VolumeId
    from reconciler.plan.actions import Action, Plan
    from reconciler.repository import SourceTree
    from reconciler.state.desired import Desired

log = structlog.get_logger(__name__)

_SHORT_FOR_EACH_LONG = 4
"""Work other than builds mostly waits for servers to start: more of it at the same time costs little."""
_FIRST_RETRY = timedelta(seconds=5)
_LONGEST_RETRY = timedelta(minutes=15)
_LONGEST_REFUSAL = timedelta(minutes=1)
"""Room and ports come back by themselves, so a refusal is looked at again soon, but never in a tight circle."""


@dataclass(slots=True, eq=False)
class Task:
    """The actions of one object in one plan, and what became of them.

    ``changed_by`` says who changed the object's document last, for its history.
    """

    key: ObjectKey
    actions: tuple[Action, ...]
    waits: set[ObjectKey]
    work: Work
    cancel: CancelToken
    changed_by: str | None = None
    progress: str = "waiting"
    error: BaseException | None = None
    step: int = 0
    """Which of the actions is under way, or the next to be."""
    released: frozenset[VolumeId] = frozenset()
    """The volumes that this action has started from and does not need any more."""
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def complaint(self) -> str:
        """What went wrong, as it may be shown; empty without an error."""
        return redact.text(str(self.error)) if self.error is not None else ""

    @property
    def long(self) -> bool:
        """Whether it may take hours."""
        return any(isinstance(action, BuildSnapshot | CutPoint | CopyPrimary | LoadTemplate) for action in self.actions)

    @property
    def in_use(self) -> frozenset[VolumeId]:
        """The volumes that its actions change or start from, but what only one needed that needs it no more."""
        later: frozenset[VolumeId] = frozenset().union(*map(volumes_in_use, self.actions[self.step + 1 :]))
        return frozenset().union(*map(volumes_in_use, self.actions)) - (self.released - later)

    @property
    def starts_from(self) -> frozenset[SnapshotId]:
        """The snapshots of which its actions make something."""
        return frozenset(filter(None, map(origin, self.actions)))


class Executor:
    """Owns the work in flight; thread-safe."""

    def __init__(self, host: Host, *, concurrency: int, on_done: Callable[[Task], None] = lambda _task: None) -> None:
        self._host = host
        self._on_done = on_done
        self._lock = threading.Lock()
        self._tasks: dict[ObjectKey, Task] = {}
        self._long = ThreadPoolExecutor(concurrency, "build")
        self._short = ThreadPoolExecutor(_SHORT_FOR_EACH_LONG * concurrency, "clone")

    @property
    def in_flight(self) -> Mapping[ObjectKey, Task]:
        """The tasks that are not done."""
        with self._lock:
            return dict(self._tasks)

    def submit(
        self, plan: Plan, desired: Desired, tree: SourceTree, *, changes: Mapping[ObjectKey, str] | None = None
    ) -> tuple[Task, ...]:
        """Start a plan's actions; those of objects that still have work in flight are left out.

        Deletions for vanished documents are counted before anything starts: what waits
        for its turn counts against the limit as well.
        """
        grouped: dict[ObjectKey, list[Action]] = {}
        for action in plan.actions:
            grouped.setdefault(action.key, []).append(action)
        now = self._host.clock.now()
        for key in pruned_objects(plan.actions):
            self._host.state.record_deletion(key, now)
        with self._lock:
            fresh = [
                self._task(key, actions, desired, tree) for key, actions in grouped.items() if key not in self._tasks
            ]
            for task in fresh:
                task.changed_by = (changes or {}).get(task.key)
                self._tasks[task.key] = task
            for task in fresh:
                task.waits &= self._tasks.keys() - {task.key}
            ready = [task for task in fresh if not task.waits]
        for task in ready:
            self._start(task)
        return tuple(fresh)

    def cancel(self, keys: Iterable[ObjectKey]) -> None:
        """Ask work to stop; it cleans up after itself."""
        for key, task in self.in_flight.items():
            if key in set(keys):
                task.cancel.cancel()

    def close(self, *, abandon: bool) -> None:
        """End: wait for all work, or ask all of it to stop first. Servers go on."""
        if abandon:
            self.cancel(self.in_flight.keys())
        for task in self.in_flight.values():
            task.done.wait()
        self._long.shutdown()
        self._short.shutdown()

    def _task(self, key: ObjectKey, actions: list[Action], desired: Desired, tree: SourceTree) -> Task:
        cancel = CancelToken()
        work = Work(host=self._host, desired=desired, tree=tree, cancel=cancel)
        waits = {other for action in actions for other in action.after}
        task = Task(key, tuple(actions), waits, work, cancel)

        def progress(text: str) -> None:
            task.progress = text

        def release(volume: VolumeId) -> None:
            task.released |= {volume}

        task.work = replace(work, progress=progress, release=release)
        return task

    def _start(self, task: Task) -> None:
        (self._long if task.long else self._short).submit(self._run, task)

    def _run(self, task: Task) -> None:
        try:
            for step, action in enumerate(task.actions):
                task.released = frozenset()  # before the step: what the next action needs is in use all the time
                task.step = step
                task.cancel.check()
                self._perform(task, action)
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to this object alone and is recorded
            task.error = error
        finally:
            self._finished(task)

    def _perform(self, task: Task, action: Action) -> None:
        entry = self._entry(task, action)
        started = self._host.clock.monotonic()

        def seconds() -> float:
            return self._host.clock.monotonic() - started

        try:
            perform(task.work, action)
        except CancelledError as error:
            self._remember(replace(entry, seconds=seconds(), outcome="cancelled", message=str(error)))
            raise
        except Exception as error:
            failure = self._failed(action, error)
            failed = replace(entry, outcome="failed", reason=failure.reason, message=failure.message)
            self._remember(replace(failed, seconds=seconds()))
            raise
        took = seconds()
        self._succeeded(action)
        if isinstance(action, RenameImage | RenameClone):
            self._host.store.history.rename(ObjectKey(action.key.kind, action.formerly), action.key)
        self._remember(replace(entry, seconds=took))
        self._event(action, "info", f"{action.verb.capitalize()}Succeeded", f"{action.reason} ({took:.2f} s)", task)

    def _entry(self, task: Task, action: Action) -> Done:
        """Return what history keeps of an action that goes well."""
        made = (action.volume,) if isinstance(action, CreateClone | ReplaceClone) else action.volumes
        return Done(
            started_at=self._host.clock.now(),
            seconds=0.0,
            object=action.key,
            action=action.verb,
            outcome="succeeded",
            reason=action.reason,
            volume=made[-1] if made else None,
            revision=task.work.desired.revision,
            changed_by=task.changed_by,
            asked_by=self._asked_by(getattr(action, "request", None)),
        )

    def _asked_by(self, request: str | None) -> str | None:
        """Return whose request an action serves."""
        if request is None:
            return None
        return next((r.requested_by for r in self._host.state.requests.pending() if r.id == request), None)

    def _remember(self, done: Done) -> None:
        """Keep an entry of history; work that is done stays done when that fails."""
        try:
            self._host.store.history.add(done)
        except ReconcilerError as error:
            log.warning("history cannot be written", object=str(done.object), error=str(error))

    def _succeeded(self, action: Action) -> None:
        """Forget what such an action failed with before."""
        fingerprint = _fingerprint(action)
        if self._host.store.failure(action.key, fingerprint) is not None:
            self._host.store.clear_failure(action.key, fingerprint)

    def _failed(self, action: Action, error: Exception) -> Failure:
        if not isinstance(error, ReconcilerError):
            log.error("unexpected error", action=action.verb, object=str(action.key), exc_info=error)
        now = self._host.clock.now()
        fingerprint = _fingerprint(action)
        before = self._host.store.failure(action.key, fingerprint)
        attempts = before.attempts + 1 if before is not None and before.fingerprint == fingerprint else 1
        failure = Failure(
            reason=error.reason if isinstance(error, ReconcilerError) else "InternalError",
            message=str(error)
            if isinstance(error, ReconcilerError)
            else f"unexpected {type(error).__name__}; see the log",
            permanent=permanent(error),
            fingerprint=fingerprint,
            attempts=attempts,
            at=now,
            retry_at=_retry_at(error, fingerprint, attempts, now),
        )
        self._host.store.set_failure(action.key, failure)
        severity: Severity = "info" if isinstance(error, TransientError) and attempts == 1 else "error"
        self._event(action, severity, failure.reason, failure.message, None)
        return failure

    def _event(self, action: Action, severity: Severity, reason: str, message: str, task: Task | None) -> None:
        revision = task.work.desired.revision if task else None
        self._host.store.record(
            Event(
                at=self._host.clock.now(),
                object=action.key,
                severity=severity,
                reason=reason,
                message=message,
                revision=revision,
                metadata={"action": action.verb},
            )
        )

    def _finished(self, task: Task) -> None:
        """Take a task out of flight, with all that waited for it in vain; start what waited for nothing else."""
        with self._lock:
            ended, ready = self._settle(task)
        for other in ready:
            self._start(other)
        for other in ended:
            self._on_done(other)

    def _settle(self, task: Task) -> tuple[list[Task], list[Task]]:
        """Return what ended and what can start; in one step, as the next task to end may be waited for too."""
        ended, ready = [task], list[Task]()
        for finished in ended:  # grows by what fails with it
            finished.done.set()  # first: what is not in flight any more is done
            del self._tasks[finished.key]
            for other in self._tasks.values():
                if finished.key not in other.waits or other.error is not None:
                    continue
                other.waits.discard(finished.key)
                if finished.error is not None:
                    other.error = DependencyError(f"waits for {finished.key}, which failed")
                    ended.append(other)
                elif not other.waits:
                    ready.append(other)
        return ended, ready


def _retry_at(error: Exception, fingerprint: str, attempts: int, now: datetime) -> datetime | None:
    """Return when a failed action is tried again; None when only other inputs can help."""
    if isinstance(error, NotInstalledError):
        return now + _LONGEST_RETRY
    if permanent(error) and fingerprint:
        return None
    longest = _LONGEST_REFUSAL if isinstance(error, RefusedError) else _LONGEST_RETRY
    return now + min(longest, _FIRST_RETRY * (1 << min(attempts - 1, 10)))


def _fingerprint(action: Action) -> str:
    """Return the fingerprint of an action's inputs; empty for actions without."""
    return getattr(action, "fingerprint", "")
