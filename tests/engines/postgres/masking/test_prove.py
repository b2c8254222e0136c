"""What is left of an original is found, wherever it lies; what lies there rightly is not taken for it."""

from __future__ import annotations

import hashlib
import logging
import re
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.engines.postgres import server
from reconciler.engines.postgres.masking import streams
from reconciler.engines.postgres.masking.prove import prove
from reconciler.errors import MaskingError
from reconciler.masking import leaks, reasons
from reconciler.masking.matcher import Matcher
from reconciler.masking.schema import TableName
from reconciler.spec.masking_policy import Sql
from tests.masking.originals import masked_column, sample_of
from tests.support import OLDER_MAJOR

from .masked_database import CUSTOMERS, MASK, RULES, at_most, make_database, make_shop, masking_of, run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.engines.postgres.conftest import Cluster

    from .masked_database import Shop

pytestmark = pytest.mark.postgres


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Cluster:
    """A build server, of the newest version unless a test asks for ``every_version``."""
    major = getattr(request, "param", "18")
    found: Cluster = request.getfixturevalue({OLDER_MAJOR: "build_older", "18": "build"}[major])
    return found


every_version = pytest.mark.parametrize("cluster", [OLDER_MAJOR, "18"], indirect=True)


def relation_of(shop: Shop, path: str) -> str:
    """Return the name of the relation that a file belongs to."""
    match = re.fullmatch(r"data/base/\d+/(\d+).*", path)
    if match is None:
        return path
    ((name,),) = shop.cluster.query("shop", f"SELECT pg_filenode_relation(0, {match[1]})::regclass::text")
    return str(name)


def places(shop: Shop) -> dict[str, set[str]]:
    """Return the relations in whose files originals lie, by column."""
    shop.run("CHECKPOINT")
    scanned = leaks.scan(shop.volume, shop.samples, running=True)
    return {
        sample.masking.column.name: {relation_of(shop, hit.path) for hit in column.hits}
        for sample, column in zip(shop.samples, scanned.columns, strict=True)
    }


def leak(shop: Shop) -> str:
    with pytest.raises(MaskingError) as caught:
        shop.proved()
    assert caught.value.reason == "MaskingLeak"
    return str(caught.value)


# -- the scan sees what is there -------------------------------------------------------------


@every_version
def test_originals_are_found_in_every_file_of_an_unmasked_source(cluster: Cluster) -> None:
    shop = make_shop(cluster)
    found = places(shop)
    ((toast,),) = cluster.query("shop", "SELECT reltoastrelid::regclass FROM pg_class WHERE relname = 'customer'")
    assert found["email"] >= {"customer", "customer_email_idx"}
    assert found["city"] >= {"customer", "pg_statistic"}
    assert {str(toast)} <= found["notes"]
    assert any(place.startswith("data/pg_wal/") for place in found["email"])
    assert found["born"] == set()


@every_version
def test_originals_are_found_in_dead_rows_and_wide_text(cluster: Cluster) -> None:
    shop = make_shop(cluster)
    shop.run("CREATE TABLE wide (a bytea); INSERT INTO wide SELECT convert_to(email, 'UTF8') FROM customer;")
    shop.run("CREATE TABLE gone AS SELECT email FROM customer; DELETE FROM gone;")
    with server.connect(shop.work, "shop") as conn:
        conn.execute("ALTER TABLE public.wide ALTER a SET STORAGE EXTERNAL")
        for text in shop.samples[0].originals[:50]:
            conn.execute("INSERT INTO public.wide VALUES (%s)", [b"\x00" * 7 + text.encode("utf-16-le")])
        conn.execute("DELETE FROM public.wide WHERE get_byte(a, 0) <> 0")
    assert {"wide", "gone"} <= places(shop)["email"]


# -- a rewrite leaves nothing ----------------------------------------------------------------


@every_version
def test_a_rewritten_and_settled_database_is_proved(cluster: Cluster) -> None:
    shop = make_shop(cluster)
    shop.run(MASK)
    proof = shop.settled().proved()
    assert proof.exposed == ()
    assert all(column.hits == () for column in proof.scan.columns)
    assert {column.place.rpartition(".")[2]: column.blind for column in proof.scan.columns} == {
        "email": False, "phone": False, "city": False, "born": False, "notes": False,
    }  # fmt: skip


