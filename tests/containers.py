"""A daemon of containers of the tests' own, and images for it, made of this host's files.

    with container_daemon() as daemon:
        daemon.docker("run", "--rm", IMAGE, "postgres", "--version")

The daemon is started by hand, with everything of it in one directory; it changes neither the
firewall of the host nor what another daemon has. No registry is asked: an image holds this
host's PostgreSQL or MariaDB with the libraries that it is linked with, a shell and a few programs.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import psutil
import pytest

from reconciler.engines.mysql.engine import MariaDbEngine
from tests.support import HOST_MAJORS, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support import World

IMAGE = "local/postgres"
"""Tagged with its major version, like the official one."""
MARIADB_IMAGE = "local/mariadb"
"""As that."""
USER = 999
"""The product's user in it (``postgres``, ``mysql``); on this host nobody, or somebody else."""
_PATIENCE_SECONDS = 60.0
_PROGRAMS = ("cat", "dash", "bash", "env", "getconf", "id", "ldd", "ls", "perl", "sleep", "stat")
_POSTGRES = ("postgres", "pg_isready", "psql")
_MARIADB = ("/usr/sbin/mariadbd", "/usr/bin/mariadb-admin", "/usr/bin/mariadb")
_SHARED = Path("/usr/share")


class NotRunningError(Exception):
    """A daemon does not start; what it wrote at last."""


