from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support import World


def test_a_unit_is_named_with_or_without_its_suffix(world: World) -> None:
    for name in ("two", "two.service"):
        shown = world.run("install-service", "--dry-run", "--name", name)
        assert (shown.returncode, shown.stderr.splitlines()[0].endswith("/two.service")) == (0, True)
    refused = world.run("install-service", "--dry-run", "--name", "two.timer")
    assert "'two.timer' is no name of a unit" in refused.stderr