def test_after_the_server_has_stopped_only_what_changed_is_read(cluster: Cluster) -> None:
    shop = make_shop(cluster)
    shop.run(MASK)
    masked = shop.settled().masked()
    proof = prove(shop.work, masked)
    scanned = leaks.scan(
        shop.volume, masked.samples, earlier=proof.scan, matcher=proof.matcher, below=("data/base",), running=True
    )
    again = {file.path: file for file in proof.scan.files}
    assert sum(again[file.path] is file for file in scanned.files) > len(scanned.files) * 0.8
    assert scanned.full
    leaks.judge(scanned, proof.accepted)


# -- what an UPDATE leaves ---------------------------------------------------------------------


def test_dead_rows_are_a_leak(cluster: Cluster) -> None:
    shop = make_shop(cluster)
    shop.run("UPDATE customer SET email = md5(email), phone = '+49 170 9' || id, notes = NULL, city = 'x', born = NULL")
    message = leak(shop)
    assert "original values are left in files: shop: public.customer.email: of 500 originals some are in" in message
    assert "shop: public.customer.email still has 100 of 500 originals" in message  # in the old statistics


def test_a_rule_that_did_nothing_is_a_leak(cluster: Cluster) -> None:
    shop = make_shop(cluster)
    message = leak(shop)
    for column in ("email", "phone", "born", "notes"):
        assert f"shop: public.customer.{column} still has 500 of 500 originals" in message


def test_values_that_no_other_of_their_format_can_replace_may_stay_in_any_number(cluster: Cluster) -> None:
    """The largest number is alone in its segment, as is 0; a letter becomes itself under one key in 26."""
    more = "ALTER TABLE customer ADD until bigint DEFAULT 9223372036854775807, ADD sex text DEFAULT 'M';"
    shop = make_shop(cluster, CUSTOMERS + more, until="preserve", sex="preserve")
    shop.run(MASK)
    masked = shop.settled().masked()
    for column, equal, fine in (("until", 900, True), ("sex", 900, True), ("phone", 50, False)):
        tables = tuple(
            replace(table, columns=tuple(replace(c, equal=equal) if c.column == column else c for c in table.columns))
            for table in masked.tables
        )
        if fine:
            prove(shop.work, replace(masked, tables=tables))
            continue
        with pytest.raises(MaskingError, match="phone: the rule preserve left 50 of 900 values"):
            prove(shop.work, replace(masked, tables=tables))


def test_values_that_a_rule_left_as_they_were_are_a_leak(cluster: Cluster) -> None:
    shop = make_shop(cluster)
    shop.run(MASK)
    with pytest.raises(MaskingError) as caught:
        prove(shop.settled().work, shop.masked(equal=200))
    assert "shop: public.customer.email: the rule email left 200 of 900 values as they were, 0 can be" in str(
        caught.value
    )
    assert "shop: public.customer.city: the rule fake left 200 of 900 values as they were, 180 can be" in str(
        caught.value
    )


def test_values_that_no_rule_can_change_are_no_leak(cluster: Cluster) -> None:
    shop = make_shop(cluster)
    shop.run(
        MASK + "UPDATE customer SET email = '-' WHERE id <= 100; UPDATE customer SET phone = '17' WHERE id <= 100;"
    )
    shop.run("UPDATE customer SET city = 'x', born = NULL; VACUUM FULL customer")
    masked = shop.settled().masked(equal=60)
    masked = replace(
        masked, samples=tuple(one for one in masked.samples if one.masking.column.name in {"email", "phone"})
    )
    assert prove(shop.work, masked).exposed == ()


@every_version
def test_statistics_of_before_are_a_leak(cluster: Cluster) -> None:
    shop = make_shop(cluster)
    shop.run("CREATE TABLE stale (email text); INSERT INTO stale SELECT email FROM customer; ANALYZE stale;")
    shop.run(f"{MASK} CREATE TABLE other AS SELECT * FROM customer")
    shop.settled()
    with server.connect(shop.work, "shop") as conn:
        conn.execute("SET allow_system_table_mods = on")
        conn.execute(
            "UPDATE pg_statistic c SET stavalues1 = s.stavalues1 FROM pg_statistic s WHERE"
            " s.starelid = 'public.stale'::regclass AND c.starelid = 'public.customer'::regclass AND c.staattnum = 2"
        )
        conn.execute("DROP TABLE public.stale")
    assert "shop: public.customer.email still has" in leak(shop)


