"""Planning against an observation from elsewhere: for CI runners without access to the host."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.clock import SystemClock
from reconciler.commits import Commits
from reconciler.errors import ConfigError, SpecError
from reconciler.plan.diff import plan
from reconciler.plan.policy import judge
from reconciler.plan.settings import PlanSettings, PolicySettings
from reconciler.repository import open_repository
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
        settings = config.repository
        repository = open_repository(
            mirror=Path(scratch) / "repository.git", url=settings.url, branch=settings.branch, path=settings.path
        )
        commits = Commits(repository, config)
        commit = commits.at(revision) if revision else commits.newest()
        if commit.desired is None:
            raise SpecError("the commit is not valid", diagnostics=commit.diagnostics)
        now = SystemClock().now()
        planned = plan(
            commit.desired,
            seen,
            now,
            settings=PlanSettings(undo_grace=config.undo.grace, pools=frozenset(seen.pools)),
        )
        return judge(planned, commit.desired, seen, now, settings=_policy(config))


def _policy(config: Config) -> PolicySettings:
    """Return the limits of the configuration; what only the host can know (memory, abilities) is left out."""
    return PolicySettings(
        max_delete=config.prune.max_delete,
        max_delete_percent=config.prune.max_delete_percent,
        unmasked=config.masking.unmasked,
    )
