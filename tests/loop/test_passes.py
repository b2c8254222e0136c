"""Whole passes on memory drivers: what a commit asks for is what there is afterwards."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.engines.memory import MemoryEngine
from reconciler.ids import CloneName, InstallationId, RuntimeName, ServerName
from reconciler.plan.actions import BuildSnapshot, CreateClone
from reconciler.state.conditions import Kind

from .conftest import CLONE, IMAGE

if TYPE_CHECKING:
    from reconciler.runtimes.memory import MemoryHost

    from .conftest import World


def verbs(view: object) -> list[str]:
    plan = getattr(view, "plan", None)
    assert plan is not None
    return [f"{action.verb} {action.key}" for action in plan.actions]


def test_a_commit_becomes_a_snapshot_and_a_running_clone(world: World) -> None:
    world.write(IMAGE, CLONE)
    view = world.apply()
    assert view.plan is not None
    assert [type(action) for action in view.plan.actions] == [BuildSnapshot, CreateClone]
    assert len(world.snapshots()) == 1
    assert world.running() == ["dev.1"]
    assert world.conditions(Kind.CLONE, "dev")["Ready"].status == "True"


def test_the_next_pass_has_nothing_to_do(world: World) -> None:
    world.write(IMAGE, CLONE)
    world.apply()
    assert verbs(world.apply()) == []


def test_a_server_that_died_is_started_again(world: World) -> None:
    world.write(IMAGE, CLONE)
    world.apply()
    world.servers.crash(world.running()[0])  # type: ignore[arg-type]  # names of servers are strings
    assert verbs(world.apply()) == ["start Clone/dev"]
    assert world.running() == ["dev.1"]


def test_a_stopped_clone_keeps_its_data_and_port(world: World) -> None:
    world.write(IMAGE, CLONE)
    world.apply()
    port = world.clone().port
    world.write(IMAGE, CLONE + "  state: stopped\n")
    assert verbs(world.apply()) == ["stop Clone/dev"]
    assert world.running() == []
    world.write(IMAGE, CLONE)
    world.apply()
    assert (world.running(), world.clone().port) == (["dev.1"], port)


def test_a_changed_port_restarts_the_clone_on_it(world: World) -> None:
    world.write(IMAGE, CLONE)
    world.apply()
    world.write(IMAGE, CLONE + "  port: 5666\n")
    assert verbs(world.apply()) == ["restart Clone/dev"]
    assert world.clone().port == 5666
    assert verbs(world.apply()) == []


def test_changed_parameters_of_the_image_restart_its_clones_and_build_nothing(world: World) -> None:
    world.write(IMAGE, CLONE)
    world.apply()
    world.write(IMAGE + "  parameters: {work_mem: 64MB}\n", CLONE)
    assert verbs(world.apply()) == ["restart Clone/dev"]
    assert verbs(world.apply()) == []


def test_a_clone_that_does_not_start_with_its_new_settings_runs_on_with_those_that_it_had(world: World) -> None:
    world.write(IMAGE, CLONE)
    world.apply()
    world.write(IMAGE, CLONE + "  port: 5666\n  parameters: {work_mem: 8MB, unservable: 900GB}\n")
    port, log = world.clone().port, world.servers.written
    assert verbs(world.apply()) == ["restart Clone/dev"]
    assert server_ports(world) == {"dev.1": port}
    for _ in range(2):
        world.clock.advance(hours=1)
        assert verbs(world.apply()) == []
    assert [line for lines in log.values() for line in lines] == ["started", "stopped", "started"]
    stalled = world.conditions(Kind.CLONE, "dev")["Stalled"]
    assert stalled.reason == "SettingsNotServed"
    assert "port 5666, work_mem = 8MB, unservable = 900GB" in stalled.message

    world.servers.crash(ServerName("dev.1"))
    assert verbs(world.apply()) == ["start Clone/dev"]
    assert server_ports(world) == {"dev.1": port}
    assert "Stalled" in world.conditions(Kind.CLONE, "dev")

    world.write(IMAGE, CLONE + "  port: 5666\n")
    assert verbs(world.apply()) == ["restart Clone/dev"]
    assert server_ports(world) == {"dev.1": 5666}
    world.apply()
    assert "Stalled" not in world.conditions(Kind.CLONE, "dev")


def test_a_clone_that_a_killed_pass_left_stopped_runs_on_with_what_it_had(world: World) -> None:
    world.write(IMAGE, CLONE)
    world.apply()
    world.write(IMAGE, CLONE + "  parameters: {unservable: 900GB}\n")
    world.host.runtimes[RuntimeName("process")].stop(ServerName("dev.1"))
    world.apply()
    assert world.running() == ["dev.1"]
    assert verbs(world.apply()) == []


def test_a_clone_that_the_host_cannot_start_in_any_way_is_tried_again(world: World) -> None:
    world.write(IMAGE, CLONE)
    world.apply()
    world.write(IMAGE, CLONE + "  parameters: {work_mem: 8MB}\n")
    stranger = InstallationId("theirs"), RuntimeName("process")
    occupied = {(stranger, name): server for (_ours, name), server in world.servers.running.items()}
    world.servers.crash(ServerName("dev.1"))
    world.servers.running |= occupied
    world.apply()
    assert world.conditions(Kind.CLONE, "dev")["Ready"].status == "False"
    world.servers.running.clear()
    world.clock.advance(minutes=1)
    assert verbs(world.apply()) == ["restart Clone/dev"]
    assert world.clone().parameters == {"work_mem": "8MB"}


def server_ports(world: World) -> dict[str, int | None]:
    return {name: server.port for name, server in world.host.runtimes[RuntimeName("process")].servers().items()}


def test_users_change_in_place(world: World) -> None:
    world.write(IMAGE, CLONE)
    world.apply()
    world.write(IMAGE, CLONE.replace("[{name: app}]", "[{name: report, role: readonly}]"))
    assert verbs(world.apply()) == ["update Clone/dev"]
    assert world.engine.users(world.storage.path(world.current().id)) == {"report": "readonly"}
    assert verbs(world.apply()) == []


@pytest.mark.parametrize("without", ["[{name: report}]", "[{name: app, password: {secret: shop-app}}]"])
def test_a_password_that_was_made_for_a_user_does_not_come_back_with_him(world: World, without: str) -> None:
    world.secret("shop-app", "from outside")
    credentials, name = world.state.credentials, CloneName("dev")
    world.write(IMAGE, CLONE)
    world.apply()
    before = credentials.existing(name, "app")
    world.write(IMAGE, CLONE.replace("[{name: app}]", without))
    world.apply()
    assert credentials.existing(name, "app") is None
    world.write(IMAGE, CLONE)
    world.apply()
    after = credentials.existing(name, "app")
    assert after is not None
    assert after != before
    world.engine.execute(world.storage.path(world.current().id), "app", after, "row")


def test_a_rotated_password_is_delivered_in_place(world: World) -> None:
    world.secret("shop-app", "first")
    world.write(IMAGE, CLONE.replace("{name: app}", "{name: app, password: {secret: shop-app}}"))
    world.apply()
    world.secret("shop-app", "second")
    assert verbs(world.apply()) == ["update Clone/dev"]
    world.engine.execute(world.storage.path(world.current().id), "app", "second", "row")
    assert verbs(world.apply()) == []


def test_a_missing_secret_stalls_that_clone_alone(world: World) -> None:
    other = CLONE.replace("dev", "other")
    world.write(IMAGE, other, CLONE.replace("{name: app}", "{name: app, password: {secret: nowhere}}"))
    world.apply()
    assert world.running() == ["other.1"]
    assert "nowhere" in world.conditions(Kind.CLONE, "dev")["Stalled"].message
    world.secret("nowhere", "found")
    world.apply()
    assert world.running() == ["dev.1", "other.1"]


def test_a_changed_image_builds_and_leaves_clones_alone(world: World) -> None:
    world.write(IMAGE, CLONE)
    world.apply()
    before = world.clone().snapshot
    world.write(IMAGE.replace('"database shop"', '"database other"'), CLONE)
    assert verbs(world.apply()) == ["build Image/shop"]
    assert (len(world.snapshots()), world.clone().snapshot) == (2, before)


def test_a_clone_that_follows_its_image_is_made_anew(world: World) -> None:
    world.write(IMAGE, CLONE + "  onRefresh: recreate\n")
    world.apply()
    before = world.clone().snapshot
    world.write(IMAGE.replace('"database shop"', '"database other"'), CLONE + "  onRefresh: recreate\n")
    world.apply()
    world.apply()
    assert world.clone().snapshot != before
    assert world.running() == ["dev.2"]
    assert verbs(world.apply()) == []


def test_a_failed_build_leaves_nothing_and_stalls_until_its_inputs_change(world: World) -> None:
    world.write(IMAGE.replace("database shop", "fail"), CLONE)
    world.apply()
    assert (world.volumes(), world.running()) == ([], [])
    assert world.conditions(Kind.IMAGE, "shop")["Stalled"].reason == "ScriptFailed"
    world.clock.advance(days=1)
    assert verbs(world.apply()) == []
    world.write(IMAGE, CLONE)
    world.apply()
    assert world.running() == ["dev.1"]


def test_an_image_goes_on_by_itself_after_the_software_that_it_lacked_was_installed(world: World) -> None:
    world.write(IMAGE + '  version: "3"\n', CLONE)
    world.apply()
    assert world.conditions(Kind.IMAGE, "shop")["Stalled"].reason == "Unsupported"
    world.host.engines["postgres"] = MemoryEngine("postgres", majors=("3",))
    assert verbs(world.apply()) == []
    world.clock.advance(minutes=15)
    assert verbs(world.apply()) == ["build Image/shop", "create Clone/dev"]
    assert world.running() == ["dev.1"]
    assert "Stalled" not in world.conditions(Kind.IMAGE, "shop")


def test_a_clone_goes_on_by_itself_after_the_software_that_it_lacked_was_installed(world: World) -> None:
    world.write(IMAGE)
    world.apply()
    world.host.engines["postgres"] = MemoryEngine("postgres", majors=("1",))
    world.write(IMAGE, CLONE)
    world.apply()
    assert world.conditions(Kind.CLONE, "dev")["Stalled"].reason == "Unsupported"
    world.host.engines["postgres"] = world.engine
    world.clock.advance(minutes=15)
    assert verbs(world.apply()) == ["create Clone/dev"]
    assert world.running() == ["dev.1"]


def test_an_image_whose_masking_cannot_be_done_gets_no_snapshot(world: World) -> None:
    policy = (
        "apiVersion: reconciler/v1\nkind: MaskingPolicy\nmetadata: {name: pii}\n"
        "spec: {key: {secret: key}, rules: [{table: public.t, columns: {a: keep}}]}\n"
    )
    world.secret("key", "value")
    world.write(IMAGE + "  masking: [pii]\n", CLONE, policy)
    world.apply()
    assert world.conditions(Kind.IMAGE, "shop")["Stalled"].reason == "MaskingFailed"
    assert world.volumes() == []


def test_a_broken_commit_changes_nothing_and_timers_go_on(world: World) -> None:
    world.write(IMAGE, CLONE + "  ttl: 1h\n")
    world.apply()
    world.write(IMAGE, CLONE + "  tttl: 1h\n")
    world.apply()
    assert world.running() == ["dev.1"]
    assert world.conditions(Kind.REPOSITORY, "repository")["Stalled"].reason == "InvalidSpec"
    world.clock.advance(hours=2)
    assert verbs(world.apply()) == ["expire Clone/dev"]
    assert world.running() == []


def test_without_a_good_commit_nothing_is_done(world: World) -> None:
    world.write("kind: nonsense\n")
    view = world.apply()
    assert view.plan is None
    assert world.volumes() == []


def test_an_expired_clone_does_not_come_back_until_its_time_changes(world: World) -> None:
    world.write(IMAGE, CLONE + "  ttl: 1h\n")
    world.apply()
    world.clock.advance(hours=2)
    world.apply()
    assert verbs(world.apply()) == []
    assert world.running() == []
    world.write(IMAGE, CLONE + "  ttl: 8h\n")
    world.apply()
    world.apply()
    assert len(world.running()) == 1


def test_a_removed_document_removes_the_clone_with_its_password(world: World) -> None:
    world.write(IMAGE, CLONE)
    world.apply()
    world.write(IMAGE)
    assert verbs(world.apply()) == ["delete Clone/dev"]
    assert (world.running(), len(world.volumes())) == ([], 1)
    assert not world.state.credentials.clones()


def test_a_protected_clone_survives_its_document(world: World) -> None:
    world.write(IMAGE, CLONE + "  protected: true\n")
    world.apply()
    world.write(IMAGE)
    world.apply()
    assert world.running() == ["dev.1"]


def test_a_renamed_clone_keeps_data_server_and_password(world: World) -> None:
    world.write(IMAGE, CLONE)
    world.apply()
    password = world.state.credentials.credential(world.clone().clone, "app")
    renamed = CLONE.replace("{name: dev}", "{name: new, formerly: dev}")
    world.write(IMAGE, renamed)
    world.apply()
    assert world.running() == ["dev.1"]
    assert world.state.credentials.credential(world.clone("new").clone, "app") == password
    assert verbs(world.apply()) == []


def test_a_renamed_image_keeps_its_snapshots(world: World) -> None:
    world.write(IMAGE, CLONE)
    world.apply()
    before = world.snapshots()
    world.write(
        IMAGE.replace("{name: shop}", "{name: store, formerly: shop}"), CLONE.replace("image: shop", "image: store")
    )
    world.apply()
    assert world.snapshots() == before
    assert verbs(world.apply()) == []


def test_a_suspended_document_is_neither_applied_nor_pruned(world: World) -> None:
    world.write(IMAGE, CLONE)
    world.apply()
    world.write(IMAGE, CLONE + "  suspend: true\n  port: 5699\n")
    assert verbs(world.apply()) == []
    assert world.running() == ["dev.1"]


def test_a_pool_that_is_away_makes_its_objects_unknown_and_nothing_else(world: World) -> None:
    world.write(IMAGE, CLONE)
    world.apply()
    world.servers.unavailable = "the runtime is away"
    assert verbs(world.apply()) == []
    assert world.conditions(Kind.CLONE, "dev")["Ready"].status == "Unknown"
    world.servers.unavailable = None
    assert verbs(world.apply()) == []
    assert world.running() == ["dev.1"]


class Ending(dict[Any, Any]):
    """What runs on a host whose runtime answers no more once a server was started."""

    def __init__(self, host: MemoryHost) -> None:
        super().__init__()
        self._host = host

    def __setitem__(self, key: object, value: object) -> None:
        super().__setitem__(key, value)
        self._host.unavailable = "the runtime is away"


def test_a_build_whose_server_cannot_be_ended_is_kept_until_it_can_be(world: World) -> None:
    world.servers.running = Ending(world.servers)
    world.write(IMAGE)
    world.apply()
    (left,) = world.volumes()
    assert world.snapshots() == []
    world.servers.running = dict(world.servers.running)
    world.servers.unavailable = None
    assert world.running() == [left]
    world.clock.advance(minutes=1)
    world.apply()
    world.apply()
    assert (world.running(), world.volumes()) == ([], world.snapshots())
    assert left not in world.volumes()


def test_generated_passwords_that_were_lost_are_made_anew(world: World) -> None:
    world.write(IMAGE, CLONE)
    world.apply()
    shutil.rmtree(world.state.path / "credentials" / "dev")
    assert verbs(world.apply()) == ["update Clone/dev"]
    password = world.state.credentials.credential(world.clone().clone, "app")
    world.engine.execute(world.storage.path(world.current().id), "app", password, "row")
    assert verbs(world.apply()) == []


def test_clones_of_an_image_whose_rename_has_to_wait_are_made_and_changed_as_ever(world: World) -> None:
    world.write(IMAGE, CLONE)
    world.apply()
    renamed = IMAGE.replace("{name: shop}", "{name: store, formerly: shop}") + "  suspend: true\n"
    dev = CLONE.replace("shop", "store")
    world.write(renamed, dev + "  parameters: {work_mem: 8MB}\n", dev.replace("name: dev", "name: new"))
    world.apply()
    assert world.running() == ["dev.1", "new.1"]
    settled = world.apply().plan
    assert settled is not None
    assert settled.actions == ()
