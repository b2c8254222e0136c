"""Maskers of the host and scripts of the user's own: the same sealing, the same search of the files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from reconciler.engines.postgres import server
from tests.support import clone, image, new_world

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support import World

pytestmark = pytest.mark.postgres

PEOPLE = """
CREATE TABLE person (id integer PRIMARY KEY, email text, note text);
INSERT INTO person SELECT n, 'secretive' || n || '@corp.invalid', 'note ' || n FROM generate_series(1, 40) AS n;
"""
MASK = "UPDATE person SET email = 'masked' || id || '@example.com';"


@pytest.fixture
def world() -> Iterator[World]:
    made = new_world()
    try:
        yield made
    finally:
        made.close()


def people(*masking: dict[str, Any]) -> dict[str, Any]:
    return image("people", scripts=[{"inline": PEOPLE, "database": "shop"}], masking=list(masking))


def left(world: World) -> list[Path]:
    return [path for path in world.pool_path.rglob("*") if path.is_file() and b"secretive" in path.read_bytes()]


def masker(world: World, body: str, **limits: str) -> None:
    """Define a masker of the host that runs psql on its database."""
    script = world.root / "mask.sh"
    psql = server.program(server.choose(), "psql")
    script.write_text(f"#!/bin/sh\n{body}\n".replace("PSQL", f"{psql} -X -q -v ON_ERROR_STOP=1"))
    script.chmod(0o755)
    world.configure(masking={"maskers": {"own": {"argv": [str(script)], **limits}}})


@pytest.mark.parametrize("step", [{"inline": MASK}, {"inline": MASK, "database": "shop"}])
def test_what_a_script_masks_is_in_no_file(world: World, step: dict[str, str]) -> None:
    world.write("people.yaml", people(step), clone("dev", image="people"))
    world.converge()
    assert world.sql("dev", "SELECT count(*) FROM person WHERE email LIKE 'masked%'") == [(40,)]
    assert left(world) == []


def test_what_a_masker_of_the_host_masks_is_in_no_file(world: World) -> None:
    masker(world, f'PSQL -c "{MASK}"')
    world.write("people.yaml", people({"masker": "own"}), clone("dev", image="people"))
    world.converge()
    assert world.sql("dev", "SELECT count(*) FROM person WHERE email LIKE 'masked%'") == [(40,)]
    assert left(world) == []
    (volume,) = (one.manifest for one in world.volumes() if one.manifest.kind == "snapshot")
    assert volume.masked_by == ("own",)


def test_a_masker_that_fails_seals_nothing_and_what_it_prints_is_told_nowhere(world: World) -> None:
    masker(world, 'PSQL -Atc "SELECT email FROM person" >&2; exit 3')
    world.write("people.yaml", people({"masker": "own"}))
    result = world.apply()
    stalled = result.condition("Image/people", "Stalled")
    assert stalled is not None
    assert stalled[1] == "MaskingFailed"
    assert "exit code 3" in stalled[2]
    assert (world.volumes(), world.leftovers()) == ((), [])
    assert [p for p in world.state.rglob("*") if p.is_file() and b"secretive" in p.read_bytes()] == []


def test_a_masker_that_takes_too_long_is_ended_and_tried_again_later(world: World) -> None:
    masker(world, "sleep 1000", timeout="1s")
    world.write("people.yaml", people({"masker": "own"}))
    told = world.apply().condition("Image/people", "Reconciling")
    assert told is not None
    assert told[1] == "Timeout"
    assert "the masker own took longer than 1 s in database shop" in told[2]
    assert "masking.maskers.own.timeout" in told[2]
    assert (world.volumes(), world.leftovers()) == ((), [])


def test_a_masker_that_does_nothing_is_told(world: World) -> None:
    masker(world, "true")
    world.write("people.yaml", people({"masker": "own"}))
    (done, *_) = world.converge()
    told = done.condition("Image/people", "LeftUnmasked")
    assert told is not None
    assert "own took away no text" in told[2]


def test_a_masker_has_no_superuser_rights(world: World) -> None:
    masker(world, "PSQL -c 'ALTER ROLE reconciler_builder SUPERUSER'")
    world.write("people.yaml", people({"masker": "own"}))
    stalled = world.apply().condition("Image/people", "Stalled")
    assert stalled is not None
    assert stalled[1] == "MaskingFailed"


def test_a_masker_that_the_host_does_not_know_stalls_its_image_alone(world: World) -> None:
    world.write("people.yaml", people({"masker": "own"}), image("other"))
    result = world.apply()
    stalled = result.condition("Image/people", "Stalled")
    assert stalled is not None
    assert stalled[1] == "MaskerUnknown"
    assert len(world.snapshots()) == 1
