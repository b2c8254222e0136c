from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from reconciler.ids import ServerName
from reconciler.runtimes.docker.recipe import recipe
from reconciler.runtimes.docker.settings import DockerSettings
from reconciler.state.servers import Contained, ServerSpec, Software

SETTINGS = DockerSettings(socket=Path("/run/docker.sock"), ports=range(6000, 6400), host="127.0.0.1")
SPEC = ServerSpec(
    name=ServerName("shop.2"),
    argv=("postgres",),
    directory=Path("/srv"),
    ready=lambda: True,
    contained=Contained(
        software=Software("postgres:18", "sha256:0123", {}, None, lambda _argv: ""),
        mounts={PurePosixPath("/srv"): Path("/srv")},
        port=5432,
        health=("true",),
    ),
)


@pytest.mark.parametrize("port", [None, 6000])
def test_what_works_in_the_background_gives_way_to_other_containers(
    port: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(SPEC, port=port)
    behind = replace(spec, background=True)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert recipe(behind, SETTINGS, {})["HostConfig"]["CpuShares"] == 102
    assert "CpuShares" not in recipe(spec, SETTINGS, {})["HostConfig"]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)  # of a rootless Podman, which may have no controller for it
    assert "CpuShares" not in recipe(behind, SETTINGS, {})["HostConfig"]
