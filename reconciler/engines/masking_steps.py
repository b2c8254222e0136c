"""The steps that mask a build, in their order, whatever its engine.

Called by the engines' ``masking/run.py``, each with a build of its own.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from reconciler.state.desired import MaskerRef, Policy, Script

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reconciler.engines.base import BuildWork, MaskingWork
    from reconciler.masking.report import Masked, Sample


class Build(Protocol):
    """A build while it is masked. ``masked`` is what was done so far."""

    masked: Masked

    @property
    def databases(self) -> Sequence[str]:
        """The databases of users."""
        ...

    def apply_policies(self, policies: Sequence[Policy]) -> None:
        """Mask by all policies together."""
        ...

    def run_script(self, script: Script) -> None:
        """Run a script in the database that it names."""
        ...

    def run_masker(self, name: str) -> None:
        """Run a masking program of the host in every database."""
        ...

    def draw(self, by: str) -> tuple[Sample, ...]:
        """Return values of every column with text, before the step called ``by``, which only its author knows."""
        ...

    def gone(self, drawn: Sequence[Sample]) -> tuple[Sample, ...]:
        """Return what is left of these samples without the values that their columns still have."""
        ...


def perform(work: BuildWork, masking: MaskingWork, build: Build) -> Masked:
    """Perform the steps in their order, all policies where the first one stands; return what was done."""
    covered = False
    for step in masking.steps:
        work.cancel.check()
        match step:
            case Policy():
                if not covered:
                    covered = True
                    build.apply_policies([one for one in masking.steps if isinstance(one, Policy)])
            case Script():
                work.progress(f"running {step.origin}")
                named = [step.database] if step.database is not None else build.databases
                with _watched(build, step.origin):
                    for database in named:
                        build.run_script(replace(step, database=database))
            case MaskerRef(name=name):
                with _watched(build, name):
                    build.run_masker(name)
    return build.masked


@contextmanager
def _watched(build: Build, by: str) -> Iterator[None]:
    """Draw before a step that only its author knows, and keep what it took away from its column."""
    drawn = build.draw(by)
    yield
    gone = build.gone(drawn)
    idle = drawn and not gone
    build.masked = build.masked.added(
        samples=gone, reports=(f"{by} took away no text that was drawn before it",) if idle else ()
    )
