"""Whatever goes wrong with masking: no snapshot, nothing left behind, the clones that exist live on, no value told."""

from __future__ import annotations

import subprocess
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from reconciler.engines.postgres.masking.keys import setting_name
from reconciler.ids import SecretName
from reconciler.masking import keyed
from tests.support import PROGRAM, clone, document, image, new_world, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.support import World

pytestmark = pytest.mark.postgres

KEY = "a key that nobody may ever see"
PEOPLE = """
CREATE TABLE person (id integer PRIMARY KEY, email text, name varchar(40), age integer CHECK (age < 200));
INSERT INTO person
SELECT n, 'secretive' || n || '@corp.invalid', 'Somebody ' || n, n % 90 FROM generate_series(1, 40) AS n;
CREATE TABLE audit (id integer, what text);
"""
RULES: dict[str, Any] = {"id": "keep", "email": "email", "name": {"fake": "full_name"}, "age": "keep"}


def policy(columns: dict[str, Any], **spec: str) -> dict[str, Any]:
    rules = [{"table": "public.person", "columns": columns}]
    return document("MaskingPolicy", "pii", {"key": {"secret": "masking-key"}, "rules": rules, **spec})


def people(script: str = "", checks: Sequence[dict[str, str]] = ()) -> dict[str, Any]:
    scripts = [{"inline": PEOPLE + script, "database": "shop"}]
    return image("people", scripts=scripts, masking=["pii"], checks=list(checks))


@pytest.fixture
def world() -> Iterator[World]:
    """An installation with a masked image and a clone of it."""
    made = new_world()
    try:
        (made.root / "secrets" / "masking-key").write_text(KEY)
        made.write("pii.yaml", policy(RULES))
        made.write("people.yaml", people(), clone("dev", image="people"))
        made.converge()
        yield made
    finally:
        made.close()


def test_a_masked_image_gives_clones_without_originals(world: World) -> None:
    rows = world.sql("dev", "SELECT count(*), count(*) FILTER (WHERE email LIKE '%@example.com') FROM person")
    assert rows == [(40, 40)]
    assert world.sql("dev", "SELECT count(DISTINCT email), count(DISTINCT id) FROM person") == [(40, 40)]


