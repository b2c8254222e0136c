"""A clone that starts from what another clone holds, on real servers: whose work is in it, and whose rights are not."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from reconciler.masking.attestation import examine, read
from reconciler.state.observed import SnapshotManifest
from tests.support import clone, document, image, new_world

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support import World

pytestmark = pytest.mark.postgres

DEV = clone("dev", users=[{"name": "app"}, {"name": "tester"}, {"name": "report", "role": "readonly"}])
SECOND = clone("second", image={"clone": "dev"}, users=[{"name": "app"}])
SPY = """
CREATE TABLE seen (who text);
CREATE FUNCTION seize() RETURNS void VOLATILE LANGUAGE plpgsql AS $$BEGIN
    INSERT INTO public.seen VALUES (current_user);
    BEGIN ALTER ROLE reconciler_owner SUPERUSER; EXCEPTION WHEN insufficient_privilege THEN END;
END$$;
CREATE FUNCTION spy(v text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$BEGIN
    PERFORM public.seize(); RETURN v;
END$$;
CREATE TABLE mine AS SELECT name FROM product;
CREATE INDEX ON mine (spy(name));
"""
"""What runs whenever somebody gathers statistics of a table, with the rights of who owns it."""
COUNT = "SELECT count(*) FROM product"


def _btrfs() -> World:
    if shutil.which("mkfs.btrfs") is None:
        pytest.skip("needs the program mkfs.btrfs (package btrfs-progs)")
    return new_world(driver="btrfs", pool={"size": "600Mi"})


@pytest.fixture(params=["copy", pytest.param("btrfs", marks=pytest.mark.root)])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """An installation with a clone that somebody has worked in."""
    made = new_world() if request.param == "copy" else _btrfs()
    try:
        made.write("shop.yaml", image("shop"))
        made.write("dev.yaml", DEV)
        made.apply().require()
        made.sql("dev", "INSERT INTO product VALUES (4, 'of the user')")
        made.sql("dev", "CREATE TABLE note AS SELECT 'mine'::text AS text", user="tester")
        yield made
    finally:
        made.close()


def started(world: World) -> None:
    world.write("second.yaml", SECOND)
    world.apply().require()


def point(world: World) -> SnapshotManifest:
    manifests = [v.manifest for v in world.volumes() if isinstance(v.manifest, SnapshotManifest)]
    (found,) = [manifest for manifest in manifests if manifest.clone is not None]
    return found


def test_it_has_what_was_committed_when_it_was_made_and_nothing_that_came_later(world: World) -> None:
    started(world)
    world.sql("dev", "INSERT INTO product VALUES (5, 'later')")
    assert world.sql("second", COUNT) == [(4,)]
    assert world.sql("second", "SELECT text FROM note") == [("mine",)]
    world.sql("second", "DELETE FROM product; DROP TABLE note")
    assert world.sql("dev", COUNT) == [(5,)]
    assert world.converge()[-1].actions == []
    assert world.leftovers() == []


def test_users_of_the_source_are_not_in_it_and_their_passwords_open_nothing(world: World) -> None:
    started(world)
    roles = {name for (name,) in world.sql("second", "SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_'")}
    assert {"tester", "report"}.isdisjoint(roles)
    assert world.password("dev") != world.password("second")
    for user in ("app", "tester"):
        with pytest.raises(psycopg.OperationalError):
            world.sql("second", "SELECT 1", user=user, password=world.password("dev", user))


def test_what_its_users_left_behind_runs_with_nobodys_rights(world: World) -> None:
    world.sql("dev", SPY)
    started(world)
    assert set(world.sql("second", "SELECT who FROM seen")) == {("app",), ("reconciler_owner",)}
    assert world.sql("second", "SELECT rolname FROM pg_roles WHERE rolsuper") == [("reconciler_admin",)]


def test_a_rebase_takes_it_to_what_the_source_holds_then_and_undo_back(world: World) -> None:
    started(world)
    world.sql("dev", "INSERT INTO product VALUES (5, 'later')")
    world.apply(("rebase", "second")).require()
    assert world.sql("second", COUNT) == [(5,)]
    world.apply(("undo", "second")).require()
    assert world.sql("second", COUNT) == [(4,)]


def test_its_attestation_tells_where_it_comes_from_and_claims_nothing_else(world: World) -> None:
    started(world)
    known = point(world)
    data = read(world.pool_path / "volumes" / known.snapshot)
    assert data is not None
    seen = examine(data, known, {})
    assert seen.problems == ()
    assert seen.predicate["point"] == {"clone": "dev", "origins": []}
    assert (seen.predicate["base"], seen.predicate["maskedBy"]) == (known.base, [])
    assert "masking" not in seen.predicate
    assert "unmasked" not in seen.predicate
    assert seen.predicate["baseAttestation"]["sha256"]


def test_where_an_attestation_is_required_it_is_not_delivered(world: World) -> None:
    world.configure(runtimes={"process": {**world.settings.get("runtimes", {}), "requireAttestation": "any"}})
    world.write("second.yaml", SECOND)
    done = world.apply()
    assert world.generations("second") == {}
    reason = done.condition("Clone/second", "Stalled")
    assert reason is not None
    assert reason[1] == "AttestationRequired"


def test_the_source_goes_on_with_its_sessions_where_the_pool_can_copy_it_as_it_runs(world: World) -> None:
    if world.driver != "btrfs":
        pytest.skip("this pool copies clones at rest")
    with world.connect("dev") as session:
        session.execute("CREATE TEMPORARY TABLE mine (n int)")
        session.execute("BEGIN")
        session.execute("INSERT INTO product VALUES (100, 'not committed')")
        started(world)
        assert session.execute("SELECT count(*), (SELECT count(*) FROM mine) FROM product").fetchone() == (5, 0)
        session.execute("COMMIT")
    assert world.sql("second", COUNT) == [(4,)]


def test_elsewhere_it_waits_until_nobody_is_connected_to_the_source(world: World) -> None:
    if world.driver != "copy":
        pytest.skip("this pool copies clones while they run")
    with world.connect("dev") as session:
        world.write("second.yaml", SECOND)
        told = world.apply().condition("Clone/second", "Reconciling")
        assert told is not None
        assert "in use by 1 connection" in told[2]
        assert session.execute(COUNT).fetchone() == (4,)
    assert world.generations("second") == {}
    assert world.servers() == {"dev.1"}


def test_elsewhere_a_protected_source_is_never_stopped(world: World) -> None:
    if world.driver != "copy":
        pytest.skip("this pool copies clones while they run")
    world.write("dev.yaml", document("Clone", "dev", {**DEV["spec"], "protected": True}))
    world.apply().require()
    world.write("second.yaml", SECOND)
    done = world.apply()
    assert done.actions == []
    told: Any = done.condition("Clone/second", "Stalled")
    assert told[1] == "Protected"
    world.write("dev.yaml", document("Clone", "dev", {**DEV["spec"], "protected": True, "state": "stopped"}))
    for _ in range(2):
        world.apply()
    assert world.sql("second", COUNT) == [(4,)]


@pytest.mark.root
def test_nothing_is_made_of_a_clone_with_a_superuser(world: World) -> None:
    world.write("admin.yaml", clone("admin", users=[{"name": "boss", "role": "superuser"}]))
    world.write("second.yaml", clone("second", image={"clone": "admin"}))
    world.apply()
    done = world.apply()
    told: Any = done.condition("Clone/second", "Stalled")
    assert told[1] == "SuperuserClone"
    assert world.generations("second") == {}
