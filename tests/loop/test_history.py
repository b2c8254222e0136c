"""What passes leave in the history of objects."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.loop.conftest import CLONE, IMAGE, World
from tests.repository.shared import Remote

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    return Remote(tmp_path)


@pytest.fixture
def world(tmp_path: Path, remote: Remote) -> Iterator[World]:
    with ExitStack() as stack:
        made = World(tmp_path, stack, settings={"repository": {"url": str(remote.path), "path": "specs"}})
        yield made
        made.reconciler.close(abandon=True)


def told(world: World, name: str) -> list[tuple[str, str, str | None]]:
    return [(done.action, done.outcome, done.changed_by) for done in world.store.history.of(name)]


def test_the_life_of_a_clone_names_commits_people_and_requests(world: World, remote: Remote) -> None:
    first = remote.push({"specs/a.yaml": CLONE, "specs/b.yaml": IMAGE})
    world.apply()
    remote.push({"specs/b.yaml": IMAGE + "  parameters: {work_mem: 8MB}\n"})
    world.apply()
    request = world.state.requests.submit("reset", "dev", now=world.clock.now(), requested_by="bob")
    world.apply()
    assert world.state.requests.outcome(request.id) is not None
    renamed = remote.push({"specs/a.yaml": CLONE.replace("{name: dev}", "{name: test, formerly: dev}")})
    world.apply()
    last = remote.push({"specs/a.yaml": "# nothing\n"})
    world.apply()

    assert told(world, "dev") == []
    by = [f"Ada in {commit[:12]}" for commit in (first, renamed, last)]
    assert told(world, "test") == [
        ("create", "succeeded", by[0]),
        ("restart", "succeeded", by[0]),
        ("replace", "succeeded", by[0]),
        ("rename", "succeeded", by[1]),
        ("delete", "succeeded", by[2]),
    ]
    replaced = world.store.history.of("test")[2]
    assert (replaced.asked_by, replaced.volume) == ("bob", "dev.2")
    assert world.store.history.of("shop")[0].revision == f"main@sha1:{first}"


def test_a_build_that_fails_says_with_what(world: World, remote: Remote) -> None:
    remote.push({"specs/a.yaml": "# nothing\n", "specs/b.yaml": IMAGE.replace("database shop", "fail")})
    world.apply()
    (entry,) = world.store.history.of("shop")
    assert (entry.action, entry.outcome, entry.reason) == ("build", "failed", "ScriptFailed")
    assert entry.message != ""
