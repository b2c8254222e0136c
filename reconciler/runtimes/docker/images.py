"""Images of containers: which one serves a version of an engine, fetched if need be, and what is in it.

Called by ``runtime``. What an image answers is kept by its digest, in memory and in the
state directory: it cannot change, and asking means to start a container.
"""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reconciler import durable
from reconciler.errors import NotInstalledError, UnavailableError, UnsupportedError
from reconciler.proc import Account
from reconciler.runtimes.docker.daemon import AbsentError, DaemonError
from reconciler.state.servers import Software

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from reconciler.runtimes.docker.daemon import Daemon, Facts
    from reconciler.runtimes.docker.settings import DockerSettings

ASKED = "reconciler/asked"
PASSWORDS = ("cat", "/etc/passwd")
_UID, _GID = 1, 2  # after the name and a colon, passwd(5)
_ANSWER_SECONDS = 60.0
_ANSWER_LINES = 2000


@dataclass(slots=True)
class Images:
    """The images that servers of one runtime come from; safe to call from several threads."""

    daemon: Daemon
    settings: DockerSettings
    directory: Path
    labels: Mapping[str, str]
    """Labels of the containers in which images are asked."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _known: dict[str, dict[str, str]] = field(default_factory=dict)
    _swept: bool = False

    def software(self, reference: str, user: str) -> Software:
        """Return the programs of an image, in which the data belongs to ``user`` unless it names another.

        Raises:
            NotInstalledError: there is no such image here, and it cannot be fetched.

        """
        facts = self._image(reference)
        config = facts.get("Config") or {}
        digest = str(facts["Id"])
        return Software(
            reference=reference,
            digest=digest,
            environment=_environment(config.get("Env") or ()),
            account=self._account(digest, str(config.get("User") or ""), user),
            ask=lambda words: self._ask(digest, words),
        )

    def _image(self, reference: str) -> Facts:
        with self._lock:  # several clones of one image must not fetch it at once
            self._sweep()
            found = self.daemon.image(reference)
            if self.settings.pull == "always" or (found is None and self.settings.pull == "missing"):
                found = self._fetched(reference, found)
        if found is None:
            raise NotInstalledError(
                f"the container image {reference} is not on this host, and runtimes.docker.pull is never",
                hint=f"load or pull {reference}, or name another under runtimes.docker.images",
            )
        return found

    def _sweep(self) -> None:
        """Remove containers in which a reconciler that was killed, or whose daemon was, asked an image."""
        if not self._swept:
            for facts in self.daemon.containers([f"{name}={value}" for name, value in self._labels.items()]):
                self.daemon.remove(str(facts["Id"]))
            self._swept = True

    @property
    def _labels(self) -> dict[str, str]:
        return {**self.labels, ASKED: "yes"}

    def _fetched(self, reference: str, present: Facts | None) -> Facts | None:
        whole = reference if "@" in reference or ":" in reference.rpartition("/")[2] else f"{reference}:latest"
        try:
            self.daemon.pull(whole)
        except DaemonError as error:
            if present is not None:
                return present  # what is here serves as well as it did
            raise NotInstalledError(
                f"the container image {reference} is not on this host and cannot be fetched: {error.message}",
                hint="correct runtimes.docker.images, or log in to its registry as the user of the reconciler",
            ) from error
        return self.daemon.image(reference)

    def _account(self, digest: str, named: str, product: str) -> Account | None:
        """Return the image's own user. One that says root changes to the product's user by its entry point."""
        user = named.partition(":")[0]
        wanted = product if user in ("", "root", "0") else user
        with suppress(UnsupportedError):
            for line in self._ask(digest, PASSWORDS).splitlines():
                name, *rest = line.split(":")
                if len(rest) > _GID and wanted in (name, rest[_UID]) and (rest[_UID] + rest[_GID]).isdigit():
                    return Account(int(rest[_UID]), int(rest[_GID]))
        return None

    def _ask(self, digest: str, words: tuple[str, ...]) -> str:
        key = hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]
        with self._lock:
            known = self._answers(digest)
            if key not in known:
                known[key] = self._told(digest, words)
                self.directory.mkdir(mode=0o700, exist_ok=True)
                durable.write(self._file(digest), json.dumps(known, sort_keys=True).encode())
            return known[key]

    def _answers(self, digest: str) -> dict[str, str]:
        if digest not in self._known:
            self._known[digest] = {}
            with suppress(OSError, ValueError):
                found = json.loads(self._file(digest).read_bytes())
                self._known[digest] = {str(key): str(value) for key, value in found.items()}
        return self._known[digest]

    def _file(self, digest: str) -> Path:
        return self.directory / f"{digest.rpartition(':')[2]}.json"

    def _told(self, digest: str, words: tuple[str, ...]) -> str:
        """Run a program of the image and return what it wrote.

        Raises:
            UnsupportedError: the image has no such program, or it failed.

        """
        body = {
            "Image": digest,
            "Entrypoint": [words[0]],
            "Cmd": list(words[1:]),
            "Labels": self._labels,
            "HostConfig": {"NetworkMode": "none", "CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges"]},
        }
        container = None
        try:
            container = self.daemon.create(None, body)
            self.daemon.start(container)
            if not self.daemon.ended_within(container, _ANSWER_SECONDS):
                raise UnavailableError(f"{words[0]} in the container image {digest[:19]} did not end in time")
            state = (self.daemon.inspect(container) or {}).get("State", {})
            told = self.daemon.logs(container, _ANSWER_LINES).decode("utf-8", "replace")
        except AbsentError as error:
            raise NotInstalledError(f"the container image {digest[:19]} is gone: {error.message}") from error
        except DaemonError as error:
            raise UnsupportedError(f"{words[0]} does not run in the container image: {error.message}") from error
        finally:
            if container is not None:
                self._swept = False  # until it is gone for certain
                self.daemon.remove(container)
                self._swept = True
        if state.get("ExitCode") != 0:
            raise UnsupportedError(f"{words[0]} failed in the container image: {told[-500:]}")
        return told


def _environment(lines: tuple[str, ...]) -> dict[str, str]:
    return {name: value for name, _, value in (line.partition("=") for line in lines)}
