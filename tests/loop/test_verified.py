"""A host that applies only what somebody signed."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from reconciler.errors import RefusedError
from reconciler.loop import Reconciler
from reconciler.state.conditions import REPOSITORY, Kind
from tests.loop.conftest import CLONE, IMAGE, World
from tests.repository.shared import Remote
from tests.repository.test_signatures import allowed, push_signed, ssh_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    return Remote(tmp_path)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return ssh_key(tmp_path / "ann")


@pytest.fixture
def world(tmp_path: Path, remote: Remote, key: Path) -> Iterator[World]:
    verify = {"allowedSigners": str(allowed(tmp_path / "allowed", key))}
    with ExitStack() as stack:
        made = World(
            tmp_path, stack, settings={"repository": {"url": str(remote.path), "path": "specs", "verify": verify}}
        )
        yield made
        made.reconciler.close(abandon=True)


def specs(text: str) -> dict[str, str]:
    return {"specs/a.yaml": text, "specs/b.yaml": IMAGE}


def test_a_host_without_a_signed_commit_does_nothing(world: World, remote: Remote) -> None:
    remote.push(specs(CLONE))

    world.apply()

    assert world.volumes() == []
    assert world.conditions(Kind.REPOSITORY, "repository")["Stalled"].reason == "CommitNotSigned"


def test_the_last_signed_commit_stays_in_force_until_there_is_another(
    world: World, remote: Remote, key: Path, tmp_path: Path
) -> None:
    (remote.desk / "specs/b.yaml").write_text(IMAGE)
    good = push_signed(remote, key, CLONE)
    view = world.apply()
    assert world.running() == ["dev.1"]
    assert {c.type: c.reason for c in view.commit.conditions} == {"Ready": "Fetched", "SourceVerified": "Verified"}

    bad = push_signed(remote, ssh_key(tmp_path / "mallory"), CLONE.replace("dev", "evil"))
    view = world.apply()

    assert world.running() == ["dev.1"]
    assert view.commit.tree is not None
    assert view.commit.tree.revision == f"main@sha1:{good}"
    assert view.commit.attempted == f"main@sha1:{bad}"
    said = world.conditions(Kind.REPOSITORY, "repository")
    assert {kind: (c.status, c.reason) for kind, c in said.items()} == {
        "Ready": ("False", "SignerUnknown"),
        "Stalled": ("True", "SignerUnknown"),
        "SourceVerified": ("False", "SignerUnknown"),
    }
    told = [(e.object, e.reason, e.severity) for e in world.store.events()]
    assert (REPOSITORY, "SignerUnknown", "error") in told

    push_signed(remote, key, CLONE.replace("dev", "test"))
    world.apply()

    assert world.running() == ["test.1"]
    assert set(world.conditions(Kind.REPOSITORY, "repository")) == {"Ready", "SourceVerified"}


def test_a_broken_document_of_an_unsigned_commit_is_not_even_read(world: World, remote: Remote) -> None:
    remote.push({"specs/a.yaml": "kind: [\n"})
    view = world.apply()
    assert view.commit.diagnostics == ()
    assert view.commit.conditions[0].reason == "CommitNotSigned"


def test_a_named_commit_without_a_signature_is_shown_and_not_applied(world: World, remote: Remote, key: Path) -> None:
    (remote.desk / "specs/b.yaml").write_text(IMAGE)
    push_signed(remote, key, CLONE)
    world.apply()
    bad = remote.push(specs(CLONE.replace("dev", "test")))

    view = world.reconciler.look(bad)
    assert view.plan is not None
    assert sorted(f"{a.verb} {a.key}" for a in view.plan.actions) == ["create Clone/test", "delete Clone/dev"]
    assert [c.reason for c in view.commit.conditions if c.type == "Stalled"] == ["CommitNotSigned"]

    with pytest.raises(RefusedError, match="is not signed"):
        world.reconciler.one_pass(bad)
    assert world.running() == ["dev.1"]


def test_a_commit_that_is_in_force_stays_when_signatures_are_asked_for_later(
    world: World, remote: Remote, key: Path
) -> None:
    (remote.desk / "specs/b.yaml").write_text(IMAGE)
    push_signed(remote, key, CLONE)
    world.apply()
    verify = world.host.config.repository.verify
    assert verify is not None
    assert verify.allowed_signers is not None
    verify.allowed_signers.write_text("")
    world.reconciler = Reconciler(world.host, world.host.commits())

    view = world.apply()

    assert view.plan is not None
    assert (view.plan.actions, world.running()) == ((), ["dev.1"])
    assert world.conditions(Kind.REPOSITORY, "repository")["Stalled"].reason == "SignerUnknown"
