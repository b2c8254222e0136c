"""A harness for each test: nothing of it is slow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.engines.base import MaskingWork
from reconciler.engines.sqlite.databases import file_of
from reconciler.ids import PolicyName, SecretName
from reconciler.masking import leaks
from reconciler.masking.assignment import Keys
from reconciler.spec.masking_policy import MaskingPolicySpec
from reconciler.state.desired import Policy, Script
from tests.engines.sqlite.harness import SqliteHarness, files_of, made

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from reconciler.masking.report import Masked
    from reconciler.state.desired import MaskingStep

KEY = b"correct horse battery staple, and more"


@pytest.fixture
def sqlite(tmp_path: Path) -> SqliteHarness:
    """SQLite in a directory of its own."""
    return SqliteHarness(tmp_path)


def policy(rules: Mapping[str, Mapping[str, Any]], *, when: str | None = None, **more: Any) -> Policy:  # noqa: ANN401 - as YAML
    """Return a policy from its rules, by table of the schema ``main``; ``when`` is the condition of all of them."""
    condition = {} if when is None else {"when": when}
    listed = [{"table": f"main.{table}", "columns": dict(columns), **condition} for table, columns in rules.items()]
    spec = {"key": {"secret": "key"}, "rules": listed, **more}
    return Policy(PolicyName("pii"), MaskingPolicySpec.model_validate(spec))


@dataclass(frozen=True)
class Done:
    """A database that was masked and proved, and what was told of it."""

    path: Path
    masked: Masked

    def counts(self, table: str, column: str) -> tuple[int, int, int, int]:
        """Return rows, selected, nulls, equal."""
        (found,) = (
            one for t in self.masked.tables for one in t.columns if (t.table.name, one.column) == (table, column)
        )
        return found.rows, found.selected, found.nulls, found.equal


@dataclass(frozen=True)
class Masking:
    """Masks databases as a build does, from the copy to the scan of the files."""

    sqlite: SqliteHarness
    root: Path

    def __call__(self, sql: str, *steps: MaskingStep, script: str = "", key: bytes = KEY) -> Done:
        """Make a database with ``sql`` and mask it."""
        path = self.root / "shop.db"
        path.unlink(missing_ok=True)
        return self.of(made(path, sql), *steps, script=script, key=key)

    def of(self, path: Path, *steps: MaskingStep, script: str = "", key: bytes = KEY) -> Done:
        """Mask a copy of the database at ``path``."""
        work = self.sqlite.build_work(source=files_of(path), databases=("shop",))
        self.sqlite.engine.prepare(work)
        with self.sqlite.engine.session(work) as session:
            session.restore()
            session.keep_databases()
            if script:
                session.run(Script("before.sql", script))
            masked = session.mask(MaskingWork(tuple(steps), Keys({SecretName("key"): key}), {}))
            session.isolate()
            session.settle()
            evidence = session.prove(masked)
        self.sqlite.engine.finish(work)
        scanned = leaks.scan(work.directory, masked.samples, earlier=evidence.scan, matcher=evidence.matcher)
        leaks.judge(scanned, evidence.accepted)
        return Done(file_of(work.directory, "shop"), masked)


@pytest.fixture
def mask(sqlite: SqliteHarness, tmp_path: Path) -> Masking:
    """What masks a database from its SQL."""
    return Masking(sqlite, tmp_path)
