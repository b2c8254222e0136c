"""Clones as databases on a server that exists already, whatever else lives there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.hosted.world import Hosted, hosted_world
from tests.support import clone, image

if TYPE_CHECKING:
    from collections.abc import Iterator

ON_SHARED = {"runtime": "instance", "instance": "shared"}


@pytest.fixture
def world() -> Iterator[Hosted]:
    with hosted_world("18") as made:
        made.world.write("shop.yaml", image("shop"), clone("dev", **ON_SHARED))
        yield made


def test_a_clone_is_a_database_that_status_and_url_lead_to(world: Hosted) -> None:
    world.world.converge()
    assert world.rows("dev", "SELECT count(*) FROM product") == [(3,)]
    (found,) = world.status()["clones"]
    assert (found["runtime"], found["state"]) == ("instance/shared", "running")
    assert found["endpoint"] == {
        "host": "127.0.0.1",
        "port": world.server.port,
        "database": "dev",
        "user": "dev_app",
        "path": None,
    }
