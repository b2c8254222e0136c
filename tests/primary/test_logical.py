"""Images of a live primary by `method: logical`, as people use them: documents, passes, clones."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.state.observed import SnapshotManifest
from tests import live
from tests.support import OLDER_MAJOR, PRODUCTS, PROGRAM, clone, document, free_port, image, new_world

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support import World

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def production() -> Iterator[live.LiveServer]:
    with live.live_server(OLDER_MAJOR) as made:
        for text in ("CREATE DATABASE bank", "CREATE DATABASE shop"):
            made.sql(text)
        made.sql(PRODUCTS, "shop")
        made.sql("CREATE TABLE entry (n int)", "bank")
        yield made


@pytest.fixture
def world(production: live.LiveServer) -> Iterator[World]:
    made = new_world()
    try:
        give(made, production.url())
        yield made
    finally:
        made.close()
        production.require_left()


def give(world: World, url: str) -> None:
    """Put the secret with the URL on the host."""
    path = world.root / "secrets" / "shop-dsn"
    path.write_text(url)
    path.chmod(0o600)


def copied(**spec: Any) -> dict[str, Any]:  # noqa: ANN401 - as YAML
    source = {"primary": {"url": {"secret": "shop-dsn"}, "method": "logical"}}
    defaults = {"engine": "postgres", "source": source, "unmasked": {"reason": "made for tests"}}
    return document("Image", "shop", {**defaults, **spec})


def manifests(world: World) -> list[SnapshotManifest]:
    found = [volume.manifest for volume in world.volumes()]
    return [one for one in found if isinstance(one, SnapshotManifest)]


def everything_written(world: World) -> str:
    """Return all text of the installation that is no database and no secret of the host."""
    texts = []
    for base, directories, names in os.walk(world.root):
        directories[:] = [name for name in directories if name not in ("data", "secrets", "credentials")]
        files = (Path(base, name) for name in names)
        texts += [file.read_bytes().decode("utf-8", "replace") for file in files if file.is_file()]
    return "\n".join(texts)


def test_a_primary_becomes_a_clone_and_is_copied_again_only_when_it_changed(
    world: World, production: live.LiveServer
) -> None:
    world.write("shop.yaml", copied(), clone("dev"))
    world.converge()
    assert world.sql("dev", "SELECT count(*) FROM product") == production.sql("SELECT count(*) FROM product", "shop")
    (first,) = manifests(world)
    assert (first.databases, first.major) == (("bank", "shop"), OLDER_MAJOR)
    assert first.data_as_of is not None
    assert first.data_as_of <= first.created_at

    again = world.apply(("refresh", "shop")).require()
    assert again.actions == []
    assert (again.condition("Image/shop", "Ready") or ())[:2] == ("True", "UpToDate")

    production.sql("INSERT INTO product SELECT max(id) + 1, 'new' FROM product", "shop")
    assert world.apply(("refresh", "shop")).require().actions == ["build Image/shop"]
    newest = max(manifests(world), key=lambda one: one.created_at)
    assert newest.input_id != first.input_id
    assert world.sql("dev", "SELECT count(*) FROM product WHERE name = 'new'") == [(0,)]
    assert live.PASSWORD not in everything_written(world)
    assert live.PASSWORD not in world.run("status", "-o", "json").stdout


def test_a_missing_secret_stalls_that_image_alone_until_it_is_there(world: World, production: live.LiveServer) -> None:
    (world.root / "secrets" / "shop-dsn").unlink()
    world.write("shop.yaml", copied())
    world.write("other.yaml", image("other"))
    made = world.apply().require()
    assert made.actions == ["build Image/other"]
    stalled = made.condition("Image/shop", "Stalled")
    assert stalled is not None
    assert (stalled[1], "shop-dsn" in stalled[2]) == ("SecretUnavailable", True)
    give(world, production.url())
    assert world.apply().require().actions == ["build Image/shop"]


def test_a_secret_that_is_not_granted_is_not_used(world: World) -> None:
    world.configure(grants=[{"images": "*", "secrets": ["other-*"]}])
    world.write("shop.yaml", copied())
    made = world.apply()
    stalled = made.condition("Image/shop", "Stalled")
    assert (made.actions, stalled and stalled[1]) == ([], "SecretNotGranted")


def test_a_wrong_password_stalls_and_a_primary_that_is_away_is_waited_for(
    world: World, production: live.LiveServer
) -> None:
    give(world, production.url(password="hunter2"))
    world.write("shop.yaml", copied())
    refused = world.apply()
    stalled = refused.condition("Image/shop", "Stalled")
    assert (refused.actions, stalled and stalled[1]) == ([], "PrimaryRefused")
    give(world, f"postgresql://boss:hunter2@127.0.0.1:{free_port()}/shop")
    away = world.apply()
    waiting = away.condition("Image/shop", "Reconciling")
    assert (away.actions, waiting and waiting[1]) == ([], "PrimaryUnavailable")
    assert "hunter2" not in everything_written(world)


def test_a_reconciler_that_is_killed_while_it_copies_leaves_no_session_and_the_next_pass_builds(
    world: World, production: live.LiveServer
) -> None:
    production.sql("INSERT INTO entry SELECT generate_series(1, 3000000)", "bank")
    world.write("shop.yaml", copied())
    reading = (
        "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'COPY %' AND state = 'active' AND application_name <> 'owner'"
    )
    argv = [str(PROGRAM), "--config", str(world.config_file), "apply"]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not production.sql(reading):
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    production.require_left()
    try:
        world.converge()
        (built,) = manifests(world)
        assert built.databases == ("bank", "shop")
        assert len(world.volumes()) == 1
    finally:
        production.sql("TRUNCATE entry", "bank")


def test_a_primary_that_fails_in_the_middle_leaves_the_last_snapshot_and_its_clones(
    world: World, production: live.LiveServer
) -> None:
    world.write("shop.yaml", copied(), clone("dev"))
    world.converge()
    production.sql("INSERT INTO entry SELECT generate_series(1, 3000000)", "bank")
    reading = (
        "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'COPY %' AND state = 'active' AND application_name <> 'owner'"
    )

    def fail() -> None:
        with production.connect() as conn:
            while conn.execute(reading).fetchone() is None:
                pass
        production.stop("immediate")

    thread = threading.Thread(target=fail)
    thread.start()
    try:
        made = world.apply(("refresh", "shop"))
    finally:
        thread.join()
        production.start()
    try:
        assert list(made.errors) == ["Image/shop"]
        assert "was interrupted" in made.errors["Image/shop"]
        assert world.sql("dev", "SELECT count(*) FROM product") != [(0,)]
        assert len(manifests(world)) == 1
    finally:
        production.sql("TRUNCATE entry", "bank")