@pytest.mark.parametrize("storage", ["main", "extended"])
def test_a_compressed_value_is_a_leak(cluster: Cluster, storage: str) -> None:
    shop = make_shop(cluster, notes={"text": ["email"]})
    shop.run(f"ALTER TABLE customer ALTER notes SET STORAGE {storage}")
    shop.run("UPDATE customer SET notes = repeat('a story that goes on ', 500) || ' zq7@corp.invalid ' WHERE id = 7")
    shop = make_shop_again(shop)
    shop.run(MASK.replace("md5(notes || 'k')", "notes"))
    assert "shop: public.customer.notes still has" in leak(shop.settled())


def make_shop_again(shop: Shop) -> Shop:
    """Draw the originals of the free text in the column ``notes``: one address, in front of the text that is read."""
    originals = ("zq7@corp.invalid",)
    samples = [replace(one, originals=originals) for one in shop.samples if one.masking.column.name == "notes"]
    return replace(shop, samples=tuple(samples))


def test_a_copy_in_a_materialised_view_that_is_not_refreshed_is_a_leak(cluster: Cluster) -> None:
    shop = make_shop(cluster, CUSTOMERS + "CREATE MATERIALIZED VIEW contact AS SELECT email FROM customer;")
    shop.run(MASK)
    message = leak(shop.settled())
    assert "shop: public.contact, a materialised view, still has 500 of 500 originals" in message
    shop.run("REFRESH MATERIALIZED VIEW contact; CHECKPOINT")
    shop.settled().proved()


def test_a_value_that_is_left_at_a_path_of_a_document_is_a_leak(cluster: Cluster) -> None:
    statements = CUSTOMERS + "ALTER TABLE customer ADD doc jsonb; UPDATE customer SET doc = jsonb_build_object("
    statements += "'email', email, 'copy', 'zq7copy' || id);"
    rules: dict[str, Any] = {"doc": {"json": {"$.email": "email"}}}
    shop = make_shop(cluster, statements, **rules)
    mask = MASK.replace("FROM customer;\nTRUNCATE", ", {} FROM customer;\nTRUNCATE")
    shop.run(mask.format("jsonb_build_object('copy', email) || doc"))
    only = replace(shop, samples=tuple(one for one in shop.samples if one.masking.column.name == "doc"))
    assert "shop: public.customer.doc still has 500 of 500 originals" in leak(only.settled())


def test_huge_values_are_searched_to_their_end_in_bounded_memory(cluster: Cluster) -> None:
    shop = make_shop(cluster, notes={"text": ["email"]})
    story = "repeat('a story that goes on ', 6000000) || ' zq7@corp.invalid '"
    shop.run(MASK.replace("md5(notes || 'k')", f"CASE WHEN id = 7 THEN {story} ELSE 'a short one' END"))
    shop = make_shop_again(shop).settled()
    masked = replace(shop.masked(), samples=shop.samples)
    with at_most(60), pytest.raises(MaskingError, match=r"customer\.notes still has 1 of 1 originals"):
        prove(shop.work, masked)


def test_rows_that_lie_mostly_outside_of_their_pages_do_not_cost_memory(cluster: Cluster) -> None:
    columns = [f"c{number}" for number in range(40)]
    values = [f"(SELECT string_agg(md5(n || '{name}' || k), '') FROM generate_series(1, 40) k)" for name in columns]
    make_database(cluster, f"CREATE TABLE t ({', '.join(f'{name} text' for name in columns)})")
    run(cluster, f"INSERT INTO t SELECT {', '.join(values)} FROM generate_series(1, 1500) n")
    wanted = hashlib.md5(b"1499c3940").hexdigest()
    search = Matcher([sample_of([wanted])]).search(0)
    ((oid,),) = cluster.query("shop", "SELECT 't'::regclass::oid::int8")
    with server.connect(cluster.work(), "shop") as conn, at_most(30):
        found = streams.live(conn, streams.Relation(int(str(oid)), TableName("public", "t")), search, 99)
    assert {column: ids for column, ids in found.items() if ids} == {"c39": {(0, 0)}}


