"""Scopes of their own for servers under systemd: so that they outlive our unit, and are held to limits.

Called by the process runtime. When systemd stops a unit it ends, by default, every
process in the unit's control group (systemd.kill(5), KillMode=control-group), and a
session of its own does not help against that. A server in a transient scope lies in
another control group, which can have limits (systemd.resource-control(5)). Nothing is
asked of systemd but by its own program.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.state.desired import Resources

_CGROUP = Path("/proc/self/cgroup")
_BOOTED = Path("/run/systemd/system")
_UNIFIED = Path("/sys/fs/cgroup")
_CONTROLLERS = {"memory": "memory", "cpus": "cpu"}
"""Resources of specs, and the controller of a unified hierarchy that holds a group to each (cgroups(7))."""


def launcher(name: str, resources: Resources) -> tuple[str, ...]:
    """Return the words to put before the command of a server in this process's situation; mostly none."""
    try:
        groups = _CGROUP.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    return scope_prefix(
        groups,
        program=_program(),
        uid=os.geteuid(),
        runtime=os.environ.get("XDG_RUNTIME_DIR"),
        name=name,
        limits=tuple(_limits(resources)),
    )


def enforceable() -> frozenset[str]:
    """Return the resources that servers can be held to on this host: those of the manager's control group."""
    if _program() is None:
        return frozenset()
    uid = os.geteuid()
    manager = Path() if uid == 0 else Path("user.slice", f"user-{uid}.slice", f"user@{uid}.service")
    try:
        controllers = (_UNIFIED / manager / "cgroup.controllers").read_text().split()
    except OSError:  # no unified hierarchy, or no manager of this user
        return frozenset()
    return frozenset(name for name, controller in _CONTROLLERS.items() if controller in controllers)


def scope_prefix(
    groups: str,
    *,
    program: str | None,
    uid: int,
    runtime: str | None = None,
    name: str = "server",
    limits: tuple[str, ...] = (),
) -> tuple[str, ...]:
    """Return the words that start a command in a transient scope; none without systemd-run.

    Nor are there any outside a service, unless the scope is to have ``limits``.
    ``groups`` is the content of /proc/self/cgroup, ``program`` the path of systemd-run
    where systemd is running, ``uid`` ours. An ordinary user asks its own manager, whose
    address lies below ``runtime`` (its XDG_RUNTIME_DIR). ``name`` is shown to people.
    """
    if program is None or not (limits or _in_service(groups)):
        return ()
    about = (f"--description=reconciler: {name}", "--slice=reconciler.slice")
    words = (program, "--scope", "--collect", "--quiet", *about, *(f"--property={limit}" for limit in limits), "--")
    if uid == 0:
        return words
    return ("/usr/bin/env", f"XDG_RUNTIME_DIR={runtime or f'/run/user/{uid}'}", words[0], "--user", *words[1:])


def _limits(resources: Resources) -> Iterator[str]:
    """Yield limits as properties of a unit. Swap would make a limit of memory one of speed."""
    if resources.memory is not None:
        yield f"MemoryMax={resources.memory}"
        yield "MemorySwapMax=0"
    if resources.cpus is not None:
        yield f"CPUQuota={max(1, round(resources.cpus * 100))}%"


def _program() -> str | None:
    return shutil.which("systemd-run") if _BOOTED.is_dir() else None


def _in_service(groups: str) -> bool:
    """Whether systemd's hierarchy (the unified one, or ``name=systemd`` of version 1) puts us in a service."""
    for line in groups.splitlines():
        _number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers in {"", "name=systemd"} and path.rstrip("/").endswith(".service"):
            return True
    return False
