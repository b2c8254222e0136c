"""Clones as databases on a server that exists already, whatever else lives there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.hosted.world import ON_SHARED, hosted_world
from tests.support import clone, image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.hosted.world import Hosted


@pytest.fixture(scope="module")
def shared() -> Iterator[Hosted]:
    """Return one installation for all tests of this file: each has clones of its own, which go with it."""
    with hosted_world("18") as made:
        made.world.configure(prune={"maxDelete": 1000, "maxDeletePercent": 100})
        made.world.write("shop.yaml", image("shop"))
        yield made


@pytest.fixture
def world(shared: Hosted) -> Iterator[Hosted]:
    yield shared
    for file in (shared.world.root / "specs").glob("*.yaml"):
        if file.name != "shop.yaml":
            file.unlink()
    shared.world.apply().require()
    left = {name for name in shared.databases() if not name.endswith(".template")}
    assert (left, shared.roles()) == (set(), set())


def test_a_clone_is_a_database_that_status_and_url_lead_to(world: Hosted) -> None:
    world.clone("dev")
    assert world.rows("dev", "SELECT count(*) FROM product") == [(3,)]
    (found,) = world.status()["clones"]
    assert (found["runtime"], found["state"]) == ("instance/shared", "running")
    endpoint = {"host": "127.0.0.1", "port": world.server.port, "database": "dev", "user": "dev_app", "path": None}
    assert found["endpoint"] == endpoint
    url = f"postgresql://dev_app:{world.world.password('dev')}@127.0.0.1:{world.server.port}/dev"
    assert world.world.run("url", "dev").stdout.strip() == url
    psql = world.world.run("connect", "dev", "--", "--csv", "-t", stdin="SELECT name FROM product WHERE id = 1;\n")
    assert psql.stdout == "Product 1\n"


def test_a_snapshot_is_loaded_once_for_all_clones_of_it(world: Hosted) -> None:
    world.clone("one")
    before = world.oid_of_template()
    world.clone("two")
    assert world.oid_of_template() == before
    world.rows("one", "DELETE FROM product")
    assert world.rows("two", "SELECT count(*) FROM product") == [(3,)]


def test_nobody_can_connect_to_what_clones_are_copied_from(world: Hosted) -> None:
    world.clone("dev")
    (template,) = (name for name in world.databases() if name.endswith(".template"))
    with pytest.raises(psycopg.OperationalError, match="not currently accepting connections"):
        world.server.connect(template)


def test_a_database_of_somebody_else_is_left_alone_whatever_its_name(world: Hosted) -> None:
    world.server.sql("CREATE DATABASE dev")
    world.server.sql("COMMENT ON DATABASE dev IS 'Made by reconciler, which goes by this comment: {}'")
    world.server.sql("CREATE TABLE mine (a int)", "dev")
    try:
        world.world.write("dev.yaml", clone("dev", **ON_SHARED))
        world.world.apply()
        told = world.world.apply().condition("Clone/dev", "Reconciling")
        assert told is not None
        assert "has a database dev that is not of clone dev; it is left alone" in told[2]
        world.world.remove("dev.yaml")
        world.world.apply().require()
        assert world.server.sql("SELECT count(*) FROM mine", "dev") == [(0,)]
    finally:
        world.server.sql("DROP DATABASE dev")


def test_a_role_of_somebody_else_is_left_alone_whatever_its_name(world: Hosted) -> None:
    world.server.sql("CREATE ROLE dev_app LOGIN")
    try:
        world.world.write("dev.yaml", clone("dev", **ON_SHARED))
        world.world.apply()
        told = world.world.apply().condition("Clone/dev", "Reconciling")
        assert told is not None
        assert "has a role dev_app that is not of clone dev; it is left alone" in told[2]
        world.world.remove("dev.yaml")
        world.world.apply().require()
        assert world.server.sql("SELECT rolcanlogin, rolpassword FROM pg_authid WHERE rolname = 'dev_app'") == [
            (True, None)
        ]
    finally:
        world.server.sql("DROP ROLE dev_app")


def test_a_reset_brings_the_clone_back_under_its_name_although_somebody_works_in_it(world: Hosted) -> None:
    world.clone("dev")
    with world.connect("dev") as session:
        session.execute("DELETE FROM product")
        world.world.apply(("reset", "dev")).require()
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT")
    assert world.rows("dev", "SELECT count(*) FROM product") == [(3,)]
    world.world.apply(("undo", "dev")).require()
    assert world.rows("dev", "SELECT count(*) FROM product") == [(0,)]
    assert world.endpoint("dev")["database"] == "dev"


def test_a_clone_that_follows_its_image_is_made_of_the_new_snapshot_and_the_old_one_goes(world: Hosted) -> None:
    world.world.configure(undo={"grace": "0s"})
    try:
        world.clone("dev", onRefresh="recreate")
        before = world.oid_of_template()
        world.world.write(
            "shop.yaml", image("shop", scripts=[{"inline": "CREATE TABLE other (a int)", "database": "shop"}])
        )
        world.world.converge(passes=8)
        assert world.rows("dev", "SELECT count(*) FROM other") == [(0,)]
        assert world.oid_of_template() != before
    finally:
        world.world.write("shop.yaml", image("shop"))
        world.world.converge(passes=8)
        world.world.configure(undo={"grace": "1h"})


def test_owners_share_what_they_make_and_readers_read_it_and_nobody_else_gets_in(world: Hosted) -> None:
    users = [{"name": "app"}, {"name": "boss"}, {"name": "eye", "role": "readonly"}]
    world.clone("dev", users=users)
    world.clone("other")
    world.rows("dev", "CREATE TABLE made (a int)", "app")
    world.rows("dev", "ALTER TABLE made ADD b int", "boss")
    world.rows("dev", "CREATE SCHEMA more", "boss")
    assert world.rows("dev", "SELECT count(*) FROM made", "eye") == [(0,)]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        world.rows("dev", "SET transaction_read_only = off; INSERT INTO made VALUES (1)", "eye")
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        world.connect("dev", database="other")


def test_a_user_that_goes_leaves_what_it_made_to_the_owners(world: Hosted) -> None:
    world.clone("dev", users=[{"name": "app"}, {"name": "boss"}])
    world.rows("dev", "SET ROLE NONE; CREATE TEMP TABLE t (a int)", "boss")
    world.rows("dev", "CREATE TABLE made (a int)", "boss")
    world.clone("dev", users=[{"name": "app"}])
    assert world.roles() == {"dev_app"}
    assert world.rows("dev", "DROP TABLE made") == []


def test_a_new_password_counts_and_the_old_one_does_not(world: Hosted) -> None:
    secret = world.world.root / "secrets" / "dev-app"
    secret.write_text("first")
    secret.chmod(0o600)
    world.clone("dev", users=[{"name": "app", "password": {"secret": "dev-app"}}])
    url = world.server.url("dev_app", "dev", "first")
    psycopg.connect(url).close()
    secret.write_text("second")
    world.world.apply().require()
    psycopg.connect(world.server.url("dev_app", "dev", "second")).close()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url)


def test_a_stopped_clone_lets_nobody_in_and_keeps_what_it_holds(world: Hosted) -> None:
    world.clone("dev")
    world.rows("dev", "DELETE FROM product")
    world.clone("dev", state="stopped")
    assert world.status()["clones"][0]["state"] == "stopped"
    with pytest.raises(psycopg.OperationalError, match="not currently accepting connections"):
        world.connect("dev")
    world.clone("dev", state="running")
    assert world.rows("dev", "SELECT count(*) FROM product") == [(0,)]


def test_scripts_run_once_with_the_rights_of_owners_and_tell_where_they_fail(world: Hosted) -> None:
    world.clone("dev", scripts=[{"inline": "CREATE TABLE seed AS SELECT current_user::text AS who"}])
    ((who,),) = world.rows("dev", "SELECT who FROM seed")
    assert who.endswith("_owner")
    world.world.write("bad.yaml", clone("bad", **ON_SHARED, scripts=[{"inline": "SELECT 1;\nSELECT pg_reload_conf()"}]))
    world.world.apply()
    told = world.world.apply().condition("Clone/bad", "Stalled")
    assert told is not None
    assert (told[1], "permission denied for function pg_reload_conf" in told[2]) == ("ScriptFailed", True)


def test_a_renamed_clone_keeps_its_data_under_the_new_name(world: Hosted) -> None:
    world.clone("dev")
    world.rows("dev", "DELETE FROM product")
    renamed = clone("prod-like", **ON_SHARED)
    renamed["metadata"]["formerly"] = "dev"
    world.world.write("dev.yaml", renamed)
    world.world.converge()
    assert world.rows("prod-like", "SELECT count(*) FROM product") == [(0,)]
    assert world.roles() == {"prod-like_app"}


def test_a_clone_whose_database_was_dropped_says_so_and_a_reset_makes_it_anew(world: Hosted) -> None:
    world.clone("dev")
    world.server.sql("DROP DATABASE dev WITH (FORCE)")
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
    world.server.stop()
    try:
        world.world.remove("dev.yaml")
        one = world.world.apply().require()
        assert one.actions == []
        told = one.condition("Clone/dev", "Ready")
        assert told is not None
        assert told[:2] == ("Unknown", "RuntimeUnavailable")
        assert world.status()["clones"][0]["state"] == "unknown"
    finally:
        world.server.start()
    world.world.write("dev.yaml", clone("dev", **ON_SHARED))
    world.world.converge()
    assert world.rows("dev", "SELECT count(*) FROM product") == [(3,)]


def test_a_clone_moves_to_an_instance_and_back(world: Hosted) -> None:
    world.clone("dev")
    world.world.write("dev.yaml", clone("dev"))
    world.world.converge()
    assert world.world.sql("dev", "SELECT count(*) FROM product") == [(3,)]
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
