"""Sources of images as files of this host: where they are and what identifies them.

Used by observation (is a build due?) and by builds (what goes in, and did it change
meanwhile?), so that both compare the same thing.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.engines.base import BackupRepository, LiveServer, LocalSource, SourceIdentity
from reconciler.errors import SourceError
from reconciler.spec.values import is_pattern
from reconciler.state.desired import BackupSource, DumpSource, EmptySource, FilesSource, ImageSource, PrimarySource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from reconciler.engines.base import Engine, SourceKind
    from reconciler.ids import SecretName
    from reconciler.spec.config import Config
    from reconciler.state.desired import DesiredImage, Source, SourcePath


def paths(source: Source) -> tuple[SourcePath, ...]:
    """Return the files and directories that a source names."""
    match source:
        case DumpSource():
            return (source.path,) if source.globals is None else (source.path, source.globals)
        case BackupSource() | FilesSource():
            return (source.path,) if source.path is not None else ()
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


def repositories(config: Config) -> dict[str, BackupRepository]:
    """Return the backup repositories of a host, by name; which an image may use is for :mod:`.state.grants`."""
    known = config.sources.repositories.items()
    return {name: BackupRepository(place.tool, place.stanza or "", place.config) for name, place in known}


def identify(
    engine: Engine,
    source: Source,
    roots: Iterable[Path],
    *,
    live: LiveServer | None = None,
    repositories: Mapping[str, BackupRepository] | None = None,
    chosen: str = "",
) -> SourceIdentity:
    """Return what a source is now: git objects as they are, host paths and primaries by a cheap look.

    Its size is that of the first path: what a dump names besides are roles. ``roots`` are
    the directories that the host grants to the image; ``live`` is :func:`live_server` of it.
    With the id that was ``chosen`` before, it is the same id as long as what it means is
    still there, whatever came after it.

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
        case BackupSource() if source.path is None or source.path.object_id is None:
            return engine.identify(backup(source, tuple(roots), repositories=repositories or {}, chosen=chosen))
        case DumpSource() | BackupSource() | FilesSource():
            parts = [_identify(engine, source.kind, path, tuple(roots)) for path in paths(source)]
            return SourceIdentity("+".join(part.input_id for part in parts), parts[0].size_bytes)


def modified_at(source: Source) -> datetime | None:
    """Return when a dump of the host was last written: its data is not younger. None where that is not known."""
    if not isinstance(source, DumpSource) or source.path.object_id is not None:
        return None
    return datetime.fromtimestamp(Path(source.path.path).stat().st_mtime, UTC)


def backup(
    source: BackupSource,
    roots: tuple[Path, ...],
    *,
    repositories: Mapping[str, BackupRepository],
    chosen: str = "",
) -> LocalSource:
    """Return where backups of a source on the host may lie; which of them is taken, its engine knows.

    Raises:
        SourceError: nothing is there, or it is not in ``roots``.

    """
    if source.path is None:
        known = repositories.get(source.repository or "")
        if known is None:
            raise SourceError(f"this host has no backup repository {source.repository}", reason="RepositoryUnknown")
        return LocalSource("backup", repository=known, name=source.repository or "", chosen=chosen)
    wal = None if source.wal is None else host_path(source.wal, roots)
    written = Path(source.path.path)
    try:
        if is_pattern(source.path.path) and not written.exists():
            path, places = None, list(Path("/").glob(source.path.path.lstrip("/")))
        else:
            path = host_path(source.path, roots)
            places = list(path.iterdir()) if path.is_dir() else []
        found, files, refused = _granted(sorted(places), roots)
    except OSError as error:
        raise SourceError(f"cannot read {error.filename or written}: {error.strerror}") from error
    return LocalSource(
        "backup", path, name=str(written), candidates=found, files=files, refused=refused, wal=wal, chosen=chosen
    )


def _granted(
    places: Iterable[Path], roots: tuple[Path, ...]
) -> tuple[tuple[Path, ...], tuple[Path, ...], tuple[str, ...]]:
    """Return which directories and files are granted, without the links to them, and what is said of the others."""
    allowed = [root.resolve() for root in roots]
    found: dict[Path, None] = {}
    files: dict[Path, None] = {}
    refused = []
    for place in places:
        real = place.resolve()
        if place.name.startswith(".") or not (real.is_dir() or real.is_file()):
            continue
        if any(real.is_relative_to(root) for root in allowed):
            (found if real.is_dir() else files)[real] = None
        elif real.is_dir():
            refused.append(f"{place} leads outside of the directories that this host grants to the image")
    return tuple(found), tuple(files), tuple(refused)


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
