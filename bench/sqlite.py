"""How soon a clone of a SQLite file is there, by reflink; on btrfs.

Ours is measured in this process from a spec that the loop can see to a query that the
clone's file has answered. The floor is ``cp --reflink=always`` of the same file on the same
file system, a process as well, and the same query. What a pass costs whatever the size is
measured with a clone of an almost empty database, and told beside.
"""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import time
from contextlib import closing, contextmanager
from itertools import count
from typing import TYPE_CHECKING

from bench.figures import Figure, Options, in_turns
from bench.installation import installation, size_of
from reconciler.engines.sqlite.databases import file_of
from reconciler.host import open_host
from reconciler.ids import CloneName, PoolName, VolumeId
from reconciler.loop import Reconciler
from reconciler.spec.config import Config
from reconciler.state.observed import SnapshotManifest
from reconciler.status.report import current_volume

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from reconciler.host import Host

MEBIBYTES = {"quick": 20, "default": 1024, "full": 1024}
_IMAGE = """\
apiVersion: reconciler/v1
kind: Image
metadata: {{name: {name}}}
spec:
  engine: sqlite
  source: {{empty: {{}}}}
  databases: [bench]
  scripts:
    - inline: |
        CREATE TABLE item (id INTEGER PRIMARY KEY, filler BLOB);
        WITH RECURSIVE c(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM c WHERE n < {rows})
        INSERT INTO item SELECT n, randomblob(32000) FROM c;
"""
_CLONE = """\
apiVersion: reconciler/v1
kind: Clone
metadata: {{name: {name}}}
spec: {{image: {image}}}
"""
_numbers = count()


def run(options: Options) -> list[Figure]:
    """Measure both, in turns."""
    size = MEBIBYTES[size_of(options)]
    repetitions = 1 if options.quick else max(options.repetitions, 5)
    with installation(options) as opened, _on_reflinks(opened.scratch / "pool" / "sqlite") as bench:
        large = bench.image("large", size * 32)
        bench.image("small", 1)
        _floor(large), bench.clone("large"), bench.clone("small")  # a first time loads what later ones have
        ours, fixed, floor = in_turns(
            repetitions, lambda: bench.clone("large"), lambda: bench.clone("small"), lambda: _floor(large)
        )
    name = f"one more clone of a SQLite file of {size} MiB"
    return [
        Figure(f"{name}, beyond what any pass costs", max(0.0, ours - fixed), floor, 2.0),
        Figure(f"{name}, with its pass", ours, floor, None),
        Figure("a pass that clones an almost empty SQLite file", fixed, None, None),
    ]


class _Bench:
    """A host of its own, whose pool shares blocks file by file."""

    def __init__(self, host: Host, specs: Path) -> None:
        self._host, self._specs = host, specs
        self._storage = host.pools[PoolName("default")]
        self.reconciler = Reconciler(host, host.commits())

    def image(self, name: str, rows: int) -> Path:
        """Build an image; return its file."""
        (self._specs / f"image-{name}.yaml").write_text(_IMAGE.format(name=name, rows=rows))
        self._settle()
        (found,) = (
            volume.id
            for volume in self._storage.volumes()
            if isinstance(volume.manifest, SnapshotManifest) and volume.manifest.image == name
        )
        return file_of(self._storage.path(found), "bench")

    def clone(self, image: str) -> float:
        """Make a clone and ask it something; return the seconds."""
        name = f"bench-{next(_numbers)}"
        (self._specs / "clone.yaml").write_text(_CLONE.format(name=name, image=image))
        start = time.perf_counter()
        self._settle()
        found = current_volume(self._storage.volumes(), CloneName(name))
        if found is None:
            raise LookupError(name)
        _ask(file_of(self._storage.path(VolumeId(found[0].id)), "bench"))
        seconds = time.perf_counter() - start
        (self._specs / "clone.yaml").unlink()
        self._settle()
        return seconds

    def _settle(self) -> None:
        self.reconciler.one_pass()
        for task in self.reconciler.in_flight:
            task.done.wait()
            if task.error is not None:
                raise task.error


@contextmanager
def _on_reflinks(directory: Path) -> Iterator[_Bench]:
    shutil.rmtree(directory, ignore_errors=True)
    specs = directory / "specs"
    specs.mkdir(parents=True)
    config = Config.model_validate(
        {
            "repository": {"path": str(specs)},
            "state": str(directory / "state"),
            "pools": {"default": {"driver": "reflink", "path": str(directory / "pool"), "reserve": "1%"}},
            "secrets": {"directory": str(directory / "secrets")},
            "prune": {"maxDelete": 1000, "maxDeletePercent": 100},
        }
    )
    try:
        with open_host(config, writes=True, command="bench") as host:
            bench = _Bench(host, specs)
            try:
                yield bench
            finally:
                bench.reconciler.close(abandon=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _floor(source: Path) -> float:
    target = source.parents[3] / "by-hand.db"
    start = time.perf_counter()
    subprocess.run(["cp", "--reflink=always", source, target], check=True)
    _ask(target)
    seconds = time.perf_counter() - start
    target.unlink()
    return seconds


def _ask(path: Path) -> None:
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("SELECT count(*) FROM sqlite_schema").fetchone()
