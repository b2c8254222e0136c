"""What goes together: every engine on every storage with every runtime, but for what is known not to."""

from __future__ import annotations

from typing import NamedTuple, get_args

from reconciler import plugins
from reconciler.spec.config import Pool
from reconciler.spec.gaps import RUNTIME_GAPS, UNTRIED, Gap

ENGINES = plugins.names("engine")
RUNTIMES = ("process", "docker", "instance", "none")
STORAGE = tuple(name for name in get_args(Pool.model_fields["driver"].annotation) if name != "auto")


class Combination(NamedTuple):
    """An engine, a runtime, and the driver of the pool."""

    engine: str
    runtime: str
    storage: str

    @property
    def gap(self) -> Gap | None:
        """Why it is not lived through; None if it is."""
        return RUNTIME_GAPS.get((self.engine, self.runtime)) or UNTRIED.get(self.engine)


EVERY = [Combination(engine, runtime, storage) for engine in ENGINES for runtime in RUNTIMES for storage in STORAGE]
