"""What a clone is given that no other clone has."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from reconciler.apply.context import Work
from reconciler.apply.serving import allocated
from reconciler.ids import CloneName, RuntimeName, VolumeId
from reconciler.spec.config import Config
from tests.loop.conftest import CLONE, IMAGE, World

if TYPE_CHECKING:
    from pathlib import Path

_SCRIPT = "[{inline: row, database: shop}]"


@pytest.mark.parametrize(
    ("users", "scripts", "granted", "own"),
    [
        ("[{name: app, role: superuser}]", "[]", False, True),
        ("[{name: app}]", _SCRIPT, True, True),
        ("[{name: app}]", _SCRIPT, False, False),
        ("[{name: app}]", "[]", True, False),
    ],
)
def test_a_clone_in_which_a_superuser_acts_has_an_account_of_its_own(
    tmp_path: Path, users: str, scripts: str, *, granted: bool, own: bool
) -> None:
    with ExitStack() as stack:
        world = World(tmp_path, stack)
        runtime = world.host.runtimes[RuntimeName("process")]
        runtime.traits = replace(runtime.traits, own_accounts=True)
        grants = Config.model_validate({"grants": [{"images": "shop", "superuserScripts": granted}]}).grants
        host = replace(world.host, config=world.host.config.model_copy(update={"grants": grants}))
        world.write(IMAGE, CLONE.replace("[{name: app}]", users) + f"  scripts: {scripts}\n")
        commit = host.commits().newest()
        assert commit.desired is not None
        assert commit.tree is not None
        work = Work(host=host, desired=commit.desired, tree=commit.tree)
        with allocated(work, commit.desired.clones[CloneName("dev")], VolumeId("dev.1")) as allocation:
            assert (allocation.account is not None) == own
