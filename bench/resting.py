"""What the loop costs while there is nothing to do: many clones on a real btrfs, with real processes for servers.

Also run as ``python -m bench.resting DIRECTORY FILES SECONDS INTERVAL``: that process is the
one measured. Only the servers are simulated, by a process that sleeps, and the data in the
volumes, which has as many files as an empty PostgreSQL. The repository is a git remote.
Sizes of all clones are due to be measured again, as they are all the time on a host that is
in use.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from bench.figures import Figure, Options, SkippedError
from bench.installation import end_servers, scratch_directory, unmount
from bench.many import volumes_of, write_specs
from reconciler.engines.memory import MemoryEngine
from reconciler.host import open_host
from reconciler.housekeeping import measure
from reconciler.ids import DEFAULT_RUNTIME, PoolName, ServerName, SnapshotId, VolumeId
from reconciler.loop import Reconciler
from reconciler.runtimes import processes
from reconciler.spec.config import Config
from reconciler.state.observed import BuildManifest, CloneManifest, SnapshotManifest
from reconciler.state.servers import ServerSpec

if TYPE_CHECKING:
    from datetime import datetime

    from reconciler.commits import Commits
    from reconciler.host import Host

_FILES, _QUICK_FILES = 1_100, 20
"""Spec files; one in a hundred is an image."""
_SECONDS, _QUICK_SECONDS = 180, 3
_INTERVAL, _QUICK_INTERVAL = 60, 1
_PASSES = 5
_PASS_LIMIT = 1.0
_SHARE_LIMIT = 0.01
_FILES_OF_A_CLUSTER = 970
_BYTES_OF_A_FILE = 40 << 10
_POOL = "3Gi"


def run(options: Options) -> list[Figure]:
    """Measure a pass, and the processor time of the loop in some minutes."""
    if os.geteuid() != 0:
        raise SkippedError("needs root: a btrfs file system is mounted")
    if shutil.which("mkfs.btrfs") is None:
        raise SkippedError("needs the program mkfs.btrfs (package btrfs-progs)")
    measured = (_QUICK_FILES, _QUICK_SECONDS, _QUICK_INTERVAL) if options.quick else (_FILES, _SECONDS, _INTERVAL)
    directory = scratch_directory(options) / "resting"
    _remove(directory)  # of a run that was killed
    directory.mkdir(mode=0o711)
    try:
        argv = [sys.executable, "-m", "bench.resting", str(directory), *map(str, measured)]
        done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True)
    finally:
        _remove(directory)
    clones, seconds, busy = done.stdout.split()
    share, polled = float(busy) / measured[1], f"polling every {measured[2]} s"
    return [
        Figure(f"a pass with nothing to do, {clones} clones on btrfs", float(seconds), None, _PASS_LIMIT),
        Figure(f"processors that the loop then keeps busy, {polled}", share, None, _SHARE_LIMIT, "cores"),
    ]


def _remove(directory: Path) -> None:
    """Remove the installation with all that runs of it: the process that made it may have been killed."""
    end_servers(directory / "state")
    unmount(directory / "pool")
    if directory.exists():
        shutil.rmtree(directory)


def _measured(directory: Path, files: int, seconds: int, interval: int) -> None:
    """Make everything, let the loop rest upon it, and print clones, seconds of a pass, and processor seconds."""
    with open_host(_config(directory, interval), writes=True, command="bench") as host:
        host.engines = {"postgres": MemoryEngine("postgres")}
        commits = _publish(host, directory, files)
        reconciler = Reconciler(host, commits)
        try:
            clones = _make_everything(host, commits)
            taken = [_seconds_of_a_pass(reconciler) for _ in range(_PASSES + 1)][1:]
            _age_sizes(host, reconciler)
            print(clones, median(taken), _busy_seconds(reconciler, seconds, interval))
        finally:
            _end_servers(f"{host.installation}/")


def _busy_seconds(reconciler: Reconciler, seconds: int, interval: int) -> float:
    """Run the loop; return its processor time of so many seconds, from between two polls to between two others."""
    marks: list[float] = []

    def watch() -> None:
        time.sleep(interval / 2)
        marks.append(_processor_seconds())
        time.sleep(seconds)
        marks.append(_processor_seconds())
        reconciler.stop()

    watching = threading.Thread(target=watch)
    watching.start()
    reconciler.run()
    watching.join()
    return marks[1] - marks[0]


def _config(directory: Path, interval: int) -> Config:
    return Config.model_validate(
        {
            "repository": {"url": str(directory / "specs.git"), "interval": f"{interval}s"},
            "state": str(directory / "state"),
            "pools": {"default": {"driver": "btrfs", "path": str(directory / "pool"), "size": _POOL, "reserve": "1%"}},
            "runtimes": {"process": {"ports": "10000-14999"}},
        }
    )


def _publish(host: Host, directory: Path, files: int) -> Commits:
    work = directory / "specs"
    write_specs(work, files)
    _git(directory, "init", "--quiet", "--bare", "--initial-branch=main", "specs.git")
    _git(work, "init", "--quiet", "--initial-branch=main")
    _git(work, "add", "--all")
    _git(work, "commit", "--quiet", "--message=everything")
    _git(work, "push", "--quiet", str(directory / "specs.git"), "main")
    return host.commits()


def _git(directory: Path, *words: str) -> None:
    identity = ("-c", "user.name=bench", "-c", "user.email=bench@example.com")
    subprocess.run(["git", "-C", directory, *identity, *words], check=True)


def _make_everything(host: Host, commits: Commits) -> int:
    """Make what the specs ask for, without the product's loop, and return how many clones that are."""
    desired = commits.newest().desired
    if desired is None:
        raise RuntimeError("the specs are not valid")
    host.hold_pools()
    storage, made, now = host.pools[PoolName("default")], 0, host.clock.now()
    for volume in volumes_of(host, desired, now):
        match volume.manifest:
            case SnapshotManifest() as manifest:
                _fill(storage.create(volume.id, _build(manifest, now)))
                storage.seal(volume.id, manifest)
            case CloneManifest() as manifest:
                path = storage.clone(VolumeId(manifest.snapshot), volume.id, manifest)
                host.runtimes[DEFAULT_RUNTIME].start(_server(volume.id, path, manifest.port))
                (host.state.path / "credentials" / manifest.clone).mkdir()  # where its passwords would be
                made += 1
            case _:
                raise TypeError(volume)
    return made