PHONE = "ALTER TABLE person ADD COLUMN phone text;"
COPY = "INSERT INTO audit SELECT id, 'mail to ' || email FROM person;"
COMMENT = """
DO $$ BEGIN
    EXECUTE 'COMMENT ON TABLE audit IS ' || quote_literal((SELECT string_agg(email, ' ') FROM person));
END $$;
"""
SETTING = setting_name(SecretName("masking-key"), "email", "key")
"""Where the session that masks has a subkey."""
LOOT = f"""
ALTER TABLE person ADD COLUMN loot text;
CREATE FUNCTION loot() RETURNS text LANGUAGE sql AS $$ SELECT 'got ' || current_setting('{SETTING}', true) $$;
"""
THIRD = """
CREATE TABLE address AS SELECT id, 'Somebody lives at ' || id AS line FROM person;
CREATE TABLE payment AS SELECT id, 0 AS amount FROM person;
"""
"""Tables beside person; the rule for the last of them fails once its rows are computed."""
THREE = policy(RULES)
THREE["spec"]["rules"] += [
    {"table": "public.address", "columns": {"id": "keep", "line": {"fake": "street"}}},
    {"table": "public.payment", "columns": {"id": "keep", "amount": {"sql": "100 / amount"}}},
]
KNOWN = "INSERT INTO audit VALUES (1, {});"
SUBKEY = f"'{keyed.subkey(KEY.encode(), 'email').hex()}'"
FAILING: dict[str, tuple[dict[str, Any], dict[str, Any], str, list[str]]] = {
    "a column that a rule names is not there": (
        policy({**RULES, "emial": "email"}), people(), "MaskingUncovered", ["public.person", "emial", "email"],
    ),
    "a column that no rule names": (
        policy(RULES), people(PHONE), "MaskingUncovered", ["public.person", "phone"],
    ),
    "a table that no rule matches": (
        policy(RULES, unlisted="fail"), people(), "MaskingUncovered", ["public.audit"],
    ),
    "a value that a constraint refuses": (
        policy({**RULES, "age": {"fixed": 500}}), people(), "MaskingFailed", ["public.person", "person_age_check"],
    ),
    "SQL that fails in the third table": (
        THREE, people(THIRD), "MaskingFailed", ["public.payment", "division by zero"],
    ),
    "a rule that changes nothing": (
        policy({**RULES, "email": {"sql": "email"}}), people(), "MaskingLeak", ["public.person", "email"],
    ),
    "a copy that no rule knows": (
        policy(RULES), people(COPY), "MaskingLeak", ["email"],
    ),
    "a comment that has what a column had": (
        policy(RULES), people(COMMENT), "MaskingLeak", ["pg_description", "public.person.email", "COMMENT ON"],
    ),
    "a subkey that somebody wrote into a row": (
        policy(RULES), people(KNOWN.format(SUBKEY)), "MaskingLeak", ["masking key"],
    ),
    "a subkey in a value that is stored compressed": (
        policy(RULES), people(KNOWN.format(f"repeat({SUBKEY} || ' ', 200)")), "MaskingLeak", ["masking key"],
    ),
    "a script that fails after masking": (
        policy(RULES), people(checks=[{"sql": "SELECT false", "database": "shop"}]), "CheckFailed", [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("why", list(FAILING))
def test_nothing_is_sealed_when(world: World, why: str) -> None:
    rules, wanted, reason, told = FAILING[why]
    before = world.snapshots()
    world.write("pii.yaml", rules)
    world.write("people.yaml", wanted, clone("dev", image="people"))
    result = world.apply()
    stalled = result.condition("Image/people", "Stalled")
    assert stalled is not None, result.errors
    assert stalled[:2] == ("True", reason), stalled
    assert [word for word in told if word not in stalled[2]] == []
    assert world.snapshots() == before
    assert world.leftovers() == []
    assert world.sql("dev", "SELECT count(*) FROM person") == [(40,)]
    everything = [path.read_bytes() for path in world.state.rglob("*") if path.is_file()]
    assert not [word for word in (b"secretive", b"Somebody", KEY.encode()) if any(word in text for text in everything)]
    assert world.apply().actions == []


def test_an_expression_that_looks_for_a_key_finds_none(world: World) -> None:
    world.write("pii.yaml", policy({**RULES, "loot": {"sql": "public.loot()", "keep_null": False}}))
    world.write("people.yaml", people(LOOT), clone("dev", image="people"), clone("new", image="people"))
    world.converge()
    assert world.sql("new", "SELECT count(*), count(loot) FROM person") == [(40, 0)]


def test_a_condition_that_takes_no_row_is_told(world: World) -> None:
    rules = policy(RULES)
    rules["spec"]["rules"][0]["when"] = "false"
    world.write("pii.yaml", rules)
    (done, *_) = world.converge()
    told = done.condition("Image/people", "LeftUnmasked")
    assert told is not None
    assert "the condition of the rule for public.person.email takes no row" in told[2]


def test_an_image_without_its_key_waits(world: World) -> None:
    (world.root / "secrets" / "masking-key").unlink()
    result = world.apply()
    condition = result.condition("Image/people", "Stalled")
    assert condition is not None
    assert condition[1] == "SecretUnavailable"
    assert world.sql("dev", "SELECT count(*) FROM person") == [(40,)]


@pytest.mark.parametrize("what", ["is a directory", "is no text", "is empty"])
def test_an_image_whose_key_cannot_be_read_waits(world: World, what: str) -> None:
    key = world.root / "secrets" / "masking-key"
    key.unlink()
    match what:
        case "is a directory":
            key.mkdir()
        case "is no text":
            key.write_bytes(b"\xff\xfe\x00")
        case _:
            key.touch()
    before = world.snapshots()
    result = world.apply()
    condition = result.condition("Image/people", "Stalled")
    assert condition is not None
    assert condition[:2] == ("True", "SecretUnavailable")
    assert world.snapshots() == before
    assert world.sql("dev", "SELECT count(*) FROM person") == [(40,)]


def test_originals_that_were_sealed_would_be_found(world: World) -> None:
    world.write("plain.yaml", image("plain", scripts=[{"inline": PEOPLE, "database": "shop"}]))
    world.converge()
    found = {name.rpartition("-20")[0]: _with_originals(world, name) for name in world.snapshots()}
    assert {name: bool(files) for name, files in found.items()} == {"people": False, "plain": True}


_KILLS = 6
"""At as many moments of a build."""
_ATTEMPTS = 3
"""At each: builds take longer at one time than at another."""


def _victim(world: World, kind: str) -> psutil.Process | None:
    """Return the build's server, or the one of its backends that works; None when there is none."""
    for process in world.processes():
        with suppress(psutil.Error):
            if "/people-" not in process.environ().get("RECONCILER_SERVER", ""):
                continue
            if kind == "server":
                return process
            for child in process.children():
                title = " ".join(child.cmdline())
                if "reconciler" in title and "idle" not in title:
                    return child
    return None


@pytest.mark.long
@pytest.mark.parametrize("kind", ["server", "backend"])
def test_whenever_what_masks_is_killed_no_original_is_sealed(world: World, kind: str) -> None:
    seconds, killed = _built(world, "-- undisturbed"), 0
    for step in range(_KILLS):
        for attempt in range(_ATTEMPTS):
            before = set(world.snapshots())
            with _building(world, f"-- {step}, {attempt}") as build:
                start = time.monotonic()
                hit = _killed(world, kind, build, seconds * step / _KILLS)
                build.wait()
                took = time.monotonic() - start
            made = set(world.snapshots()) - before
            assert [path for name in made for path in _with_originals(world, name)] == []
            assert world.leftovers() == []
            if hit:
                killed += 1
                break
            seconds = min(seconds, took)  # it was over before its moment came
    assert killed > _KILLS // 2
    _built(world, "-- afterwards")
    assert world.sql("dev", "SELECT count(*) FROM person") == [(40,)]


def _killed(world: World, kind: str, build: subprocess.Popen[bytes], seconds: float) -> bool:
    """Kill what masks after some time; return whether there was something to kill."""
    time.sleep(seconds)
    while build.poll() is None:
        victim = _victim(world, kind)
        if victim is not None:
            with suppress(psutil.Error):
                victim.kill()
                return True
        time.sleep(0.002)
    return False


def _built(world: World, script: str) -> float:
    """Build a snapshot, and return how many seconds its server ran."""
    before = set(world.snapshots())
    with _building(world, script) as build:
        start = time.monotonic()
        build.wait()
    assert set(world.snapshots()) - before
    return time.monotonic() - start


@contextmanager
def _building(world: World, script: str) -> Iterator[subprocess.Popen[bytes]]:
    """Build the image with another script; the block begins when there is a server, and the build is over after it."""
    world.write("people.yaml", people(script), clone("dev", image="people"))
    with subprocess.Popen(
        [PROGRAM, "--config", world.config_file, "apply"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as build:
        until(lambda: _victim(world, "server"), what="the build's server")
        yield build


def _with_originals(world: World, snapshot: str) -> list[Path]:
    """Return the files of a snapshot that have any."""
    files = [path for path in (world.pool_path / "volumes" / snapshot).rglob("*") if path.is_file()]
    assert files, f"there is nothing of {snapshot} to look into"
    return [path for path in files if b"secretive" in path.read_bytes()]


def test_another_key_masks_to_other_values_and_the_same_key_to_the_same(world: World) -> None:
    first = world.sql("dev", "SELECT id, email, name FROM person ORDER BY id")
    world.write("again.yaml", people() | {"metadata": {"name": "again"}}, clone("second", image="again"))
    world.converge()
    assert world.sql("second", "SELECT id, email, name FROM person ORDER BY id") == first
    (world.root / "secrets" / "masking-key").write_text("another key")
    world.write("third.yaml", clone("third", image="people"))
    world.converge()
    other = world.sql("third", "SELECT id, email, name FROM person ORDER BY id")
    assert not {row[1] for row in other} & {row[1] for row in first}
    assert world.sql("dev", "SELECT id, email, name FROM person ORDER BY id") == first


def test_new_rows_of_a_clone_get_numbers_that_no_masked_row_has(world: World) -> None:
    script = "CREATE TABLE ticket (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, no serial UNIQUE, what text);"
    script += "INSERT INTO ticket (what) SELECT 'x' FROM generate_series(1, 60);"
    rules = policy(RULES)
    columns = {"id": "preserve", "no": "preserve", "what": "keep"}
    rules["spec"]["rules"].append({"table": "public.ticket", "columns": columns})
    world.write("pii.yaml", rules)
    world.write("people.yaml", people(script), clone("dev", image="people"), clone("next", image="people"))
    world.converge()
    assert world.sql("next", "INSERT INTO ticket (what) SELECT 'y' FROM generate_series(1, 300)") == []
    assert world.sql("next", "SELECT count(DISTINCT id), count(DISTINCT no), count(*) FROM ticket") == [(360, 360, 360)]


def test_the_inline_text_of_an_image_is_no_leak_of_the_state(world: World) -> None:
    assert [path for path in world.pool_path.rglob("*") if path.is_file() and b"secretive" in path.read_bytes()] == []
