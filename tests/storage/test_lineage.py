"""Every history of volumes on a model of ZFS: nothing is lost, nothing is shown that must not be, nothing stays."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.storage.lineage import Dataset, Lineage, Step, copied_for, next_step, sealed_as

ROOT = "tank/pool"


def name(volume: str) -> str:
    return f"{ROOT}/volumes/{volume}"


@dataclass
class Zfs:
    """What ZFS does with datasets; a snapshot's value says what state it holds."""

    origins: dict[str, str | None] = field(default_factory=dict)
    made_of: dict[str, str | None] = field(default_factory=dict)
    snapshots: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """By dataset, older ones first: name and state."""
    heirs: int = 0

    def lineage(self) -> Lineage:
        found = {
            key: Dataset(key, origin, key.rpartition("/")[2] if "/volumes/" in key else None, "i", self.made_of[key])
            for key, origin in self.origins.items()
        }
        return Lineage(ROOT, found, tuple(f"{key}@{one}" for key, own in self.snapshots.items() for one, _ in own))

    def create(self, dataset: str, origin: str | None = None) -> None:
        assert dataset not in self.origins
        assert origin is None or origin in self.lineage().snapshots
        self.origins[dataset] = origin
        self.made_of[dataset] = origin.partition("@")[2] if origin and "/volumes/" in dataset else None
        self.snapshots[dataset] = []

    def snapshot(self, dataset: str, tag: str, state: str) -> str:
        assert tag not in [one for one, _ in self.snapshots[dataset]]
        self.snapshots[dataset].append((tag, state))
        return f"{dataset}@{tag}"

    def take(self, step: Step) -> None:
        match step.command:
            case "destroy":
                self.destroy(step.name)
            case "promote":
                self.promote(step.name)
            case "hand on":
                self.heirs += 1
                self.create(f"{ROOT}/deleted/{self.heirs}", step.name)
                self.promote(f"{ROOT}/deleted/{self.heirs}")

    def destroy(self, target: str) -> None:
        dataset, _, tag = target.partition("@")
        doomed = [one for one, _ in self.snapshots[dataset] if tag in {"", one}]
        assert doomed or not tag
        assert not [key for key, origin in self.origins.items() if origin in [f"{dataset}@{one}" for one in doomed]]
        self.snapshots[dataset] = [one for one in self.snapshots[dataset] if one[0] not in doomed]
        if not tag:
            del self.origins[dataset], self.snapshots[dataset], self.made_of[dataset]

    def promote(self, clone: str) -> None:
        origin = self.origins[clone]
        assert origin is not None
        owner, _, tag = origin.partition("@")
        index = [one for one, _ in self.snapshots[owner]].index(tag) + 1
        moved, kept = self.snapshots[owner][:index], self.snapshots[owner][index:]
        assert not {one for one, _ in moved} & {one for one, _ in self.snapshots[clone]}
        self.snapshots[clone], self.snapshots[owner] = moved + self.snapshots[clone], kept
        for key, other in self.origins.items():
            if other in [f"{owner}@{one}" for one, _ in moved]:
                self.origins[key] = f"{clone}@{other.partition('@')[2]}"
        self.origins[clone], self.origins[owner] = self.origins[owner], f"{clone}@{tag}"


