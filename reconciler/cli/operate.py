"""``install-service``, ``halt`` and ``uninstall``: what keeps the loop running on a host, and what ends all of it."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reconciler.cli.output import DEFAULT_CONFIG, Context, Output, note, write, write_json
from reconciler.errors import UnsupportedError

if TYPE_CHECKING:
    from reconciler.host import Host
    from reconciler.ids import PoolName
    from reconciler.spec.config import Pool
    from reconciler.takedown import Item


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the program."""
    app.command("install-service")(install_service)
    app.command("halt")(halt)
    app.command("uninstall")(uninstall)


def install_service(
    ctx: typer.Context,
    user: Annotated[bool, typer.Option("--user", help="A unit of this user instead of the system.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the unit, and write nothing.")] = False,
    name: Annotated[str, typer.Option("--name", help="Name of the unit.")] = "reconciler",
) -> int:
    """Write a systemd unit that runs the loop with this configuration."""
    from reconciler.service import service_of
    from reconciler.service import write as write_unit

    context: Context = ctx.obj
    config = context.load_config()
    service = service_of(config, context.config or DEFAULT_CONFIG, program=_program(), user=user, name=_checked(name))
    if dry_run:
        note(f"# {service.file}")
        write(service.text())
        return 0
    changed = write_unit(service)
    note(f"{service.file} {'written' if changed else 'is as it should be'}; next:")
    for step in service.next_steps:
        note(f"  {step}")
    return 0


def halt(
    ctx: typer.Context,
    pool: Annotated[list[str] | None, typer.Option("--pool", help="Only what lies in this pool.")] = None,
) -> int:
    """Stop every server of this installation, for work on the host or its disks.

    Clones keep their data, ports and passwords; the next pass starts those that should run. Stop the loop first.
    """
    from reconciler.errors import InputError
    from reconciler.ids import PoolName
    from reconciler.takedown import halt as stop_servers

    context: Context = ctx.obj
    with context.host(writes=True) as host:
        names = frozenset(map(PoolName, pool or host.pools))
        if unknown := names - host.pools.keys():
            raise InputError(
                f"there is no pool {', '.join(sorted(unknown))}", hint=f"there are {', '.join(host.pools)}"
            )
        stopped = stop_servers(host, names)
    for name in stopped:
        write(f"stopped {name}")
    note(f"{len(stopped)} servers stopped" if stopped else "no server was running")
    return 0


def uninstall(
    ctx: typer.Context,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    output: Annotated[Output, typer.Option("-o", "--output", help="How the list is written.")] = Output.TEXT,
) -> int:
    """Remove everything that this installation made on this host: servers, clones, snapshots, mirrors, pools, state.

    The list of it comes first; then it asks, unless --yes is given. Stop the loop first.
    """
    from reconciler.errors import RefusedError
    from reconciler.ids import PoolName
    from reconciler.publishing import withdraw
    from reconciler.service import remove, units_of
    from reconciler.takedown import inventory, obstacles, remove_volumes

    context: Context = ctx.obj
    config = context.load_config()
    file = (context.config or DEFAULT_CONFIG).absolute()
    with context.host(writes=True) as host:
        unremovable = obstacles(host)
        _show(host, inventory(host), file, output)
        if unremovable:
            raise RefusedError("nothing is removed: " + "; ".join(unremovable))
        if not yes and not _agreed():
            note("nothing was removed")
            return 1
        remove_volumes(host, note)
        host.store.close()
        left = [found for name, pool in config.pools.items() for found in _remove_pool(host, PoolName(name), pool)]
        left += [str(path) for path in (*withdraw(host), *host.state.remove()) if str(path) not in left]
    for unit in units_of(file):
        remove(unit)
    for found in left:
        note(f"left, as it is not ours: {found}")
    note("everything is removed")
    return 0


def _agreed() -> bool:
    """Ask; who cannot answer has to say so beforehand.

    Raises:
        RefusedError: nobody is there to ask.

    """
    from reconciler.errors import RefusedError

    if not sys.stdin.isatty():
        raise RefusedError("nothing is removed: there is no terminal to ask on", hint="reconciler uninstall --yes")
    return typer.confirm("Remove all of this for good?", err=True)


def _remove_pool(host: Host, name: PoolName, pool: Pool) -> tuple[str, ...]:
    from reconciler.storage.select import PoolSettings, remove_pool

    host.release_pools()
    host.state.known_pools.forget(name)  # before its marker goes: interrupted, a known one would be away for good
    settings = PoolSettings(driver=pool.driver, path=pool.directory, reserve=str(pool.reserve), size=pool.size)
    return remove_pool(settings, installation=host.installation)


def _show(host: Host, volumes: tuple[Item, ...], file: Path, output: Output) -> None:
    """List what goes, and what stays."""
    from reconciler.service import units_of
    from reconciler.status.words import size
    from reconciler.takedown import Item

    pools = [Item("pool", name, str(pool.directory)) for name, pool in host.config.pools.items()]
    state = Item("state", str(host.state.path), "passwords of clones, status, history, logs")
    published = host.config.status.publish
    status = [Item("status", str(published.file), "published")] if published.file is not None else []
    items = [*volumes, *pools, state, *status, *(Item("unit", str(unit)) for unit in units_of(file))]
    if output is Output.JSON:
        write_json([{"kind": i.kind, "name": i.name, "about": i.about, "sizeBytes": i.size} for i in items])
    else:
        for item in items:
            shown = "" if item.size is None else size(item.size)
            write(f"{item.kind:<16} {item.name}  {shown}  {item.about}".rstrip())
    accounts = host.config.runtimes.process.accounts
    kept = [str(file), str(host.config.secrets.directory), "the specs, sources and backups"]
    if os.geteuid() == 0:
        kept += [f"the accounts {accounts.build} and {accounts.clone} (userdel)", "/var/cache/reconciler/software"]
    if "docker" in host.config.runtimes.model_fields_set:
        kept.append(f"container images, and the networks {', '.join(host.config.runtimes.docker.networks)}")
    if published.full_ref is not None:
        kept.append(f"the status published at {published.full_ref} of the repository")
    note("it leaves: " + "; ".join(kept))


def _checked(name: str) -> str:
    from reconciler.errors import InputError

    unit = name.removesuffix(".service")
    if not unit.replace("-", "").replace("_", "").isalnum() or not unit.isascii():
        raise InputError(f"{name!r} is no name of a unit", hint="letters, digits, - and _")
    return unit


def _program() -> Path:
    """Return the program that runs now, as a unit can start it.

    Raises:
        UnsupportedError: it has no file of its own.

    """
    found = shutil.which(sys.argv[0]) or sys.argv[0]
    path = Path(found).absolute()
    if not path.is_file() or not os.access(path, os.X_OK):
        raise UnsupportedError(
            "the program has no file that a unit could start", hint="install it, and run it from there"
        )
    return path
