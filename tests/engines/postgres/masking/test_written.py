"""What scripts deleted or changed, and large objects, are not left in any file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reconciler.engines.postgres import server

from .rewriting import execute, hits, make, mask, one, rows, scrub

if TYPE_CHECKING:
    from tests.engines.postgres.conftest import Cluster

pytestmark = pytest.mark.postgres


MARKERS = ("0deleted", "0updated", "0rolledback", "0toasted", "0viewed")


def test_old_rows_of_tables_without_rules_are_gone(cluster: Cluster) -> None:
    statements = """
    CREATE TABLE d (id int, a text); CREATE TABLE u (id int PRIMARY KEY, a text); CREATE TABLE r (a text);
    CREATE TABLE b (id int, a text);
    ALTER TABLE b ALTER a SET STORAGE EXTERNAL;
    CREATE TABLE loaded (a text); INSERT INTO loaded VALUES ('kept');
    INSERT INTO d SELECT i, '0deleted' FROM generate_series(1, 100) i;
    INSERT INTO u SELECT i, '0updated' FROM generate_series(1, 100) i;
    INSERT INTO b VALUES (1, repeat('0toasted', 2000)); INSERT INTO r VALUES ('kept');
    CREATE MATERIALIZED VIEW v AS SELECT id, a || '0viewed' AS a FROM d; CREATE UNIQUE INDEX ON v (id);
    """
    make(cluster, statements)
    execute(
        cluster,
        "DELETE FROM d; UPDATE u SET a = 'new'; UPDATE b SET a = 'new';"
        "BEGIN; INSERT INTO r VALUES ('0rolledback'); ROLLBACK;",
    )
    execute(cluster, "REFRESH MATERIALIZED VIEW CONCURRENTLY v; CHECKPOINT;")
    assert all(hits(cluster, *MARKERS).values())
    before = one(cluster, "SELECT relfilenode FROM pg_class WHERE relname = 'loaded'")
    scrub(cluster)
    assert hits(cluster, *MARKERS) == {word: [] for word in MARKERS}
    assert one(cluster, "SELECT relfilenode FROM pg_class WHERE relname = 'loaded'") == before
    assert rows(cluster, "SELECT count(*), min(a) FROM u UNION ALL SELECT count(*), min(a) FROM b") == [
        (100, "new"),
        (1, "new"),
    ]


def test_scrubbing_needs_no_builder(cluster: Cluster) -> None:
    make(
        cluster,
        "CREATE TABLE d (a text); INSERT INTO d VALUES ('0deleted'), ('kept'); DELETE FROM d WHERE a = '0deleted'",
    )
    server.retire_builder(cluster.work())
    assert scrub(cluster) == ["rewriting public.d"]
    assert hits(cluster, "0deleted") == {"0deleted": []}


def test_tables_that_masking_rewrote_are_not_rewritten_again(cluster: Cluster) -> None:
    make(cluster, "CREATE TABLE t (a text); INSERT INTO t VALUES ('a'), ('b'); UPDATE t SET a = a || 'x'")
    execute(cluster, "CREATE MATERIALIZED VIEW v AS SELECT a FROM t; CREATE UNIQUE INDEX ON v (a)")
    execute(cluster, "UPDATE t SET a = a || 'y'")
    execute(cluster, "REFRESH MATERIALIZED VIEW CONCURRENTLY v")
    mask(cluster, {"public.t": {"a": "md5(t.a)"}})
    assert scrub(cluster) == []


def test_tables_that_masking_rewrote_are_rewritten_again_if_a_script_writes_afterwards(cluster: Cluster) -> None:
    make(cluster, "CREATE TABLE t (a text); INSERT INTO t VALUES ('0riginal')")
    mask(cluster, {"public.t": {"a": "'0' || 'updated'"}})
    execute(cluster, "UPDATE t SET a = 'new'")
    assert scrub(cluster) == ["rewriting public.t"]
    assert hits(cluster, "0updated") == {"0updated": []}


def test_large_objects_are_removed_if_the_policy_says_so(cluster: Cluster) -> None:
    make(
        cluster,
        "SELECT count(lo_from_bytea(0, convert_to('0riginal' || i, 'UTF8'))) FROM generate_series(1, 2500) i;"
        "CHECKPOINT;",
    )
    assert hits(cluster, "0riginal")["0riginal"]
    mask(cluster, {})
    assert one(cluster, "SELECT count(*) FROM pg_largeobject_metadata") == 2500
    mask(cluster, {}, large=True)
    execute(cluster, "CHECKPOINT")
    assert hits(cluster, "0riginal") == {"0riginal": []}
    assert one(cluster, "SELECT count(*) FROM pg_largeobject_metadata") == 0


def test_large_objects_that_a_script_removed_are_gone(cluster: Cluster) -> None:
    make(cluster, "SELECT lo_from_bytea(4711, '0riginal'), lo_from_bytea(4712, 'kept')")
    execute(cluster, "SELECT lo_unlink(4711); CHECKPOINT;")
    assert hits(cluster, "0riginal")["0riginal"]
    scrub(cluster)
    assert hits(cluster, "0riginal") == {"0riginal": []}
    assert one(cluster, "SELECT convert_from(lo_get(4712), 'UTF8')") == "kept"


def test_conditions_of_policies_are_not_left_in_a_catalog(cluster: Cluster) -> None:
    make(cluster, "CREATE TABLE t (a text); INSERT INTO t VALUES ('0riginal')")
    mask(cluster, {"public.t": {"a": ("'x'", "a = '0riginal'")}})
    execute(cluster, "CHECKPOINT")
    constant = " ".join(str(byte) for byte in b"0riginal")
    assert hits(cluster, constant, "0riginal") == {constant: [], "0riginal": []}
