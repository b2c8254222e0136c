"""One look of the loop, as a value: the commit in force, what exists, and the plan between them.

Made by the loop; read by whoever shows, answers or reports a pass.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from reconciler.plan.policy import is_approved
from reconciler.state.conditions import REPOSITORY, is_pending

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from reconciler.commits import Commit
    from reconciler.plan.actions import Plan
    from reconciler.plan.settings import PlanSettings, PolicySettings
    from reconciler.state.conditions import Condition, ObjectKey
    from reconciler.state.observed import Observed


@dataclass(frozen=True, slots=True)
class View:
    """One look; without a good commit there is neither observation nor plan, nor the settings that it was made by."""

    commit: Commit
    observed: Observed | None
    plan: Plan | None
    at: datetime
    settings: PlanSettings | None = None
    policy: PolicySettings | None = None

    @property
    def approved(self) -> bool:
        """Whether somebody approved this plan, or whatever plan there is."""
        if self.plan is None or self.observed is None:
            return False
        return is_approved(self.plan, self.observed, self.at)

    @property
    def looked(self) -> Observed | None:
        """What exists, with the looks at sources that this pass itself took: the next one is due after these."""
        if self.plan is None or self.observed is None or not (self.plan.checked or self.plan.skipped):
            return self.observed
        refreshed = {**self.observed.refreshed, **dict.fromkeys(self.plan.checked, self.at)}
        skipped = {**self.observed.skipped, **dict.fromkeys(self.plan.skipped, self.at)}
        return replace(self.observed, refreshed=refreshed, skipped=skipped)

    @property
    def conditions(self) -> Mapping[ObjectKey, tuple[Condition, ...]]:
        """What planning says of every object, and of the repository besides what is said of its newest commit."""
        planned = self.plan.conditions if self.plan is not None else {}
        return {**planned, REPOSITORY: (*self.commit.conditions, *planned.get(REPOSITORY, ()))}

    @property
    def unwell(self) -> Mapping[ObjectKey, str]:
        """What is not as the newest commit asks for: stalled, unknown, or failing and waiting for another try.

        The commit itself as well, where another one is in force.
        """
        if self.plan is None or self.observed is None:
            return {}
        failing = self.observed.failures.keys() - {action.key for action in self.plan.actions}
        said = {REPOSITORY: (), **dict(sorted(self.conditions.items()))}
        told = {
            key: "; ".join(dict.fromkeys(c.message or c.reason for c in known if _is_bad(c, failing=key in failing)))
            for key, known in said.items()
        }
        return {key: message for key, message in told.items() if message}


def together(told: Mapping[ObjectKey, str]) -> Mapping[str, list[str]]:
    """Return each message once, with the names of those it is told of."""
    names: dict[str, list[str]] = {}
    for key, message in told.items():
        names.setdefault(message, []).append(str(key))
    return names


def _is_bad(condition: Condition, *, failing: bool) -> bool:
    return is_pending(condition) and (condition.type != "Reconciling" or failing)
