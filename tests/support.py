"""A whole installation for tests of the program: specs, configuration, passes, SQL, and what was left behind.

    world.write("shop.yaml", image("shop"), clone("shop-dev"))
    world.apply().require()
    assert world.sql("shop-dev", "SELECT count(*) FROM product") == [(3,)]

Real components only. ``close`` ends every process of the installation and removes its
directory, also after a failure.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import psycopg
import yaml

from reconciler.host import open_host
from reconciler.ids import ServerName
from reconciler.loop import Reconciler
from reconciler.proc import TOOL_MARK
from reconciler.runtimes.processes import directory, environment, live
from reconciler.spec.loader import load_config
from reconciler.state.conditions import is_pending
from reconciler.state.observed import CloneManifest, ClonePhase, SnapshotManifest, VolumeState
from reconciler.storage.loopback import LoopFile

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from reconciler.apply.executor import Task
    from reconciler.host import Host
    from reconciler.state.observed import Verb, Volume
    from reconciler.view import View

PROGRAM = Path(sys.executable).with_name("reconciler")
HOST_MAJORS = sorted(int(path.parts[4]) for path in Path("/usr/lib/postgresql").glob("*/bin/postgres"))
"""Versions of PostgreSQL that the distribution has here."""
OLDER_MAJOR = str(max((major for major in HOST_MAJORS if major < 18), default=15))
"""The newest of them that is older than the embedded one; tests skip where there is none."""
_PORTS_PER_WORLD = 40
_FIRST_PORT = 17_000
_BLOCKS = 350
_PATIENCE_SECONDS = 60.0
WORLDS = "rw-"
"""How the names of their directories begin; in memory the number of their process follows."""
MEMORY = Path("/dev/shm")
_ROOM_BYTES = 4 << 30
DAY = "RECONCILER_TESTS_DAY"
"""The number of a day: to run again what was run then."""
PRODUCTS = """
CREATE TABLE product (id integer PRIMARY KEY, name text NOT NULL);
INSERT INTO product SELECT number, 'Product ' || number FROM generate_series(1, 3) AS number;
"""


def today() -> int:
    """Return the number of the day on which the session began, which says whose turn it is."""
    return int(os.environ[DAY])


def image(name: str, **spec: Any) -> dict[str, Any]:  # noqa: ANN401 - as YAML
    """Return a small image: an empty PostgreSQL with three products in the database ``shop``."""
    defaults: dict[str, Any] = {
        "engine": "postgres",
        "source": {"empty": {}},
        "databases": ["shop"],
        "scripts": [{"inline": PRODUCTS, "database": "shop"}],
    }
    return document("Image", name, {**defaults, **spec})


def clone(name: str, **spec: Any) -> dict[str, Any]:  # noqa: ANN401 - as YAML
    """Return a clone of the image ``shop`` with the user ``app`` as its owner."""
    defaults: dict[str, Any] = {"image": "shop", "users": [{"name": "app", "role": "owner"}]}
    return document("Clone", name, {**defaults, **spec})


def document(kind: str, name: str, spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:  # noqa: ANN401 - as YAML
    """Return a document."""
    return {"apiVersion": "reconciler/v1", "kind": kind, "metadata": {"name": name, **metadata}, "spec": spec}


@dataclass(frozen=True)
class Pass:
    """One pass that was waited for: what it planned, its work, and what there was afterwards."""

    view: View
    tasks: tuple[Task, ...]
    final: View

    @property
    def actions(self) -> list[str]:
        """The planned actions, as ``verb Kind/name``."""
        return [f"{action.verb} {action.key}" for action in self.view.plan.actions] if self.view.plan else []

    @property
    def errors(self) -> dict[str, str]:
        """Work that failed: object and message."""
        return {str(task.key): str(task.error) for task in self.tasks if task.error is not None}

    def require(self) -> Pass:
        """Insist that nothing failed."""
        assert self.view.plan is not None, self.view.commit
        assert self.errors == {}, self.errors
        return self

    def pending(self, name: str) -> set[str]:
        """Return the reasons for which an object is not as its document asks for, afterwards."""
        assert self.final.plan is not None
        found = {str(key): conditions for key, conditions in self.final.plan.conditions.items()}
        return {condition.reason for condition in found.get(name, ()) if is_pending(condition)}

    def told(self) -> str:
        """Return what it did, what failed, and what is said of all objects afterwards, a line each."""
        plan = self.final.plan
        said = [(str(key), one) for key, conditions in (plan.conditions if plan else {}).items() for one in conditions]
        lines = [f"{key} {one.type}={one.status} {one.reason}: {one.message}" for key, one in said]
        return "\n".join([f"actions: {self.actions}", f"errors: {self.errors}", *lines])

    def condition(self, name: str, kind: str) -> tuple[str, str, str] | None:
        """Return status, reason and message of an object's condition (``Clone/shop-dev``, ``Ready``) afterwards."""
        assert self.final.plan is not None
        for key, conditions in self.final.plan.conditions.items():
            for condition in conditions:
                if str(key) == name and condition.type == kind:
                    return condition.status, condition.reason, condition.message
        return None