# -- what may be there ---------------------------------------------------------------------------


@every_version
def test_columns_of_any_name_are_searched(cluster: Cluster) -> None:
    shop = make_shop(cluster, CUSTOMERS + "CREATE TABLE names AS SELECT repeat('a', 9000) AS g, 1 AS v, 2 AS b, 3 AS n")
    shop.run(MASK)
    assert shop.settled().proved().exposed == ()


@every_version
def test_a_materialised_view_that_is_not_populated_is_passed_over(cluster: Cluster) -> None:
    shop = make_shop(cluster, CUSTOMERS + "CREATE MATERIALIZED VIEW later AS SELECT notes FROM customer WITH NO DATA")
    shop.run(MASK)
    assert shop.settled().proved().exposed == ()


@every_version
def test_a_value_of_a_column_without_a_rule_is_told_and_no_leak(cluster: Cluster) -> None:
    shop = make_shop(
        cluster, CUSTOMERS + "CREATE TABLE place AS SELECT DISTINCT city AS name FROM customer WHERE id % 20 < 5;"
    )
    shop.run("UPDATE place SET name = 'the ' || name; CREATE INDEX ON place (name);")
    shop.run(MASK)
    proof = shop.settled().proved()
    assert [str(one) for one in proof.exposed] == [
        "shop: public.place.name, which no rule names, has 5 of 20 originals of shop: public.customer.city"
    ]
    assert proof.excluded[reasons.UNDECIDED] == 5
    assert {relation_of(shop, path) for path in proof.accepted} == {"place", "place_name_idx", "pg_statistic"}


def test_a_copy_in_a_table_that_nothing_decides_about_is_a_leak(cluster: Cluster) -> None:
    shop = make_shop(cluster, CUSTOMERS + "CREATE TABLE backup AS SELECT id, email FROM customer;")
    shop.run(MASK)
    assert (
        "shop: public.backup.email, which no rule names, has 500 of 500 originals of shop: public.customer.email:"
        " write a rule for that column (keep, if it is meant to keep them)" in leak(shop.settled())
    )


def test_a_list_that_a_rule_keeps_is_told_and_no_leak(cluster: Cluster) -> None:
    shop = make_shop(cluster, CUSTOMERS + "CREATE TABLE place AS SELECT DISTINCT city AS name FROM customer;")
    columns = {"table": "public.customer", "columns": RULES}
    masking = masking_of(cluster, columns, {"table": "public.place", "columns": {"name": "keep"}})
    shop.run(MASK)
    proof = replace(shop, masking=masking).settled().proved()
    assert [str(one) for one in proof.exposed] == [
        "shop: public.place.name, which a rule keeps, has 20 of 20 originals of shop: public.customer.city"
    ]
    assert proof.excluded[reasons.KEPT] == 20


def test_a_refreshed_view_of_a_list_that_a_rule_keeps_is_no_leak(cluster: Cluster) -> None:
    statements = "CREATE TABLE place AS SELECT DISTINCT city AS name FROM customer WHERE id % 20 < 5;"
    statements += "CREATE MATERIALIZED VIEW places AS SELECT name FROM place; CREATE INDEX ON places (name);"
    shop = make_shop(cluster, CUSTOMERS + statements)
    shop.run(MASK)
    excluded = shop.settled().proved().excluded
    assert excluded[reasons.DERIVED] == 5
    assert excluded[reasons.BESIDE] == 1  # statistics: zq7city1, then the length of the next value, which looks like 0


def test_a_dead_row_beside_a_value_without_a_rule_is_a_leak(cluster: Cluster) -> None:
    shop = make_shop(cluster, CUSTOMERS + "CREATE TABLE place AS SELECT DISTINCT city AS name FROM customer;")
    shop.run(MASK)
    shop.settled()
    shop.run("DELETE FROM place WHERE name > 'zq7city15'; CHECKPOINT")
    message = leak(shop)
    assert "shop: public.customer.city: of 20 originals some are in" in message


def test_a_value_that_a_rule_gave_to_another_row_is_no_leak(cluster: Cluster) -> None:
    shop = make_shop(cluster)
    shop.run(MASK.replace("'New Town ' || id % 7", "'zq7city' || (id + 1) % 20"))
    proof = shop.settled().proved()
    assert proof.excluded[reasons.REAPPEARED] >= 20


