"""Masking of one build, from the first look at its tables to what has to be proved of it.

Called by the session. It puts the other modules in their order; decisions are made by
:mod:`reconciler.masking.coverage`, values by :mod:`.expressions` and :mod:`.computed`, rows
by :mod:`.rewrite`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.engines import masking_steps
from reconciler.engines.mysql import scripts, server
from reconciler.engines.mysql.masking import external, keys, rewrite, sample, unruled
from reconciler.engines.mysql.masking.introspect import read_schema
from reconciler.errors import MaskingError
from reconciler.masking import keyed
from reconciler.masking.classify.proposal import look_personal
from reconciler.masking.coverage import cover
from reconciler.masking.report import Masked, idle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconciler.engines.base import BuildWork, MaskingWork
    from reconciler.engines.mysql.link import Link
    from reconciler.engines.mysql.product import Product
    from reconciler.masking.assignment import DatabaseMasking
    from reconciler.masking.report import Sample
    from reconciler.masking.schema import DatabaseSchema
    from reconciler.state.desired import Policy, Script


def mask_server(work: BuildWork, product: Product, masking: MaskingWork) -> Masked:
    """Mask the databases of a build; the steps in their order, all policies where the first one stands.

    Raises:
        MaskingError: the policies do not fit the schema (before anything is written), or
            the server or a masker refused.
        ScriptError: a script of a step failed.

    """
    return masking_steps.perform(work, masking, _Build(work, product, masking))


class _Build:
    """A build while it is masked."""

    def __init__(self, work: BuildWork, product: Product, masking: MaskingWork) -> None:
        self._work, self._product, self._masking = work, product, masking
        with server.connect(work) as admin:
            self.databases = server.user_databases(admin)
        if keys.SCHEMA in self.databases:
            raise MaskingError(
                f"there is a database {keys.SCHEMA}, a name that masking needs for its own",
                hint=f"move its tables, and DROP DATABASE {keys.SCHEMA}, in a script that runs before masking",
                reason="MaskingUncovered",
            )
        traces = (keyed.traces(key) for key in masking.keys.values.values())
        self.masked = Masked(traces=frozenset().union(*traces))

    def apply_policies(self, policies: Sequence[Policy]) -> None:
        covers = cover(policies, schemas := self._schemas())
        with keys.as_owner(self._work, self._product) as owner:
            drawn = [self._draw(owner, covered) for covered in covers]
            every = [one for samples in drawn for one in samples]
            left_out = {}
            for covered in covers:
                left_out.update(sample.left_out(owner, covered, every))
        counts = rewrite.mask_databases(self._work, self._product, covers, self._masking.keys)
        with keys.connected(self._work) as link:
            for covered in covers:
                every = list(sample.with_controls(link, covered, every))
        pairs = zip(schemas, covers, strict=True)
        told = [text for schema, one in pairs for text in (*one.reports, *look_personal(schema, one))]
        kept = frozenset((one.database, table, column) for one in covers for table, column in one.kept)
        self.masked = self.masked.added(counts, tuple(every), (*told, *idle(counts)), kept=kept, left_out=left_out)

    def run_script(self, script: Script) -> None:
        scripts.run_script(self._work, self._product, script)

    def run_masker(self, name: str) -> None:
        external.run_masker(self._work, self._product, name, self._masking.maskers[name], self.databases)

    def draw(self, by: str) -> tuple[Sample, ...]:
        with keys.connected(self._work) as link:
            return tuple(one for schema in self._schemas() for one in unruled.draw(link, schema, by))

    def gone(self, drawn: Sequence[Sample]) -> tuple[Sample, ...]:
        with keys.connected(self._work) as link:
            return unruled.gone(link, drawn)

    def _schemas(self) -> list[DatabaseSchema]:
        with server.connect(self._work) as admin:
            return [read_schema(admin, database) for database in self.databases]

    def _draw(self, owner: Link, masking: DatabaseMasking) -> tuple[Sample, ...]:
        self._work.progress(f"drawing originals of {masking.database}")
        return sample.draw(owner, masking)