def _fill(directory: Path) -> None:
    for number in range(_FILES_OF_A_CLUSTER):
        (directory / str(number)).write_bytes(bytes(_BYTES_OF_A_FILE))


def _build(manifest: SnapshotManifest, now: datetime) -> BuildManifest:
    return BuildManifest(
        installation=manifest.installation,
        image=manifest.image,
        snapshot=SnapshotId(manifest.snapshot),
        engine=manifest.engine,
        spec_digest=manifest.spec_digest,
        revision=manifest.revision,
        started_at=now,
    )


def _server(volume: VolumeId, path: Path, port: int | None) -> ServerSpec:
    argv = ("sleep", "infinity")
    return ServerSpec(name=ServerName(volume), argv=argv, directory=path, port=port, ready=lambda: True)


def _end_servers(mark: str) -> None:
    """End all servers at once: the runtime looks at all processes for each that it stops."""
    for process in processes.live():
        if processes.environment(process.pid, "RECONCILER_").get("RECONCILER_SERVER", "").startswith(mark):
            os.kill(process.pid, signal.SIGKILL)


def _seconds_of_a_pass(reconciler: Reconciler) -> float:
    start = time.perf_counter()
    view = reconciler.one_pass()
    seconds = time.perf_counter() - start
    if view.plan is None or view.plan.actions:
        raise RuntimeError(f"what exists is not what the specs ask for: {view.plan}")
    return seconds


def _age_sizes(host: Host, reconciler: Reconciler) -> None:
    """Have all sizes measured, long ago."""
    observed = reconciler.look().observed
    if observed is None:
        raise RuntimeError("nothing was observed")
    measure(host, observed)
    usage = host.store.usage()
    host.store.write_usage(usage, host.clock.now() - timedelta(days=1))


def _processor_seconds() -> float:
    """Return the processor time of this process and of the commands that it has run."""
    return sum(os.times()[:4])


if __name__ == "__main__":
    _measured(Path(sys.argv[1]), *map(int, sys.argv[2:]))
