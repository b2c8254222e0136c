"""What has to go, and what must stay because something else was made of it: pure.

A clone of ZFS depends on a snapshot of what it was made of, so that cannot be destroyed
before it. When a volume is deleted that others depend on, its snapshots are handed to an
heir: a clone of it in ``<root>/deleted``, where nothing is ever mounted, is promoted.
Once nothing depends on the heir, it goes. If exactly one clone is left, that is promoted
in turn, and the heir goes with the snapshot: else what the clone overwrote long ago
would keep its room for as long as the clone lives.

**Only what a clone has seen is given to it.** Promoting moves snapshots to the clone,
where ``.zfs/snapshot`` shows them. So it is done only when there is one snapshot, the
one that the clone began as, and only for clones of people: a masked build that was made
of a mirror must never come to hold the mirror's state, nor a clone of that build once it
depends on the mirror itself. There the heir stays, out of reach.

Called by the ZFS driver. Knows names, not manifests: whether a volume may be promoted
is asked of the caller.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

VOLUME = "reconciler:volume"
"""User property: the volume that a dataset holds; without it nothing is ours."""
INSTALLATION = "reconciler:installation"
"""User property: whose it is; volumes have it from the dataset that they are below, heirs each for itself."""
MADE_OF = "reconciler:made-of"
"""User property: name of the snapshot that a volume began as, whatever it depends on since."""
MADE_FOR = "reconciler:made-for"
"""User property: the installation that a pool's own dataset was made for; one that was there before has none."""
_OURS = "reconciler-"


@dataclass(frozen=True, slots=True)
class Dataset:
    """A file system: the snapshot that it is a clone of, and what its properties say."""

    name: str
    origin: str | None = None
    volume: str | None = None
    installation: str | None = None
    made_of: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What to do: ``destroy`` a dataset or snapshot, ``promote`` a clone, ``hand on`` a snapshot to a new heir."""

    command: Literal["destroy", "promote", "hand on"]
    name: str


@dataclass(frozen=True, slots=True)
class Lineage:
    """All that is below ``root``; ``snapshots`` as ``dataset@name``, older ones of a dataset first."""

    root: str
    datasets: Mapping[str, Dataset]
    snapshots: tuple[str, ...]

    def of(self, name: str) -> list[str]:
        """Return the snapshots of a dataset and of all below it."""
        return [one for one in self.snapshots if _within(one.partition("@")[0], name)]

    def clones(self, snapshot: str) -> list[Dataset]:
        """Return what was made of a snapshot."""
        return [dataset for dataset in self.datasets.values() if dataset.origin == snapshot]

    def needed(self, name: str) -> list[str]:
        """Return the snapshots of a dataset, or of one below it, that something outside of it depends on."""
        return [one for one in self.of(name) if any(not _within(clone.name, name) for clone in self.clones(one))]

    def without(self, name: str) -> Lineage:
        """Return what is left once a dataset with all below it, or a snapshot, was destroyed."""
        return Lineage(
            self.root,
            {key: dataset for key, dataset in self.datasets.items() if not _within(key, name)},
            tuple(one for one in self.snapshots if one != name and not _within(one.partition("@")[0], name)),
        )

    def in_(self, container: str) -> Iterator[Dataset]:
        """Return the datasets right below ``<root>/<container>``, by name."""
        prefix = f"{self.root}/{container}/"
        for name in sorted(self.datasets):
            if name.startswith(prefix) and "/" not in name.removeprefix(prefix):
                yield self.datasets[name]


def sealed_as(volume: str) -> str:
    """Return the name of the snapshot that a volume was sealed as.

    With a digest: a full name has 255 bytes (zfs(8)), and the volume is in it already.
    """
    return f"{_OURS}sealed-{_digest(volume)}"


def copied_for(volume: str) -> str:
    """Return the name of the snapshot of something unsealed that ``volume`` was made of; never the name above."""
    return f"{_OURS}copy-{_digest(volume)}"


def next_step(
    lineage: Lineage, doomed: str | None, may_be_promoted: Callable[[str], bool], failed: frozenset[Step] = frozenset()
) -> Step | None:
    """Return what to do next so that a dataset goes, and nothing stays that nothing needs; None: all is done.

    ``failed`` are steps that were tried since the last one that went well.
    """
    steps = (*_of_doomed(lineage, doomed, failed), *_of_deleted(lineage, may_be_promoted), *_of_volumes(lineage))
    return next((step for step in steps if step not in failed), None)


def _of_doomed(lineage: Lineage, doomed: str | None, failed: frozenset[Step]) -> Iterator[Step]:
    if doomed is None or doomed not in lineage.datasets:
        return
    gone = Step("destroy", doomed)
    # When nothing of ours depends on it and it cannot go all the same, somebody made a clone of it elsewhere.
    handed_on = lineage.needed(doomed) or (lineage.of(doomed) if gone in failed else [])
    yield Step("hand on", handed_on[-1]) if handed_on else gone


def _of_deleted(lineage: Lineage, may_be_promoted: Callable[[str], bool]) -> Iterator[Step]:
    for dataset in lineage.in_("deleted"):
        if dataset.installation is None:
            continue  # somebody put it there
        needed = lineage.needed(dataset.name)
        if not needed:
            yield Step("destroy", dataset.name)
            continue
        own = lineage.of(dataset.name)
        yield from (Step("destroy", one) for one in own if not lineage.clones(one))
        clones = lineage.clones(needed[0])
        only = len(own) == len(clones) == 1 and _began_as(clones[0], own[0], lineage)
        if only and may_be_promoted(clones[0].volume or ""):
            yield Step("promote", clones[0].name)


def _of_volumes(lineage: Lineage) -> Iterator[Step]:
    """Yield the snapshots that copies were made of which are gone, and those that came by a promotion."""
    for dataset in lineage.in_("volumes"):
        for one in lineage.snapshots:
            owner, _, name = one.partition("@")
            if owner != dataset.name or not name.startswith(_OURS) or dataset.volume is None:
                continue
            if name != sealed_as(dataset.volume) and not lineage.clones(one):
                yield Step("destroy", one)


def _began_as(dataset: Dataset, snapshot: str, lineage: Lineage) -> bool:
    ours = dataset.volume is not None and dataset.name == f"{lineage.root}/volumes/{dataset.volume}"
    return ours and dataset.made_of == snapshot.partition("@")[2]


def _digest(volume: str) -> str:
    return hashlib.sha256(volume.encode()).hexdigest()[:16]


def _within(name: str, top: str) -> bool:
    return name == top or name.startswith(f"{top}/")
