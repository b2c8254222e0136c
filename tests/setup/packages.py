"""Installs what the tests need from the distribution, or says loudly what they will skip.

Called by ``make test`` (``.venv/bin/python tests/setup/packages.py``), and with the
argument ``venv`` by the system's python before there is a virtual environment: so only
the standard library, and the syntax of Python 3.9. It fails only when that environment
cannot be made; a test whose component is missing skips with its reason.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_CLUSTER_SETTINGS = Path("/etc/postgresql-common/createcluster.conf")
_ZFS_SETTINGS = Path("/etc/default/zfs-fuse")
_APT = ["apt-get", "--quiet", "--quiet", "--yes", "-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::Retries=3"]
_SECONDS = 900
_OLDEST = (3, 11)


@dataclass(frozen=True)
class Need:
    """A component of the host: how to see that it is there, its package, and what cannot be tested without it."""

    name: str
    present: Callable[[], bool]
    package: str
    """Name of a package, or a regular expression in slashes of which the highest version is taken."""
    without: str


def main(arguments: list[str]) -> None:
    if arguments == ["venv"]:
        _require_venv()
    else:
        _report(_provide(_NEEDS))


def _require_venv() -> None:
    """See to it that this Python can make the virtual environment, or end with what to do."""
    if sys.version_info < _OLDEST:
        here = ".".join(map(str, sys.version_info[:3]))
        sys.exit(f"{sys.executable} is Python {here}, and 3.11 or later is needed: make PYTHON=python3.12 …")
    for need in _provide([_VENV]):
        sys.exit(f"{need.name} is missing. As root: apt-get install {need.package}; or: make PYTHON=another-python3 …")


def _provide(needs: list[Need]) -> list[Need]:
    """Install what is missing where that can be done; return what is missing still."""
    missing = [need for need in needs if not need.present()]
    if missing and _can_install():
        _install(missing)
        importlib.invalidate_caches()
    return [need for need in missing if not need.present()]


def _can_install() -> bool:
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def _install(missing: list[Need]) -> None:
    """Install all at once, and one by one if that fails, so that one bad package does not cost the others."""
    packages = _packages(missing)
    if len(packages) == len(missing) and _apt("install", *packages):
        return
    _apt("update")
    packages = _packages(missing)
    if packages and not _apt("install", *packages):
        for package in packages:
            _apt("install", package)


def _packages(needs: list[Need]) -> list[str]:
    """Return the packages of those needs that the package lists know."""
    packages = [package for package in (_newest(need.package) for need in needs) if package]
    if any(package.startswith("postgresql") for package in packages):
        _forbid_clusters()
    if "zfs-fuse" in packages:
        _forbid_daemon()
    if "mariadb-server" in packages:
        _forbid_service("mariadb")
    return packages


def _newest(package: str) -> str | None:
    if not package.startswith("/"):
        return package
    pattern = package.strip("/")
    found = _output(["apt-cache", "search", "--names-only", pattern])
    names = [line.split()[0] for line in found.splitlines() if re.fullmatch(pattern, line.split()[0])]
    return max(names, key=lambda name: int(name.rpartition("-")[2]), default=None)


def _forbid_clusters() -> None:
    """Keep Debian's package from creating and starting a server of its own; existing settings are somebody's choice."""
    if not _CLUSTER_SETTINGS.exists():
        _CLUSTER_SETTINGS.parent.mkdir(parents=True, exist_ok=True)
        _CLUSTER_SETTINGS.write_text("create_main_cluster = false\n", encoding="ascii")


def _forbid_daemon() -> None:
    """Keep Debian's package from starting zfs-fuse; existing settings are somebody's choice."""
    if not _ZFS_SETTINGS.exists():
        _ZFS_SETTINGS.write_text("ENABLE_ZFS=no\n", encoding="ascii")


def _forbid_service(name: str) -> None:
    """Keep systemd from starting a service, as ``systemctl mask`` does; an existing unit is somebody's choice."""
    unit = Path(f"/etc/systemd/system/{name}.service")
    if not os.path.lexists(unit):
        unit.parent.mkdir(parents=True, exist_ok=True)
        unit.symlink_to("/dev/null")


