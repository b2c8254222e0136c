"""A build server of MariaDB on which databases are made, masked, looked at and dropped, one after the other."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reconciler.engines.base import MaskingWork
from reconciler.engines.mysql import accounts, server
from reconciler.engines.mysql.masking import run
from reconciler.engines.mysql.product import MARIADB
from reconciler.ids import PolicyName, SecretName
from reconciler.masking.assignment import Keys
from reconciler.masking.report import Masked
from reconciler.spec.masking_policy import MaskingPolicySpec
from reconciler.state.desired import Policy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from reconciler.engines.base import BuildWork
    from reconciler.state.desired import MaskingStep
    from tests.engines.mysql.conftest import MariaDbHarness

KEY = b"correct horse battery staple, and more"
_LEFT = "DROP DATABASE IF EXISTS reconciler_masking"
"""Of masking that failed."""
KEYS = Keys({SecretName("key"): KEY})


def policy(rules: Mapping[str, Mapping[str, Any]], *, when: str | None = None, **more: Any) -> Policy:  # noqa: ANN401 - as YAML
    """Return a policy from its rules, by table of the database ``shop``; ``when`` is the condition of all of them."""
    condition = {} if when is None else {"when": when}
    listed = [{"table": f"shop.{table}", "columns": dict(columns), **condition} for table, columns in rules.items()]
    spec = {"key": {"secret": "key"}, "rules": listed, **more}
    return Policy(PolicyName("pii"), MaskingPolicySpec.model_validate(spec))


@dataclass(frozen=True)
class Done:
    """The database ``shop`` after it was masked."""

    work: BuildWork
    masked: Masked

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with server.connect(self.work, "shop") as admin:
            return admin.rows(query)

    def counts(self, table: str, column: str) -> tuple[int, int, int, int]:
        """Return rows, selected, nulls, equal."""
        (found,) = (
            one for t in self.masked.tables for one in t.columns if (t.table.name, one.column) == (table, column)
        )
        return found.rows, found.selected, found.nulls, found.equal


class Masking:
    """Masks the database ``shop`` of a server that stays."""

    def __init__(self, work: BuildWork) -> None:
        self.work = work

    def make(self, statements: Sequence[str]) -> Done:
        """Make the database anew with some SQL."""
        with server.connect(self.work) as admin:
            for statement in (_LEFT, "DROP DATABASE IF EXISTS shop", "CREATE DATABASE shop", "USE shop", *statements):
                admin.rows(statement)
        return Done(self.work, Masked())

    def __call__(self, statements: Sequence[str], *steps: MaskingStep) -> Done:
        """Make the database anew with some SQL, and mask it."""
        self.make(statements)
        return Done(self.work, run.mask_server(self.work, MARIADB, MaskingWork(tuple(steps), KEYS, {})))


@contextmanager
def masking_on(harness: MariaDbHarness) -> Iterator[Masking]:
    """Have a build server to mask on for a while."""
    work = harness.build_work()
    harness.engine.prepare(work)
    with harness.serving(harness.engine.build_server(work)):
        with server.connect(work) as admin:
            accounts.ensure_owner(admin, MARIADB)
        yield Masking(work)
