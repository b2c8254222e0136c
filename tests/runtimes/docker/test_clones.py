"""Clones in containers, from their documents to the container that people see, and what befalls them."""

from __future__ import annotations

import os
import subprocess
from pathlib import PurePath
from typing import TYPE_CHECKING

import pytest

from tests.containers import IMAGE, host_major
from tests.docs.test_commands import commands
from tests.runtimes.docker.conftest import both, configure
from tests.support import clone, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.containers import ContainerDaemon
    from tests.runtimes.docker.conftest import Product
    from tests.support import World

pytestmark = [pytest.mark.root, pytest.mark.postgres]


def container(daemon: ContainerDaemon, name: str) -> str:
    """Return the name of the one container that serves a clone."""
    (found,) = daemon.docker(
        "ps", "--all", "--filter", f"label=reconciler/clone={name}", "--format", "{{.Names}}"
    ).split()
    return found


def owner(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_uid, status.st_gid


@both
def test_the_command_of_the_page_lists_clones_with_their_owners(
    shop: World, daemon: ContainerDaemon, product: Product
) -> None:
    shop.write("dev.yaml", clone("dev", runtime="docker", owner="payments"))
    shop.converge()
    assert product.rows(shop, "dev", "SELECT count(*) FROM product") == [(3,)]
    (block,) = commands("containers")
    env = {**os.environ, "DOCKER_HOST": f"unix://{daemon.socket}"}
    listed = subprocess.run(["bash", "-euc", block], env=env, check=True, capture_output=True, text=True).stdout
    assert listed.splitlines()[1].split()[1:] == ["dev", "payments"]


@both
def test_a_clone_in_a_container_says_what_it_is_and_is_held_to_its_limits(
    shop: World, daemon: ContainerDaemon, product: Product
) -> None:
    shop.write("dev.yaml", clone("dev", runtime="docker", owner="payments", resources={"memory": "256Mi", "cpus": 0.5}))
    shop.converge()
    assert product.rows(shop, "dev", "SELECT count(*) FROM product") == [(3,)]
    facts, manifest = daemon.inspect(container(daemon, "dev")), shop.current("dev")
    labels, host = facts["Config"]["Labels"], facts["HostConfig"]
    assert {name: labels[f"reconciler/{name}"] for name in ("clone", "image", "snapshot", "commit", "owner")} == {
        "clone": "dev",
        "image": "shop",
        "snapshot": manifest.snapshot,
        "commit": manifest.revision,
        "owner": "payments",
    }
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (256 << 20, 256 << 20, 500_000_000)
    assert (host["ShmSize"], host["RestartPolicy"]["Name"]) == (256 << 20, "unless-stopped")
    assert host["PortBindings"] == {f"{product.port}/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(manifest.port)}]}
    assert daemon.docker("exec", facts["Id"], *facts["Config"]["Healthcheck"]["Test"][1:]) == product.healthy
    assert product.told in shop.run("logs", "dev").stdout


@both
def test_nothing_changes_hands_for_a_clone_of_an_image_that_processes_built(
    shop: World, daemon: ContainerDaemon, product: Product
) -> None:
    shop.write("dev.yaml", clone("dev", runtime="docker"))
    shop.converge()
    (snapshot,) = shop.snapshots()
    volumes = shop.pool_path / "volumes"
    built, made = (volumes / name / "data" / PurePath(product.files).name for name in (snapshot, "dev.1"))
    uid, gid = owner(built)
    assert owner(made) == (uid, gid)
    assert daemon.inspect(container(daemon, "dev"))["Config"]["User"] == f"{uid}:{gid}"


@both
def test_another_container_reaches_a_clone_by_its_name(shop: World, daemon: ContainerDaemon, product: Product) -> None:
    shop.write("dev.yaml", clone("dev", runtime="docker"))
    shop.converge()
    application = ["run", "--rm", "--network=compose", "--env", f"{product.password}={shop.password('dev')}"]
    assert daemon.docker(*application, product.reference, *product.client) == "7\n"


@both
@pytest.mark.long
def test_a_clone_in_a_container_may_have_a_superuser(shop: World, product: Product) -> None:
    shop.write("dev.yaml", clone("dev", runtime="docker", users=[{"name": "boss", "role": "superuser"}]))
    shop.converge()
    assert product.rows(shop, "dev", product.powerful, user="boss") == [(1,)]
    shop.write("copy.yaml", clone("copy", runtime="docker", image={"clone": "dev"}))
    shop.apply()
    assert shop.generations("copy") == {}  # nothing is made of what a superuser had


@both
def test_a_container_is_adopted_and_one_that_was_removed_paused_or_stopped_comes_back(
    shop: World, daemon: ContainerDaemon, product: Product
) -> None:
    shop.write("dev.yaml", clone("dev", runtime="docker"))
    shop.converge()
    product.rows(shop, "dev", "INSERT INTO product VALUES (4, 'somebody''s work')")
    before = daemon.inspect(container(daemon, "dev"))["Id"]
    assert shop.apply().require().actions == []
    assert daemon.inspect(container(daemon, "dev"))["Id"] == before
    daemon.docker("pause", before)
    assert shop.apply().require().actions == ["start Clone/dev"]
    assert daemon.inspect(before)["State"]["Status"] == "running"
    for ended in (("rm", "--force"), ("stop",), ("kill",)):
        daemon.docker(*ended, container(daemon, "dev"))
        assert shop.apply().require().actions == ["start Clone/dev"]
        assert product.rows(shop, "dev", "SELECT count(*) FROM product") == [(4,)]


def test_a_silent_daemon_is_not_a_reason_to_do_anything(shop: World, daemon: ContainerDaemon) -> None:
    shop.write("dev.yaml", clone("dev", runtime="docker"))
    shop.write("gone.yaml", clone("gone", runtime="docker"))
    shop.write("beside.yaml", clone("beside"))
    shop.converge()
    daemon.stop()
    shop.remove("gone.yaml")
    shop.remove("beside.yaml")
    silent = shop.apply()
    assert silent.actions == ["delete Clone/beside"]
    assert silent.errors == {}
    condition = silent.condition("Clone/dev", "Ready")
    assert condition is not None
    assert condition[:2] == ("Unknown", "RuntimeUnavailable")
    assert "runtimes.docker.socket" in condition[2]
    assert sorted(shop.generations("gone")) == sorted(shop.generations("dev")) == [1]
    daemon.start()
    until(lambda: "dev.1" in shop.servers(), what="the restart of the container by its daemon")
    assert shop.apply().require().actions == ["delete Clone/gone"]
    until(lambda: shop.sql("dev", "SELECT count(*) FROM product") == [(3,)])


@pytest.mark.long
def test_containers_of_others_survive_however_much_they_look_like_ours(shop: World, daemon: ContainerDaemon) -> None:
    shop.write("dev.yaml", clone("dev", runtime="docker"))
    shop.converge()
    ours = container(daemon, "dev")
    daemon.docker("commit", ours, "local/committed:1")  # hands all labels on
    sleep = ("--network=none", "--entrypoint=sleep")
    daemon.docker("run", "--detach", f"--name={ours}0", *sleep, "local/committed:1", "1000")
    daemon.docker("run", "--detach", "--name=reconciler-dev.1", *sleep, f"{IMAGE}:{host_major()}", "1000")
    assert shop.apply().require().actions == []
    shop.apply(("reset", "dev")).require()
    shop.remove("dev.yaml")
    shop.converge()
    assert daemon.names() == {f"{ours}0", "reconciler-dev.1"}
    daemon.docker("rm", "--force", f"{ours}0", "reconciler-dev.1")
    daemon.docker("rmi", "local/committed:1")


@pytest.mark.long
def test_a_port_that_somebody_elses_container_has_is_told_and_waited_for(shop: World, daemon: ContainerDaemon) -> None:
    port = shop.ports.stop - 1
    publish = f"--publish=127.0.0.1:{port}:5432"
    daemon.docker(
        "run", "--detach", "--name=theirs", "--network=compose", publish, f"{IMAGE}:{host_major()}", "sleep", "1000"
    )
    shop.write("dev.yaml", clone("dev", runtime="docker", port=port))
    assert f"port {port} is in use by the container theirs" in shop.apply().errors["Clone/dev"]
    assert daemon.names() == {"theirs"}
    daemon.docker("rm", "--force", "theirs")
    until(lambda: shop.apply().actions == [] and shop.generations("dev"), what="the clone")
    assert shop.current("dev").port == port


@pytest.mark.long
def test_an_image_that_does_not_exist_is_told_with_what_to_do(
    shop: World, daemon: ContainerDaemon, product: Product
) -> None:
    configure(shop, daemon, product, images={"postgres": "registry.invalid/nobody@sha256:" + "0" * 64}, pull="missing")
    shop.write("dev.yaml", clone("dev", runtime="docker"))
    told = shop.apply().errors["Clone/dev"]
    assert "the container image registry.invalid/nobody@sha256:000" in told
    assert "cannot be fetched" in told
    assert "runtimes.docker.images" in told
    assert shop.generations("dev") == {}


@both
@pytest.mark.long
def test_a_server_that_exits_at_once_is_told_with_the_end_of_its_log(
    shop: World, daemon: ContainerDaemon, product: Product
) -> None:
    shop.write("dev.yaml", clone("dev", runtime="docker", parameters=product.exits))
    told = shop.apply().errors["Clone/dev"]
    assert "while it started; the end of its log:" in told
    assert product.why in told
    assert daemon.names() == set()


@pytest.mark.long
def test_a_document_names_the_container_image_that_a_clone_runs(shop: World, daemon: ContainerDaemon) -> None:
    shop.write("dev.yaml", clone("dev", runtime="docker"))
    shop.converge()
    first = daemon.inspect(container(daemon, "dev"))["Image"]
    shop.write("dev.yaml", clone("dev", runtime="docker", container={"image": first}))
    assert shop.apply().require().actions == ["restart Clone/dev"]
    assert daemon.inspect(container(daemon, "dev"))["Image"] == first
    shop.write("dev.yaml", clone("dev", runtime="docker", container={"image": "local/absent:1"}))
    shop.apply()
    stalled = shop.apply().condition("Clone/dev", "Stalled")
    assert stalled is not None
    assert "local/absent:1 is not on this host" in stalled[2]
    assert shop.sql("dev", "SELECT count(*) FROM product") == [(3,)]


@pytest.mark.long
def test_changed_limits_are_applied_by_a_restart(shop: World, daemon: ContainerDaemon) -> None:
    shop.write("dev.yaml", clone("dev", runtime="docker"))
    shop.converge()
    shop.write("dev.yaml", clone("dev", runtime="docker", resources={"memory": "192Mi"}))
    assert shop.apply().require().actions == ["restart Clone/dev"]
    assert daemon.inspect(container(daemon, "dev"))["HostConfig"]["Memory"] == 192 << 20
    shop.write("dev.yaml", clone("dev", runtime="docker", resources={"disk": "1Gi"}))
    refused = shop.apply()
    assert refused.view.plan is not None
    assert "cannot hold it to: disk" in " ".join(one.message for one in refused.view.plan.refused)
