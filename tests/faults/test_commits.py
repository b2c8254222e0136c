"""Commits that delete everything, are broken, or cannot be fetched."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support import PROGRAM, World, clone, image

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.postgres

COUNT = "SELECT count(*) FROM product"


def git(directory: Path, *words: str) -> None:
    identity = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.com"]
    subprocess.run(["git", *identity, "-C", directory, *words], check=True, capture_output=True)


def commit(world: World, message: str) -> None:
    git(world.root / "specs", "add", "--all")
    git(world.root / "specs", "commit", "--quiet", "--allow-empty", "--message", message)


def follow_git(world: World) -> None:
    """Have the installation follow its spec directory as a git repository from now on."""
    git(world.root / "specs", "init", "--quiet", "--initial-branch", "main")
    commit(world, "Ask for an image and two clones")
    world.configure(repository={"url": "./specs", "branch": "main", "interval": "1h"})
    assert world.apply().require().actions == []


def test_a_commit_that_deletes_everything_asks_first(shop: World) -> None:
    volumes = shop.volumes()
    for name in ("shop.yaml", "dev.yaml", "test.yaml"):
        shop.remove(name)
    result = shop.run("apply")
    assert result.returncode == 1
    assert "--approve" in result.stdout + result.stderr
    assert shop.volumes() == volumes
    assert shop.sql("dev", COUNT) == [(4,)]
    for _ in range(3):
        shop.run("apply", "--approve=any")
    assert shop.volumes() == ()
    assert shop.servers() == set()
    assert shop.leftovers() == []


def test_an_approval_names_one_plan(shop: World) -> None:
    volumes = shop.volumes()
    for name in ("shop.yaml", "dev.yaml", "test.yaml"):
        shop.remove(name)
    shop.run("apply", "--approve=0000000000000000")
    assert shop.volumes() == volumes


def test_a_broken_commit_leaves_the_last_good_one_in_force(shop: World) -> None:
    follow_git(shop)
    volumes = shop.volumes()
    (shop.root / "specs" / "test.yaml").unlink()
    shop.write("dev.yaml", clone("dev", ownr="nobody"))
    commit(shop, "Break it")
    shop.kill_server("test")
    result = shop.apply().require()
    assert result.actions == ["start Clone/test"]
    assert [diagnostic.line > 0 for diagnostic in result.view.commit.diagnostics] == [True]
    assert {condition.reason for condition in result.view.commit.conditions} == {"InvalidSpec"}
    assert shop.volumes() == volumes
    assert shop.sql("test", COUNT) == [(4,)]


def test_a_lost_status_store_does_not_lose_the_last_good_commit(shop: World) -> None:
    follow_git(shop)
    volumes = shop.volumes()
    shop.write("dev.yaml", "kind: [\n")
    commit(shop, "Break it")
    (shop.state / "status.sqlite3").unlink()
    result = shop.apply().require()
    assert result.actions == []
    assert shop.volumes() == volumes


def test_an_unreachable_remote_leaves_the_last_good_commit_in_force(shop: World) -> None:
    follow_git(shop)
    volumes = shop.volumes()
    (shop.root / "specs").rename(shop.root / "elsewhere")
    shop.kill_server("dev")
    result = shop.apply().require()
    assert result.actions == ["start Clone/dev"]
    assert {condition.status for condition in result.view.commit.conditions if condition.type == "Ready"} == {"False"}
    assert shop.volumes() == volumes
    (shop.root / "elsewhere").rename(shop.root / "specs")
    assert {condition.type for condition in shop.apply().view.commit.conditions} == {"Ready"}


def test_without_any_good_commit_nothing_is_done_at_all(shop: World) -> None:
    volumes = shop.volumes()
    shop.configure(repository={"url": "./nowhere.git", "branch": "main", "interval": "1h"})
    result = shop.apply()
    assert result.actions == []
    assert shop.volumes() == volumes
    assert shop.servers() == {"dev.1", "test.1"}


def test_two_reconcilers_on_one_state_directory_are_refused_and_a_dead_owner_is_replaced(shop: World) -> None:
    with shop.host(writes=True):
        refused = shop.run("run", "--once")
        assert refused.returncode == 1
        assert "is used by test (process " in refused.stderr
    argv = [str(PROGRAM), "--config", str(shop.config_file), "run"]
    dead = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert dead.stderr is not None
    assert "watching" in dead.stderr.readline()
    dead.kill()
    dead.communicate()
    assert shop.apply().require().actions == []


def test_two_installations_on_one_pool_are_refused_and_touch_nothing(shop: World, world: World) -> None:
    volumes, manifests = shop.volumes(), sorted(path.name for path in (shop.pool_path / "manifests").iterdir())
    world.pool["path"] = str(shop.pool_path)
    world.configure()
    world.write("shop.yaml", image("shop"), clone("dev"))
    refused = world.run("apply")
    assert refused.returncode == 1
    assert "two installations on one pool are refused" in refused.stderr
    assert shop.volumes() == volumes
    assert sorted(path.name for path in (shop.pool_path / "manifests").iterdir()) == manifests
    assert shop.apply().require().actions == []


def test_a_rewritten_branch_waits_for_an_approval(shop: World) -> None:
    follow_git(shop)
    shop.remove("test.yaml")
    commit(shop, "Let a clone go")
    shop.apply().require()
    git(shop.root / "specs", "reset", "--quiet", "--hard", "HEAD~1")
    shop.remove("dev.yaml")
    commit(shop, "Rewrite history")
    result = shop.run("apply")
    assert result.returncode == 1
    assert "was force-pushed" in result.stderr
    assert shop.servers() == {"dev.1"}
    shown = shop.run("plan", "--revision", "main", "-o", "json")
    assert shop.run("apply", "--approve=0000000000000000").returncode == 1
    assert shop.servers() == {"dev.1"}
    shop.run("apply", f"--approve={json.loads(shown.stdout)['hash']}")
    assert shop.servers() == {"test.1"}
    assert shop.run("plan").stdout == "No changes: everything is as the specs ask for.\n"


def test_a_rewritten_branch_is_followed_where_the_host_says_so(shop: World) -> None:
    follow_git(shop)
    shop.configure(repository={"url": "./specs", "forcePush": "follow"})
    git(shop.root / "specs", "commit", "--quiet", "--amend", "--message", "Reworded")
    assert shop.run("apply").returncode == 0