@dataclass
class Pool:
    """Volumes as the driver makes them; ``seen`` is every state that a volume was in, or began as."""

    zfs: Zfs = field(default_factory=Zfs)
    kinds: dict[str, str] = field(default_factory=dict)
    seen: dict[str, set[str]] = field(default_factory=dict)
    made: int = 0

    def make(self, kind: str, source: str | None) -> str:
        """Make a mirror, a masked snapshot of something, or a clone of something; returns the volume."""
        self.made += 1
        volume = f"{kind}{self.made}"
        if source is None:
            self.zfs.create(name(volume))
        elif self.kinds[source] == "snapshot":
            self.zfs.create(name(volume), f"{name(source)}@{sealed_as(source)}")
        else:
            copied = self.zfs.snapshot(name(source), copied_for(volume), f"{source} for {volume}")
            self.zfs.create(name(volume), copied)
            self.seen[source].add(f"{source} for {volume}")
        self.kinds[volume], self.seen[volume] = kind, set()
        if kind == "clone":
            began = f"sealed {source}" if self.kinds[source or ""] == "snapshot" else f"{source} for {volume}"
            self.seen[volume].add(began)
        if kind == "snapshot":
            self.zfs.snapshot(name(volume), sealed_as(volume), f"sealed {volume}")
            self.seen[volume].add(f"sealed {volume}")
        return volume

    def delete(self, volume: str, *, steps: int = 1000) -> None:
        """Delete a volume, or die after some steps."""
        for _ in range(steps):
            step = next_step(self.zfs.lineage(), name(volume), lambda one: self.kinds.get(one) == "clone")
            if step is None:
                del self.kinds[volume]
                return
            self.zfs.take(step)
            self.check(deleting=volume)

    def check(self, deleting: str = "") -> None:
        """No volume shows a state that it never was in, and none is gone."""
        for volume in self.kinds:
            if volume != deleting:
                assert {state for _, state in self.zfs.snapshots[name(volume)]} <= self.seen[volume]
            if volume != deleting and self.kinds[volume] == "snapshot":
                assert sealed_as(volume) in [one for one, _ in self.zfs.snapshots[name(volume)]]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_history_loses_nothing_and_shows_nothing_and_leaves_nothing(data: st.DataObject) -> None:
    pool = Pool()
    for _ in range(data.draw(st.integers(1, 14))):
        volumes = sorted(pool.kinds)
        match data.draw(st.sampled_from(("mirror", "snapshot", "clone", "clone", "delete", "delete", "die"))):
            case "mirror":
                pool.make("mirror", None)
            case "snapshot" if volumes:
                pool.make("snapshot", data.draw(st.sampled_from(volumes)))
            case "clone" if sources := [one for one in volumes if pool.kinds[one] != "mirror"]:
                pool.make("clone", data.draw(st.sampled_from(sources)))
            case "delete" if volumes:
                pool.delete(data.draw(st.sampled_from(volumes)))
            case "die" if volumes:
                volume = data.draw(st.sampled_from(volumes))
                pool.delete(volume, steps=data.draw(st.integers(1, 3)))
                if volume in pool.kinds:
                    pool.delete(volume)
        pool.check()
    for volume in data.draw(st.permutations(sorted(pool.kinds))):
        pool.delete(volume)
    assert pool.zfs.origins == {}


def test_the_last_clone_takes_over_what_is_left_of_its_snapshot() -> None:
    pool = Pool()
    snapshot = pool.make("snapshot", None)
    first, second = pool.make("clone", snapshot), pool.make("clone", snapshot)
    pool.delete(snapshot)
    assert pool.zfs.origins == {name(first): f"{ROOT}/deleted/1@{sealed_as(snapshot)}"} | {
        name(second): f"{ROOT}/deleted/1@{sealed_as(snapshot)}",
        f"{ROOT}/deleted/1": None,
    }
    pool.delete(first)
    assert pool.zfs.origins == {name(second): None}
    assert pool.zfs.snapshots == {name(second): []}


def test_what_a_masked_snapshot_was_made_of_is_given_to_nobody() -> None:
    pool = Pool()
    mirror = pool.make("mirror", None)
    masked = pool.make("snapshot", mirror)
    clone = pool.make("clone", masked)
    pool.delete(masked)
    pool.delete(mirror)
    assert pool.zfs.snapshots == {
        name(clone): [],
        f"{ROOT}/deleted/2": [(copied_for(masked), f"{mirror} for {masked}")],
    }
    pool.delete(clone)
    assert pool.zfs.origins == {}


def test_a_volume_of_which_somebody_else_made_a_clone_is_handed_on() -> None:
    pool = Pool()
    snapshot = pool.make("snapshot", None)
    destroy = next_step(pool.zfs.lineage(), name(snapshot), lambda _: False)
    assert destroy == Step("destroy", name(snapshot))
    again = next_step(pool.zfs.lineage(), name(snapshot), lambda _: False, frozenset({destroy}))
    assert again == Step("hand on", f"{name(snapshot)}@{sealed_as(snapshot)}")
