"""The loop publishes its status, others plan against it as the host would, and no failure of it stops a pass."""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.loop import Reconciler
from reconciler.planning import plan_directory
from reconciler.publishing import PUBLISHING, withdraw
from reconciler.state.conditions import Kind
from tests.loop.conftest import CLONE, IMAGE, World
from tests.repository.shared import Remote, signing_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from reconciler.plan.actions import Plan

BRANCH = "refs/heads/reconciler-status"
QA = CLONE.replace("name: dev", "name: qa")


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    made = Remote(tmp_path)
    made.push({"specs/a.yaml": IMAGE, "specs/b.yaml": CLONE})
    return made


def opened(tmp_path: Path, remote: Remote, stack: ExitStack, **settings: Any) -> World:  # noqa: ANN401 - as YAML
    publish = {"ref": "reconciler-status", "file": str(tmp_path / "published.json")}
    identity = {"email": "reconciler@db.example", **settings.pop("identity", {})}
    repository = {"url": str(remote.path), "path": "specs", "writeBack": identity}
    return World(tmp_path, stack, settings={"repository": repository, "status": {"publish": publish}, **settings})


@pytest.fixture
def world(tmp_path: Path, remote: Remote) -> Iterator[World]:
    with ExitStack() as stack:
        made = opened(tmp_path, remote, stack)
        yield made
        made.reconciler.close(abandon=True)


def applied(world: World) -> None:
    """Run passes until nothing is left to do, and wait for what they publish."""
    for _ in range(3):
        world.apply()
    world.reconciler._publisher.close(abandon=False)


def published(remote: Remote) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(remote.git("show", f"{BRANCH}:status.json"))
    return document


def test_a_file_and_a_branch_without_history_hold_the_same_status(world: World, remote: Remote, tmp_path: Path) -> None:
    applied(world)
    file = tmp_path / "published.json"
    assert json.loads(file.read_text()) == published(remote)
    assert file.stat().st_mode & 0o777 == 0o644
    said = {(row["kind"], row["name"]): row["conditions"] for row in published(remote)["objects"]}
    assert {"type": "Ready", "status": "True", "reason": "UpToDate"} in said["Clone", "dev"]
    remote.pull()
    remote.push({"specs/c.yaml": QA})
    applied(world)
    assert ("Clone", "qa") in {(row["kind"], row["name"]) for row in published(remote)["objects"]}
    assert remote.git("rev-list", "--count", BRANCH) == "1"
    who = remote.git("log", "-1", "--format=%an <%ae> %s", BRANCH)
    assert who == "reconciler <reconciler@db.example> Publish the status"
    assert world.store.conditions().get(PUBLISHING) is None


def test_nothing_is_published_while_only_time_passes(world: World, remote: Remote, tmp_path: Path) -> None:
    applied(world)
    before, written = remote.git("rev-parse", BRANCH), (tmp_path / "published.json").stat().st_ino
    for _ in range(3):
        world.clock.advance(minutes=7)
        applied(world)
    assert (remote.git("rev-parse", BRANCH), (tmp_path / "published.json").stat().st_ino) == (before, written)


def test_a_new_process_does_not_publish_what_is_published_already(world: World, remote: Remote) -> None:
    applied(world)
    before = remote.git("rev-parse", BRANCH)
    world.reconciler.close(abandon=False)
    world.reconciler = Reconciler(world.host, world.host.commits())
    applied(world)
    assert remote.git("rev-parse", BRANCH) == before


def test_hosts_share_a_branch_with_a_file_each(world: World, remote: Remote, tmp_path: Path) -> None:
    work = tmp_path / "other"
    remote._git(tmp_path, "clone", "--quiet", str(remote.path), str(work))
    remote._git(work, "checkout", "--quiet", "--orphan", "reconciler-status")
    remote._git(work, "rm", "-rfq", ".")
    (work / "beta.json").write_text("{}")
    remote._git(work, "add", ".")
    remote._git(work, "commit", "--quiet", "--message=beta")
    remote._git(work, "push", "--quiet", "origin", "reconciler-status")
    applied(world)
    assert remote.git("ls-tree", "--name-only", BRANCH).split() == ["beta.json", "status.json"]


