"""Publishing the status of a host: to a file, and to a ref of the repository.

Used by the loop at the end of passes. The work is done by a thread of its own, so that a
remote that hangs holds up no pass; of what passes hand over meanwhile only the newest is
published. It reads nothing of the store, and changes nothing but that file and that ref.
"""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

import structlog

from reconciler import durable
from reconciler.errors import ReconcilerError, UnavailableError
from reconciler.host import configured_repository
from reconciler.published import host_facts, published_document
from reconciler.repository import Edit
from reconciler.state.conditions import Condition, Kind, ObjectKey

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from pathlib import Path

    from reconciler.host import Host
    from reconciler.repository import Repository
    from reconciler.view import View

log = structlog.get_logger(__name__)

PUBLISHING = ObjectKey(Kind.INSTALLATION, "publishing")
"""What is said of publishing; present only while it fails."""
_AGAIN = timedelta(minutes=1)
_ENDING_SECONDS = 5.0
_FOR_ALL_TO_READ = 0o644


class Offer(NamedTuple):
    """A status to publish: its digest, and its bytes."""

    digest: str
    data: bytes


class Publisher:
    """Publishes the status of one host where its configuration asks for that."""

    def __init__(self, host: Host, on_change: Callable[[], None]) -> None:
        self._host = host
        self._on_change = on_change
        self._settings = host.config.status.publish
        self._lock = threading.Lock()
        self._wanted: Offer | None = None
        self._published = ""
        self._failure: Condition | None = None
        self._again_at: datetime | None = None
        self._thread: threading.Thread | None = None
        self._repository: Repository | None = None

    @property
    def conditions(self) -> Mapping[ObjectKey, tuple[Condition, ...]]:
        """What is to be said of publishing: nothing while it works."""
        failure = self._failure
        return {} if failure is None else {PUBLISHING: (failure,)}

    def offer(self, view: View, conditions: Mapping[ObjectKey, tuple[Condition, ...]]) -> None:
        """Publish what a pass saw and said, unless only times changed since; returns at once."""
        if self._settings.file is None and self._settings.ref is None:
            return
        if self._again_at is not None and self._host.clock.now() < self._again_at:
            return
        offer = status_of(self._host, view, conditions)
        if offer is None:
            return
        with self._lock:
            self._wanted = None if offer.digest == self._published else offer
            if self._wanted is not None and self._thread is None:
                self._thread = threading.Thread(target=self._work, name="publishing", daemon=True)
                self._thread.start()

    def close(self, *, abandon: bool) -> None:
        """Wait for what is being published; with ``abandon`` only a little."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(_ENDING_SECONDS if abandon else None)

    def _work(self) -> None:
        while True:
            with self._lock:
                offer, self._wanted = self._wanted, None
                if offer is None:
                    self._thread = None
                    return
            failure = self._try(offer)
            changed = (failure is None) != (self._failure is None)
            self._failure = failure
            self._published = offer.digest if failure is None else ""
            self._again_at = None if failure is None else self._host.clock.now() + _AGAIN
            if changed:
                self._on_change()

    def _try(self, offer: Offer) -> Condition | None:
        """Publish; return what there is to say when that fails."""
        try:
            if self._settings.file is not None:
                _write(self._settings.file, offer)
            if (ref := self._settings.full_ref) is not None:
                self._push(ref, offer)
        except ReconcilerError as error:
            reason, message = error.reason, str(error)
        except Exception as error:  # a pass must not end by what only tells of it
            log.exception("publishing failed")
            reason, message = "InternalError", f"unexpected {type(error).__name__}; see the log"
        else:
            return None
        log.warning("the status could not be published", reason=reason, error=message)
        return Condition(type="Published", status="False", reason=reason, message=message)

    def _push(self, ref: str, offer: Offer) -> None:
        path = self._settings.path

        def edit(before: bytes | None) -> Edit | None:
            if before is not None and _digest(before) == offer.digest:
                return None
            return Edit({path: offer.data}, "Publish the status\n")

        if self._repository is None:
            self._repository = configured_repository(
                self._host.config, self._host.state.publishing_mirror, self._host.secrets
            )
        self._repository.publish(ref, path, edit, author=self._host.author)


def status_of(host: Host, view: View, conditions: Mapping[ObjectKey, tuple[Condition, ...]]) -> Offer | None:
    """Return what a host publishes after a pass; None where there is no commit to speak of."""
    desired, observed, settings, policy = view.commit.desired, view.observed, view.settings, view.policy
    if desired is None or observed is None or settings is None or policy is None:
        return None
    missing = frozenset(desired.secrets - observed.secrets.keys())
    facts = host_facts(host.config, settings, policy, missing=missing)
    said = {key: known for key, known in conditions.items() if key != PUBLISHING}
    document = published_document(observed, facts, said, revision=str(desired.revision))
    return Offer(document["digest"], json.dumps(document, ensure_ascii=False).encode() + b"\n")


def withdraw(host: Host) -> tuple[Path, ...]:
    """Remove the published file; return it where it stays, because it does not hold the status of this installation."""
    file = host.config.status.publish.file
    if file is None:
        return ()
    try:
        if not file.exists():
            return ()
        if json.loads(file.read_bytes())["observed"]["installation"] != host.installation:
            return (file,)
        file.unlink()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return (file,)
    return ()


def _write(file: Path, offer: Offer) -> None:
    """Replace the file, unless it holds the same already.

    Raises:
        UnavailableError: the operating system does not let us.

    """
    try:
        if file.exists() and _digest(file.read_bytes()) == offer.digest:
            return
        durable.write(file, offer.data, mode=_FOR_ALL_TO_READ)
    except OSError as error:
        raise UnavailableError(f"cannot write {file}: {error.strerror or error}", reason="NotWritten") from error


def _digest(data: bytes) -> object:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return document.get("digest") if isinstance(document, dict) else None