@dataclass
class World:
    """One installation in a directory of its own that every account can reach."""

    root: Path
    driver: str = "copy"
    pool: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    repository: dict[str, Any] = field(default_factory=lambda: {"path": "./specs", "interval": "1h"})
    ends: list[Callable[[], object]] = field(default_factory=list)
    """Whatever ends servers of it that are no processes of ours."""
    _loops: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.root.chmod(0o711)
        (self.root / "specs").mkdir(exist_ok=True)
        (self.root / "secrets").mkdir(exist_ok=True)
        self.ports = free_block()
        self.configure()

    @property
    def config_file(self) -> Path:
        return self.root / "reconciler.yaml"

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def pool_path(self) -> Path:
        return Path(self.pool.get("path", self.root / "pool"))

    def configure(self, **more: Any) -> None:  # noqa: ANN401 - as YAML
        """Write the configuration, with changes if any are named."""
        self.settings |= more
        ports = f"{self.ports.start}-{self.ports.stop - 1}"
        config = {
            "apiVersion": "reconciler/v1",
            "kind": "Config",
            "repository": self.repository,
            "state": "./state",
            "pools": {"default": {"driver": self.driver, "path": "./pool", "reserve": "1Mi", **self.pool}},
            "runtimes": {"process": {"ports": ports}},
            "secrets": {"directory": "./secrets"},
            **self.settings,
        }
        self.config_file.write_text(yaml.safe_dump(config, sort_keys=False))

    def write(self, name: str, *content: dict[str, Any] | str) -> None:
        """Write a file of the spec directory: documents, or text as it is."""
        path = self.root / "specs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = [part if isinstance(part, str) else yaml.safe_dump(part, sort_keys=False) for part in content]
        path.write_text("---\n".join(text))

    def remove(self, name: str) -> None:
        """Remove a file of the spec directory."""
        (self.root / "specs" / name).unlink()

    @contextmanager
    def host(self, *, writes: bool = False) -> Iterator[Host]:
        """Open the installation, as commands do."""
        with open_host(load_config(self.config_file), writes=writes, command="test") as host:
            yield host

    def apply(self, *requests: tuple[Verb, str]) -> Pass:
        """Run one pass and wait for its work; requests like ``("reset", "shop-dev")`` are submitted before."""
        with self.host(writes=True) as host:
            for verb, target in requests:
                _submit(host, verb, target)
            reconciler = Reconciler(host, host.commits())
            try:
                view = reconciler.one_pass()
                tasks = reconciler.in_flight
                final = reconciler.settle(view)
            finally:
                reconciler.close(abandon=False)
            return Pass(view, tasks, final)

    def apply_until(
        self,
        there: Callable[[Pass], object],
        *requests: tuple[Verb, str],
        what: str,
        fails: Collection[str] = (),
        waits: Mapping[str, Collection[str]] | None = None,
    ) -> Pass:
        """Run passes until one is as wanted, and return that; fail, with what the last one said, when none is.

        In none of them may the work of an object fail but of ``fails``, and an object of ``waits``
        may be pending for the reasons that are named there only.
        """
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            done = self.apply(*requests)
            assert set(done.errors) <= set(fails), done.told()
            for name, reasons in (waits or {}).items():
                assert done.pending(name) <= set(reasons), done.told()
            if there(done):
                return done
            assert time.monotonic() < deadline, f"{what} did not happen\n{done.told()}"
            time.sleep(0.05)

    def request(self, verb: Verb, target: str = "") -> str:
        """Leave a request for the next pass; return its id."""
        with self.host() as host:
            return _submit(host, verb, target)

    def converge(self, *, passes: int = 4) -> list[Pass]:
        """Run passes until one has nothing to do; fail when none of them does."""
        done = []
        for _ in range(passes):
            done.append(self.apply().require())
            if not done[-1].actions:
                return done
        raise AssertionError(f"it did not converge: {[one.actions for one in done]}")

    def look(self) -> View:
        """Read, observe and plan; changes nothing."""
        with self.host() as host:
            return Reconciler(host, host.commits()).look()

    def run(self, *words: str, stdin: str | None = None, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run the program as a user does."""
        argv = [str(PROGRAM), "--config", str(self.config_file), *words]
        return subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)

    @contextmanager
    def loop(self) -> Iterator[subprocess.Popen[str]]:
        """Have ``reconciler run`` running in the block; SIGTERM ends it."""
        log = (self.root / "loop.log").open("a")
        process = subprocess.Popen([PROGRAM, "--config", self.config_file, "run"], stdout=log, stderr=log, text=True)
        self._loops.append(process)
        try:
            until(lambda: self._watches(process), what="the start of the loop")
            yield process
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=_PATIENCE_SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            log.close()

    def _watches(self, process: subprocess.Popen[str]) -> bool:
        assert process.poll() is None, (self.root / "loop.log").read_text()
        with self.host() as host:
            owner = host.state.lock_owner()
        return owner is not None and owner.pid == process.pid

    def volumes(self) -> tuple[Volume, ...]:
        """Return the volumes of the installation."""
        with self.host() as host:
            return tuple(volume for storage in host.pools.values() for volume in storage.volumes())

    def snapshots(self) -> list[str]:
        """Return the ids of the sealed snapshots."""
        return [volume.id for volume in self.volumes() if isinstance(volume.manifest, SnapshotManifest)]

    def generations(self, name: str) -> dict[int, Volume]:
        """Return the ready generations of a clone."""
        found: dict[int, Volume] = {}
        for volume in self.volumes():
            manifest = volume.manifest
            if volume.state is not VolumeState.COMPLETE or not isinstance(manifest, CloneManifest):
                continue
            if manifest.clone == name and manifest.phase is ClonePhase.READY:
                found[manifest.generation] = volume
        return dict(sorted(found.items()))

    def current(self, name: str) -> CloneManifest:
        """Return the manifest of a clone's current generation."""
        generations = self.generations(name)
        assert generations, f"there is no clone {name}"
        manifest = generations[max(generations)].manifest
        assert isinstance(manifest, CloneManifest)
        return manifest

    def servers(self) -> set[str]:
        """Return the names of the servers that run."""
        with self.host() as host:
            return {str(name) for runtime in host.runtimes.values() for name in runtime.servers()}

    def password(self, name: str, user: str = "app") -> str:
        return (self.state / "credentials" / name / user).read_text().strip()

    def connect(
        self,
        name: str,
        *,
        user: str = "app",
        database: str = "shop",
        password: str | None = None,
        port: int | None = None,
    ) -> psycopg.Connection[Any]:
        """Connect to a clone as one of its users, over TCP, as its users do; the password is the generated one.

        ``port`` is another one that leads to it.
        """
        return psycopg.connect(
            host="127.0.0.1",
            port=port or self.current(name).port,
            dbname=database,
            user=user,
            password=password or self.password(name, user),
            connect_timeout=10,
            autocommit=True,
        )

    def sql(self, name: str, statement: str, **connection_options: Any) -> list[tuple[Any, ...]]:  # noqa: ANN401 - as of ``connect``
        """Run a statement on a clone and return its rows; options as of ``connect``."""
        with self.connect(name, **connection_options) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description is not None else []

    def processes(self) -> list[psutil.Process]:
        """Return every process of this installation: servers, and tools that work in its directory."""
        identity = self.state / "installation.json"
        mark = yaml.safe_load(identity.read_text())["installation"] if identity.exists() else "none"
        found = []
        for process in live():
            marks = environment(process.pid, "RECONCILER_")
            inside = f"{directory(process.pid)}/".startswith(f"{self.root}/")
            if marks.get("RECONCILER_SERVER", "").startswith(f"{mark}/") or (inside and TOOL_MARK in marks):
                with suppress(psutil.Error):
                    found.append(psutil.Process(process.pid))
        return found

    def titles(self) -> list[str]:
        """Return the command lines of all its processes, PostgreSQL's backends with what they do."""
        found = []
        for process in self.processes():
            for member in family(process):
                with suppress(psutil.Error):
                    found.append(" ".join(member.cmdline()))
        return found

    def stop_servers(self) -> None:
        """Shut every server down cleanly, as a reboot of the host does."""
        with self.host(writes=True) as host:
            for runtime in host.runtimes.values():
                for name in runtime.servers():
                    runtime.stop(name)

    def kill_server(self, name: str) -> None:
        """Kill the server of a clone's current generation with SIGKILL, and only it."""
        volume = f"{name}.{self.current(name).generation}"
        for process in self.processes():
            if server_of(process.pid).endswith(f"/{volume}"):
                process.kill()
                process.wait(_PATIENCE_SECONDS)

    def leftovers(self) -> list[str]:
        """Return what belongs to nothing: processes, files, directories, passwords. Empty when all is well."""
        volumes = {str(volume.id): volume for volume in self.volumes()}
        clones = {v.manifest.clone for v in volumes.values() if isinstance(v.manifest, CloneManifest)}
        with self.host() as host:
            run = {host.state.run_directory(ServerName(name)).name for name in volumes}
        found = [f"volume {v.id} {v.state}" for v in volumes.values() if v.state is not VolumeState.COMPLETE]
        found += [f"volume {v.id} {v.manifest.kind}" for v in volumes.values() if v.manifest.kind == "build"]
        found += _names(self.pool_path / "volumes", set(volumes))
        found += _names(self.pool_path / "manifests", {f"{volume}.json" for volume in volumes})
        found += _names(self.state / "work", set())
        found += _names(self.state / "run", run)
        found += _names(self.state / "credentials", set(map(str, clones)))
        found += _names(self.state / "requests", set())
        found += [
            str(path) for path in (self.state / "logs").iterdir() if not any(path.name.startswith(v) for v in volumes)
        ]
        found += [str(path) for path in self.state.rglob("*.tmp*")]
        for process in self.stray_processes(set(volumes)):
            with suppress(psutil.NoSuchProcess):
                found.append(f"process {process.pid} {process.cmdline()}")
        return found

    def stray_processes(self, volumes: set[str]) -> list[psutil.Process]:
        """Return processes of the installation that serve none of the volumes; tools that are at work count too."""
        strays = []
        for process in self.processes():
            try:
                mark = process.environ().get("RECONCILER_SERVER", "").partition("/")[2]
            except psutil.Error:
                continue
            if mark not in volumes:
                strays.append(process)
        return strays

    def kill(self) -> None:
        """End every process of the installation with SIGKILL."""
        for loop in self._loops:
            if loop.poll() is None:
                loop.kill()
                loop.wait()
        for process in self.processes():
            for victim in family(process):
                with suppress(psutil.Error):
                    victim.kill()
        until(lambda: not self.processes(), what="the end of all processes")

    def end(self) -> None:
        """End every process of the installation at once, and have servers take their shared memory with them."""
        for server in self.processes():
            with suppress(psutil.Error):
                server.send_signal(signal.SIGQUIT)
        psutil.wait_procs(self.processes(), timeout=_PATIENCE_SECONDS)
        self.kill()
        for end in self.ends:
            end()

    def close(self) -> None:
        """End every process of the installation and remove everything of it."""
        self.end()
        mounted = LoopFile(self.pool_path, 0)
        if os.path.ismount(mounted.mountpoint) and mounted.made():
            subprocess.run(["umount", "--lazy", mounted.mountpoint], check=False, capture_output=True)
        shutil.rmtree(self.root, ignore_errors=True)
        release_block(self.ports)


def new_world(parent: Path | None = None, **options: Any) -> World:  # noqa: ANN401 - of World
    """Make a world below ``parent`` (default: in memory where there is room), with a short path for sockets."""
    place = parent or in_memory()
    # what is not in the session's own directory says whose it is: the next session removes it where this one is killed
    prefix = f"{WORLDS}{os.getpid()}-" if place == MEMORY else WORLDS
    return World(Path(tempfile.mkdtemp(prefix=prefix, dir=place)), **options)


def in_memory() -> Path | None:
    """Return a directory in memory with room for several clusters; None when there is none."""
    usable = MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > _ROOM_BYTES
    return MEMORY if usable else None


def end_installations(root: Path) -> None:
    """End the servers of every installation below a directory, also of those that commands made."""
    found = [json.loads(path.read_text())["installation"] for path in root.rglob("installation.json")]
    left = [process for process in live() if server_of(process.pid).partition("/")[0] in found]
    victims = []
    for one in left:
        with suppress(psutil.NoSuchProcess):
            victims.append(psutil.Process(one.pid))
    for sent in (signal.SIGQUIT, signal.SIGKILL):  # at first so that they take their shared memory with them
        for victim in victims:
            with suppress(psutil.NoSuchProcess):
                victim.send_signal(sent)
        _, victims = psutil.wait_procs(victims, timeout=_PATIENCE_SECONDS / 2)
    assert victims == []


def server_of(pid: int) -> str:
    """Return which server a process is, as ``installation/name``; empty when it is none, or has ended."""
    return environment(pid, "RECONCILER_").get("RECONCILER_SERVER", "")


_blocks: dict[range, socket.socket] = {}
"""Blocks of this process, each with the socket that reserves it; the kernel lets go when the process ends."""


def free_block() -> range:
    """Reserve ports that nobody listens on, below the ephemeral ones, from all test processes of this host."""
    for step in range(_BLOCKS):
        first = _FIRST_PORT + (os.getpid() + step) % _BLOCKS * _PORTS_PER_WORLD
        block = range(first, first + _PORTS_PER_WORLD)
        mark = socket.socket(socket.AF_UNIX)
        try:
            mark.bind(f"\0reconciler-test-ports-{first}")
        except OSError:
            mark.close()
            continue
        if all(not listens(port) for port in block):
            _blocks[block] = mark
            return block
        mark.close()
    raise AssertionError("no block of ports is free")


_own_ports: deque[int] = deque()


def free_port() -> int:
    """Return a port that nobody listens on, of those that this process reserved; of all, the one not used longest."""
    if not _own_ports:
        _own_ports.extend(free_block())
    for _ in range(len(_own_ports)):
        _own_ports.rotate(-1)
        if not listens(_own_ports[-1]):
            return _own_ports[-1]
    raise AssertionError("all ports of this process are taken")


def release_block(block: range) -> None:
    """Let others have a block."""
    _blocks.pop(block).close()


def listens(port: int) -> bool:
    """Whether somebody listens on a port of the loopback interface."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def until(condition: Callable[[], object], *, seconds: float = _PATIENCE_SECONDS, what: str = "it") -> None:
    """Wait until a condition holds; fail when it never does. Polls: there is no event to wait for."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.05)


def pause(pid: int) -> None:
    """Stop a process, and return when none of its threads runs: each stops when the kernel comes to it."""
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: _is_stopped(pid), what="the pause")
    except BaseException:
        resume(pid)
        raise


def resume(pid: int) -> None:
    """Let a process that was stopped go on."""
    os.kill(pid, signal.SIGCONT)


def _is_stopped(pid: int) -> bool:
    threads = psutil.Process(pid).threads()
    with suppress(psutil.NoSuchProcess):  # one has just ended
        return all(psutil.Process(thread.id).status() == psutil.STATUS_STOPPED for thread in threads)
    return False


def _submit(host: Host, verb: Verb, target: str) -> str:
    return host.state.requests.submit(verb, target, now=host.clock.now(), requested_by="test").id


def _names(directory: Path, expected: set[str]) -> list[str]:
    return [str(path) for path in sorted(directory.iterdir()) if path.name not in expected]


def family(process: psutil.Process) -> list[psutil.Process]:
    """Return a process with everything that it started; none when it has ended."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []
