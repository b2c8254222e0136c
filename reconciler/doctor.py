"""What this host can do, what is missing, and how to get it.

Called by the command ``doctor``. Looks only; a check that cannot be made is a finding.
"""

from __future__ import annotations

import os
import platform
import shutil
import textwrap
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from reconciler import plugins
from reconciler.errors import ReconcilerError
from reconciler.ids import RuntimeName
from reconciler.proc import run
from reconciler.state.conditions import PASSES
from reconciler.status import words
from reconciler.storage import datasets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from reconciler.engines.base import InstalledServer
    from reconciler.host import Host

Level = Literal["ok", "warning", "error"]

_LONGEST_PASS = timedelta(minutes=15)
"""A fetch from a remote that stalls ends after ten minutes."""
_NAMED = 5
_MESSAGE_COLUMN = 14
_MARKS = {"ok": ("✔", "32"), "warning": ("!", "33"), "error": ("✘", "31")}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    area: str
    level: Level
    message: str
    help: str = ""

    def as_json(self) -> dict[str, str]:
        """Return the finding as data."""
        return {"area": self.area, "level": self.level, "message": self.message, "help": self.help}


def examine(host: Host) -> tuple[Finding, ...]:
    """Look at everything that passes depend on."""
    checks: tuple[Callable[[Host], Iterator[Finding]], ...] = (
        _program,
        _storage,
        _engines,
        _pools,
        _runtimes,
        _repository,
        _secrets,
        _loop,
        _objects,
    )
    return tuple(finding for check in checks for finding in _guarded(check, host))


def render(findings: tuple[Finding, ...], *, colour: bool, width: int | None = None) -> str:
    """Return the findings as lines for people, wrapped where there is a ``width``."""
    lines = []
    for finding in findings:
        mark, code = _MARKS[finding.level]
        first, *more = _wrapped(f"{mark} {finding.area:<11} {finding.message}", width)
        shown = f"\x1b[{code}m{mark}\x1b[0m" if colour else mark
        lines += [shown + first.removeprefix(mark), *more]
        if finding.help:
            lines += _wrapped(f"  {'':<11} help: {finding.help}", width)
    return "\n".join(lines)


def _wrapped(text: str, width: int | None) -> list[str]:
    """Return text as lines; all but the first begin below the message."""
    if width is None:
        return [text]
    return textwrap.wrap(text, width, subsequent_indent=" " * _MESSAGE_COLUMN, break_on_hyphens=False)


def _guarded(check: Callable[[Host], Iterator[Finding]], host: Host) -> Iterator[Finding]:
    try:
        yield from check(host)
    except ReconcilerError as error:
        yield Finding(check.__name__.strip("_"), "error", error.message, error.hint or "")


def _program(host: Host) -> Iterator[Finding]:
    who = "root" if os.geteuid() == 0 else f"user id {os.geteuid()}"
    yield Finding("program", "ok", f"Python {platform.python_version()} as {who}, state in {host.state.path}")
    if shutil.which("git") is None:
        yield Finding("program", "error", "git is not installed", "apt-get install git")
    else:
        yield Finding("program", "ok", run(["git", "--version"]).text.strip())


def _storage(_host: Host) -> Iterator[Finding]:
    missing = [name for name in ("btrfs", "mkfs.btrfs") if shutil.which(name) is None]
    if missing:
        message = f"{' and '.join(missing)} not installed: no pools with driver: btrfs"
        yield Finding("program", "warning", message, "apt-get install btrfs-progs")
    if not datasets.installed():  # of no use where there is no pool of ZFS, and few hosts have one
        message = "zfs not installed: no pools with driver: zfs"
        yield Finding("program", "ok", message, "apt-get install zfsutils-linux, where this host has a pool of ZFS")


def _engines(host: Host) -> Iterator[Finding]:
    engines = [host.engine(name) for name in plugins.names("engine")]
    found = {engine.name: engine.servers() for engine in engines}
    for engine in engines:
        name = engine.name
        servers = sorted(found[name], key=lambda s: ([-number for number in _age(s)], s.origin != "host"))
        if not servers:  # few hosts need every product
            level: Level = "warning" if any(found.values()) else "error"
            yield Finding("engine", level, f"{name}: no server programs", engine.install_hint)
        newest = max(servers, key=_age, default=None)
        for server in servers:
            used = " (used unless an image asks for another version)" if server is newest else ""
            yield Finding("engine", "ok", f"{name} {server.version}, {server.origin}: {server.directory}{used}")


def _age(server: InstalledServer) -> list[int]:
    return [int(number) for number in server.major.split(".")]


