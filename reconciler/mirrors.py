"""Mirrors of live primaries as engines work on them, how far they have come, and what they cost their primaries.

Used by observation (how far is it?) and by ``apply`` (copy, serve, cut, leave), so that
both mean the same files, account and primary. It changes nothing.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from reconciler.engines.base import LiveServer, MirrorWork
from reconciler.errors import ReconcilerError, SourceError, UnavailableError, UnsupportedError
from reconciler.ids import ServerName
from reconciler.proc import CancelToken
from reconciler.sources import host_path
from reconciler.state.grants import Grants
from reconciler.state.observed import MirrorManifest, MirrorPhase, ObservedMirror, ServerState, VolumeState

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping
    from pathlib import Path

    from reconciler.engines.base import Mirrors
    from reconciler.host import Host
    from reconciler.ids import ImageName, VolumeId
    from reconciler.state.desired import Desired, PrimarySource
    from reconciler.state.observed import ObservedServer, Volume

_AT_ONCE = 64
"""How many mirrors are asked at the same time: each may wait for a primary that does not answer."""
_SILENT = ObservedMirror(following=False, problem="it or its primary did not answer in time")


def mirrors_of(host: Host, engine: str) -> Mirrors:
    """Return how an engine follows live primaries.

    Raises:
        UnsupportedError: it cannot.

    """
    found = host.engine(engine).mirrors
    if found is None:
        raise UnsupportedError(
            f"a primary of {engine} cannot be followed by copies of its files",
            reason="SourceUnsupported",
            hint="set method: logical",
        )
    return found


def mirror_work(
    host: Host,
    desired: Desired,
    manifest: MirrorManifest,
    volume: VolumeId,
    directory: Path,
    *,
    cancel: CancelToken | None = None,
    progress: Callable[[str], None] = lambda _text: None,
) -> MirrorWork:
    """Return what an engine needs to know to work on a mirror.

    Raises:
        SecretError: the secret with the primary's URL is not on this host.
        UnavailableError: the archive of its log leads out of what is granted to the image.
        UnsupportedError: this host has not the runtime that serves it.

    """
    runtime = host.runtimes.get(manifest.runtime)
    if runtime is None:
        raise UnsupportedError(
            f"the runtime {manifest.runtime} is not available on this host", reason="RuntimeUnavailable"
        )
    image = desired.image_called(manifest.image)
    source = image.mirrored if image is not None else None
    return MirrorWork(
        image=manifest.image,
        server=ServerName(volume),
        directory=directory,
        run_directory=host.state.run_directory(ServerName(volume)),
        account=runtime.account("build", volume, frozenset()),
        primary=LiveServer(host.secrets.get(manifest.url), manifest.url, "physical"),
        slot=manifest.slot,
        archive=_archive(host, manifest, source),
        version=manifest.major or (image.version if image is not None else None),
        copy_rate=source.copy_rate if source is not None else None,
        keep_log=image is not None and image.point_in_time is not None,
        jobs=host.jobs,
        cancel=cancel or CancelToken(),
        progress=progress,
    )


def _archive(host: Host, manifest: MirrorManifest, source: PrimarySource | None) -> Path | None:
    """Return where the mirror's log comes from, if an archive is what its image asks for."""
    if source is None or source.archive is None or manifest.phase is MirrorPhase.LEAVING:
        return None
    try:
        return host_path(source.archive, Grants(host.config).roots(manifest.image))
    except SourceError as error:  # what a link leads to is no input whose change could be waited for
        raise UnavailableError(error.message, reason=error.reason) from error


def look(
    host: Host,
    desired: Desired,
    volumes: Iterable[Volume],
    servers: Mapping[ServerName, ObservedServer],
    seconds: float,
) -> dict[ImageName, ObservedMirror]:
    """Ask every whole mirror how far it has come, and its primary what it keeps for it, all at the same time.

    Of one that does not run only the latter is known. Who does not answer, or not in time, has a ``problem``.
    """
    asked = [
        (_is_running(volume, servers), volume, volume.manifest)
        for volume in volumes
        if isinstance(volume.manifest, MirrorManifest)
        and volume.manifest.phase is MirrorPhase.FOLLOWING
        and volume.state is VolumeState.COMPLETE
    ]
    asked.sort(key=lambda one: one[0])  # of two mirrors of an image the one that runs says how it does
    questions = {_question(host, desired, one): one for one in asked}
    looks = {
        question: partial(_look, host, desired, volume, known, running=runs)
        for question, (runs, volume, known) in questions.items()
    }
    told = host.mirror_looks.answers(looks, at_once=_AT_ONCE, seconds=seconds)
    return {
        known.image: told[question].result() if question in told else _SILENT
        for question, (_runs, _volume, known) in questions.items()
    }


def _question(host: Host, desired: Desired, asked: tuple[bool, Volume, MirrorManifest]) -> Hashable:
    """Return what a look at a mirror depends on: its document may change while one hangs."""
    runs, volume, manifest = asked
    image = desired.image_called(manifest.image)
    source = image.mirrored if image is not None else None
    return volume.id, runs, source, host.secret_fingerprint(manifest.url)


def _is_running(volume: Volume, servers: Mapping[ServerName, ObservedServer]) -> bool:
    server = servers.get(ServerName(volume.id))
    return server is not None and server.state is ServerState.RUNNING


def _look(host: Host, desired: Desired, volume: Volume, manifest: MirrorManifest, *, running: bool) -> ObservedMirror:
    try:
        work = mirror_work(host, desired, manifest, volume.id, host.pools[volume.pool].path(volume.id))
        mirrors = mirrors_of(host, manifest.engine)
        if running:
            return mirrors.look(work)
        return ObservedMirror(following=False, problem="its server does not run", held_bytes=mirrors.held(work))
    except ReconcilerError as error:
        return ObservedMirror(following=False, problem=str(error))