@dataclass
class ContainerDaemon:
    """A running ``dockerd``, which ``stop`` and ``start`` again, as an upgrade of it does."""

    programs: ClassVar[tuple[str, ...]] = ("dockerd", "docker", "setpriv")
    package: ClassVar[str] = "docker.io"
    helpers: ClassVar[tuple[str, ...]] = ("containerd",)
    """Programs that it starts for itself."""
    keepers: ClassVar[tuple[str, ...]] = ("containerd-shim-runc-v2",)
    """Programs that containers run below, and that outlive it."""

    root: Path
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def socket(self) -> Path:
        return self.root / "docker.sock"

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped since."""
        return self._process is not None

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            NotRunningError: it ended instead, or says nothing, with the end of its log.

        """
        argv = ["setpriv", "--pdeathsig", "TERM", *self._argv()]
        with (self.root / "log").open("ab") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log, env=_environment(), cwd="/")
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise NotRunningError((self.root / "log").read_text(errors="replace")[-500:])
            time.sleep(0.05)

    def _argv(self) -> list[str]:
        pool = f"base=10.{200 + os.getpid() % 50}.0.0/16,size=24"
        argv = ["dockerd", f"--data-root={self.root / 'data'}", f"--exec-root={self.root / 'exec'}"]
        argv += [f"--host=unix://{self.socket}", f"--pidfile={self.root / 'pid'}", "--log-level=warn"]
        return [*argv, "--bridge=none", "--iptables=false", "--ip-forward=false", f"--default-address-pool={pool}"]

    def stop(self, *, kill: bool = False) -> None:
        """End it; killed, it leaves its containers running, until it is started again."""
        if self._process is not None:
            if kill:
                self._process.kill()
            else:
                self._process.terminate()
            self._process.wait(_PATIENCE_SECONDS)
            self._process = None
            if kill:
                self._end_left(*self.helpers)
            (self.root / "pid").unlink(missing_ok=True)

    def docker(self, *words: str) -> str:
        """Run the client and return what it wrote; fails when it fails."""
        done = self._ask(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def names(self) -> set[str]:
        """Return the names of all containers, in whatever state."""
        return set(self.docker("ps", "--all", "--format", "{{.Names}}").split())

    def inspect(self, name: str) -> dict[str, Any]:
        """Return what the daemon knows of a container."""
        return dict(json.loads(self.docker("inspect", name))[0])

    def remove_all(self) -> None:
        """Remove every container; some go by themselves meanwhile."""
        until(self._has_none, what="the end of all containers")

    def clear(self) -> None:
        """Remove every container and every network: their bridges are the host's, and outlive the daemon."""
        self.remove_all()
        self.docker("network", "prune", "--force")

    def close(self) -> None:
        """End everything of it and remove its directory, whatever of that fails."""
        with ExitStack() as after:
            after.callback(self.discard)
            if not self.running:
                self.start()
            self.clear()

    def discard(self) -> None:
        """End its processes and remove its directory, whatever of that fails."""
        with ExitStack() as after:
            after.callback(shutil.rmtree, self.root)
            after.callback(self._unmount)
            after.callback(self._end_left, *self.helpers, *self.keepers)  # a daemon that was killed forgot some
            self._end()

    def _has_none(self) -> bool:
        for name in self.names():
            self._ask("rm", "--force", "--volumes", name)
        return self.names() == set()

    def _end(self) -> None:
        """End it, by force if it does not end when it is asked to."""
        try:
            self.stop()
        except subprocess.TimeoutExpired:
            self.stop(kill=True)
            raise

    def _unmount(self) -> None:
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            place = line.split()[1]
            if place.startswith(f"{self.root}/"):
                subprocess.run(["umount", "--lazy", place], check=True, capture_output=True)

    def _answers(self) -> bool:
        return self._ask("version").returncode == 0

    def _ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = ["docker", "--host", f"unix://{self.socket}", *words]
        return subprocess.run(
            argv, capture_output=True, text=True, check=False, env=_environment(), timeout=_PATIENCE_SECONDS
        )

    def _end_left(self, *names: str) -> None:
        """End what a daemon left of these programs, with what shims run; the next daemon starts a helper of its own."""
        left = [process for process in psutil.process_iter(["cmdline"]) if self._is_left(process, names)]
        run = [one for process in left if self.keepers[0] in names for one in _below(process)]
        for process in (*run, *left):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        _, alive = psutil.wait_procs([*run, *left], timeout=_PATIENCE_SECONDS)
        (self.root / "exec/containerd/containerd.pid").unlink(missing_ok=True)  # its number lives on until it is reaped
        assert alive == []

    def _is_left(self, process: psutil.Process, names: tuple[str, ...]) -> bool:
        words = process.info["cmdline"] or []
        return bool(words) and Path(words[0]).name in names and f"{self.root}/" in " ".join(words)


@dataclass
class PodmanService(ContainerDaemon):
    """Podman's service with the same API, as ``podman system service`` starts it.

    Ports of its containers are rules of the host's firewall, which go with them. Containers get the limits
    of this process: a root that lacks a capability, as in a sandbox, could not raise them.
    """

    programs: ClassVar[tuple[str, ...]] = ("podman", "runc", "docker", "setpriv")
    package: ClassVar[str] = "podman"
    helpers: ClassVar[tuple[str, ...]] = ()
    keepers: ClassVar[tuple[str, ...]] = ("conmon",)

    def _argv(self) -> list[str]:
        (self.root / "networks").mkdir(exist_ok=True)
        limits = (("nofile", resource.RLIMIT_NOFILE, 1 << 16), ("nproc", resource.RLIMIT_NPROC, 1 << 15))
        shown = [f"{name}={most}:{most}" for name, which, enough in limits for most in [_at_most(which, enough)]]
        engine = '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nruntime = "runc"\n'
        network = f'[network]\nnetwork_backend = "netavark"\nnetwork_config_dir = "{self.root / "networks"}"\n'
        settings = self.root / "containers.conf"
        settings.write_text(f"[containers]\ndefault_ulimits = {json.dumps(shown)}\n{engine}{network}")
        argv = ["env", f"CONTAINERS_CONF={settings}", "podman", "--log-level=warn", f"--root={self.root / 'data'}"]
        argv += [f"--runroot={self.root / 'exec'}", f"--tmpdir={self.root / 'tmp'}"]
        return [*argv, "system", "service", "--time=0", f"unix://{self.socket}"]


def _at_most(which: int, enough: int) -> int:
    _, most = resource.getrlimit(which)
    return enough if most == resource.RLIM_INFINITY else min(most, enough)


@contextmanager
def container_daemon(kind: type[ContainerDaemon] = ContainerDaemon) -> Iterator[ContainerDaemon]:
    """Have a daemon with the image in the block; skips the test where none can run, and only then."""
    if os.geteuid() != 0:
        pytest.skip("needs root: a daemon of containers is started")
    for program in kind.programs:
        if shutil.which(program, path=_environment()["PATH"]) is None:
            pytest.skip(f"needs the program {program} (package {kind.package})")
    daemon = kind(Path(tempfile.mkdtemp(prefix="dk-")))
    daemon.root.chmod(0o711)
    try:
        daemon.start()
    except NotRunningError as error:
        daemon.discard()
        pytest.skip(f"needs a daemon of containers, which does not start here: {error}")
    try:
        _import_postgres(daemon)
        yield daemon
    finally:
        daemon.close()


def host_major() -> str:
    """Return the version of the host's own PostgreSQL, which the image holds."""
    if not HOST_MAJORS:
        pytest.skip("needs a PostgreSQL of the distribution, of which an image of containers is made")
    return str(HOST_MAJORS[-1])


def host_mariadb() -> str:
    """Return the version of the host's own MariaDB, which the image holds."""
    found = MariaDbEngine().servers()
    if not found or not all(Path(program).exists() for program in _MARIADB):
        pytest.skip("needs a MariaDB of the distribution, of which an image of containers is made")
    return found[0].major


def import_mariadb(daemon: ContainerDaemon) -> None:
    """Give the daemon the image with MariaDB, if it has not got it."""
    reference = f"{MARIADB_IMAGE}:{host_mariadb()}"
    if reference not in daemon.docker("images", "--format", "{{.Repository}}:{{.Tag}}").split():
        programs = [Path(program) for program in _MARIADB]
        changes = ["ENV PATH=/usr/sbin:/usr/bin", "VOLUME /var/lib/mysql"]
        _import(daemon, reference, _Content("mysql", Path("/var/lib/mysql"), programs, [_SHARED / "mysql"]), changes)


def images() -> dict[str, str]:
    """Return the images by engine, of what this host has; that of MariaDB is there once somebody had it imported."""
    mariadb = {"mariadb": f"{MARIADB_IMAGE}:{host_mariadb()}"} if MariaDbEngine().servers() else {}
    return {"postgres": f"{IMAGE}:{host_major()}", **mariadb}


def contained(world: World, daemon: ContainerDaemon) -> dict[str, Any]:
    """Return what a world's configuration says of runtimes so that a daemon's containers are one; half of its ports."""
    middle = (world.ports.start + world.ports.stop) // 2
    docker = {
        "socket": str(daemon.socket),
        "ports": f"{middle}-{world.ports.stop - 1}",
        "images": images(),
        "pull": "never",
        "networks": ["apps"],
    }
    return {"process": {"ports": f"{world.ports.start}-{middle - 1}"}, "docker": docker}


@dataclass(frozen=True)
class _Content:
    """What of this host is in an image; ``user`` is its own user, whom ``data`` belongs to."""

    user: str
    data: Path
    programs: list[Path]
    trees: list[Path]


def _below(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _environment() -> dict[str, str]:
    return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/nonexistent"}


def _import_postgres(daemon: ContainerDaemon) -> None:
    major = host_major()
    changes = [
        f"ENV PATH=/usr/lib/postgresql/{major}/bin:/usr/bin",
        "ENV PGDATA=/var/lib/postgresql/data",
        "VOLUME /var/lib/postgresql/data",
    ]
    server = Path("/usr/lib/postgresql", major)
    programs = [server / "bin" / name for name in _POSTGRES]
    programs += [path for path in sorted((server / "lib").glob("*.so")) if "llvm" not in path.name]
    content = _Content("postgres", Path("/var/lib/postgresql/data"), programs, [_SHARED / "postgresql" / major])
    _import(daemon, f"{IMAGE}:{major}", content, changes)


def _import(daemon: ContainerDaemon, reference: str, content: _Content, changes: list[str]) -> None:
    root = daemon.root / "image"
    _fill(root, content)
    words = [word for change in changes for word in ("--change", change)]
    argv = ["docker", "--host", f"unix://{daemon.socket}", "import", *words, "-", reference]
    with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as tar:
        subprocess.run(argv, stdin=tar.stdout, check=True, capture_output=True, env=_environment())
    shutil.rmtree(root)


def _fill(root: Path, content: _Content) -> None:
    """Put a server of the host, and what it takes to run it, below a directory."""
    data = content.data.relative_to("/")
    for directory in ("etc", "tmp", "root", "run", "usr/bin", "usr/lib", "usr/lib64", data, "var/run"):
        (root / directory).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    (root / "tmp").chmod(0o1777)
    owner = f"{content.user}:x:{USER}:{USER}::{content.data}:/bin/sh"
    (root / "etc/passwd").write_text(f"root:x:0:0:root:/root:/bin/sh\n{owner}\n")
    (root / "etc/group").write_text(f"root:x:0:\n{content.user}:x:{USER}:\n")
    programs = [*content.programs, *(Path(found) for name in _PROGRAMS if (found := shutil.which(name)) is not None)]
    for path in {*programs, *_linked(programs)}:
        place = root / path.parent.resolve().relative_to("/") / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    (root / "usr/bin/sh").symlink_to("dash")
    locale = Path("/usr/lib/locale/C.utf8")  # where the C library has none of its own
    trees = [*content.trees, _SHARED / "zoneinfo", locale, *Path("/usr/lib").glob("*/perl-base")]
    for tree in filter(Path.exists, trees):
        shutil.copytree(tree, root / tree.relative_to("/"), symlinks=True)


def _linked(files: list[Path]) -> set[Path]:
    """Return the libraries that programs are linked with."""
    told = subprocess.run(["ldd", *files], capture_output=True, text=True, check=False).stdout
    return {Path(found) for found in re.findall(r"(?:=> |^\t)(/\S+)", told, re.MULTILINE)}
