from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from reconciler.runtimes import systemd
from reconciler.state.desired import Resources

if TYPE_CHECKING:
    from pathlib import Path

RUN = "/usr/bin/systemd-run"
UNIFIED = "0::/system.slice/reconciler.service\n"
HYBRID = "4:memory:/system.slice\n1:name=systemd:/system.slice/reconciler.service\n0::/\n"
USER = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/reconciler.service\n"
LOGIN = "0::/user.slice/user-1000.slice/session-3.scope\n"


@pytest.mark.parametrize("groups", [UNIFIED, HYBRID])
def test_a_system_service_starts_servers_in_scopes_of_their_own(groups: str) -> None:
    assert systemd.scope_prefix(groups, program=RUN, uid=0) == (
        RUN,
        "--scope",
        "--collect",
        "--quiet",
        "--description=reconciler: server",
        "--slice=reconciler.slice",
        "--",
    )


def test_a_users_service_asks_the_users_own_manager() -> None:
    words = systemd.scope_prefix(USER, program=RUN, uid=1000)
    assert words[:5] == ("/usr/bin/env", "XDG_RUNTIME_DIR=/run/user/1000", RUN, "--user", "--scope")


@pytest.mark.parametrize("groups", [LOGIN, "0::/\n", "", "9:devices:/system.slice/reconciler.service\n"])
def test_outside_a_service_there_is_nothing_to_do(groups: str) -> None:
    assert systemd.scope_prefix(groups, program=RUN, uid=0) == ()


def test_without_systemd_run_the_unit_has_to_spare_the_servers() -> None:
    assert systemd.scope_prefix(UNIFIED, program=None, uid=0) == ()


def test_limits_need_a_scope_also_outside_of_a_service() -> None:
    limits = tuple(systemd._limits(Resources(memory=2**30, cpus=1.5)))
    words = systemd.scope_prefix(LOGIN, program=RUN, uid=0, name="dev.1", limits=limits)
    assert words == (
        RUN,
        "--scope",
        "--collect",
        "--quiet",
        "--description=reconciler: dev.1",
        "--slice=reconciler.slice",
        "--property=MemoryMax=1073741824",
        "--property=MemorySwapMax=0",
        "--property=CPUQuota=150%",
        "--",
    )
    assert tuple(systemd._limits(Resources())) == ()


@pytest.mark.parametrize(
    ("controllers", "expected"),
    [("cpuset cpu io memory pids\n", {"memory", "cpus"}), ("memory pids\n", {"memory"}), (None, set())],
)
def test_what_servers_can_be_held_to_is_what_the_manager_controls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, controllers: str | None, expected: set[str]
) -> None:
    manager = tmp_path
    if os.geteuid() != 0:
        manager = tmp_path / f"user.slice/user-{os.geteuid()}.slice/user@{os.geteuid()}.service"
        manager.mkdir(parents=True)
    if controllers is not None:
        (manager / "cgroup.controllers").write_text(controllers)
    monkeypatch.setattr(systemd, "_UNIFIED", tmp_path)
    monkeypatch.setattr(systemd, "_program", lambda: RUN)
    assert systemd.enforceable() == expected
    monkeypatch.setattr(systemd, "_program", lambda: None)
    assert systemd.enforceable() == frozenset()
