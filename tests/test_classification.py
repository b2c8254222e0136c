"""``classify`` on whole installations: from the first commit on, and never a trace of it."""

from __future__ import annotations

import json
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support import PROGRAM, clone, document, image, until

if TYPE_CHECKING:
    from tests.support import World

pytestmark = pytest.mark.postgres

PEOPLE = """
CREATE TABLE customer (id integer PRIMARY KEY, name text, email text UNIQUE, c17 text, email_sent_count integer);
INSERT INTO customer
SELECT n, 'Hannah Bennett', 'hannah' || n || '@mail.example', '+44 20 7946 ' || 1000 + n, n
FROM generate_series(1, 300) AS n;
CREATE TABLE invoice (id integer PRIMARY KEY, customer_id integer REFERENCES customer, status text);
INSERT INTO invoice SELECT n, n, 'paid' FROM generate_series(1, 300) AS n;
"""
METHODS = {
    "public.customer.id": "keep",
    "public.customer.name": {"fake": "full_name"},
    "public.customer.email": "email",
    "public.customer.c17": "preserve",
    "public.customer.email_sent_count": "keep",
    "public.invoice.id": "keep",
    "public.invoice.customer_id": None,
    "public.invoice.status": "keep",
}


def people(**spec: object) -> dict[str, object]:
    return image("crm", scripts=[{"inline": PEOPLE, "database": "shop"}], **spec)


def methods(world: World, name: str = "crm") -> dict[str, object]:
    result = world.run("classify", name, "-o", "json")
    assert result.returncode == 0, result.stderr
    columns = json.loads(result.stdout)["columns"]
    return {f"{one['schema']}.{one['table']}.{one['column']}": one["method"] for one in columns}


def test_before_there_is_a_policy_one_is_written_that_the_commit_is_valid_with(world: World) -> None:
    world.write("crm.yaml", people(masking=["pii"]))
    assert world.run("validate", str(world.root / "specs")).returncode == 1
    result = world.run("classify", "crm", "--write", str(world.root / "specs" / "pii.yaml"))
    assert result.returncode == 0, result.stderr
    assert world.run("validate", str(world.root / "specs")).returncode == 0
    policy = (world.root / "specs" / "pii.yaml").read_text()
    assert "name: pii" in policy
    assert "email: email # 0.98: the name says an e-mail address; 100 % of 300 sampled values look like" in policy
    for text in (result.stdout, result.stderr, policy):
        assert "@mail.example" not in text
        assert "Hannah" not in text
    assert world.volumes() == ()
    assert world.leftovers() == []


def test_every_column_gets_the_method_that_its_data_asks_for(world: World) -> None:
    world.write("crm.yaml", people(masking=["pii"]))
    assert methods(world) == METHODS


def test_an_image_that_was_built_unmasked_is_looked_at_through_its_snapshot(world: World) -> None:
    world.write("crm.yaml", people())
    world.converge()
    built = world.snapshots()
    world.write("crm.yaml", image("crm", scripts=[{"inline": "SELECT 1/0", "database": "shop"}]))
    assert methods(world) == METHODS
    assert world.snapshots() == built
    assert [volume.id for volume in world.volumes()] == built
    assert world.servers() == set()


def test_what_fails_leaves_nothing_either(world: World) -> None:
    world.write("crm.yaml", image("crm", scripts=[{"inline": "SELECT 1/0", "database": "shop"}]))
    result = world.run("classify", "crm")
    assert result.returncode == 1
    assert "division by zero" in result.stderr
    assert world.volumes() == ()
    assert world.leftovers() == []


