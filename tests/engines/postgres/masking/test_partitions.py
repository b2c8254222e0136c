"""Rows whose partition key is masked move to the partition of their new value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reconciler.errors import MaskingError

from .rewriting import counts, definition, execute, hits, make, mask, one, rows

if TYPE_CHECKING:
    from tests.engines.postgres.conftest import Cluster

pytestmark = pytest.mark.postgres

TREE = """
CREATE FUNCTION boom() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'fired'; END $$;
CREATE TABLE sale (id int, at date, secret text, size text GENERATED ALWAYS AS (length(secret) || secret) STORED,
    kind text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE sale_a (gone text, kind text, secret text, id int NOT NULL, at date NOT NULL,
    size text GENERATED ALWAYS AS (length(secret) || secret) STORED);
ALTER TABLE sale_a DROP COLUMN gone;
ALTER TABLE sale ATTACH PARTITION sale_a FOR VALUES FROM ('2000-01-01') TO ('2001-01-01');
CREATE TABLE sale_b PARTITION OF sale FOR VALUES FROM ('2001-01-01') TO ('2002-01-01') PARTITION BY HASH (id);
CREATE TABLE sale_b0 PARTITION OF sale_b FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE UNLOGGED TABLE sale_b1 PARTITION OF sale_b FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE sale_rest PARTITION OF sale DEFAULT PARTITION BY RANGE (id);
CREATE TABLE sale_rest_x PARTITION OF sale_rest FOR VALUES FROM (MINVALUE) TO (1000);
CREATE TABLE sale_rest_more PARTITION OF sale_rest DEFAULT;
CREATE INDEX sale_secret ON sale (secret);
INSERT INTO sale (id, at, secret, kind)
SELECT i, date '2000-01-01' + i, '0riginal' || i, CASE i % 3 WHEN 0 THEN 'x' WHEN 1 THEN 'y' END
FROM generate_series(1, 1200) i;
CREATE TRIGGER t BEFORE INSERT OR UPDATE ON sale FOR EACH ROW EXECUTE FUNCTION boom();
ALTER TABLE sale ENABLE ALWAYS TRIGGER t;
CREATE TABLE refund (sale int, at date, FOREIGN KEY (sale, at) REFERENCES sale);
INSERT INTO refund SELECT id, at FROM sale;
"""
LEAVES = ("sale_a", "sale_b0", "sale_b1", "sale_rest_x", "sale_rest_more")
MOVED = {f"public.{leaf}": {"at": "t.at + 300", "secret": "md5(t.secret)"} for leaf in LEAVES}


def test_rows_move_and_everything_around_them_stays(cluster: Cluster) -> None:
    make(cluster, TREE)
    before = definition(cluster)
    expected = rows(cluster, "SELECT id, at + 300, md5(secret), 32 || md5(secret), kind FROM sale ORDER BY id")
    found = mask(cluster, MOVED | {"public.refund": {"at": "t.at + 300"}})
    assert rows(cluster, "SELECT id, at, secret, size, kind FROM sale ORDER BY id") == expected
    where = dict(rows(cluster, "SELECT id, tableoid::regclass::text FROM sale"))
    assert (where[1], where[800], where[1100]) == ("sale_a", "sale_rest_x", "sale_rest_more")
    assert set(where.values()) == set(LEAVES)
    assert definition(cluster) == before
    assert counts(found)["public.sale_a.secret"] == (365, 365, 0, 0)
    assert one(cluster, "SELECT count(*) FROM sale WHERE secret = md5('0riginal7')") == 1
    execute(cluster, "CHECKPOINT")
    assert hits(cluster, "0riginal") == {"0riginal": []}


def test_each_row_is_where_the_server_itself_would_put_it(cluster: Cluster) -> None:
    make(cluster, TREE)
    mask(cluster, MOVED | {"public.refund": {"at": "t.at + 300"}})
    placed = dict(rows(cluster, "SELECT id, tableoid::regclass::text FROM sale"))
    execute(
        cluster,
        """ALTER TABLE sale DISABLE TRIGGER t; CREATE TABLE copy AS SELECT id, at, secret, kind FROM sale;
        DELETE FROM refund; DELETE FROM sale; INSERT INTO sale (id, at, secret, kind) SELECT * FROM copy""",
    )
    assert dict(rows(cluster, "SELECT id, tableoid::regclass::text FROM sale")) == placed


def test_a_value_without_a_partition_is_an_error(cluster: Cluster) -> None:
    make(
        cluster,
        "CREATE TABLE p (a int, b text) PARTITION BY LIST (a); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1, 2)",
    )
    execute(cluster, "INSERT INTO p VALUES (1, 'secret'), (2, 'secret')")
    message = "database shop: 1 rows of public.p have a masked partition key for which there is no partition"
    with pytest.raises(MaskingError, match=message):
        mask(cluster, {"public.p1": {"a": "t.a + 1"}})


def test_partitions_that_no_rule_names_receive_rows(cluster: Cluster) -> None:
    make(
        cluster,
        """CREATE TABLE p (a int, b text) PARTITION BY LIST (a);
        CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2)""",
    )
    execute(cluster, "INSERT INTO p VALUES (1, 'one'), (2, 'two')")
    assert counts(mask(cluster, {"public.p1": {"a": "t.a + 1"}})) == {"public.p1.a": (1, 1, 0, 0)}
    assert rows(cluster, "SELECT tableoid::regclass::text, b FROM p ORDER BY b") == [("p2", "one"), ("p2", "two")]