def _pools(host: Host) -> Iterator[Finding]:
    for name, storage in host.pools.items():
        pool = storage.probe()
        room = f"{words.size(pool.free_bytes)} of {words.size(pool.total_bytes)} free" if pool.total_bytes else ""
        parts = (f"{name}: driver {pool.driver}", room, pool.message, pool.refusal, pool.pending)
        text = "; ".join(part for part in parts if part)
        if not pool.available:
            yield Finding("pool", "error", text, f"mount it, or correct pools.{name} in the configuration")
        elif not pool.instant_clones:
            yield Finding("pool", "warning", text, "a file system of btrfs, XFS or ZFS makes clones instant")
        elif pool.refusal:
            yield Finding("pool", "warning", text, f"correct pools.{name}.size in the configuration, or make room")
        else:
            yield Finding("pool", "ok", text)


def _runtimes(host: Host) -> Iterator[Finding]:
    for name, runtime in host.runtimes.items():
        if not runtime.traits.servers:
            yield Finding("runtime", "ok", f"{name}: hands out files, which no server serves")
            continue
        if runtime.traits.databases:
            yield _instance(host, name)
            continue
        try:
            servers = len(runtime.servers())
        except ReconcilerError as error:  # the others are looked at all the same
            yield Finding("runtime", "error", f"{name}: {error.message}", error.hint or "")
            continue
        yield Finding("runtime", "ok", f"{name}: {servers} of this installation's servers running")
    traits = host.runtimes[RuntimeName("process")].traits
    if not traits.own_accounts:
        yield Finding(
            "runtime", "warning", "clones cannot have accounts of their own, so none gets a superuser", "run as root"
        )
    if not traits.resources:
        yield Finding(
            "runtime",
            "warning",
            "process: cannot hold clones to `resources`; clones that declare them are refused",
            "that takes systemd with a unified control group hierarchy; or runtime: docker",
        )


def _instance(host: Host, name: RuntimeName) -> Finding:
    """Say what an instance is, and whether clones there share blocks, as far as a snapshot was loaded."""
    try:
        instance = host.instance(name)
        version, clones, templates = instance.version(), len(instance.served()), instance.templates()
    except ReconcilerError as error:
        return Finding("runtime", "error", f"{name}: {error.message}", error.hint or "")
    copies = {True: ", which share blocks", False: ", which are full copies", None: ""}
    kind = copies[next((one.instant for one in templates if one.databases), None)]
    told = f"{name}: {version}, {clones} clones{kind}, {len(templates)} snapshots loaded"
    return Finding("runtime", "ok", told)


def _repository(host: Host) -> Iterator[Finding]:
    commit = host.commits().newest()
    where = host.config.repository.url or host.config.repository.path
    if commit.tree is None:
        problem = next((condition.message for condition in commit.conditions), "no commit")
        yield Finding("repository", "error", f"{where}: {problem}", "correct `repository` in the configuration")
    elif stuck := next((c for c in commit.conditions if c.type == "Stalled" and c.reason != "InvalidSpec"), None):
        yield Finding("repository", "error", f"{where}: {stuck.message}", f"in force: {commit.tree.revision}")
    elif commit.diagnostics:
        yield Finding("repository", "error", f"{where}: {commit.diagnostics[0].summary}", "reconciler validate")
    else:
        yield Finding("repository", "ok", f"{where} at {commit.tree.revision}")


def _secrets(host: Host) -> Iterator[Finding]:
    for warning in host.secrets.warnings:
        yield Finding("secrets", "warning", warning)
    yield Finding("secrets", "ok", f"in {host.config.secrets.directory} and ${host.config.secrets.environment}NAME")


def _loop(host: Host) -> Iterator[Finding]:
    """Say whether the loop turns: a process that hangs holds its lock as well as one that works."""
    owner, last = host.state.lock_owner(), host.state.last_beat()
    patience = 3 * host.config.repository.interval + _LONGEST_PASS
    if owner is None and last is not None:
        message = f"the loop ended without being stopped; its last pass was {words.age(last, host.clock.now())}"
        yield Finding("loop", "error", message, "systemctl status reconciler; start it again")
    elif owner is None:
        yield Finding("loop", "ok", "no loop runs on this state: reconciler run, or install-service")
    elif last is not None and host.clock.now() - last > patience:
        message = f"{owner} has completed no pass for {words.span((host.clock.now() - last).total_seconds())}"
        yield Finding("loop", "error", message, "its log may say why; systemctl restart reconciler")
    else:
        yield Finding("loop", "ok", f"{owner}, last pass {words.age(last, host.clock.now())}")
    failing = next((c for c in host.store.conditions().get(PASSES, ()) if c.type == "Stalled"), None)
    if failing is not None:
        yield Finding("loop", "error", f"passes fail: {failing.message}", "reconciler events")


def _objects(host: Host) -> Iterator[Finding]:
    """Say which objects need a person: none of them keeps the others from being served."""
    known = host.store.conditions()
    stuck = sorted(str(key) for key, said in known.items() if any(c.type == "Stalled" for c in said) and key != PASSES)
    if stuck:
        more = f" and {len(stuck) - _NAMED} more" if len(stuck) > _NAMED else ""
        yield Finding("objects", "warning", f"stalled: {', '.join(stuck[:_NAMED])}{more}", "reconciler status")
    else:
        yield Finding("objects", "ok", f"{len(known)} known, none is stalled")
