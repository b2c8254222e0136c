"""An installation of the product on a btrfs of its own, for topics that serve clones.

The scratch directory (by default ``/var/tmp/reconciler-bench-UID``) and with it the images are kept
from run to run; deleting it while no benchmark runs frees the room. Clones, servers and
the mount are gone when a run ends, also after a failure. Everything goes through the
product's own loop; only the floors are made by hand, by shell scripts.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from bench.figures import Options, SkippedError
from reconciler.engines.postgres import server
from reconciler.engines.postgres.replication import lsn
from reconciler.host import open_host
from reconciler.ids import DEFAULT_RUNTIME, CloneName, ImageName, ServerName, VolumeId
from reconciler.loop import Reconciler
from reconciler.runtimes import processes
from reconciler.spec.config import Config
from reconciler.state.observed import MirrorManifest, RawManifest, SnapshotManifest
from reconciler.status.report import current_volume
from reconciler.storage.extents import shared_usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from reconciler.apply.executor import Task
    from reconciler.host import Host
    from reconciler.proc import Account
    from reconciler.state.observed import Verb

POOL_GIB = {"quick": 2, "default": 8, "full": 28}
_IMAGE = """\
apiVersion: reconciler/v1
kind: Image
metadata: {{name: {name}}}
spec:
  engine: {engine}
{version}
  source: {{empty: {{}}}}
  databases: [bench]
  retention: {{keep: 1}}
  scripts:
    - inline: |
{script}
      database: bench
"""
_FOLLOWED = """\
apiVersion: reconciler/v1
kind: Image
metadata: {{name: {name}}}
spec:
  engine: postgres
  source: {{primary: {{url: {{secret: {name}}}{rate}}}}}
  databases: [bench]
  {masking}
  retention: {{keep: {keep}}}
{past}"""
_PAST = "  pointInTime: {window: 1d, every: 1d}\n"
_KEPT = """\
apiVersion: reconciler/v1
kind: Image
metadata: {name: kept}
spec:
  engine: postgres
  source: {empty: {}}
  suspend: true
"""
"""An image that is never built: a commit without any removes nothing before somebody approves."""
_POLICY = """\
apiVersion: reconciler/v1
kind: MaskingPolicy
metadata: {{name: {name}}}
spec:
  key: {{secret: {name}-key}}
  rules:
    - table: public.{table}
      columns: {columns}
