"""The systemd unit of the loop: its text, and where it goes.

Called by ``reconciler install-service`` and ``uninstall``. Pure but for :func:`write`
and :func:`remove`; starts nothing but ``systemctl daemon-reload``.

What the unit must never do is end clones or hide pools: servers run in scopes of their
own, only the main process is signalled should one ever be inside the unit, and nothing
here gives the service a mount namespace of its own (ProtectSystem=, PrivateTmp= and
their like, systemd.exec(5)): pools that are mounted later would not be seen in it, those
that it mounts would be seen by nobody else, and servers would keep it when it is gone.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler import durable, proc
from reconciler.errors import RefusedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.spec.config import Config

MARK = "# Written by `reconciler install-service`; `reconciler uninstall` removes it."
_BOOTED = Path("/run/systemd/system")
_SYSTEM = Path("/etc/systemd/system")


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One unit: the program and the configuration that it runs with, and whose manager runs it."""

    program: Path
    config: Path
    mounts: tuple[Path, ...]
    docker: bool = False
    user: bool = False
    name: str = "reconciler"

    @property
    def file(self) -> Path:
        """Where the unit belongs (systemd.unit(5), "Unit File Load Path")."""
        if not self.user:
            return _SYSTEM / f"{self.name}.service"
        base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
        return Path(base, "systemd", "user", f"{self.name}.service")

    @property
    def next_steps(self) -> tuple[str, ...]:
        """The commands that somebody runs once the unit is written."""
        manager = "systemctl --user" if self.user else "systemctl"
        lingering = ("loginctl enable-linger   # else all ends with your last session",) if self.user else ()
        return (*lingering, f"{manager} enable --now {self.name}")

    def text(self) -> str:
        """Return the unit."""
        return "\n".join(_lines(self)) + "\n"


def service_of(config: Config, file: Path, *, program: Path, user: bool, name: str) -> Service:
    """Return the service of a host's configuration."""
    pools = [pool.directory.parent if pool.size is not None else pool.directory for pool in config.pools.values()]
    return Service(
        program=program,
        config=file.absolute(),
        mounts=tuple(dict.fromkeys((config.state, *pools, *config.sources.roots))),
        docker="docker" in config.runtimes.model_fields_set,
        user=user,
        name=name,
    )


def write(service: Service) -> bool:
    """Write the unit; return whether that changed anything.

    Raises:
        RefusedError: there is a unit of this name that was not written by us.
        UnavailableError: it cannot be written.

    """
    file, text = service.file, service.text()
    try:
        if file.exists():
            if not is_ours(file):
                raise RefusedError(f"{file} exists and is not ours", hint="give the unit another name: --name NAME")
            if file.read_text() == text:
                return False
        file.parent.mkdir(parents=True, exist_ok=True)
        durable.write(file, text.encode())
        file.chmod(0o644)
    except OSError as error:
        hint = None if service.user else "run as root, or write a unit of your own: --user"
        raise UnavailableError(f"{file} cannot be written: {error.strerror}", hint=hint) from error
    _reload(user=service.user)
    return True


def units_of(config: Path) -> tuple[Path, ...]:
    """Return the units that we wrote for a configuration, of the system and of this user."""
    places = (_SYSTEM, Service(program=Path(), config=config, mounts=(), user=True).file.parent)
    found = (unit for place in places for unit in _services(place))
    line = f"# Configuration: {config.absolute()}"
    return tuple(unit for unit in found if is_ours(unit) and line in _content(unit).splitlines())


def _services(directory: Path) -> list[Path]:
    """Return the units of a directory; of one that is not there, or that this user may not look into, none."""
    try:
        return sorted(path for path in directory.iterdir() if path.suffix == ".service")
    except OSError:
        return []


def remove(unit: Path) -> None:
    """Disable and remove a unit that we wrote.

    Raises:
        UnavailableError: it cannot be removed.

    """
    user = unit.parent != _SYSTEM
    manager = ("systemctl", "--user") if user else ("systemctl",)
    if _BOOTED.is_dir() and shutil.which("systemctl"):
        proc.run([*manager, "disable", "--quiet", unit.name], timeout=60)
    try:
        unit.unlink(missing_ok=True)
    except OSError as error:
        raise UnavailableError(f"{unit} cannot be removed: {error.strerror}") from error
    _reload(user=user)


def is_ours(unit: Path) -> bool:
    """Whether a unit file was written by us; what cannot be read was not."""
    return _content(unit).startswith(MARK)


def _content(unit: Path) -> str:
    try:
        return unit.read_text(errors="replace")
    except OSError:
        return ""


def _reload(*, user: bool) -> None:
    if _BOOTED.is_dir() and shutil.which("systemctl"):
        proc.run(["systemctl", *(["--user"] if user else []), "daemon-reload"], timeout=60)


def _lines(service: Service) -> Iterator[str]:
    yield MARK
    yield f"# Configuration: {service.config}"
    yield "[Unit]"
    yield "Description=Keeps database images and clones as the specs in git ask"
    yield f"After=network-online.target local-fs.target remote-fs.target{' docker.service' if service.docker else ''}"
    yield "Wants=network-online.target"
    yield "# State, pools and sources are there before the first look."
    yield f"RequiresMountsFor={' '.join(_path(path) for path in service.mounts)}"
    yield ""
    yield "[Service]"
    yield "Type=notify"
    yield f"ExecStart={_word(service.program)} --config {_word(service.config)} run"
    yield "# A pass now."
    yield "ExecReload=/bin/kill -HUP $MAINPID"
    yield "Restart=on-failure"
    yield "RestartSec=10s"
    yield "# A pass that hangs is ended, and the next start begins with what exists."
    yield "WatchdogSec=30min"
    yield "# Servers outlive the loop: they have scopes of their own in reconciler.slice, and should one be in here,"
    yield "# only the loop itself is signalled."
    yield "KillMode=process"
    yield "OOMPolicy=continue"
    yield "# Long work is abandoned at its next step, and cleans up after itself."
    yield "TimeoutStopSec=5min"
    yield "UMask=0077"
    yield "LimitNOFILE=65536:524288"
    yield "# A core of a server holds data."
    yield "LimitCORE=0"
    yield "TasksMax=infinity"
    yield "# No option that gives the service mounts of its own: pools would be hidden in it, or from everybody else."
    yield "NoNewPrivileges=yes"
    yield "LockPersonality=yes"
    yield "RestrictRealtime=yes"
    yield "SystemCallArchitectures=native"
    yield ""
    yield "[Install]"
    yield f"WantedBy={'default.target' if service.user else 'multi-user.target'}"


def _word(path: Path) -> str:
    """Return a path as one word of a command line (systemd.service(5), "Command Lines")."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{text}"' if any(character.isspace() or character in "\"'\\;" for character in text) else text


def _path(path: Path) -> str:
    """Return a path as one word of a list (systemd.syntax(7), "Quoting")."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{text}"' if any(character.isspace() or character in "\"'\\" for character in text) else text
