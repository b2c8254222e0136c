"""The gateway to the daemon's API: the few calls that this package makes, with errors of ours.

Called by the modules of this package only. Whatever keeps the daemon from answering is an
UnavailableError, of which nobody may conclude that a container is gone; whatever it answers
is translated here or handed on as :class:`DaemonError`. Every call is bounded in time.
"""

from __future__ import annotations

import math
import socket
import weakref
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import docker
import requests
from docker.errors import APIError, DockerException, InvalidConfigFile, NotFound
from docker.utils.config import find_config_file

from reconciler.errors import TransientError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

Facts = dict[str, Any]
"""What the API says of an object, as it says it (Docker Engine API, from version 1.41)."""

_SECONDS = 60.0
"""A daemon that is asked for much at once starts containers one after the other."""
_LOOK_SECONDS = 20.0
_PULL_SECONDS = 3600.0
_BAD = 400
_CONFLICT = 409
_UNCHANGED = 304
_UNREADABLE = (InvalidConfigFile, ValueError, TypeError, AttributeError)
"""What the library raises for a file of logins that is not as it should be: whatever it runs into first."""
_SILENT = (requests.exceptions.RequestException, OSError)


class DaemonError(TransientError):
    """The daemon answered with an error; ``status`` is that of HTTP."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class AbsentError(DaemonError):
    """There is no such container, image or network."""


class ConflictError(DaemonError):
    """The name is taken, or the container is not in a state for that."""


class Daemon:
    """The daemon behind one socket; safe to call from several threads, each with connections of its own."""

    def __init__(self, address: Path) -> None:
        self.address = address
        self._version: str | None = None
        self._idle: list[docker.APIClient] = []
        weakref.finalize(self, _close_all, self._idle)

    def containers(self, labels: Sequence[str] = ()) -> list[Facts]:
        """Return containers in any state; with ``labels`` (``name=value``) those that have them all."""
        filters = {"label": list(labels)} if labels else {}
        with self._asked(_LOOK_SECONDS) as api:
            return list(api.containers(all=True, filters=filters))

    def inspect(self, container: str) -> Facts | None:
        """Return what there is to know of a container; None when there is none."""
        with suppress(AbsentError), self._asked(_LOOK_SECONDS) as api:
            return dict(api.inspect_container(container))
        return None

    def create(self, name: str | None, body: Mapping[str, Any]) -> str:
        """Make a container and return its id.

        Raises:
            ConflictError: the name is taken.
            AbsentError: there is no such image.

        """
        with self._asked(_SECONDS) as api:
            return str(api.create_container_from_config(dict(body), name)["Id"])

    def start(self, container: str) -> None:
        """Start a container; one that runs is left alone."""
        with self._asked(_SECONDS) as api:
            api.start(container)

    def unpause(self, container: str) -> None:
        """Let a container go on; one that is not paused is left alone."""
        with suppress(AbsentError, ConflictError), self._asked(_SECONDS) as api:
            api.unpause(container)

    def stop(self, container: str, seconds: float) -> None:
        """Have a container end by its own signal, after ``seconds`` by force; one that does not run is left alone.

        Not by a signal alone: Podman takes an end that it did not bring about for a crash, and starts it again.
        """
        with suppress(AbsentError, ConflictError), self._asked(_SECONDS) as api:
            api.stop(container, timeout=math.ceil(seconds))  # waits so much longer

    def ended_within(self, container: str, seconds: float) -> bool:
        """Wait for the end of a container, at most ``seconds``; return whether it has ended."""
        try:
            with suppress(AbsentError), self._api(_SECONDS) as api:
                api.wait(container, timeout=max(seconds, 0.1), condition="not-running")
        except (requests.exceptions.ReadTimeout, requests.exceptions.ConnectionError):
            facts = self.inspect(container)  # the time was over, or the daemon is gone: that tells
            return facts is None or not facts["State"]["Running"]
        return True

    def remove(self, container: str) -> None:
        """End a container by force and remove it with volumes of its own; absent is fine."""
        try:
            with suppress(AbsentError), self._asked(_SECONDS) as api:
                api.remove_container(container, v=True, force=True)
        except ConflictError:  # somebody removes it already
            with suppress(AbsentError), self._asked(_SECONDS) as api:
                api.wait(container, timeout=_SECONDS, condition="removed")

    def logs(self, container: str, lines: int) -> bytes:
        """Return the last lines that a container wrote; nothing when there is none."""
        with suppress(AbsentError, DaemonError), self._asked(_LOOK_SECONDS) as api:
            return bytes(api.logs(container, stdout=True, stderr=True, tail=lines))
        return b""

    def image(self, reference: str) -> Facts | None:
        """Return what there is to know of an image on this host; None when it is not there."""
        with suppress(AbsentError), self._asked(_LOOK_SECONDS) as api:
            return dict(api.inspect_image(reference))
        return None

    def pull(self, reference: str) -> None:
        """Fetch an image, with the logins that the host's own configuration has for its registry.

        Raises:
            DaemonError: it cannot be had.

        """
        with self._asked(_PULL_SECONDS) as api:
            with _logins_read():
                api.reload_config()  # somebody may have logged in since
            for told in api.pull(reference, stream=True, decode=True):
                if "error" in told:
                    raise DaemonError(str(told["error"]), 500)

    def network(self, name: str) -> bool:
        """Whether there is a network of this name."""
        with suppress(AbsentError), self._asked(_LOOK_SECONDS) as api:
            api.inspect_network(name)
            return True
        return False

    def create_network(self, name: str, labels: Mapping[str, str]) -> None:
        """Make a network in which containers find each other by name; one that is there already is fine."""
        with suppress(ConflictError), self._asked(_SECONDS) as api:
            api.create_network(name, driver="bridge", check_duplicate=True, labels=dict(labels))

    def join(self, container: str, network: str, aliases: Sequence[str]) -> None:
        """Connect a container to one more network."""
        with self._asked(_SECONDS) as api:
            api.connect_container_to_network(container, network, aliases=list(aliases))

    @contextmanager
    def _asked(self, seconds: float) -> Iterator[docker.APIClient]:
        """Give a client; whatever keeps the daemon from answering within the time is told as such."""
        try:
            with self._api(seconds) as api:
                yield api
        except _SILENT as error:
            raise _unavailable(self.address, error) from error

    @contextmanager
    def _api(self, seconds: float) -> Iterator[docker.APIClient]:
        try:
            with self._lent() as api:
                api.timeout = seconds
                yield api
        except NotFound as error:
            raise AbsentError(_text(error), 404) from error
        except APIError as error:
            raise _translated(error) from error
        except DockerException as error:
            raise _unavailable(self.address, error) from error

    @contextmanager
    def _lent(self) -> Iterator[docker.APIClient]:
        """Give a client that nobody else uses meanwhile; one that was left in the middle of an answer is closed."""
        api, whole = self._client(), False
        try:
            yield api
            whole = True
        except APIError as error:
            whole = not _speaks_otherwise(error)
            if not whole:  # nor do those of the others
                self._version = None
                _close_all(self._idle)
            raise
        finally:
            if whole:
                self._idle.append(api)
            else:
                api.close()

    def _client(self) -> docker.APIClient:
        """Return a client that nobody else uses now: the library's are not for several threads at once."""
        self._require_listening()
        with suppress(IndexError):
            return self._idle.pop()
        url = f"unix://{self.address}"
        with _logins_read():
            made = docker.APIClient(base_url=url, version=self._version or "auto", timeout=_LOOK_SECONDS)
        self._version = made.api_version
        return made

    def _require_listening(self) -> None:
        """Insist that somebody listens; of a connection that fails, the library leaves the socket behind."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(_LOOK_SECONDS)
            try:
                probe.connect(str(self.address))
            except OSError as error:
                raise _unavailable(self.address, error) from error


def _speaks_otherwise(error: APIError) -> bool:
    """Whether the daemon was exchanged for one that does not know the version of the API that was agreed on."""
    return error.response is not None and error.response.status_code == _BAD and "client version" in _text(error)


def _close_all(clients: list[docker.APIClient]) -> None:
    with suppress(IndexError):  # none is left, perhaps as others took them meanwhile
        while True:
            clients.pop().close()


@contextmanager
def _logins_read() -> Iterator[None]:
    """Tell it as such when the library, which reads the host's logins of registries, cannot: it may quote them."""
    try:
        yield
    except _UNREADABLE:
        message = f"the logins of registries in {find_config_file()} cannot be read: log in again, or correct the file"
        raise DaemonError(message, 500) from None


def _translated(error: APIError) -> DaemonError:
    status = error.response.status_code if error.response is not None else 500
    kind = ConflictError if status in (_CONFLICT, _UNCHANGED) else DaemonError
    return kind(_text(error), status)


def _text(error: APIError) -> str:
    return str(error.explanation or error)[:2000]


def _unavailable(address: Path, error: Exception) -> UnavailableError:
    why = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"[:200]
    return UnavailableError(
        f"the daemon of containers at {address} does not answer: {why}",
        reason="RuntimeUnavailable",
        hint="start it, or correct runtimes.docker.socket in the host configuration",
    )
