"""The whole of a build is masked, whichever of its databases people keep rows in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from reconciler.engines.base import MaskingWork
from reconciler.engines.postgres.masking.run import mask_cluster, scrub_cluster
from reconciler.errors import MaskingError
from reconciler.ids import PolicyName, SecretName
from reconciler.masking.assignment import Keys
from reconciler.spec.masking_policy import MaskingPolicySpec
from reconciler.state.desired import Policy, Script

from .rewriting import execute, hits, make, one

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.engines.postgres.conftest import Cluster

pytestmark = pytest.mark.postgres

TABLE = "CREATE TABLE person (a text); INSERT INTO person SELECT '0riginal' || i FROM generate_series(1, 40) i;"


@pytest.fixture
def cluster(build: Cluster) -> Iterator[Cluster]:
    """A build server with a table in its maintenance database, which other tests do not get."""
    execute(build, TABLE, "postgres")
    yield build
    execute(build, "DROP TABLE person", "postgres")


def masking(*rules: dict[str, Any], **spec: str) -> MaskingWork:
    policy = MaskingPolicySpec.model_validate({"key": {"secret": "key"}, "rules": list(rules), **spec})
    return MaskingWork((Policy(PolicyName("pii"), policy),), Keys({SecretName("key"): b"a key of many bytes"}), {})


SHOP = {"table": "public.person", "database": "shop", "columns": {"a": "hash"}}


def test_rows_in_a_maintenance_database_are_decided_about_like_others(cluster: Cluster) -> None:
    make(cluster, TABLE)
    with pytest.raises(MaskingError, match="database: postgres") as caught:
        mask_cluster(cluster.work(), masking(SHOP, unlisted="fail"), ("shop",))
    assert caught.value.reason == "MaskingUncovered"
    masked = mask_cluster(cluster.work(), masking({**SHOP, "database": "*"}, unlisted="fail"), ("shop",))
    assert [counts.database for counts in masked.tables] == ["shop", "postgres"]
    assert one(cluster, "SELECT count(*) FROM person WHERE a LIKE '0riginal%'", "postgres") == 0


def test_a_maintenance_database_without_rows_needs_no_rule(build: Cluster) -> None:
    make(build, TABLE)
    masked = mask_cluster(build.work(), masking(SHOP, unlisted="fail"), ("shop",))
    assert [counts.database for counts in masked.tables] == ["shop"]
    assert masked.reports == ()


def test_a_script_masks_where_an_image_without_databases_has_its_rows(cluster: Cluster) -> None:
    execute(cluster, "GRANT UPDATE ON person TO PUBLIC", "postgres")
    script = Script("inline", "UPDATE person SET a = 'masked'")
    mask_cluster(cluster.work(), MaskingWork((script,), Keys({}), {}), ())
    assert one(cluster, "SELECT DISTINCT a FROM person", "postgres") == "masked"


def test_a_numbered_column_that_only_an_heir_has_is_masked(build: Cluster) -> None:
    heirs = "CREATE TABLE animal (name text); CREATE TABLE dog (tag int) INHERITS (animal);"
    make(build, heirs + "INSERT INTO dog VALUES ('a', 41234);")
    rule = {"table": "public.dog", "columns": {"name": "keep", "tag": "preserve"}}
    mask_cluster(build.work(), masking(rule), ("shop",))
    assert one(build, "SELECT count(*) FROM dog WHERE tag = 41234") == 0


def test_old_rows_in_a_maintenance_database_are_scrubbed(cluster: Cluster) -> None:
    execute(cluster, "DELETE FROM person", "postgres")
    scrub_cluster(cluster.work())
    execute(cluster, "CHECKPOINT", "postgres")
    assert hits(cluster, "0riginal") == {"0riginal": []}
