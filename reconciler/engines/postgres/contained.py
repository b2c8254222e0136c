"""Servers in containers: what an image of containers holds, and how a server finds its files there.

Called by ``engine``, ``settings`` and ``collations``. The data directory lies where the
image expects it, and the private socket, our way in, where its programs look for one: so
``psql`` and ``pg_isready`` in the container find the server by themselves. The image's
entry point is passed over: it would initialise, change owners, or ask for passwords.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from reconciler.engines import files
from reconciler.engines.base import InstalledServer
from reconciler.engines.postgres import server
from reconciler.errors import UnsupportedError
from reconciler.state.servers import Contained

if TYPE_CHECKING:
    from reconciler.engines.base import BuildWork, CloneWork
    from reconciler.state.servers import Software

    Work = BuildWork | CloneWork

PORT = server.SOCKET_PORT
SOCKETS = PurePosixPath("/var/run/postgresql")
"""Where the official images, and Debian's and Alpine's packages, have their socket by default."""
NEWEST_MAJOR = "18"
"""Of the official image, for builds that ask for no version."""

_DATA = "/var/lib/postgresql/data"  # where the official images before 18 say nothing else (their README, "PGDATA")
_USERS = "/etc/passwd"
_NAMES = "passwd"
_LIBRARIES = 'getconf GNU_LIBC_VERSION 2>/dev/null; ldd "$(command -v postgres)"'


def installed(software: Software, major: str | None) -> InstalledServer:
    """Return what an image serves.

    Raises:
        UnsupportedError: it is not PostgreSQL, or not of the version ``major``.

    """
    told = software.ask(("postgres", "--version"))
    match = re.search(r"\(PostgreSQL\) ((\d+)[\w.]*)", told)
    if match is None:
        raise UnsupportedError(f"the container image {software.reference} does not run PostgreSQL: {told[:200]!r}")
    if major is not None and match[2] != major:
        raise UnsupportedError(
            f"the container image {software.reference} runs PostgreSQL {match[1]}, and the data is of version {major}",
            hint=f"name an image of version {major} under runtimes.docker.images",
        )
    return InstalledServer(match[1], match[2], "container", Path("/"), software)


def collation_versions(software: Software) -> dict[str, str]:
    """Return the versions of the C library and of the ICU that the image's server sorts with."""
    told = software.ask(("sh", "-c", _LIBRARIES))
    found = {}
    if glibc := re.search(r"^glibc (\S+)", told, re.MULTILINE):
        found["glibc"] = glibc[1]
    if icu := re.search(r"libicui18n\.so\.(\d+)", told):
        found["icu"] = icu[1]
    return found


def place(work: Work, data: Path, software: Software) -> Contained:
    """Return where the container of a build or clone has its files, and write what else it needs into them."""
    inside = data_path(software)
    mounts = {inside: data, SOCKETS: work.run_directory}
    if names := _added_names(work, software):
        files.write_file(work.run_directory, _NAMES, names, work.account)
        (work.run_directory / _NAMES).chmod(0o644)
        mounts[PurePosixPath(_USERS)] = work.run_directory / _NAMES
    return Contained(
        software=software,
        mounts=mounts,
        port=PORT,
        health=("pg_isready", "--quiet", f"--host={SOCKETS}", f"--port={PORT}"),
    )


def data_path(software: Software) -> PurePosixPath:
    """Return where the image expects the data directory."""
    return PurePosixPath(software.environment.get("PGDATA") or _DATA)


def _added_names(work: Work, software: Software) -> str:
    """Return the image's password file with those who use the socket and have no name in it; empty if all have."""
    known = login_names(software)
    ours = [(os.geteuid(), os.getegid()), *([(work.account.uid, work.account.gid)] if work.account else [])]
    added = [
        f"{name}:x:{uid}:{gid}::/nonexistent:/usr/sbin/nologin\n"
        for uid, gid in dict.fromkeys(ours)
        if uid not in known and (name := server.account_name(uid)) is not None
    ]
    return software.ask(("cat", _USERS)).rstrip("\n") + "\n" + "".join(added) if added else ""


def login_names(software: Software) -> dict[int, str]:
    """Return the users of the image by id: PostgreSQL looks up there who connects to its socket (``peer``)."""
    found: dict[int, str] = {}
    for line in software.ask(("cat", _USERS)).splitlines():
        name, _, rest = line.partition(":")
        uid = rest.split(":")[1] if rest.count(":") > 1 else ""
        if uid.isdigit():
            found.setdefault(int(uid), name)
    return found
