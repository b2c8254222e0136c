"""A database that is masked by hand, for the tests of the proofs: they must not depend on how it is done."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reconciler.engines.postgres import server, settle
from reconciler.engines.postgres.masking import conditions, sample
from reconciler.engines.postgres.masking.introspect import read_schema
from reconciler.engines.postgres.masking.prove import prove
from reconciler.ids import PolicyName
from reconciler.masking.coverage import cover
from reconciler.masking.report import ColumnCounts, Masked, TableCounts
from reconciler.masking.vocabulary import name_of
from reconciler.spec.masking_policy import MaskingPolicySpec
from reconciler.state.desired import Policy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from reconciler.engines.base import BuildWork
    from reconciler.masking.assignment import DatabaseMasking
    from reconciler.masking.evidence import Evidence
    from reconciler.masking.report import Place, Sample
    from tests.engines.postgres.conftest import Cluster

CUSTOMERS = """
CREATE TABLE customer (id int PRIMARY KEY, email text, phone text, city text, born date, notes text);
ALTER TABLE customer ALTER notes SET STORAGE EXTERNAL;
INSERT INTO customer SELECT n, 'zq7mail' || md5(n::text) || '@corp.invalid', '+49 170 ' || 10000000 + n * 31,
    'zq7city' || n % 20, date '1960-01-01' + n, 'zq7note' || md5(n::text) || repeat(md5(n::text || 'x'), 100)
FROM generate_series(1, 900) n;
CREATE INDEX ON customer (email);
ANALYZE customer;
"""
RULES: dict[str, Any] = {
    "id": "keep",
    "email": "email",
    "phone": "preserve",
    "city": {"fake": "city"},
    "born": "null",
    "notes": "hash",
}
MASK = """
CREATE TABLE staged AS SELECT id, 'u-' || left(md5(email || 'k'), 16) || '@example.com' AS email,
    '+49 170 ' || 80000000 + id AS phone, 'New Town ' || id % 7 AS city, NULL::date AS born, md5(notes || 'k') AS notes
FROM customer;
TRUNCATE customer;
INSERT INTO customer SELECT * FROM staged;
DROP TABLE staged;
"""
"""A rewrite that leaves nothing behind."""


@dataclass(frozen=True, slots=True)
class Shop:
    """The database ``shop`` of a build server, and what is to be masked in it."""

    cluster: Cluster
    masking: DatabaseMasking
    samples: tuple[Sample, ...]
    left_out: Mapping[Place, frozenset[str]] = field(default_factory=dict)

    @property
    def work(self) -> BuildWork:
        return self.cluster.work()

    @property
    def volume(self) -> Path:
        return self.work.directory

    def run(self, statements: str) -> None:
        run(self.cluster, statements)

    def masked(self, *, equal: int = 0) -> Masked:
        """Return what masking would say now, with controls drawn; ``equal`` values of each column were as before."""
        with server.connect(self.work, "shop") as conn:
            samples = sample.with_controls(conn, self.masking, self.samples)
            tables = tuple(
                TableCounts(
                    "shop",
                    table.name,
                    tuple(
                        ColumnCounts(
                            column=one.column.name, method=name_of(one.method), policy="pii", rows=900, selected=900,
                            nulls=0, equal=equal,
                        )
                        for one in table.columns
                    ),
                )
                for table in self.masking.tables
            )  # fmt: skip
        kept = frozenset(("shop", *cell) for cell in self.masking.kept)
        return Masked(tables, samples, kept=kept, left_out=self.left_out)

    def settled(self) -> Shop:
        settle.settle_cluster(self.work, self.cluster.programs)
        return self

    def proved(self) -> Evidence:
        return prove(self.work, self.masked())


def run(cluster: Cluster, statements: str) -> None:
    cluster.tool("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", database="shop", stdin=statements.encode())


def masking_of(cluster: Cluster, *rules: dict[str, Any], unlisted: str = "report") -> DatabaseMasking:
    spec = {"key": {"secret": "masking-key"}, "unlisted": unlisted, "rules": list(rules)}
    with server.connect(cluster.work(), "shop") as conn:
        schema = read_schema(conn, "shop")
    (found,) = cover([Policy(PolicyName("pii"), MaskingPolicySpec.model_validate(spec))], [schema])
    return found


def make_database(cluster: Cluster, statements: str, options: str = "") -> None:
    cluster.tool("psql", "-X", "-q", "-c", f"CREATE DATABASE shop {options}")
    run(cluster, statements)


def make_shop(
    cluster: Cluster,
    statements: str = CUSTOMERS,
    *,
    when: str | None = None,
    **changes: Any,  # noqa: ANN401 - methods of policies
) -> Shop:
    """Make the database and draw originals; ``changes`` are other rules for columns."""
    make_database(cluster, statements)
    condition = {} if when is None else {"when": when}
    masking = masking_of(cluster, {"table": "public.customer", "columns": {**RULES, **changes}, **condition})
    with server.connect(cluster.work(), "shop") as conn:
        samples = sample.draw(conn, masking)
        return Shop(cluster, masking, samples, conditions.left_out(conn, masking, samples))


@contextmanager
def at_most(megabytes: int) -> Iterator[None]:
    """Fail when this process takes so much more memory meanwhile, be it only for a moment."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _memory("VmRSS")
    yield
    assert _memory("VmHWM") - before <= megabytes * 1000


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])
