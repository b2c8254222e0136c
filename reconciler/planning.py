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
from reconciler.published import HostFacts, read_published
from reconciler.state.conditions import REPOSITORY

if TYPE_CHECKING:
    from reconciler.plan.actions import Plan
    from reconciler.plan.settings import PlanSettings, PolicySettings
    from reconciler.spec.config import Config
    from reconciler.state.desired import Desired
    from reconciler.state.observed import Observed

_NOT_ASKED = "not-asked"
"""Stands for the fingerprint of a secret that no document named when the status was published."""


def plan_from_file(config: Config, observed: Path, revision: str | None) -> Plan:
    """Return the plan between the configured repository and a host's status, published or ``status -o json``.

    Raises:
        ConfigError: the file is not one.
        SpecError: the commit is invalid (carries the diagnostics).

    """
    seen, facts = read_published(_read(observed))
    return _plan(config, seen, facts, revision)


def plan_directory(directory: Path, observed: Path) -> Plan:
    """Return the plan between the specs of a checkout and a host's status, judged as that host would.

    With one of an earlier version, which says nothing of what its host allows, the defaults count.

    Raises:
        ConfigError: the file is not one, or there is no such directory.
        SpecError: the specs are invalid (carries the diagnostics).

    """
    seen, facts = read_published(_read(observed))
    specs = directory / facts.path if facts is not None else directory
    if not specs.is_dir():
        raise ConfigError(f"{specs} is not a directory", hint="name the root of the checkout")
    return _plan(_config(facts, specs), seen, facts, None)


def _read(observed: Path) -> bytes:
    try:
        return observed.read_bytes()
    except OSError as error:
        raise ConfigError(f"{observed} cannot be read: {error.strerror}") from error


def _config(facts: HostFacts | None, specs: Path) -> Config:
    """Return the configuration that a status was published with, for specs in a directory of this machine."""
    from pydantic import ValidationError  # noqa: PLC0415 - only this command needs them

    from reconciler.spec.config import Config  # noqa: PLC0415 - see above

    document = dict(facts.config) if facts is not None else {}
    repository = {**document.get("repository", {}), "path": str(specs.absolute())}
    try:
        return Config.model_validate({**document, "repository": repository}, context={"base": Path("/")})
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise ConfigError(
            f"the published status cannot be read: {'.'.join(map(str, first['loc']))}: {first['msg']}",
            hint="plan with the version of the reconciler that published it",
        ) from error


def _plan(config: Config, seen: Observed, facts: HostFacts | None, revision: str | None) -> Plan:
    with tempfile.TemporaryDirectory(prefix="reconciler-plan-") as scratch:
        repository = configured_repository(config, Path(scratch) / "repository.git", secret_store(config))
        commits = Commits(repository, config)
        commit = commits.at(revision) if revision else commits.newest()
        if commit.desired is None:
            why = "; ".join(condition.message for condition in commit.conditions if condition.type == "Stalled")
            raise SpecError(why or "the commit is not valid", diagnostics=commit.diagnostics)
        now = SystemClock().now()
        seen = _with_new_secrets(seen, commit.desired, facts)
        planned = plan(commit.desired, seen, now, settings=_plan_settings(config, seen, facts))
        if commit.unverified:
            planned = replace(planned, conditions={**planned.conditions, REPOSITORY: commit.conditions})
        return judge(planned, commit.desired, seen, now, settings=_policy_settings(config, facts))


def _with_new_secrets(seen: Observed, desired: Desired, facts: HostFacts | None) -> Observed:
    """Take secrets that nobody named before for existing: the host is asked for them once documents name them."""
    if facts is None or facts.missing is None:
        return seen
    new = desired.secrets - seen.secrets.keys() - facts.missing
    return replace(seen, secrets={**seen.secrets, **dict.fromkeys(new, _NOT_ASKED)})


def _plan_settings(config: Config, seen: Observed, facts: HostFacts | None) -> PlanSettings:
    if facts is None:
        return plan_settings(config, pools=frozenset(seen.pools), runtimes=None)
    runtimes = None if facts.runtimes is None else frozenset(facts.runtimes)
    settings = plan_settings(config, pools=facts.pools | seen.pools.keys(), runtimes=runtimes)
    attestation = replace(settings.attestation, trusted=facts.trusted)
    return replace(settings, attestation=attestation, write_back=facts.write_back)


def _policy_settings(config: Config, facts: HostFacts | None) -> PolicySettings:
    settings = policy_settings(config)
    if facts is None:
        return settings
    return replace(
        settings,
        memory_limit=facts.memory_limit,
        runtimes=facts.runtimes or {},
        sizes=facts.sizes,
        attestation=replace(settings.attestation, trusted=facts.trusted),
    )
