"""Clones as databases on a server that exists already, whatever else lives there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.hosted.world import ON_SHARED, OnPostgres, Refused, hosted_mariadb, hosted_world
from tests.support import clone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.hosted.world import Hosted


@pytest.fixture(scope="module", params=["postgres", "mariadb"])
def shared(request: pytest.FixtureRequest) -> Iterator[Hosted]:
    """Return one installation for all tests of this file: each has clones of its own, which go with it."""
    with hosted_world("18") if request.param == "postgres" else hosted_mariadb() as made:
        made.world.configure(prune={"maxDelete": 1000, "maxDeletePercent": 100})
        made.world.write("shop.yaml", made.image())
        yield made


@pytest.fixture
def world(shared: Hosted) -> Iterator[Hosted]:
    yield shared
    for file in (shared.world.root / "specs").glob("*.yaml"):
        if file.name != "shop.yaml":
            file.unlink()
    shared.world.apply().require()
    left = {name for name in shared.databases() if not name.endswith(".template")}
    assert (left, shared.logins(), shared.idle()) == (set(), set(), [])


def test_a_clone_is_a_database_that_status_and_url_lead_to(world: Hosted) -> None:
    world.clone("dev")
    assert world.rows("dev", "SELECT count(*) FROM product") == [(3,)]
    (found,) = world.status()["clones"]
    assert (found["runtime"], found["state"]) == ("instance/shared", "running")
    endpoint = {"host": "127.0.0.1", "port": world.port, "database": "dev", "user": "dev_app", "path": None}
    assert found["endpoint"] == endpoint
    url = f"://dev_app:{world.world.password('dev')}@127.0.0.1:{world.port}/dev"
    assert world.world.run("url", "dev").stdout.strip().endswith(url)
    shell = world.world.run("connect", "dev", stdin="SELECT name FROM product WHERE id = 1;\n")
    assert "Product 1\n" in shell.stdout


def test_a_snapshot_is_loaded_once_for_all_clones_of_it(world: Hosted) -> None:
    world.clone("one")
    before = world.template()
    world.clone("two")
    assert world.template() == before
    world.rows("one", "DELETE FROM product")
    assert world.rows("two", "SELECT count(*) FROM product") == [(3,)]


def test_nobody_can_connect_to_what_clones_are_copied_from(world: Hosted) -> None:
    world.clone("dev")
    (template,) = (name for name in world.databases() if name.endswith(".template"))
    with pytest.raises(Refused), world.session("dev", database=template):
        pass


def test_a_database_of_somebody_else_is_left_alone_whatever_its_name(world: Hosted) -> None:
    with world.foreign_database("dev"):
        world.world.write("dev.yaml", clone("dev", **ON_SHARED))
        world.world.apply()
        told = world.world.apply().condition("Clone/dev", "Reconciling")
        assert told is not None
        assert "has a database dev that is not of clone dev; it is left alone" in told[2]
        world.world.remove("dev.yaml")
        world.world.apply().require()


def test_a_login_of_somebody_else_is_left_alone_whatever_its_name(world: Hosted) -> None:
    with world.foreign_login("dev_app"):
        world.world.write("dev.yaml", clone("dev", **ON_SHARED))
        world.world.apply()
        told = world.world.apply().condition("Clone/dev", "Reconciling")
        assert told is not None
        assert "dev_app that is not of clone dev; it is left alone" in told[2]
        world.world.remove("dev.yaml")
        world.world.apply().require()


def test_a_reset_brings_the_clone_back_under_its_name_although_somebody_works_in_it(world: Hosted) -> None:
    world.clone("dev")
    with world.session("dev") as session:
        session.rows("DELETE FROM product")
        world.world.apply(("reset", "dev")).require()
        with pytest.raises(Refused):
            session.rows("SELECT 1")
    assert world.rows("dev", "SELECT count(*) FROM product") == [(3,)]
    world.world.apply(("undo", "dev")).require()
    assert world.rows("dev", "SELECT count(*) FROM product") == [(0,)]
    assert world.endpoint("dev")["database"] == "dev"


def test_a_clone_that_follows_its_image_is_made_of_the_new_snapshot_and_the_old_one_goes(world: Hosted) -> None:
    world.world.configure(undo={"grace": "0s"})
    try:
        world.clone("dev", onRefresh="recreate")
        before = world.template()
        more = {"inline": "CREATE TABLE other (a int)", "database": "shop"}
        world.world.write("shop.yaml", world.image(scripts=[more]))
        world.world.converge(passes=8)
        assert world.rows("dev", "SELECT count(*) FROM other") == [(0,)]
        assert world.template() != before
    finally:
        world.world.write("shop.yaml", world.image())
        world.world.converge(passes=8)
        world.world.configure(undo={"grace": "1h"})


def test_owners_share_what_they_make_and_readers_read_it_and_nobody_else_gets_in(world: Hosted) -> None:
    users = [{"name": "app"}, {"name": "boss"}, {"name": "eye", "role": "readonly"}]
    world.clone("dev", users=users)
    world.clone("other")
    world.rows("dev", "CREATE TABLE made (a int)", "app")
    world.rows("dev", "ALTER TABLE made ADD b int", "boss")
    assert world.rows("dev", "SELECT count(*) FROM made", "eye") == [(0,)]
    with pytest.raises(Refused, match="denied"):
        world.rows("dev", f"{world.write_anyway}INSERT INTO made VALUES (1)", "eye")
    with pytest.raises(Refused, match="denied"), world.session("dev", database="other"):
        pass


def test_a_user_that_goes_leaves_what_it_made_to_the_owners(world: Hosted) -> None:
    world.clone("dev", users=[{"name": "app"}, {"name": "boss"}])
    world.rows("dev", "CREATE TABLE made (a int)", "boss")
    world.rows("dev", "CREATE VIEW seen AS SELECT a FROM made", "boss")
    world.clone("dev", users=[{"name": "app"}])
    assert world.logins() == {"dev_app"}
    assert world.rows("dev", "SELECT * FROM seen") == []
    world.rows("dev", "DROP VIEW seen")
    world.rows("dev", "DROP TABLE made")


def test_what_a_user_made_as_itself_does_not_keep_it(world: Hosted) -> None:
    if not isinstance(world, OnPostgres):
        pytest.skip("only roles of PostgreSQL act as others")
    world.clone("dev", users=[{"name": "app"}, {"name": "boss"}])
    world.rows("dev", "SET ROLE NONE; CREATE TEMP TABLE t (a int)", "boss")
    world.rows("dev", "CREATE SCHEMA more", "boss")
    world.clone("dev", users=[{"name": "app"}])
    assert world.logins() == {"dev_app"}


def test_a_new_password_counts_and_the_old_one_does_not(world: Hosted) -> None:
    secret = world.world.root / "secrets" / "dev-app"
    secret.write_text("first")
    secret.chmod(0o600)
    world.clone("dev", users=[{"name": "app", "password": {"secret": "dev-app"}}])
    with world.session("dev", password="first"):
        pass
    secret.write_text("second")
    world.world.apply().require()
    with world.session("dev", password="second"):
        pass
    with pytest.raises(Refused), world.session("dev", password="first"):
        pass


def test_a_stopped_clone_lets_nobody_in_and_keeps_what_it_holds(world: Hosted) -> None:
    world.clone("dev")
    world.rows("dev", "DELETE FROM product")
    world.clone("dev", state="stopped")
    assert world.status()["clones"][0]["state"] == "stopped"
    with pytest.raises(Refused, match=r"not currently accepting connections|account is locked"), world.session("dev"):
        pass
    world.clone("dev", state="running")
    assert world.rows("dev", "SELECT count(*) FROM product") == [(0,)]


def test_scripts_run_once_with_the_rights_of_owners_and_tell_where_they_fail(world: Hosted) -> None:
    world.clone("dev", scripts=[{"inline": "CREATE TABLE seed AS SELECT current_user AS who"}])
    ((who,),) = world.rows("dev", "SELECT who FROM seed")
    assert str(who).startswith("reconciler_")
    refused = "SELECT pg_reload_conf()" if isinstance(world, OnPostgres) else "FLUSH STATUS"
    world.world.write("bad.yaml", clone("bad", **ON_SHARED, scripts=[{"inline": f"SELECT 1;\n{refused};"}]))
    world.world.apply()
    told = world.world.apply().condition("Clone/bad", "Stalled")
    assert told is not None
    assert (told[1], "denied" in told[2]) == ("ScriptFailed", True)


def test_a_renamed_clone_keeps_its_data_under_the_new_name(world: Hosted) -> None:
    world.clone("dev")
    world.rows("dev", "DELETE FROM product")
    renamed = clone("prod-like", **ON_SHARED)
    renamed["metadata"]["formerly"] = "dev"
    world.world.write("dev.yaml", renamed)
    world.world.converge()
    assert world.rows("prod-like", "SELECT count(*) FROM product") == [(0,)]
    assert world.logins() == {"prod-like_app"}


def test_a_clone_whose_database_was_dropped_says_so_and_a_reset_makes_it_anew(world: Hosted) -> None:
    world.clone("dev")
    world.drop_database("dev")
    world.world.apply()
    told = world.world.apply().condition("Clone/dev", "Stalled")
    assert told is not None
    assert told[1:] == (
        "DatabaseGone",
        "the database shop of clone dev is not on the instance shared any more (reconciler reset dev makes it anew)",
    )
    world.world.apply(("reset", "dev")).require()
    assert world.rows("dev", "SELECT count(*) FROM product") == [(3,)]


def test_what_cannot_be_asked_is_unknown_and_nothing_happens_to_it(world: Hosted) -> None:
    world.clone("dev")
    world.stop()
    try:
        world.world.remove("dev.yaml")
        one = world.world.apply().require()
        assert one.actions == []
        told = one.condition("Clone/dev", "Ready")
        assert told is not None
        assert told[:2] == ("Unknown", "RuntimeUnavailable")
        assert world.status()["clones"][0]["state"] == "unknown"
    finally:
        world.start()
    world.world.write("dev.yaml", clone("dev", **ON_SHARED))
    world.world.converge()
    assert world.rows("dev", "SELECT count(*) FROM product") == [(3,)]


def test_a_clone_moves_to_an_instance_and_back(world: Hosted) -> None:
    world.clone("dev")
    world.world.write("dev.yaml", clone("dev"))
    world.world.converge()
    assert world.endpoint("dev")["port"] in world.world.ports
    world.clone("dev")
    assert world.rows("dev", "SELECT count(*) FROM product") == [(3,)]


def test_nothing_is_made_of_a_clone_on_an_instance(world: Hosted) -> None:
    world.clone("dev")
    world.world.write("copy.yaml", clone("copy", image={"clone": "dev"}))
    told = world.world.apply().condition("Clone/copy", "Stalled")
    assert told is not None
    assert "nothing is copied back from there" in told[2]


def test_what_a_database_cannot_have_is_refused_where_it_is_written(world: Hosted) -> None:
    spec: dict[str, Any] = {
        **ON_SHARED,
        "port": 5601,
        "idle": "30m",
        "parameters": {"work_mem": "64MB"},
        "resources": {"memory": "1Gi"},
        "users": [{"name": "app", "role": "superuser"}],
    }
    world.world.write("wrong.yaml", clone("wrong", **spec))
    found = world.world.run("validate", str(world.world.root / "specs"))
    assert found.returncode == 1
    assert (found.stdout + found.stderr).count("R017") == 5
