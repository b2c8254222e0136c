"""Images and clones of SQLite: no server, no port, no password, and everything else as for any other engine."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import clone, document, new_world

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support import World


@pytest.fixture
def world() -> Iterator[World]:
    made = new_world()
    made.write("shop.yaml", image(), clone("dev", users=[]))
    try:
        yield made
    finally:
        made.close()


def image(**spec: Any) -> dict[str, Any]:  # noqa: ANN401 - as YAML
    script = "CREATE TABLE item (name text); INSERT INTO item VALUES ('one'), ('two');"
    return document(
        "Image",
        "shop",
        {"engine": "sqlite", "source": {"empty": {}}, "databases": ["shop"], "scripts": [{"inline": script}], **spec},
    )


def status(world: World) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(world.run("status", "-o", "json").stdout)
    return found


def path_of(world: World, name: str) -> Path:
    generations = world.generations(name)
    volume = generations[max(generations)]
    with world.host() as host:
        return host.pools[volume.pool].path(volume.id) / "data" / "shop.db"


def sql(path: Path, statement: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        return conn.execute(statement).fetchall()


def names(world: World, name: str) -> list[str]:
    return [row[0] for row in sql(path_of(world, name), "SELECT name FROM item")]


def test_a_clone_is_a_file_and_its_path_is_what_status_and_url_say(world: World) -> None:
    world.converge()
    (found,) = status(world)["clones"]
    path = Path(found["endpoint"]["path"])
    assert (found["runtime"], found["state"], path.name) == ("none", "ready", "shop.db")
    assert (found["endpoint"]["host"], found["endpoint"]["port"], found["users"]) == (None, None, [])
    assert world.run("url", "dev").stdout == f"sqlite:///{path}\n"
    assert world.run("connect", "dev", stdin="SELECT name FROM item;\n").stdout == "one\ntwo\n"
    assert world.servers() == set()


def test_what_is_written_into_a_clone_stays_until_it_is_reset_and_can_be_brought_back(world: World) -> None:
    world.converge()
    before = path_of(world, "dev")
    sql(before, "DELETE FROM item")
    world.converge()
    assert names(world, "dev") == []
    world.apply(("reset", "dev")).require()
    assert names(world, "dev") == ["one", "two"]
    world.apply(("undo", "dev")).require()
    assert (path_of(world, "dev"), names(world, "dev")) == (before, [])


def test_scripts_of_a_clone_run_once_and_its_failure_names_their_line(world: World) -> None:
    world.write("shop.yaml", image(), clone("dev", users=[], scripts=[{"inline": "DELETE FROM item"}]))
    world.converge()
    assert names(world, "dev") == []
    world.write("other.yaml", clone("other", users=[], scripts=[{"inline": "SELECT 1;\nATTACH '/etc/x' AS x"}]))
    world.apply()
    told = world.apply().condition("Clone/other", "Stalled")
    assert told is not None
    assert ": reaching another file (ATTACH, VACUUM INTO) is not allowed" in told[2]


def test_a_clone_of_a_clone_has_what_the_other_one_held(world: World) -> None:
    world.converge()
    sql(path_of(world, "dev"), "INSERT INTO item VALUES ('three')")
    world.write("copy.yaml", clone("copy", image={"clone": "dev"}, users=[]))
    world.converge()
    assert names(world, "copy") == ["one", "two", "three"]


def test_an_image_goes_on_from_the_snapshot_of_another(world: World) -> None:
    script = "DELETE FROM item WHERE name = 'one'"
    derived = image(source={"image": "shop"}, scripts=[{"inline": script}])
    derived["metadata"]["name"] = "small"
    world.write("small.yaml", derived, clone("small-dev", image="small", users=[]))
    world.converge()
    assert names(world, "small-dev") == ["two"]


def test_what_files_do_not_have_is_refused_where_it_is_written(world: World) -> None:
    spec = {"users": [{"name": "app"}], "runtime": "process", "port": 5601, "state": "stopped"}
    world.write("wrong.yaml", clone("wrong", **spec, parameters={"work_mem": "64MB"}))
    found = world.run("validate", str(world.root / "specs"))
    assert found.returncode == 1
    assert found.stderr.count("R032") + found.stdout.count("R032") == 5


def test_nothing_is_left_of_a_clone_whose_document_is_gone(world: World) -> None:
    world.converge()
    path = path_of(world, "dev")
    world.write("shop.yaml", image())
    world.converge()
    assert not path.parents[1].exists()