def test_a_rewritten_number_of_many_digits_does_not_reappear_by_chance(cluster: Cluster) -> None:
    shop = make_shop(cluster)
    shop.run(MASK.replace("'+49 170 ' || 80000000 + id", "'+49 170 ' || 10000000 + (901 - id) * 31"))
    assert "shop: public.customer.phone still has 500 of 500 originals" in leak(shop.settled())


def masked_from(first: int) -> str:
    """Return a rewrite that masks customers from a number on."""
    others = f"WHERE id >= {first} UNION ALL SELECT * FROM customer WHERE id < {first};\nTRUNCATE"
    return MASK.replace(";\nTRUNCATE", f" {others}")


@every_version
def test_rows_that_a_rule_does_not_select_keep_their_values(cluster: Cluster) -> None:
    shop = make_shop(cluster, when="id > 450")
    shop.run(masked_from(451))
    assert shop.settled().proved().excluded[reasons.NOT_SELECTED] == 20  # cities


@every_version
def test_a_row_that_a_rule_selects_does_not_keep_its_values(cluster: Cluster) -> None:
    shop = make_shop(cluster, when="id > 450")
    shop.run(masked_from(452))
    message = leak(shop.settled())
    assert "shop: public.customer.email still has 1 of 450 originals" in message
    assert "shop: public.customer.born still has 1 of 450 originals" in message
    assert "shop: public.customer.phone still has 1 of 450 originals" in message
    assert "customer.city" not in message


def test_a_condition_about_what_it_masks_excuses_nothing(cluster: Cluster) -> None:
    shop = make_shop(cluster, when="city = 'zq7city3' OR email LIKE '%@corp%'")
    shop.run(MASK.replace("'+49 170 ' || 80000000 + id", "phone"))
    assert "shop: public.customer.phone still has 500 of 500 originals" in leak(shop.settled())


def test_an_original_that_is_a_word_of_the_system_is_no_leak(cluster: Cluster) -> None:
    shop = make_shop(cluster, CUSTOMERS + "UPDATE customer SET city = 'information_schema' WHERE id < 9; VACUUM FULL;")
    assert "information_schema" in next(one for one in shop.samples if one.masking.column.name == "city").originals
    shop.run(MASK)
    proof = shop.settled().proved()
    assert {one.column.split(".")[0] for one in proof.exposed} <= {
        "shop: pg_catalog",
        "template1: pg_catalog",
        "postgres: pg_catalog",
    }
    assert proof.excluded[reasons.CATALOG] == 1


def test_a_script_does_not_soften_what_a_rule_of_a_policy_had_to_change(cluster: Cluster) -> None:
    shop = make_shop(cluster)
    shop.run(MASK)
    masked = shop.settled().masked(equal=9)
    masked = replace(masked, samples=tuple(one for one in masked.samples if one.masking.column.name == "email"))
    script = Sql.model_validate({"sql": "unknown"})
    written = tuple(replace(one, masking=replace(one.masking, method=script)) for one in masked.samples)
    with pytest.raises(MaskingError, match="the rule email left 9 of 900 values"):
        prove(shop.work, replace(masked, samples=(*masked.samples, *written)))


LARGE_OBJECT = """
SELECT lo_from_bytea(4711, convert_to('zq7prefix ' || string_agg(email, ' ' ORDER BY id), 'UTF8')) FROM customer
WHERE id IN (SELECT id FROM customer ORDER BY length(email) DESC, email LIMIT 500);
"""


@every_version
@pytest.mark.parametrize("form", ["", " || repeat('compressed', 1000)"])
def test_a_large_object_with_originals_is_a_leak_unless_somebody_said_keep(cluster: Cluster, form: str) -> None:
    shop = make_shop(cluster)
    shop.run(LARGE_OBJECT.replace("' ' ORDER BY id)", f"' ' ORDER BY id){form}") + MASK)
    assert "pg_catalog.pg_largeobject.data, which no rule names, has" in leak(shop.settled())
    masked = shop.masked()
    masked = replace(masked, kept=masked.kept | {("shop", *streams.LARGE_OBJECTS_DATA)})
    assert prove(shop.work, masked).excluded[reasons.KEPT] > 0


