"""One policy and one key give the same values on every engine: joins between databases of different products hold."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pymysql
import pytest

from reconciler.engines.mysql.engine import MariaDbEngine
from tests.support import clone, document, image, new_world

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support import World

pytestmark = pytest.mark.postgres

RULES: dict[str, Any] = {
    "id": "keep",
    "email": "email",
    "name": {"fake": "full_name"},
    "phone": "preserve",
    "badge": {"pattern": "??-####"},
    "born": {"shift_days": 180},
    "seen": {"shift_days": 90, "by": "id"},
    "number": "preserve",
    "pay": {"noise": "10%"},
    "label": "hash",
    "token": "hash",
    "note": "text",
    "town": {"fake": "city"},
}
TABLE = """
CREATE TABLE person (id bigint PRIMARY KEY, email varchar(60), name varchar(40), phone varchar(24), badge varchar(10),
    born date, seen timestamp, number bigint, pay numeric(10, 2), label text, token uuid, note text, town varchar(12));
"""
ROWS = [
    f"({n}, 'somebody{n}@corp.invalid', 'Größe Nr. {n}', '+49 30 {1234567 + n}', 'AB-{1000 + n}', '19{60 + n}-02-03',"
    f" '2020-01-{10 + n} 04:05:06', {98765 + n}, {1000 + n}.25, 'some label {n}',"
    f" '0f8fad5b-d9cb-469f-a165-7086772895{n:02d}', 'call +49 30 {7654321 + n} or mail me{n}@corp.invalid', 'Town {n}')"
    for n in range(10)
]
SQL = f"{TABLE} INSERT INTO person VALUES {', '.join(ROWS)};"
AS_TEXT = (
    "SELECT id, email, name, phone, badge, CAST(born AS text), CAST(seen AS text), number, CAST(pay * 100 AS bigint),"
    " label, CAST(token AS text), note, town FROM person ORDER BY id"
)


IN_MARIADB = SQL.replace("seen timestamp", "seen datetime").replace(
    "town varchar(12));", "town varchar(12)) COLLATE utf8mb4_bin;"
)
"""Its usual collations ignore case, and so does masking there."""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    made = new_world()
    try:
        (made.root / "secrets" / "masking-key").write_text("correct horse battery staple, and more")
        rules = [{"table": "*.person", "columns": RULES}]
        made.write("pii.yaml", document("MaskingPolicy", "pii", {"key": {"secret": "masking-key"}, "rules": rules}))
        served = image("served", scripts=[{"inline": SQL, "database": "shop"}], masking=["pii"])
        spec = {"source": {"empty": {}}, "databases": ["shop"], "scripts": [{"inline": SQL}], "masking": ["pii"]}
        made.write("served.yaml", served, clone("dev", image="served"))
        made.write(
            "file.yaml", document("Image", "file", {"engine": "sqlite", **spec}), clone("copy", image="file", users=[])
        )
        if MariaDbEngine().servers():
            spec |= {"engine": "mariadb", "scripts": [{"inline": IN_MARIADB}]}
            made.write("other.yaml", document("Image", "other", spec), clone("third", image="other"))
        made.converge()
        yield made
    finally:
        made.close()


def test_a_row_becomes_the_same_on_postgres_and_sqlite(world: World) -> None:
    with closing(sqlite3.connect(world.pool_path / "volumes" / "copy.1" / "data" / "shop.db")) as conn:
        found = conn.execute(AS_TEXT).fetchall()
    assert found == world.sql("dev", AS_TEXT)
    assert "corp.invalid" not in str(found)


def test_a_row_becomes_the_same_on_postgres_and_mariadb(world: World) -> None:
    if not MariaDbEngine().servers():
        pytest.skip("needs MariaDB on this host (packages mariadb-server-core, mariadb-client-core)")
    url = urlsplit(world.run("url", "third").stdout.strip())
    password = unquote(url.password or "")
    with (
        pymysql.connect(
            host=url.hostname, port=url.port or 0, user=url.username, password=password, database="shop"
        ) as conn,
        conn.cursor() as cursor,
    ):
        cursor.execute(AS_TEXT.replace(" AS text", " AS char").replace(" AS bigint", " AS signed"))
        assert list(cursor.fetchall()) == world.sql("dev", AS_TEXT)