def test_killed_while_it_looks_the_next_pass_removes_all_of_it(world: World) -> None:
    slow = "CREATE TABLE item (id integer); SELECT pg_sleep(3600)"
    world.write("crm.yaml", image("crm", scripts=[{"inline": slow, "database": "shop"}]))
    process = subprocess.Popen(
        [PROGRAM, "--config", world.config_file, "classify", "crm"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: any("pg_sleep" in title or "SELECT" in title for title in world.titles()), what="the long script")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(world.volumes()) == 1
    world.remove("crm.yaml")
    world.converge()
    assert world.volumes() == ()
    assert world.leftovers() == []


def test_a_policy_that_exists_is_not_overwritten(world: World) -> None:
    world.write("crm.yaml", people(masking=["pii"]))
    world.write("pii.yaml", document("MaskingPolicy", "pii", {"key": {"secret": "k"}, "rules": []}))
    before = (world.root / "specs" / "pii.yaml").read_text()
    result = world.run("classify", "crm", "--write", str(world.root / "specs" / "pii.yaml"))
    assert result.returncode == 1
    assert "exists already" in result.stderr
    assert (world.root / "specs" / "pii.yaml").read_text() == before


def test_an_unknown_image_is_an_error_that_names_the_others(world: World) -> None:
    world.write("crm.yaml", people())
    result = world.run("classify", "cmr")
    assert result.returncode == 1
    assert 'did you mean "crm"?' in result.stderr


def test_a_commit_that_is_wrong_otherwise_is_shown_as_such(world: World) -> None:
    world.write("crm.yaml", people(masking=["pii"], enigne="postgres"))
    result = world.run("classify", "crm")
    assert result.returncode == 1
    assert "enigne" in result.stderr


def test_a_running_loop_looks_for_whoever_asks_and_goes_on_with_its_work(world: World) -> None:
    world.write("crm.yaml", people(), clone("dev", image="crm"))
    with world.loop():
        until(lambda: world.servers() == {"dev.1"}, what="the clone")
        built = world.snapshots()
        assert methods(world) == METHODS
        result = world.run("classify", "crm", "--write", str(world.root / "specs" / "pii.yaml"))
        assert result.returncode == 0, result.stderr
        assert "email: email # 0.98: the name says an e-mail address" in (world.root / "specs" / "pii.yaml").read_text()
        assert world.snapshots() == built
        assert world.sql("dev", "SELECT count(*) FROM customer") == [(300,)]
    answers = [path.read_text() for path in (world.state / "outcomes").iterdir()]
    assert len(answers) == 2
    assert not any("@mail.example" in answer or "Hannah" in answer for answer in answers)
    world.remove("pii.yaml")
    world.converge()
    assert [volume.id for volume in world.volumes() if volume.id not in built] == ["dev.1"]
    assert world.leftovers() == []


def test_a_running_loop_looks_also_while_no_commit_is_valid_for_want_of_the_policy(world: World) -> None:
    world.write("crm.yaml", people(masking=["pii"]))
    with world.loop():
        assert methods(world) == METHODS
        result = world.run("classify", "cmr")
        assert result.returncode == 1
        assert "there is no image cmr" in result.stderr
    assert world.volumes() == ()


def test_what_fails_in_a_running_loop_is_told_and_leaves_nothing(world: World) -> None:
    world.write("crm.yaml", image("crm", scripts=[{"inline": "SELECT 1/0", "database": "shop"}]))
    with world.loop():
        result = world.run("classify", "crm")
        assert result.returncode == 1
        assert "division by zero" in result.stderr
    assert world.volumes() == ()


def test_a_loop_that_is_ended_while_it_looks_ends_at_once_and_leaves_nothing(world: World) -> None:
    slow = "CREATE TABLE item (id integer); SELECT pg_sleep(3600)"
    world.write("crm.yaml", image("crm", masking=["pii"], scripts=[{"inline": slow, "database": "shop"}]))
    with world.loop():
        asking = subprocess.Popen(
            [PROGRAM, "--config", world.config_file, "classify", "crm"], stderr=subprocess.PIPE, text=True
        )
        until(lambda: any("SELECT" in title for title in world.titles()), what="the long script")
    _, told = asking.communicate()
    assert asking.returncode == 1
    assert "the loop ended without an answer; the wish is withdrawn" in told
    assert world.volumes() == ()
    assert [path for path in (world.state / "requests").iterdir() if path.suffix == ".json"] == []
