"""How soon the loop begins what somebody asked for: after a push to a repository, and after a file was saved.

``reconciler run`` as people run it, a whole process. What is waited for is the first thing
that an action does: the manifest of the volume that it makes appears. A repository is
polled, so two things are measured: from the moment that a poll begins (SIGHUP makes the
loop begin one), and from the push without any help, which may come right after a poll.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from bench.figures import Figure, Options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CLONES, _QUICK_CLONES = 100, 5
"""That exist before."""
_INTERVAL = 2.0
_JITTER = 1.05
"""The longest pause between two polls, as a share of the interval."""
_AFTER_POLL, _AFTER_SAVE = 1.0, 0.5
_PATIENCE = 120.0
_GRAIN = 0.002
"""Seconds between two looks for the first trace."""
_RESTING = 0.5
"""Seconds in which the pass after the last work ends."""
_PROGRAM = str(Path(sys.executable).with_name("reconciler"))
_IMAGE = """\
apiVersion: reconciler/v1
kind: Image
metadata: {name: shop}
spec:
  engine: sqlite
  source: {empty: {}}
  databases: [shop]
  scripts: [{inline: "CREATE TABLE product (name TEXT)", database: shop}]
"""
_CLONE = """\
apiVersion: reconciler/v1
kind: Clone
metadata: {{name: {name}}}
spec: {{image: shop, runtime: none, owner: bench}}
"""
_CONFIG = """\
repository: {repository}
state: ./state
pools: {{default: {{driver: copy, path: ./pool, reserve: 1Mi}}}}
prune: {{maxDelete: 1000, maxDeletePercent: 100}}
"""
_names = count()


def run(options: Options) -> list[Figure]:
    """Measure both ways of asking, each several times; the slowest counts."""
    clones, repetitions = (_QUICK_CLONES, 1) if options.quick else (_CLONES, 2 * options.repetitions)
    with _loop(clones, f"{{url: ./specs.git, interval: {_INTERVAL:g}s}}") as loop:
        polled = [loop.push(poll=True) for _ in range(repetitions)]
        pushed = [loop.push(poll=False) for _ in range(repetitions)]
    with _loop(clones, "{path: ./specs, interval: 1h}") as loop:
        saved = [loop.save() for _ in range(repetitions)]
    return [
        _slowest("from a poll that finds a push to the first action", polled, _AFTER_POLL),
        _slowest(f"from a push to it, with a poll every {_INTERVAL:g} s", pushed, _INTERVAL * _JITTER + _AFTER_POLL),
        _slowest("from saving a file in a watched directory to the first action", saved, _AFTER_SAVE),
    ]


def _slowest(name: str, times: list[float], limit: float) -> Figure:
    return Figure(name, max(times), None, limit, note=f"the slowest of {len(times)}; median {median(times):.3f} s")


@dataclass(frozen=True)
class _Loop:
    """A loop at work in a directory."""

    root: Path
    process: subprocess.Popen[bytes]

    def push(self, *, poll: bool) -> float:
        """Ask for one more clone by a push; return the seconds to its first trace, from the poll or from the push."""
        self.rest()
        name = self._write()
        self.publish()
        if poll:
            self.process.send_signal(signal.SIGHUP)
        return self._seconds_to_first_trace(name)

    def save(self) -> float:
        """Ask for one more clone by a file in the watched directory; return the seconds to its first trace."""
        self.rest()
        return self._seconds_to_first_trace(self._write())

    def publish(self) -> None:
        """Commit what is in the directory of the specs, and push it."""
        specs = self.root / "specs"
        _git(specs, "add", "--all")
        _git(specs, "commit", "--quiet", "--message=more")
        _git(specs, "push", "--quiet", "origin", "HEAD:main")

    def _write(self) -> str:
        name = f"more-{next(_names)}"
        (self.root / "specs" / f"{name}.yaml").write_text(_CLONE.format(name=name))
        return name

    def _seconds_to_first_trace(self, name: str) -> float:
        start, manifest = time.perf_counter(), self.root / "pool" / "manifests" / f"{name}.1.json"
        self._await(manifest.exists, pause=_GRAIN)
        return time.perf_counter() - start

    def rest(self) -> None:
        """Wait until all that was asked for is there: work of before is not measured."""
        made, asked = self.root / "pool" / "manifests", self.root / "specs"
        self._await(lambda: len(list(made.glob("*.json"))) == len(list(asked.glob("*.yaml"))))
        time.sleep(_RESTING)

    def _await(self, condition: Callable[[], bool], *, pause: float = 0.05) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the loop did not do it: {(self.root / 'log').read_text()}")
            time.sleep(pause)


@contextmanager
def _loop(clones: int, repository: str) -> Iterator[_Loop]:
    """Have a loop at work on an image and some clones, which are files, until the block ends."""
    with tempfile.TemporaryDirectory(prefix="reconciler-bench-") as name:
        root = Path(name)
        root.chmod(0o711)
        _git(root, "init", "--quiet", "--bare", "--initial-branch=main", "specs.git")
        _git(root, "clone", "--quiet", "specs.git", "specs")
        (root / "specs" / "shop.yaml").write_text(_IMAGE)
        for number in range(clones):
            (root / "specs" / f"clone-{number}.yaml").write_text(_CLONE.format(name=f"clone-{number}"))
        (root / "reconciler.yaml").write_text(_CONFIG.format(repository=repository))
        with (root / "log").open("wb") as log:
            argv = [_PROGRAM, "--config", "reconciler.yaml", "run"]
            process = subprocess.Popen(argv, cwd=root, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        loop = _Loop(root, process)
        try:
            loop.publish()
            loop.rest()
            yield loop
        finally:
            process.terminate()
            process.wait()


def _git(directory: Path, *words: str) -> None:
    identity = ("-c", "user.name=bench", "-c", "user.email=bench@example.com")
    subprocess.run(["git", "-C", directory, *identity, *words], check=True, capture_output=True)
