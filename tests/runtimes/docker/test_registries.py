"""Images from a registry that asks for a login: which is the host's own, and when it is asked."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import pytest

from reconciler.runtimes.docker.daemon import Daemon, DaemonError
from tests.runtimes.docker.conftest import configure
from tests.runtimes.docker.registry import Registry, registry
from tests.runtimes.docker.test_clones import container
from tests.support import clone

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.containers import ContainerDaemon
    from tests.runtimes.docker.conftest import Product
    from tests.support import World

pytestmark = [pytest.mark.root, pytest.mark.postgres, pytest.mark.long]

NAME, TAG = "shop/postgres", "stable"
PASSWORD = "s3cret-of-the-registry"


@pytest.fixture
def private(daemon: ContainerDaemon, product: Product, shop: World) -> Iterator[Registry]:
    """A registry with the product's image, of which the daemon has nothing afterwards."""
    with registry("ann", PASSWORD) as made:
        made.hold(NAME, TAG, daemon, product.reference)
        yield made
        shop.remove("dev.yaml") if (shop.root / "specs/dev.yaml").exists() else None
        shop.converge()
        if f"{made.address}/{NAME}:{TAG}" in daemon.docker("images", "--format", "{{.Repository}}:{{.Tag}}").split():
            daemon.docker("rmi", f"{made.address}/{NAME}:{TAG}")
        daemon.docker("image", "prune", "--force")


@pytest.fixture
def logins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this host's logins are, of which there are none yet."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path / "config.json"


def log_in(logins: Path, *addresses: str) -> None:
    """Write what ``docker login`` does."""
    known = {"auth": base64.b64encode(f"ann:{PASSWORD}".encode()).decode()}
    logins.write_text(json.dumps({"auths": dict.fromkeys(addresses, known)}))


def test_an_image_of_a_private_registry_is_fetched_with_the_hosts_own_login(
    shop: World, daemon: ContainerDaemon, product: Product, private: Registry, logins: Path
) -> None:
    reference = f"{private.address}/{NAME}:{TAG}"
    configure(shop, daemon, product, images={product.engine: reference}, pull="missing")
    shop.write("dev.yaml", clone("dev", runtime="docker"))
    told = shop.apply().errors["Clone/dev"]
    assert f"the container image {reference} is not on this host and cannot be fetched" in told
    assert "no basic auth credentials" in told
    log_in(logins, private.address)
    shop.write("dev.yaml", clone("dev", runtime="docker", resources={"memory": "256Mi"}))  # tried at once
    shop.converge()
    assert product.rows(shop, "dev", "SELECT count(*) FROM product") == [(3,)]
    assert PASSWORD not in (shop.state / "status.sqlite3").read_bytes().decode("latin-1")


def test_a_login_that_is_written_while_the_loop_runs_counts(
    daemon: ContainerDaemon, private: Registry, logins: Path
) -> None:
    log_in(logins, "registry.example")
    asked = Daemon(daemon.socket)
    with pytest.raises(DaemonError, match="no basic auth credentials"):
        asked.pull(f"{private.address}/{NAME}:{TAG}")
    asked.containers()  # by a client that is used again, and knows the logins of today
    log_in(logins, "registry.example", private.address)
    asked.pull(f"{private.address}/{NAME}:{TAG}")
    assert asked.image(f"{private.address}/{NAME}:{TAG}") is not None


@pytest.mark.parametrize("known", ["no login", {"auth": "bm8tY29sb24="}, {"auth": "\N{SNOWMAN}"}, {"auth": 7}])
def test_logins_that_cannot_be_read_are_told_by_their_file_without_what_is_in_it(
    daemon: ContainerDaemon, logins: Path, known: object
) -> None:
    asked = Daemon(daemon.socket)
    asked.containers()  # by a client that knows of no logins
    logins.write_text(json.dumps({"auths": {"registry.example": known}}))
    for again in (asked, Daemon(daemon.socket)):
        with pytest.raises(DaemonError, match=r"the logins of registries in .* cannot be read") as caught:
            again.pull("registry.example/shop:1")
        assert str(logins) in str(caught.value)
        assert caught.value.__suppress_context__


def test_where_images_are_always_fetched_a_tag_that_moved_is_served_from_the_next_start_on(
    shop: World, daemon: ContainerDaemon, product: Product, private: Registry, logins: Path
) -> None:
    log_in(logins, private.address)
    reference = f"{private.address}/{NAME}:{TAG}"
    daemon.docker("create", "--name=newer", "--network=none", product.reference, "true")
    daemon.docker("commit", "--change", "LABEL edition=newer", "newer", "local/newer:1")
    daemon.docker("rm", "newer")
    for pull, edition in (("missing", None), ("always", "newer")):
        configure(shop, daemon, product, images={product.engine: reference}, pull=pull)
        shop.write("dev.yaml", clone("dev", runtime="docker"))
        shop.converge()
        private.hold(NAME, TAG, daemon, "local/newer:1")
        daemon.docker("rm", "--force", container(daemon, "dev"))
        shop.converge()
        assert daemon.inspect(container(daemon, "dev"))["Config"]["Labels"].get("edition") == edition
    daemon.docker("rmi", "local/newer:1")
    private.refuse()
    daemon.docker("rm", "--force", container(daemon, "dev"))
    shop.converge()  # what is here serves as well as it did
    assert daemon.inspect(container(daemon, "dev"))["Config"]["Labels"].get("edition") == "newer"
