"""Sizes that status shows are those of what is there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from reconciler.housekeeping import measure
from reconciler.state.observed import BuildManifest, SnapshotManifest

from .conftest import IMAGE, START

if TYPE_CHECKING:
    from reconciler.state.observed import Volume

    from .conftest import World


def test_the_size_of_a_build_is_not_taken_for_that_of_its_snapshot(world: World) -> None:
    world.write(IMAGE)
    world.apply()
    observed = world.reconciler.look().observed
    assert observed is not None
    (sealed,) = observed.volumes
    world.store.retain_usage(set())
    measure(world.host, replace(observed, volumes=(as_it_was_built(sealed),)))
    assert world.store.usage() == {}
    measure(world.host, observed)
    assert set(world.store.usage()) == {sealed.id}


def test_a_snapshot_has_a_size_from_the_moment_that_it_is_there(world: World) -> None:
    world.write(IMAGE)
    world.apply()
    assert list(world.store.usage()) == world.snapshots()


def as_it_was_built(volume: Volume) -> Volume:
    manifest = volume.manifest
    assert isinstance(manifest, SnapshotManifest)
    build = BuildManifest(
        installation=manifest.installation,
        image=manifest.image,
        snapshot=manifest.snapshot,
        engine=manifest.engine,
        spec_digest=manifest.spec_digest,
        revision=manifest.revision,
        started_at=START,
    )
    return replace(volume, manifest=build)
