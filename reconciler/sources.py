"""Sources of images as files of this host: where they are and what identifies them.

Used by observation (is a build due?) and by builds (what goes in, and did it change
meanwhile?), so that both compare the same thing.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.engines.base import LiveServer, LocalSource, SourceIdentity
from reconciler.errors import SourceError
from reconciler.state.desired import BackupSource, DumpSource, EmptySource, FilesSource, ImageSource, PrimarySource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from reconciler.engines.base import Engine, SourceKind
    from reconciler.ids import SecretName
    from reconciler.state.desired import DesiredImage, Source, SourcePath


def paths(source: Source) -> tuple[SourcePath, ...]:
    """Return the files and directories that a source names."""
    match source:
        case DumpSource():
            return (source.path,) if source.globals is None else (source.path, source.globals)
        case BackupSource() | FilesSource():
            return (source.path,)
        case PrimarySource() | ImageSource() | EmptySource():
            return ()


def live_server(image: DesiredImage, secret: Callable[[SecretName], str]) -> LiveServer | None:
    """Return the primary of an image with the value of its secret, which ``secret`` looks up; None for other sources.

    Raises:
        SecretError: there is no such secret on this host, or it cannot be read.

    """
    if not isinstance(image.source, PrimarySource):
        return None
    source = image.source
    return LiveServer(secret(source.url), source.url, source.method, databases=image.databases)


def identify(
    engine: Engine, source: Source, roots: Iterable[Path], *, live: LiveServer | None = None
) -> SourceIdentity:
    """Return what a source is now: git objects as they are, host paths and primaries by a cheap look.

    Its size is that of the first path: what a dump names besides are roles. ``roots`` are
    the directories that the host grants to the image; ``live`` is :func:`live_server` of it.

    Raises:
        SourceError: it is missing, not what it should be, or a symlink leads out of ``roots``.
        BusyError: it is being written.
        UnavailableError: a primary does not answer.
        UnsupportedError: the engine cannot copy a primary in this way.

    """
    match source:
        case PrimarySource():
            return engine.identify(LocalSource(source.kind, primary=live))
        case EmptySource() | ImageSource():
            return SourceIdentity(source.kind, 0)  # an image's identity is its base snapshot, which planning knows
        case DumpSource() | BackupSource() | FilesSource():
            parts = [_identify(engine, source.kind, path, tuple(roots)) for path in paths(source)]
            return SourceIdentity("+".join(part.input_id for part in parts), parts[0].size_bytes)


def modified_at(source: Source) -> datetime | None:
    """Return when a dump of the host was last written: its data is not younger. None where that is not known."""
    if not isinstance(source, DumpSource) or source.path.object_id is not None:
        return None
    return datetime.fromtimestamp(Path(source.path.path).stat().st_mtime, UTC)


def host_path(path: SourcePath, roots: Iterable[Path]) -> Path:
    """Return where a source on the host really lies: by a path without the links that were looked at here.

    Raises:
        SourceError: that is in none of ``roots``, the directories that the host grants to the image.

    """
    real = Path(path.path).resolve()
    if not any(real.is_relative_to(root.resolve()) for root in roots):
        raise SourceError(
            f"{path.path} leads outside of the directories that this host grants to the image",
            reason="SourceNotGranted",
        )
    return real


def _identify(engine: Engine, kind: SourceKind, path: SourcePath, roots: tuple[Path, ...]) -> SourceIdentity:
    if path.object_id is not None:
        return SourceIdentity(f"git:{path.object_id}", engine.built_size(path.path, path.size_bytes))
    return engine.identify(LocalSource(kind, path=host_path(path, roots)))
