"""From the host's configuration to a repository.

Called by the loop and the command line. Judges the values of the configuration: none
of them may become an option of git or name a transport that runs programs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from reconciler.errors import ConfigError, InputError
from reconciler.repository.base import Limits
from reconciler.repository.paths import checked_path
from reconciler.repository.plain import DirectoryRepository
from reconciler.repository.remote import Access, GitRepository

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconciler.repository.base import Repository
    from reconciler.repository.signatures import Signers

_SCHEMES = ("https", "ssh", "file")
_SCP_LIKE = re.compile(r"(?:(?P<user>[\w.+-]+)@)?(?P<host>[\w.-]+):(?P<path>[^:].*)")
_BRANCH = re.compile(r"(?!-)(?!.*(?:\.\.|@\{|//|/\.|\.lock(?:/|$)))[^\x00-\x20\x7f~^:?*\[\\]+(?<![./])", re.DOTALL)
"""git-check-ref-format(1), and no dash in front."""


@dataclass(frozen=True, slots=True)
class _Place:
    url: str
    scheme: str


def open_repository(
    *,
    mirror: Path,
    url: str | None = None,
    branch: str = "main",
    path: str = ".",
    limits: Limits | None = None,
    credentials: Callable[[], str] | None = None,
    known_hosts: Path | None = None,
    signers: Signers | None = None,
) -> Repository:
    """Return the configured repository; nothing is contacted or written yet.

    With ``url`` (https, ssh, file or a local path) ``path`` is a directory within the
    repository; without, it is a plain directory of this host. ``mirror`` is the bare
    repository in the state directory. ``credentials`` is asked at every fetch, so that
    a rotated secret counts and no value is kept: ``user:token`` for https, a private
    key for ssh. ``known_hosts`` is the file of ssh host keys to trust. ``signers`` are
    those whose commits count; None: everybody's.

    Raises:
        ConfigError: a value cannot be used; the message says what to write instead.

    """
    limits = limits or Limits()
    if url is None:
        return DirectoryRepository(_plain(path), mirror=mirror, limits=limits)
    place = _place(url)
    if _BRANCH.fullmatch(branch) is None or branch.startswith(("/", ".")) or branch == "@":
        raise ConfigError(f"repository.branch {branch!r} is not the name of a branch")
    try:
        inside = checked_path(path)
    except InputError as error:
        raise ConfigError(f"repository.path: {error.message}") from error
    access = Access(url=place.url, scheme=place.scheme, credentials=credentials, known_hosts=known_hosts)
    return GitRepository(access, branch=branch, path=inside, mirror=mirror, limits=limits, signers=signers)


def _plain(path: str) -> Path:
    if not path.isprintable():
        raise ConfigError(f"repository.path {path!r} holds control characters")
    return Path(path).absolute()


def _place(url: str) -> _Place:
    if not url or not url.isprintable() or url.startswith("-"):
        raise ConfigError(f"repository.url {url!r} is not a URL or path: it is empty or starts with a dash")
    if "://" in url:
        return _Place(url, _checked_scheme(url))
    if re.match(r"[\w+.-]*::", url):
        raise ConfigError(
            f"repository.url {url!r} names a remote helper, which would run a program",
            hint="use https://, ssh://, file:// or a local path",
        )
    if ":" in url.partition("/")[0]:
        match = _SCP_LIKE.fullmatch(url)
        if match is None or match["host"].startswith("-"):
            raise ConfigError(f"repository.url {url!r} is not of the form user@host:path")
        return _Place(url, "ssh")
    return _Place(str(Path(url).absolute()), "file")


def _checked_scheme(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, password = parts.hostname or "", parts.password
    except ValueError as error:
        raise ConfigError("repository.url is not a valid URL") from error
    if password is not None:
        raise ConfigError(
            "repository.url holds a password, which would show up in process lists and messages",
            hint="put user:token into a secret and name it: repository.credentials: {secret: NAME}",
        )
    if parts.scheme not in _SCHEMES:
        raise ConfigError(f"repository.url uses {parts.scheme}://; only https, ssh and file are allowed")
    if (not host and parts.scheme != "file") or host.startswith("-"):
        raise ConfigError(f"repository.url {url!r} names no host")
    return parts.scheme
