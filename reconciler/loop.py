"""The loop: read, observe, plan, judge, apply, report — and again.

Level-triggered: every pass starts from what exists. Polling, file watching, cron,
expiry, retries, requests and SIGHUP only decide *when* the next pass runs. Long work
goes on between passes. One writer per state directory.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from reconciler import notify
from reconciler.answers import Answers
from reconciler.apply.executor import Executor, Task
from reconciler.classify_requests import Classifications
from reconciler.errors import ReconcilerError, RefusedError
from reconciler.housekeeping import Pace, sweep, tend
from reconciler.ids import CloneName, ImageName, Revision
from reconciler.observe import PROGRESSING, in_flight_elsewhere, observe
from reconciler.plan.diff import plan as make_plan
from reconciler.plan.policy import judge
from reconciler.plan.timers import next_due
from reconciler.publishing import PUBLISHING, Publisher
from reconciler.state.conditions import (
    ANNOUNCED,
    PASSES,
    REPOSITORY,
    Condition,
    Kind,
    ObjectKey,
    not_ready,
    reconciling,
    stalled,
)
from reconciler.state.observed import SnapshotManifest
from reconciler.state.quarantine import quarantined
from reconciler.status.events import Event
from reconciler.status.values import PassRecord
from reconciler.triggers import Triggers
from reconciler.view import View

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconciler.commits import Commit, Commits
    from reconciler.host import Host
    from reconciler.plan.actions import Plan
    from reconciler.state.desired import Desired, DesiredImage
    from reconciler.state.observed import Observed

log = structlog.get_logger(__name__)


class Reconciler:
    """Runs passes for one host. Not thread-safe but for :meth:`wake` and :meth:`stop`."""

    def __init__(self, host: Host, commits: Commits) -> None:
        self._host = host
        self._commits = commits
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._answers = Answers(host)
        self._classifications = Classifications(host, on_done=self._wake.set)
        self._publisher = Publisher(host, on_change=self._wake.set)
        self._pace = Pace(host.clock)
        self._reported: Revision | None = None
        self._executor = Executor(host, concurrency=host.config.concurrency, on_done=lambda _task: self._wake.set())

    @property
    def in_flight(self) -> tuple[Task, ...]:
        """The work that goes on now."""
        return tuple(self._executor.in_flight.values())

    def wake(self) -> None:
        """Ask for a pass now."""
        self._wake.set()

    def stop(self) -> None:
        """Ask the loop to end: work is abandoned at its next step, and cleans up after itself."""
        self._stopping.set()
        self._wake.set()

    def look(self, revision: str | None = None) -> View:
        """Read, observe, plan and judge; changes nothing."""
        commit = self._commits.at(revision) if revision else self._commits.newest()
        if commit.held is not None and any(r.verb == "approve" for r in self._host.state.requests.pending()):
            held = self._look_with(commit.held)
            if held.approved:
                return held
        return self._look_with(commit)

    def _look_with(self, commit: Commit) -> View:
        now = self._host.clock.now()
        if commit.desired is None:
            return View(commit, None, None, now)
        tasks = self._executor.in_flight  # before anything is observed: what ends meanwhile is counted twice, not never
        elsewhere = in_flight_elsewhere(self._host)
        in_flight = elsewhere.union(tasks, self._classifications.in_flight)
        in_use = None if elsewhere else self._classifications.in_use.union(*(task.in_use for task in tasks.values()))
        seen = observe(self._host, commit.desired, now, in_flight=in_flight, in_use=in_use)
        observed = self._answers.unserved(seen)
        settings, policy = self._host.plan_settings, self._host.policy_settings
        planned = make_plan(commit.desired, observed, now, settings=settings)
        under_way = tuple(action for task in tasks.values() for action in task.actions)
        judged = judge(planned, commit.desired, observed, now, settings=policy, under_way=under_way)
        return View(commit, observed, judged, now, settings, policy)

    def one_pass(self, revision: str | None = None) -> View:
        """Run one pass: start what the plan asks for, and report. Work may go on after it.

        Raises:
            RefusedError: the named commit bears no signature that counts.

        """
        self._host.hold_pools()
        self._answers.abandon()
        view = self.look(revision)
        if view.commit.unverified:
            why = next(condition for condition in view.commit.conditions if condition.type == "Stalled")
            raise RefusedError(f"{revision} is not applied: {why.message}", reason=why.reason)
        started = False
        if view.plan and view.observed and view.commit.desired and view.commit.tree:
            self._cancel_pointless(view.commit.desired)
            self._cancel_quarantined(view.commit.desired, view.observed)
            self._answers.take_approvals(view.plan, view.observed)
            changes = self._commits.responsible({action.key for action in view.plan.actions}, view.commit)
            tasks = self._executor.submit(view.plan, view.commit.desired, view.commit.tree, changes=changes)
            self._answers.track(view, view.plan, tasks, self.in_flight)
            view = self._remember(view)  # while the work goes on: it may copy the whole commit
            started = bool(tasks)
        else:
            self._answers.refuse(view)
        self._answers.finish()
        self._report(view)
        if view.observed is not None and not started and not view.observed.in_flight:
            sweep(self._host, view.observed)  # what was observed is still all there is
        return view

    def settle(self, view: View, on_progress: Callable[[tuple[Task, ...]], None] = lambda _tasks: None) -> View:
        """Wait for the work in flight, then look again with the commit of ``view`` and report what there is now."""
        while tasks := self.in_flight:
            on_progress(tasks)
            self._host.clock.wait(self._wake, 0.1)
            self._wake.clear()
        final = self._look_with(view.commit)
        self._answers.finish()
        self._report(final)
        return final

    def run(self) -> None:
        """Run passes until told to stop."""
        try:
            with Triggers(self, self._host):
                while not self._stopping.is_set():
                    self._wake.clear()
                    view = self._guarded_pass()
                    self._classifications.begin()
                    notify.alive(_told(view))
                    if not self.in_flight:
                        self._commits.settle()
                    self._rest(self._pause(view))
            self._host.state.rest()
        finally:
            notify.stopping()
            self.close(abandon=True)

    def _rest(self, seconds: float) -> None:
        """Sleep until something wakes the loop, or for so long; a watchdog hears of it meanwhile."""
        longest = notify.longest_silence() or seconds
        while seconds > 0 and not self._host.clock.wait(self._wake, min(seconds, longest)):
            seconds -= longest
            notify.alive()

    def close(self, *, abandon: bool) -> None:
        """End the work in flight. Servers go on."""
        self._classifications.close()
        self._executor.close(abandon=abandon)
        self._answers.finish()
        self._publisher.close(abandon=abandon)
        self._tell_of_publishing()

    def _tell_of_publishing(self) -> None:
        """Note what became of the status of the last pass, which is known only after it."""
        store, failed = self._host.store, self._publisher.conditions
        try:
            known = store.conditions()
            if (PUBLISHING in known) == bool(failed):
                return
            others = {key: said for key, said in known.items() if key != PUBLISHING}
            now = self._host.clock.now()
            for transition in store.write_conditions(now, self._reported, {**others, **failed}):
                store.record(Event.of_transition(transition, now, self._reported))
        except ReconcilerError as error:
            log.warning("the status cannot be written", error=str(error))

    def _guarded_pass(self) -> View | None:
        """Run a pass; an error that nobody foresaw is logged, and the next pass starts afresh."""
        try:
            view = self.one_pass()
        except ReconcilerError as error:
            log.error("pass failed", reason=error.reason, error=str(error))  # noqa: TRY400 - a foreseen error has no use for a traceback
            self._report_failure(error.reason, str(error))
            return None
        except Exception as error:
            log.exception("pass failed")
            self._report_failure("InternalError", f"unexpected {type(error).__name__}; see the log")
            return None
        tend(self._host, view.observed, self._pace)
        self._host.state.beat()
        return view

    def _cancel_pointless(self, desired: Desired) -> None:
        """Stop builds that the new commit no longer asks for, and what waits for one with a document of yesterday."""
        for key, task in self._executor.in_flight.items():
            if not task.long:
                if task.waits and key.kind is Kind.CLONE and _asks_other(desired, task, CloneName(key.name)):
                    task.cancel.cancel()
            elif key.kind is Kind.TEMPLATE:
                if not any(key.name.startswith(f"{clone.runtime}/") for clone in desired.clones.values()):
                    task.cancel.cancel()
            elif key.kind is Kind.POINT:
                if not _is_started_from(desired, CloneName(key.name)):
                    task.cancel.cancel()
            else:
                name = ImageName(key.name)
                image, started_for = desired.images.get(name), task.work.desired.images.get(name)
                if image is None or image.suspend or started_for is None or _builds_other(image, started_for):
                    task.cancel.cancel()

    def _cancel_quarantined(self, desired: Desired, observed: Observed) -> None:
        """Stop what is being made of a snapshot that must not be handed out any more."""
        manifests = (volume.manifest for volume in observed.volumes)
        known = quarantined(desired, observed, (m for m in manifests if isinstance(m, SnapshotManifest)))
        if known:
            self._classifications.cancel(known)
            self._executor.cancel(
                key for key, task in self._executor.in_flight.items() if not task.starts_from.isdisjoint(known)
            )

    def _remember(self, view: View) -> View:
        """Keep the commit as the last good one; when that fails, the pass says so and the next one tries again."""
        try:
            self._commits.remember(view.commit)
        except ReconcilerError as error:
            message = f"the commit is applied, but could not be kept as the last good one: {error}"
            return replace(view, commit=replace(view.commit, conditions=(not_ready(error.reason, message),)))
        return view

    def _report(self, view: View) -> None:
        """Write conditions and what this pass learnt; always, also after a failure, and only what changed."""
        store = self._host.store
        revision = view.commit.tree.revision if view.commit.tree is not None else None
        if view.commit.attempted is not None:
            findings = [f"{d.code} {d.file}:{d.line}: {d.summary}" for d in view.commit.diagnostics]
            store.set_attempted(Revision(view.commit.attempted), view.at, findings)
        if view.plan is not None and revision is not None:
            store.set_applied(revision, view.at)
            self._remember_looks(view, view.plan)
        conditions, self._reported = self._conditions(view), revision
        self._publisher.offer(view, conditions)
        for transition in store.write_conditions(view.at, revision, {**conditions, **self._publisher.conditions}):
            told = transition.after or transition.before
            if told is not None and told.type not in ANNOUNCED:
                store.record(Event.of_transition(transition, view.at, revision))
        self._warn(view, revision)
        self._record(view, revision)

    def _remember_looks(self, view: View, plan: Plan) -> None:
        """Keep which refreshes built nothing: because nothing changed, or because they were suspended."""
        images = view.commit.desired.images if view.commit.desired is not None else {}
        for name in plan.checked:
            self._host.store.set_refreshed(name, view.at, images[name].asked if name in images else None)
        for name in plan.skipped:
            self._host.store.set_skipped(name, view.at)

    def _warn(self, view: View, revision: Revision | None) -> None:
        """Tell once of what is going to happen."""
        for key, condition in view.plan.warnings if view.plan is not None else ():
            event = Event(
                at=view.at,
                object=key,
                severity="warning",
                reason=condition.reason,
                message=condition.message,
                revision=revision,
                metadata={"condition": condition.type, "status": condition.status},
            )
            if not self._host.store.was_told(event):
                self._host.store.record(event)

    def _report_failure(self, reason: str, message: str) -> None:
        """Say in the status that passes fail; what was said of objects stands until one succeeds."""
        store = self._host.store
        failed = {PASSES: (not_ready(reason, message), stalled(reason, message))}
        try:
            for transition in store.write_conditions(self._host.clock.now(), None, {**store.conditions(), **failed}):
                store.record(Event.of_transition(transition, self._host.clock.now(), None))
        except ReconcilerError as error:
            log.warning("the status cannot be written", error=str(error))

    def _conditions(self, view: View) -> dict[ObjectKey, tuple[Condition, ...]]:
        """Return what is to be said of every object: by planning, by the repository, and by work in flight."""
        if view.plan is None:
            known = self._host.store.conditions()
            before = {key: said for key, said in known.items() if key not in {PASSES, PUBLISHING}}
            return {**before, REPOSITORY: view.commit.conditions}
        conditions = dict(view.conditions)
        for key in self._classifications.in_flight:
            others = tuple(c for c in conditions.get(key, ()) if c.type != "Reconciling")
            conditions[key] = (*others, reconciling(PROGRESSING, "its data is looked at, to be classified"))
        for key, task in self._executor.in_flight.items():
            others = tuple(c for c in conditions.get(key, ()) if c.type != "Reconciling")
            conditions[key] = (*others, reconciling(PROGRESSING, task.progress))
        return conditions

    def _record(self, view: View, revision: Revision | None) -> None:
        """Keep passes that did something in the history."""
        if view.plan is None or not (view.plan.actions or view.plan.refused):
            return
        counts = Counter(action.verb for action in view.plan.actions)
        self._host.store.record_pass(
            PassRecord(
                revision=revision,
                started_at=view.at,
                finished_at=self._host.clock.now(),
                outcome="Refused" if view.plan.refused else "Started",
                counts=counts,
            )
        )

    def _pause(self, view: View | None) -> float:
        """Return the seconds until the next pass is due: the poll interval, or a timer before it."""
        interval = self._host.config.repository.interval.total_seconds()
        pause = interval * random.uniform(0.95, 1.05)  # noqa: S311 - jitter, so that hosts do not poll in step
        seen = view.looked if view is not None else None
        if view is not None and seen is not None and view.commit.desired is not None and view.settings is not None:
            timer = next_due(view.commit.desired, seen, view.at, settings=view.settings)
            openings = (hold.until for hold in view.plan.held) if view.plan is not None else ()
            due = min((at for at in (timer, *openings) if at is not None), default=None)
            if due is not None:
                pause = min(pause, max(0.2, (due - self._host.clock.now()).total_seconds()))
        return pause


def _told(view: View | None) -> str:
    """Say in one line how the last pass went, for the service manager."""
    if view is None:
        return "the last pass failed; see the log"
    if view.commit.tree is None:
        return "there is no good commit yet"
    unwell = len(view.unwell)
    return f"{view.commit.tree.revision} in force, {unwell or 'no'} object{'' if unwell == 1 else 's'} unwell"


def _asks_other(desired: Desired, task: Task, name: CloneName) -> bool:
    return desired.clones.get(name) != task.work.desired.clones.get(name)


def _is_started_from(desired: Desired, name: CloneName) -> bool:
    """Whether a clone starts from the one of that name, be it its name until now."""
    names = {name, *(clone.name for clone in desired.clones.values() if clone.formerly == name)}
    return any(clone.source_clone in names for clone in desired.clones.values())


def _builds_other(image: DesiredImage, before: DesiredImage) -> bool:
    """Whether a document asks for another snapshot than it did before."""
    return image.spec_digest != before.spec_digest or image.source != before.source
