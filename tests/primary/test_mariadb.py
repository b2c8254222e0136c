"""Images of a live primary of MariaDB by `method: logical`, as people use them: documents, passes, clones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pymysql
import pytest

from reconciler.engines.mysql.engine import MariaDbEngine
from tests.engines.mysql.conftest import running
from tests.engines.mysql.live import COPIES, PASSWORD, Production
from tests.primary.test_logical import everything_written, give, manifests
from tests.support import document, new_world

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support import World

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def production() -> Iterator[Production]:
    if not MariaDbEngine().servers():
        pytest.skip("needs MariaDB on this host (packages mariadb-server-core, mariadb-client-core)")
    with running(MariaDbEngine()) as host:
        made = Production(host.volume(), host.account(), port=host.free_port())
        try:
            made.let_in(*COPIES)
            yield made
        finally:
            made.stop(kill=True)


@pytest.fixture
def world(production: Production) -> Iterator[World]:
    made = new_world()
    try:
        give(made, production.url())
        yield made
    finally:
        made.close()


def test_a_primary_becomes_a_clone_and_is_copied_again_only_when_it_changed(
    world: World, production: Production
) -> None:
    source = {"primary": {"url": {"secret": "shop-dsn"}, "method": "logical"}}
    spec = {"engine": "mariadb", "source": source, "unmasked": {"reason": "made for tests"}}
    world.write("shop.yaml", document("Image", "shop", spec), document("Clone", "dev", {"image": "shop"}))
    world.converge()
    (first,) = manifests(world)
    assert (first.databases, first.facts["gtid"][:4]) == (("shop",), "0-7-")
    assert "shop.old (MyISAM)" in "".join(first.source_notes)
    assert first.data_as_of is not None
    assert first.data_as_of <= first.created_at
    endpoint = world.run("url", "dev").stdout.strip()
    assert _items(endpoint) == production.sql("SELECT count(*) FROM shop.item")

    again = world.apply(("refresh", "shop")).require()
    assert again.actions == []
    assert (again.condition("Image/shop", "Ready") or ())[:2] == ("True", "UpToDate")

    production.sql("INSERT INTO shop.item VALUES (2, 'new')")
    assert world.apply(("refresh", "shop")).require().actions == ["build Image/shop"]
    assert len({one.input_id for one in manifests(world)}) == 2
    assert PASSWORD not in everything_written(world)

    give(world, production.url(password="hunter2"))
    refused = world.run("refresh", "shop")
    assert refused.returncode == 1
    assert "does not let us in" in refused.stdout + refused.stderr
    assert "hunter2" not in everything_written(world)
    assert _items(endpoint) == [(1,)]


def _items(url: str) -> list[tuple[int]]:
    user, _, rest = url.removeprefix("mysql://").partition(":")
    password, _, place = rest.partition("@")
    host, _, port = place.partition("/")[0].partition(":")
    with (
        pymysql.connect(host=host, port=int(port), user=user, password=password, database="shop") as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT count(*) FROM item")
        return list(cursor.fetchall())
