"""An installation that follows a primary, and what tests ask of it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psutil

from reconciler.state.observed import MirrorManifest, SnapshotManifest
from tests.followed.primary import CHAIN
from tests.support import document, family, server_of, until

if TYPE_CHECKING:
    from tests.followed.primary import Primary
    from tests.support import Pass, World


def follow(world: World, production: Primary, *, port: int | None = None, asked: str = "", **spec: Any) -> None:  # noqa: ANN401 - as YAML
    """Write the image ``shop`` of a primary, which is reached at its own port unless another one is named.

    ``asked`` is the annotation by which git asks for a refresh.
    """
    url = production.url.replace(f":{production.port}/", f":{port or production.port}/")
    (world.root / "secrets" / "dsn").write_text(url)
    source = {"primary": {"url": {"secret": "dsn"}}}
    defaults: dict[str, Any] = {"engine": "postgres", "source": source, "databases": ["shop"]}
    masked = {} if "masking" in spec else {"unmasked": {"reason": "a test"}}
    metadata = {"annotations": {"reconciler/refresh": asked}} if asked else {}
    world.write("shop.yaml", document("Image", "shop", {**defaults, **masked, **spec}, **metadata))


def newest(world: World) -> SnapshotManifest:
    """Return the manifest of the newest snapshot of the image ``shop``."""
    found = [volume.manifest for volume in world.volumes() if isinstance(volume.manifest, SnapshotManifest)]
    return max((one for one in found if one.image == "shop"), key=lambda manifest: manifest.snapshot)


def agrees(world: World, production: Primary) -> None:
    """Insist that the clone of the newest snapshot has what the primary had at its time, and no more."""
    snapshot = newest(world)
    assert world.current("dev").snapshot == snapshot.snapshot
    assert snapshot.data_as_of is not None
    assert world.sql("dev", CHAIN)[0] == production.ledger_at(snapshot.data_as_of)


def source_of(production: Primary) -> dict[str, Any]:
    archive = str(production.root / "archive")
    return {"primary": {"url": {"secret": "dsn"}, "mode": "archive", "archive": archive}}


def mirror_of(world: World) -> MirrorManifest:
    (found,) = [volume.manifest for volume in world.volumes() if isinstance(volume.manifest, MirrorManifest)]
    return found


def mirror_servers(world: World) -> list[psutil.Process]:
    """Return the processes that are the servers of mirrors."""
    return [process for process in world.processes() if server_of(process.pid).endswith(".mirror")]


def mirror_process(world: World, title: str) -> psutil.Process:
    """Wait for the one process of a mirror's server that has this in its title, and return it."""
    found: list[psutil.Process] = []

    def there() -> bool:
        found[:] = [one for server in mirror_servers(world) for one in family(server) if title in _title(one)]
        return len(found) == 1

    until(there, what=f"the one process {title} of a mirror")
    return found[0]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def kill_mirror(world: World) -> None:
    """Kill the servers of mirrors with everything that they started."""
    for process in mirror_servers(world):
        victims = family(process)
        for victim in victims:
            with suppress(psutil.NoSuchProcess):  # with its postmaster
                victim.kill()
        psutil.wait_procs(victims)


def refresh(world: World) -> Pass:
    return world.apply(("refresh", "shop")).require()


def caught_up(world: World, production: Primary, *, passes: bool = False) -> None:
    """Wait until the mirror has replayed what the primary has written by now; with ``passes`` these help it."""
    ((position,),) = production.sql("SELECT pg_current_wal_lsn()::text")

    def there() -> bool:
        if passes:
            world.apply().require()
        observed = world.look().observed
        assert observed is not None
        seen = observed.mirrors.get(mirror_of(world).image)
        return (
            seen is not None and seen.following and seen.position is not None and _lsn(seen.position) >= _lsn(position)
        )

    until(there, what="the mirror")


def _lsn(text: str) -> tuple[int, int]:
    high, low = text.split("/")
    return int(high, 16), int(low, 16)