def _apt(*words: str) -> bool:
    """Run apt-get without questions, keeping configuration files that exist; return whether it went well."""
    options = ["--no-install-recommends", "-o", "Dpkg::Options::=--force-confold"] if words[0] == "install" else []
    environment = {
        **os.environ,
        "DEBIAN_FRONTEND": "noninteractive",
        "NEEDRESTART_MODE": "l",
        "UCF_FORCE_CONFFOLD": "1",
    }
    _say("apt-get " + " ".join(words))
    try:
        done = subprocess.run(
            [*_APT, words[0], *options, *words[1:]],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        _say(f"apt-get {words[0]} did not end well: {error}")
        return False
    if done.returncode != 0:
        _say(done.stdout.decode("utf-8", "replace")[-2000:])
    return done.returncode == 0


def _output(words: list[str]) -> str:
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _report(missing: list[Need]) -> None:
    if not missing:
        return
    _say("=" * 100)
    _say("MISSING ON THIS HOST, so these tests will be SKIPPED:")
    for need in missing:
        _say(f"  {need.name}: {need.without}")
    if not _can_install():
        packages = " ".join(_newest(need.package) or need.package.strip("/") for need in missing)
        _say(f"To run them, as root on Debian or Ubuntu: apt-get install {packages}")
    _say("=" * 100)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - this is a program


def _program(name: str) -> Callable[[], bool]:
    """Look where root's programs are as well: an ordinary user's PATH often lacks them."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    return lambda: shutil.which(name, path=path) is not None


_VENV = Need(
    "python3-venv",
    lambda: importlib.util.find_spec("ensurepip") is not None,
    f"python{sys.version_info[0]}.{sys.version_info[1]}-venv",
    "nothing can be tested without a virtual environment",
)
_NEEDS = [
    Need("git", _program("git"), "git", "everything that reads a spec repository from git"),
    Need("ssh-keygen", _program("ssh-keygen"), "openssh-client", "commits that are signed"),
    Need("gpg", _program("gpg"), "gnupg", "commits that are signed with OpenPGP"),
    Need("btrfs-progs", _program("mkfs.btrfs"), "btrfs-progs", "the storage driver btrfs, and loop-backed pools"),
    Need("xfsprogs", _program("mkfs.xfs"), "xfsprogs", "the storage driver reflink on XFS"),
    Need("ZFS, the kernel's or zfs-fuse", _program("zpool"), "zfs-fuse", "the storage driver zfs"),
    Need("setpriv", _program("setpriv"), "util-linux", "that tools end with a reconciler that was killed"),
    Need("useradd", _program("useradd"), "passwd", "servers under accounts of their own (as root)"),
    Need(
        "a PostgreSQL server of the distribution",
        lambda: any(Path("/usr/lib/postgresql").glob("*/bin/postgres")),
        "/postgresql-[0-9]+/",
        "a second major version besides the embedded PostgreSQL, and preferring the host's server",
    ),
    Need("MariaDB", _program("mariadbd"), "mariadb-server-core", "everything of the engine mariadb"),
    Need("MariaDB's client", _program("mariadb"), "mariadb-client-core", "everything of the engine mariadb"),
    Need(
        "MariaDB's plugins",
        Path("/usr/lib/mysql/plugin/ha_federatedx.so").exists,
        "mariadb-server",
        "tables of MariaDB that are at other servers",
    ),
    Need("mariadb-backup", _program("mariadb-backup"), "mariadb-backup", "physical backups of MariaDB"),
    Need("mydumper", _program("mydumper"), "mydumper", "dumps of mydumper as they really are"),
    Need("pgbackrest", _program("pgbackrest"), "pgbackrest", "backups in repositories of pgBackRest"),
    Need("faketime", _program("faketime"), "faketime", "moments on the days on which clocks change"),
    Need("dockerd", _program("dockerd"), "docker.io", "clones and builds in containers (as root)"),
    Need("podman", _program("podman"), "podman", "clones in containers of Podman (as root)"),
    Need(
        "Podman's networks",
        Path("/usr/lib/podman/aardvark-dns").exists,
        "aardvark-dns",
        "clones in containers of Podman (as root)",
    ),
    Need("zstd", _program("zstd"), "zstd", "dumps and archived WAL that are compressed with it"),
    Need("lz4", _program("lz4"), "lz4", "dumps and archived WAL that are compressed with it"),
]

if __name__ == "__main__":
    main(sys.argv[1:])
