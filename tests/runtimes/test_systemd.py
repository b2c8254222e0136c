from __future__ import annotations

import pytest

from reconciler.runtimes import systemd

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