def test_the_commit_is_signed_with_the_key_of_write_back(tmp_path: Path, remote: Remote) -> None:
    key = signing_key(tmp_path)
    with ExitStack() as stack:
        world = opened(tmp_path, remote, stack, identity={"signingKey": {"secret": "signing"}})
        world.secret("signing", key.read_text())
        applied(world)
        world.reconciler.close(abandon=True)
    signers = tmp_path / "signers"
    signers.write_text(f"reconciler@db.example {key.with_suffix('.pub').read_text()}")
    remote.git("-c", f"gpg.ssh.allowedSignersFile={signers}", "verify-commit", BRANCH)


def test_a_remote_that_refuses_is_told_and_tried_again_while_all_else_goes_on(world: World, remote: Remote) -> None:
    remote.hook("pre-receive", "echo no pushes here >&2; exit 1")
    applied(world)
    world.apply()
    assert world.running() == ["dev.1"]
    told = world.conditions(Kind.INSTALLATION, "publishing")["Published"]
    assert (told.status, told.reason, "no pushes here" in told.message) == ("False", "PushRefused", True)
    assert (PUBLISHING, "PushRefused") in [(event.object, event.reason) for event in world.store.events(limit=30)]
    (remote.path / "hooks/pre-receive").unlink()
    world.clock.advance(minutes=2)
    applied(world)
    world.apply()
    assert published(remote)["revision"].startswith("main@sha1:")
    assert world.store.conditions().get(PUBLISHING) is None


def test_what_became_of_the_last_status_is_told_when_no_pass_follows(world: World, remote: Remote) -> None:
    remote.hook("pre-receive", "sleep 0.5; exit 1")
    world.apply()
    world.reconciler.close(abandon=False)
    assert world.conditions(Kind.INSTALLATION, "publishing")["Published"].reason == "PushRefused"
    assert all(one.observed_revision for known in world.store.conditions().values() for one in known)


def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with ExitStack() as stack:
        publish = {"file": str(tmp_path / "nowhere" / "status.json")}
        world = World(tmp_path, stack, settings={"status": {"publish": publish}})
        world.write(IMAGE, CLONE)
        applied(world)
        world.apply()
        assert world.running() == ["dev.1"]
        assert world.conditions(Kind.INSTALLATION, "publishing")["Published"].reason == "NotWritten"
        world.reconciler.close(abandon=True)


