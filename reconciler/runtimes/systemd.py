"""Scopes of their own for servers when the reconciler itself runs as a systemd unit.

Called by the process runtime. When systemd stops a unit it ends, by default, every
process in the unit's control group (systemd.kill(5), KillMode=control-group), and a
session of its own does not help against that. A server in a transient scope lies in
another control group.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_CGROUP = Path("/proc/self/cgroup")
_BOOTED = Path("/run/systemd/system")


def launcher() -> tuple[str, ...]:
    """Return the words to put before a server's command in this process's situation; mostly none."""
    try:
        groups = _CGROUP.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    program = shutil.which("systemd-run") if _BOOTED.is_dir() else None
    return scope_prefix(groups, program=program, uid=os.geteuid(), runtime=os.environ.get("XDG_RUNTIME_DIR"))


def scope_prefix(groups: str, *, program: str | None, uid: int, runtime: str | None = None) -> tuple[str, ...]:
    """Return the words that start a command in a transient scope; none outside a service, or without systemd-run.

    ``groups`` is the content of /proc/self/cgroup, ``program`` the path of systemd-run
    where systemd is running, ``uid`` ours. An ordinary user asks its own manager, whose
    address lies below ``runtime`` (its XDG_RUNTIME_DIR).
    """
    if program is None or not _in_service(groups):
        return ()
    words = (program, "--scope", "--collect", "--quiet", "--slice=reconciler.slice", "--")
    if uid == 0:
        return words
    return ("/usr/bin/env", f"XDG_RUNTIME_DIR={runtime or f'/run/user/{uid}'}", words[0], "--user", *words[1:])


def _in_service(groups: str) -> bool:
    """Whether systemd's hierarchy (the unified one, or ``name=systemd`` of version 1) puts us in a service."""
    for line in groups.splitlines():
        _number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers in {"", "name=systemd"} and path.rstrip("/").endswith(".service"):
            return True
    return False