COMMENT = """
DO $do$ BEGIN
    EXECUTE format('COMMENT ON TABLE customer IS %L', (SELECT string_agg(email, ' ') FROM customer) || FORM);
END $do$;
"""
FUNCTION = """
DO $do$ BEGIN
    EXECUTE format('CREATE FUNCTION f() RETURNS text LANGUAGE sql AS %L',
        'SELECT ' || quote_literal((SELECT string_agg(email, ' ') FROM customer) || FORM));
END $do$;
"""


PADDING = ["''", "repeat('compressed', 1000)"]


@pytest.mark.parametrize("padding", PADDING)
def test_a_function_that_holds_a_column_is_told(cluster: Cluster, padding: str) -> None:
    shop = make_shop(cluster)
    shop.run(FUNCTION.replace("FORM", padding) + MASK)
    told = {one.column for one in shop.settled().proved().exposed if one.place.endswith("customer.email")}
    assert told == {"shop: pg_catalog.pg_proc.prosrc"}


@pytest.mark.parametrize("padding", PADDING)
def test_a_comment_that_holds_a_column_is_a_leak(cluster: Cluster, padding: str) -> None:
    shop = make_shop(cluster)
    shop.run(COMMENT.replace("FORM", padding) + MASK)
    said = leak(shop.settled())
    assert "pg_catalog.pg_description.description, a catalog of the database, has" in said
    assert "COMMENT ON" in said


# -- blindness and secrecy -------------------------------------------------------------------------


def test_a_scan_that_finds_no_masked_value_proves_nothing(cluster: Cluster) -> None:
    shop = make_shop(cluster)
    shop.run(MASK)
    masked = shop.settled().masked()
    blind = replace(masked, samples=tuple(replace(one, controls=("never written anywhere",)) for one in masked.samples))
    with pytest.raises(MaskingError, match="none of 4 masked values"):
        prove(shop.work, blind)


def test_a_compressed_column_is_named_as_blind_to_bytes(cluster: Cluster) -> None:
    shop = make_shop(cluster, notes="preserve")
    shop.run("ALTER TABLE customer ALTER notes SET STORAGE extended")
    shop.run(MASK.replace("md5(notes || 'k')", "repeat(md5(notes || 'k'), 200)"))
    proof = shop.settled().proved()
    blind = [column.place for column in proof.scan.columns if column.blind]
    assert blind in (["shop: public.customer.notes"], [])  # the first bytes of a compressed value may be as they were


def test_a_few_originals_in_a_column_that_no_rule_names_are_a_leak(cluster: Cluster) -> None:
    shop = make_shop(cluster)
    shop.run("CREATE TABLE copies AS SELECT email FROM customer WHERE id % 50 = 0")
    shop.run(MASK)
    with pytest.raises(MaskingError, match=r"public\.copies\.email, which no rule names"):
        prove(shop.settled().work, shop.masked())


def test_nothing_that_is_shown_has_an_original(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    shop = make_shop(cluster)
    shop.run("CREATE TABLE copies AS SELECT email FROM customer WHERE id % 5 = 0")
    told: list[str] = []
    work = replace(shop.work, progress=told.append)
    shown: list[str] = []
    try:
        prove(work, shop.masked())
    except MaskingError as error:
        shown += [str(error), repr(error), "".join(traceback.format_exception(error))]
    shop.run(MASK)
    kept = frozenset({("shop", TableName("public", "copies"), "email")})
    proof = prove(replace(shop.settled().work, progress=told.append), replace(shop.masked(), kept=kept))
    assert len(shown) == 3
    assert proof.exposed
    for text in [*shown, *told, caplog.text, repr(proof), str(proof.exposed), repr(shop.samples)]:
        assert "zq7" not in text.replace("zq7mail.invalid", "")
        assert "@corp" not in text


# -- what lies in files ------------------------------------------------------------------------------


def test_a_marker_across_pages_of_a_relation_is_found(tmp_path: Path) -> None:
    marker = "zq7-a-marker-across-pages"
    content = bytearray(3 * 8192)
    content[8192 - 9 : 8192 - 9 + len(marker)] = marker.encode()
    (tmp_path / "16384").write_bytes(content)
    scanned = leaks.scan(tmp_path, [sample_of([marker], column=masked_column())], running=True)
    assert [hit.path for hit in scanned.columns[0].hits] == ["16384"]