def test_a_push_that_hangs_holds_up_no_pass(world: World, remote: Remote, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    remote.hook("pre-receive", f"while ! test -e {gate}; do sleep 0.05; done")
    for _ in range(3):
        world.apply()
    assert world.running() == ["dev.1"]
    assert "publishing" in {thread.name for thread in threading.enumerate()}
    gate.touch()
    world.reconciler._publisher.close(abandon=False)
    assert published(remote)["digest"] == json.loads((tmp_path / "published.json").read_text())["digest"]


SECRETS = f"""\
{CLONE.replace("{name: app}", "{name: app, password: {secret: app}}")}  owner: payments
"""


def test_no_secret_and_no_text_of_an_error_or_a_person_is_in_it(tmp_path: Path, remote: Remote) -> None:
    remote.pull()
    broken = IMAGE.replace("name: shop", "name: broken").replace(
        "database shop", "fail Ada Lovelace, 4111 1111 1111 1111"
    )
    remote.push({"specs/b.yaml": SECRETS, "specs/broken.yaml": broken})
    with ExitStack() as stack:
        world = opened(tmp_path, remote, stack)
        world.secret("app", "hunter2-canary")
        applied(world)
        snapshot = world.snapshots()[0]
        world.state.requests.submit(
            "quarantine", snapshot, now=world.clock.now(), requested_by="ops-grace", note="because of Ada"
        )
        applied(world)
        stored = json.dumps([str(known) for known in world.store.conditions().values()])
        assert "Lovelace, 4111 1111" in stored, "the image was to fail with a text that may not get out"
        world.reconciler.close(abandon=True)
    text = (tmp_path / "published.json").read_text()
    for word in ("hunter2", "Lovelace", "4111 1111", "ops-grace", "because of", str(tmp_path)):
        assert word not in text, word
    assert str(world.secrets) not in text


RULED = {
    "grants": [{"images": "shop*", "roots": ["/backups/shop"], "secrets": ["app"]}],
    "sources": {"roots": ["/backups"], "repositories": {"main": {"tool": "wal-g", "config": "/etc/wal-g.json"}}},
    "masking": {"unmasked": "deny", "maskers": {"optim": {"argv": ["/opt/optim", "--password=hunter2"]}}},
    "prune": {"maxDelete": 0},
    "undo": {"grace": "0s"},
    "limits": {"memory": "1Gi"},
    "selector": {"host": "alpha"},
    "runtimes": {"docker": {"requireAttestation": "any"}},
}
LABELLED = "labels: {host: alpha}"


def labelled(document: str) -> str:
    return document.replace("metadata: {", f"metadata: {{{LABELLED}, ")


CHANGES = [
    {"new.yaml": labelled(QA)},
    {"new.yaml": labelled(QA).replace("{name: app}", "{name: app, password: {secret: other}}")},
    {
        "new.yaml": labelled(IMAGE)
        .replace("name: shop", "name: other")
        .replace("empty: {}", "files: {path: /backups/x}")
        .replace("  scripts", "  unmasked: {reason: t}\n  scripts")
    },
    {"new.yaml": QA},
    {"new.yaml": labelled(QA) + "  resources: {memory: 4Gi}\n"},
    {"new.yaml": labelled(QA) + "  runtime: docker\n"},
    {"new.yaml": labelled(QA).replace("{name: app}", "{name: app, role: superuser}")},
    {"b.yaml": "", "new.yaml": ""},
    {"a.yaml": labelled(IMAGE).replace("database shop", "database shop; more")},
    {
        "new.yaml": labelled(IMAGE)
        .replace("name: shop", "name: two")
        .replace("empty: {}", "image: shop")
        .replace("  scripts", "  unmasked: {reason: t}\n  scripts")
    },
]


def test_a_plan_without_the_host_is_what_the_host_plans(tmp_path: Path, remote: Remote) -> None:
    remote.pull()
    base = {"a.yaml": labelled(IMAGE), "b.yaml": labelled(CLONE), "new.yaml": "# nothing\n"}
    with ExitStack() as stack:
        world = opened(tmp_path, remote, stack, **RULED)
        remote.push(specs(base))
        applied(world)
        rules: set[str] = set()
        for change in CHANGES:
            remote.push(specs({**base, **change}))
            there = world.reconciler.look()
            here = plan_directory(remote.desk, tmp_path / "published.json")
            assert there.plan is not None
            assert there.commit.diagnostics == ()
            assert shown(here) == shown(there.plan)
            rules |= {refusal.rule for refusal in here.refused}
            rules |= {one.reason for known in here.conditions.values() for one in known if one.type == "Stalled"}
        assert rules >= {"resources", "unmasked", "prune-limit", "SecretNotGranted", "RuntimeUnavailable"}
        world.reconciler.close(abandon=True)


def specs(files: dict[str, str]) -> dict[str, str]:
    return {f"specs/{name}": text for name, text in files.items()}


def shown(plan: Plan) -> object:
    return (
        [(action.verb, str(action.key), action.reason) for action in plan.actions],
        [(refusal.rule, refusal.message) for refusal in plan.refused],
        {key: [(one.type, one.reason) for one in known] for key, known in plan.conditions.items()},
    )


def test_the_file_is_withdrawn_where_it_is_ours(world: World, tmp_path: Path) -> None:
    assert withdraw(world.host) == ()
    applied(world)
    file = tmp_path / "published.json"
    ours = file.read_text()
    for other in ("", "[]", '{"observed": {"installation": "another"}}'):
        file.write_text(other)
        assert withdraw(world.host) == (file,)
        assert file.read_text() == other
    file.write_text(ours)
    assert withdraw(world.host) == ()
    assert not file.exists()
