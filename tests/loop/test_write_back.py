"""The loop removes documents of expired clones from a real git repository, and lives with one that refuses."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from reconciler.loop import Reconciler
from reconciler.state.conditions import REPOSITORY, Kind
from tests.loop.conftest import CLONE, IMAGE, World
from tests.repository.shared import Remote, signing_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEV = f"# for the demo\n{CLONE}  ttl: 1h  # long enough\n"
QA = CLONE.replace("name: dev", "name:   qa") + "# stays\n"


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    return Remote(tmp_path)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return signing_key(tmp_path)


@pytest.fixture
def world(tmp_path: Path, remote: Remote, key: Path) -> Iterator[World]:
    settings = {"enabled": True, "email": "reconciler@db.example", "signingKey": {"secret": "signing"}}
    repository = {"url": str(remote.path), "path": "specs", "writeBack": settings}
    with ExitStack() as stack:
        made = World(tmp_path, stack, settings={"repository": repository})
        made.secret("signing", key.read_text())
        yield made
        made.reconciler.close(abandon=True)


def commits(remote: Remote) -> list[str]:
    return remote.git("log", "--format=%s", "main").splitlines()


def expired(world: World, remote: Remote, **files: str) -> None:
    """Push specs, and let the time of ``dev`` pass."""
    remote.push({"specs/a.yaml": f"{DEV}---\n{QA}", "specs/b.yaml": IMAGE, **files})
    world.apply()
    assert set(world.running()) >= {"dev.1", "qa.1"}
    world.clock.advance(hours=2)


def test_an_expired_clone_and_its_document_go_and_the_tombstone_with_them(
    world: World, remote: Remote, key: Path, tmp_path: Path
) -> None:
    expired(world, remote)

    world.apply()

    assert world.running() == ["qa.1"]
    assert remote.read("specs/a.yaml") == f"# for the demo\n---\n{QA}".rstrip("\n")
    assert remote.git("diff", "--name-only", "main~1", "main") == "specs/a.yaml"
    assert commits(remote)[0] == "Remove Clone/dev"
    signers = tmp_path / "signers"
    signers.write_text(f"reconciler@db.example {key.with_suffix('.pub').read_text()}")
    remote.git("-c", f"gpg.ssh.allowedSignersFile={signers}", "verify-commit", "main")
    assert list(world.state.tombstones()) == ["dev"]

    world.apply()

    assert world.state.tombstones() == {}
    view = world.apply()
    assert view.plan is not None
    assert (view.plan.actions, world.running()) == ((), ["qa.1"])
    events = [(event.object, event.reason) for event in world.store.events(limit=20)]
    assert (REPOSITORY, "RemoveSucceeded") in events


def test_the_last_document_takes_its_file_along(world: World, remote: Remote) -> None:
    expired(world, remote, **{"specs/team/own.yaml": DEV.replace("name: dev", "name: own")})

    world.apply()

    assert remote.files() == ["specs/a.yaml", "specs/b.yaml"]
    assert commits(remote)[0] == "Remove 2 expired clones"
    world.apply()
    assert world.state.tombstones() == {}


def test_a_branch_that_refuses_is_told_and_tried_again_while_all_else_goes_on(world: World, remote: Remote) -> None:
    expired(world, remote)
    remote.hook("pre-receive", "echo protected branch >&2; exit 1")

    world.apply()
    assert world.running() == ["qa.1"]
    told = world.conditions(Kind.REPOSITORY, "repository")
    assert (told["Ready"].status, told["NotWrittenBack"].reason) == ("True", "PushRefused")
    assert "protected branch" in told["NotWrittenBack"].message
    told_of = [(event.object, event.reason) for event in world.store.events(limit=20)]
    assert (REPOSITORY, "PushRefused") in told_of
    view = world.apply()
    assert view.plan is not None
    assert view.plan.actions == ()
    assert REPOSITORY in view.unwell

    (remote.path / "hooks/pre-receive").unlink()
    remote.pull()
    remote.push({"specs/c.yaml": CLONE.replace("name: dev", "name: new")})
    world.apply()
    assert world.running() == ["new.1", "qa.1"]
    world.clock.advance(minutes=20)
    world.apply()
    assert commits(remote)[0] == "Remove Clone/dev"
    world.apply()
    assert "NotWrittenBack" not in world.conditions(Kind.REPOSITORY, "repository")
    assert world.state.tombstones() == {}


def test_a_document_that_was_given_more_time_meanwhile_stays(world: World, remote: Remote) -> None:
    expired(world, remote)
    view = world.reconciler.look()
    assert view.plan is not None
    remote.push({"specs/a.yaml": f"{DEV.replace('1h', '9h')}---\n{QA}"})

    world.reconciler._executor.submit(view.plan, view.commit.desired, view.commit.tree)  # type: ignore[arg-type]  # what one pass does
    world.reconciler.settle(view)

    assert commits(remote)[0] == "theirs"
    assert world.running() == ["qa.1"]
    world.apply()
    world.apply()
    assert world.running() == ["dev.1", "qa.1"]


def test_no_commit_goes_onto_one_that_is_not_valid_or_not_approved(world: World, remote: Remote) -> None:
    expired(world, remote)
    remote.push({"specs/c.yaml": "kind: Clown\n"})
    world.apply()
    assert world.running() == ["qa.1"]
    assert "is not valid" in world.conditions(Kind.REPOSITORY, "repository")["Reconciling"].message
    remote.push({"specs/c.yaml": "# nothing\n"}, "--amend")
    world.clock.advance(minutes=20)
    world.apply()
    assert commits(remote)[0] == "Remove Clone/dev"


def test_a_rewritten_branch_is_not_added_to_before_it_is_approved(world: World, remote: Remote) -> None:
    expired(world, remote)
    remote.push({"specs/c.yaml": "# nothing\n"}, "--amend")

    world.apply()

    told = world.conditions(Kind.REPOSITORY, "repository")
    assert (told["Stalled"].reason, "nobody approved" in told["Reconciling"].message) == ("HistoryRewritten", True)
    assert commits(remote)[0] == "theirs"


def test_a_new_process_finishes_what_the_last_one_began(world: World, remote: Remote) -> None:
    expired(world, remote)
    remote.hook("pre-receive", "exit 1")
    world.apply()
    (remote.path / "hooks/pre-receive").unlink()
    world.clock.advance(minutes=20)
    world.reconciler.close(abandon=True)

    world.reconciler = Reconciler(world.host, world.host.commits())
    world.apply()

    assert commits(remote)[0] == "Remove Clone/dev"
