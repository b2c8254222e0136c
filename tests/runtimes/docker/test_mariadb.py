"""What is MariaDB's own when its servers are in containers."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pymysql
import pytest

from reconciler.activity import look_at
from reconciler.ids import RuntimeName, ServerName
from tests.containers import IMAGE, USER, host_major
from tests.runtimes.docker.conftest import configure
from tests.runtimes.docker.test_clones import container, owner
from tests.support import clone, document, until

if TYPE_CHECKING:
    from tests.containers import ContainerDaemon
    from tests.runtimes.docker.conftest import Product
    from tests.support import World

pytestmark = [pytest.mark.root, pytest.mark.parametrize("product", ["mariadb"], indirect=True, scope="session")]

POLICY: dict[str, Any] = {
    "key": {"secret": "masking-key"},
    "rules": [{"table": "shop.product", "columns": {"id": "keep", "name": "hash"}}],
}


def test_a_server_in_a_container_is_found_from_inside_and_ends_in_an_orderly_way(
    shop: World, daemon: ContainerDaemon, product: Product
) -> None:
    shop.write("dev.yaml", clone("dev", runtime="docker"))
    shop.converge()
    name = container(daemon, "dev")
    facts = daemon.inspect(name)
    before = sessions(shop, "dev")
    for _ in range(3):
        daemon.docker("exec", name, *facts["Config"]["Healthcheck"]["Test"][1:])
    assert sessions(shop, "dev") == before  # a probe is nobody who uses the clone
    inside = ("exec", "--env", f"MYSQL_PWD={shop.password('dev')}", name, "mariadb", "--user=app", "-NBe", "SELECT 7")
    assert daemon.docker(*inside) == "7\n"
    assert [mount["Type"] for mount in facts["Mounts"]] == ["bind"] * 3  # no volume of the daemon's is left behind
    assert product.rows(shop, "dev", "SELECT current_user()") == [("app@%",)]
    assert "mysql://app:" in shop.run("url", "dev").stdout
    assert "7" in shop.run("connect", "dev", stdin="SELECT 7").stdout
    shop.write("dev.yaml", clone("dev", runtime="docker", state="stopped"))
    shop.converge()
    told = shop.run("logs", "dev", "--lines", "1000").stdout
    assert "Shutdown complete" in told
    assert "Access denied" not in told


def sessions(world: World, name: str) -> int:
    """Return how many sessions of users there ever were since a clone's server started."""
    with world.host() as host:
        (volume,) = world.generations(name).values()
        server = host.runtimes[RuntimeName("docker")].servers()[ServerName(volume.id)]
        return look_at(host, volume, server).sessions


@pytest.mark.long
def test_a_masked_image_that_is_built_in_a_container_ends_in_a_fresh_data_directory(
    shop: World, product: Product
) -> None:
    (shop.root / "secrets" / "masking-key").write_text("correct horse battery staple, and more")
    (shop.root / "secrets" / "masking-key").chmod(0o600)
    pii = document("MaskingPolicy", "pii", POLICY)
    shop.write("masked.yaml", product.image("masked", runtime="docker", masking=["pii"]), pii)
    shop.write("dev.yaml", clone("dev", image="masked", runtime="docker"))
    shop.converge()
    (snapshot,) = (name for name in shop.snapshots() if name.startswith("masked"))
    data = shop.pool_path / "volumes" / snapshot / "data"
    assert owner(data) == owner(data / "ibdata1") == (USER, USER)
    assert not {"before", "definitions", "my.cnf"} & {path.name for path in data.parent.iterdir()}
    found = product.rows(shop, "dev", "SELECT count(*), sum(name LIKE 'Product %') FROM product")
    assert found == [(3, 0)]
    assert [path for path in data.rglob("*") if path.is_file() and b"Product 1" in path.read_bytes()] == []


@pytest.mark.long
def test_an_image_of_another_product_is_refused(shop: World, daemon: ContainerDaemon, product: Product) -> None:
    other = f"{IMAGE}:{host_major()}"
    configure(shop, daemon, product, images={"mariadb": other})
    shop.write("dev.yaml", clone("dev", runtime="docker"))
    assert f"the container image {other} does not run MariaDB" in shop.apply().errors["Clone/dev"]
    assert daemon.names() == set()


@pytest.mark.long
def test_a_clone_of_a_clone_in_a_container_has_no_account_of_its_probe(shop: World, product: Product) -> None:
    shop.write("first.yaml", clone("first", runtime="docker"))
    shop.write("second.yaml", clone("second", image={"clone": "first"}, users=[{"name": "app", "role": "superuser"}]))
    shop.converge()
    told = product.rows(shop, "second", "SELECT user FROM mysql.user WHERE user LIKE 'reconciler%' ORDER BY user")
    assert told == [("reconciler_admin",), ("reconciler_owner",)]


@pytest.mark.long
def test_a_server_that_is_killed_is_started_again_with_what_was_committed(
    shop: World, daemon: ContainerDaemon, product: Product
) -> None:
    shop.write("dev.yaml", clone("dev", runtime="docker"))
    shop.converge()
    product.rows(shop, "dev", "INSERT INTO product VALUES (4, 'somebody''s work')")
    pid = daemon.inspect(container(daemon, "dev"))["State"]["Pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: shop.apply().actions == [] and "dev.1" in shop.servers(), what="the clone")
    until(lambda: answers(shop, product), what="an answer")


def answers(world: World, product: Product) -> bool:
    try:
        return product.rows(world, "dev", "SELECT count(*) FROM product") == [(4,)]
    except pymysql.OperationalError:  # it recovers still
        return False