"""
_PGBENCH = """\
CREATE TABLE pgbench_branches (bid int NOT NULL, bbalance int, filler char(88)) WITH (fillfactor = 100);
CREATE TABLE pgbench_tellers (tid int NOT NULL, bid int, tbalance int, filler char(84)) WITH (fillfactor = 100);
CREATE TABLE pgbench_accounts (aid int NOT NULL, bid int, abalance int, filler char(84)) WITH (fillfactor = 100);
CREATE TABLE pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));
INSERT INTO pgbench_branches SELECT bid, 0 FROM generate_series(1, {scale}) AS bid;
INSERT INTO pgbench_tellers SELECT tid, (tid - 1) / 10 + 1, 0 FROM generate_series(1, {scale} * 10) AS tid;
INSERT INTO pgbench_accounts
SELECT aid, (aid - 1) / 100000 + 1, 0, '' FROM generate_series(1, {scale} * 100000) AS aid;
ALTER TABLE pgbench_branches ADD PRIMARY KEY (bid);
ALTER TABLE pgbench_tellers ADD PRIMARY KEY (tid);
ALTER TABLE pgbench_accounts ADD PRIMARY KEY (aid);
"""
"""What ``pgbench --initialize`` makes, in SQL, so that an image can be built of it."""
_CLONE = """\
apiVersion: reconciler/v1
kind: Clone
metadata: {{name: {name}}}
spec:
  image: {image}
  snapshot: {snapshot}
  owner: bench
  users: [{{name: app, role: owner}}]
{more}
"""


@dataclass(frozen=True, slots=True)
class ClonedServer:
    """A running clone, as its users see it."""

    name: str
    volume: VolumeId
    port: int
    password: str


class Installation:
    """A host with its loop, driven pass by pass."""

    def __init__(self, host: Host, specs: Path, scratch: Path) -> None:
        self.host = host
        self.scratch = scratch
        self._specs = specs
        self._reconciler = Reconciler(host, host.commits())
        self.programs = server.choose().directory
        (self._storage,) = host.pools.values()
        self._runtime = host.runtimes[DEFAULT_RUNTIME]

    # -- the product ------------------------------------------------------------------

    def image(self, name: str, scale: int, version: str | None = None) -> Path:
        """Build an image as large as ``pgbench --initialize --scale`` makes it, unless it is there; its data."""
        return self.image_of(name, "postgres", _PGBENCH.format(scale=scale), version)

    def image_of(self, name: str, engine: str, sql: str, version: str | None = None) -> Path:
        """Build an image of any engine from a script, unless it is there; its data."""
        line = "" if version is None else f'  version: "{version}"'
        script = "".join(f"        {line}\n" for line in sql.splitlines())
        self._write(f"image-{name}", _IMAGE.format(name=name, engine=engine, version=line, script=script.rstrip()))
        self.settle()
        return self._storage.path(self._snapshot(name))

    def write_policy(self, name: str, table: str, columns: str) -> None:
        """Write rules for the columns of a table."""
        self._write(f"policy-{name}", _POLICY.format(name=name, table=table, columns=columns))
        self.keep_secret(f"{name}-key", "a key for benchmarks")

    def follow(
        self,
        name: str,
        url: str,
        *,
        keep: int = 100,
        with_past: bool = False,
        policy: str | None = None,
        copy_rate: str | None = None,
    ) -> None:
        """Write the spec of an image that follows a live primary.

        ``with_past``: moments of it can be asked for. With the name of a policy, it is masked.
        ``copy_rate``: how many bytes a second of the primary are copied at most, as specs write it.
        """
        self.keep_secret(name, url)
        self._write("image-kept", _KEPT)
        masking = "unmasked: {reason: nobody's data}" if policy is None else f"masking: [{policy}]"
        past = _PAST if with_past else ""
        rate = f", copyRate: {copy_rate}" if copy_rate else ""
        self._write(f"image-{name}", _FOLLOWED.format(name=name, masking=masking, keep=keep, past=past, rate=rate))

    def keep_secret(self, name: str, value: str) -> None:
        """Write a secret of the host."""
        secrets = self.scratch / "secrets"
        secrets.mkdir(mode=0o700, exist_ok=True)
        path = secrets / name
        path.touch(mode=0o600)
        path.write_text(value)

    def forget_image(self, name: str) -> None:
        """Ask for an image no more, and wait until nothing of it is left."""
        (self._specs / f"image-{name}.yaml").unlink()
        for _ in range(3):
            self.settle()

    def request(self, verb: Verb, name: str) -> None:
        """Leave a request for the next pass."""
        self.host.state.requests.submit(verb, name, now=self.host.clock.now(), requested_by="bench")

    def await_mirror(self, image: str, position: str) -> None:
        """Wait until the mirror of an image has come to a position of its primary's log."""
        while True:
            observed = self._reconciler.look().observed
            seen = observed.mirrors.get(ImageName(image)) if observed is not None else None
            if seen is not None and seen.position is not None and lsn(seen.position) >= lsn(position):
                return
            time.sleep(0.2)

    def used_bytes(self) -> int:
        """Return what the pool holds, once everything is written and what was removed is gone."""
        pool = self.scratch / "pool"
        subprocess.run(["btrfs", "--quiet", "subvolume", "sync", pool], check=True)
        subprocess.run(["sync", "-f", pool], check=True)
        room = os.statvfs(pool)
        return (room.f_blocks - room.f_bfree) * room.f_frsize

    def raw_copy(self, image: str) -> Path | None:
        """Return the newest raw copy that is kept of an image's mirror."""
        found = [
            volume.id
            for volume in self._storage.volumes()
            if isinstance(volume.manifest, RawManifest) and volume.manifest.image == image and volume.manifest.until
        ]
        return self._storage.path(max(found)) if found else None

    def mirror(self, image: str) -> Path:
        """Return the directory of an image's mirror."""
        (found,) = [
            volume.id
            for volume in self._storage.volumes()
            if isinstance(volume.manifest, MirrorManifest) and volume.manifest.image == image
        ]
        return self._storage.path(found)

    def write_clones(
        self,
        image: str,
        names: Sequence[str],
        parameters: str | None = "{}",
        *,
        snapshot: str = "latest",
        more: str = "",
    ) -> None:
        """Write the specs of clones; the next pass sees them. ``more`` are further lines of a spec."""
        lines = more if parameters is None else f"  parameters: {parameters}\n{more}"
        for name in names:
            self._write(name, _CLONE.format(name=name, image=image, snapshot=snapshot, more=lines))

    def start_pass(self) -> tuple[Task, ...]:
        """Run one pass and return the work that it started and did not wait for."""
        self._reconciler.one_pass()
        return self._reconciler.in_flight

    def settle(self) -> None:
        """Run a pass and wait for its work.

        Raises:
            RuntimeError: some of it failed.

        """
        tasks = self.start_pass()
        for task in tasks:
            task.done.wait()
        failed = [f"{task.key}: {task.error}" for task in tasks if task.error is not None]
        if failed:
            raise RuntimeError("; ".join(failed))

    def ask(self, verb: Verb, name: str) -> None:
        """Leave a request, and serve it."""
        self.host.state.requests.submit(verb, name, now=self.host.clock.now())
        self.settle()

    def remove_clones(self) -> None:
        """Ask for no clone, and wait until there is none."""
        for path in self._specs.glob("*.yaml"):
            if not path.name.startswith(("image-", "policy-")):
                path.unlink()
        self.settle()

    def clone(self, name: str) -> ClonedServer:
        """Return a clone that a pass has made."""
        found = current_volume(self._storage.volumes(), CloneName(name))
        if found is None:
            raise LookupError(name)
        volume, manifest = found
        password = self.host.state.credentials.credential(manifest.clone, "app")
        return ClonedServer(name, volume.id, manifest.port or 0, password)

    def data(self, clone: ClonedServer) -> Path:
        """Return a clone's data directory."""
        return self._storage.path(clone.volume) / "data"

    def exclusive(self, clone: ClonedServer) -> tuple[int, int]:
        """Return the bytes that only a clone holds: without WAL, and of WAL."""
        data = self.data(clone)
        os.sync()
        everything, wal = shared_usage(data), shared_usage(data / "pg_wal")
        return (everything.exclusive_bytes or 0) - (wal.exclusive_bytes or 0), wal.exclusive_bytes or 0

    # -- what both sides use ------------------------------------------------------------

    @property
    def account(self) -> Account | None:
        """The account that clones run under."""
        return self._runtime.account("clone", VolumeId("floor"), frozenset())

    def psql(self, clone: ClonedServer, statement: str, database: str = "bench") -> str:
        """Ask a clone as its user."""
        argv: list[str | Path] = [
            self.programs / "psql",
            "-XAtqc",
            statement,
            "-h",
            "127.0.0.1",
            "-p",
            str(clone.port),
            "-U",
            "app",
        ]
        env = {"PATH": os.defpath, "PGPASSWORD": clone.password}
        done = subprocess.run([*argv, database], check=True, env=env, capture_output=True, text=True)
        return done.stdout.strip()

    def checkpoint(self, clone: ClonedServer) -> None:
        """Make a clone write what it has changed, as its administrator."""
        with psycopg.connect(
            host=str(self.host.state.run_directory(ServerName(clone.volume))),
            port=int(next(self.host.state.run_directory(ServerName(clone.volume)).glob(".s.PGSQL.*[0-9]")).suffix[1:]),
            user="reconciler_admin",
            dbname="postgres",
            autocommit=True,
        ) as connection:
            connection.execute("CHECKPOINT")

    def script(self, text: str, *arguments: str | Path) -> float:
        """Run a shell script made by hand; return the seconds of the whole process."""
        start = time.perf_counter()
        subprocess.run(["sh", "-euc", text, "sh", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start

    @property
    def by_hand(self) -> Path:
        """A directory on the pool's file system for what is made by hand."""
        return self.scratch / "pool" / "by-hand"

    # -- its own ------------------------------------------------------------------------

    def close(self) -> None:
        """Remove clones and whatever still runs; images stay."""
        with ExitStack() as stack:
            stack.callback(self._reconciler.close, abandon=True)
            stack.callback(self._stop_all)
            self.remove_clones()

    def _stop_all(self) -> None:
        for name in self._runtime.servers():
            self._runtime.stop(ServerName(name))

    def _write(self, name: str, text: str) -> None:
        (self._specs / f"{name}.yaml").write_text(text)

    def _snapshot(self, image: str) -> VolumeId:
        found = [
            volume.id
            for volume in self._storage.volumes()
            if isinstance(volume.manifest, SnapshotManifest) and volume.manifest.image == image
        ]
        return max(found)


def size_of(options: Options) -> str:
    """Return which sizes are measured: quick, default or full."""
    return "quick" if options.quick else "full" if options.full else "default"


@contextmanager
def installation(options: Options, runtime: Mapping[str, object] | None = None) -> Iterator[Installation]:
    """Open the installation of this size on btrfs; with another ``runtime`` (its name and settings) one of its own.

    Raises:
        SkippedError: this host cannot have one.

    """
    if os.geteuid() != 0:
        raise SkippedError("needs root: a btrfs file system is mounted")
    for program in ("mkfs.btrfs", "mount", "umount"):
        if shutil.which(program) is None:
            raise SkippedError(f"needs the program {program} (packages btrfs-progs, mount)")
    scratch = scratch_directory(options) / "-".join([size_of(options), *(runtime or ())])
    specs, pool = scratch / "specs", scratch / "pool"
    specs.mkdir(parents=True, exist_ok=True)
    with ExitStack() as afterwards, ExitStack() as stack:
        config = _config(scratch, POOL_GIB[size_of(options)], runtime or {})
        host = stack.enter_context(open_host(config, writes=True, command="bench"))
        afterwards.callback(unmount, pool)  # only who was let in: another run may be using it
        _require_available(host)
        for leftover in set(specs.glob("*.yaml")) - set(specs.glob("image-*.yaml")):
            leftover.unlink()
        opened = Installation(host, specs, scratch)
        stack.callback(opened.close)
        remove_by_hand(opened)
        stack.callback(remove_by_hand, opened)
        opened.by_hand.mkdir()
        yield opened


def scratch_directory(options: Options) -> Path:
    """Return the directory for what is kept from run to run; every account may pass through it."""
    path = options.scratch or Path(f"/var/tmp/reconciler-bench-{os.geteuid()}")
    path.mkdir(mode=0o711, parents=True, exist_ok=True)
    return path


def _config(scratch: Path, gibibytes: int, more: Mapping[str, object]) -> Config:
    return Config.model_validate(
        {
            "repository": {"path": str(scratch / "specs")},
            "state": str(scratch / "state"),
            "pools": {
                "default": {"driver": "btrfs", "path": str(scratch / "pool"), "size": f"{gibibytes}Gi", "reserve": "1%"}
            },
            "secrets": {"directory": str(scratch / "secrets")},
            "runtimes": {"process": {"ports": "25600-25999"}, **more},
            "prune": {"maxDelete": 1000, "maxDeletePercent": 100},
        }
    )


def _require_available(host: Host) -> None:
    for storage in host.pools.values():
        probe = storage.probe()
        if not probe.available:
            raise SkippedError(probe.message)


def remove_by_hand(opened: Installation) -> None:
    """End the servers that were started by hand, and remove their subvolumes."""
    for status in opened.by_hand.glob("*/data/postmaster.pid"):
        with suppress(OSError, ValueError):
            os.kill(int(status.read_text().splitlines()[0]), signal.SIGKILL)
    for volume in opened.by_hand.glob("*"):
        subprocess.run(["btrfs", "--quiet", "subvolume", "delete", volume], check=True)
    shutil.rmtree(opened.by_hand, ignore_errors=True)


def end_servers(state: Path) -> None:
    """End every server of the installation with this state directory at once, also when its process was killed."""
    record = state / "installation.json"
    if not record.exists():
        return
    mark = f"{json.loads(record.read_text())['installation']}/"
    for process in processes.live():
        if processes.environment(process.pid, "RECONCILER_").get("RECONCILER_SERVER", "").startswith(mark):
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)


def unmount(mountpoint: Path) -> None:
    """Unmount; processes that were ended a moment ago may still hold it."""
    for _attempt in range(50):
        if not os.path.ismount(mountpoint):
            return
        if subprocess.run(["umount", mountpoint], capture_output=True, check=False).returncode != 0:
            time.sleep(0.1)
    subprocess.run(["umount", "--lazy", mountpoint], check=True)
