"""Planning against an observation from elsewhere: for CI runners without access to the host."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.clock import SystemClock
from reconciler.commits import Commits
from reconciler.errors import ConfigError, SpecError
from reconciler.host import configured_repository, plan_settings, policy_settings, secret_store
from reconciler.plan.diff import plan
from reconciler.plan.policy import judge
from reconciler.state.conditions import REPOSITORY
from reconciler.status.observation import observed_from_json

if TYPE_CHECKING:
    from reconciler.plan.actions import Plan
    from reconciler.spec.config import Config


def plan_from_file(config: Config, observed: Path, revision: str | None) -> Plan:
    """Return the plan between the configured repository and a host's ``status -o json``.

    Raises:
        ConfigError: the file is not one.
        SpecError: the commit is invalid (carries the diagnostics).

    """
    try:
        seen = observed_from_json(observed.read_bytes())
    except OSError as error:
        raise ConfigError(f"{observed} cannot be read: {error.strerror}") from error
    with tempfile.TemporaryDirectory(prefix="reconciler-plan-") as scratch:
        repository = configured_repository(config, Path(scratch) / "repository.git", secret_store(config))
        commits = Commits(repository, config)
        commit = commits.at(revision) if revision else commits.newest()
        if commit.desired is None:
            why = "; ".join(condition.message for condition in commit.conditions if condition.type == "Stalled")
            raise SpecError(why or "the commit is not valid", diagnostics=commit.diagnostics)
        now = SystemClock().now()
        settings = plan_settings(config, pools=frozenset(seen.pools), runtimes=None)
        planned = plan(commit.desired, seen, now, settings=settings)
        if commit.unverified:
            planned = replace(planned, conditions={**planned.conditions, REPOSITORY: commit.conditions})
        return judge(planned, commit.desired, seen, now, settings=policy_settings(config))
