"""Backups that are one stream (``mariadb-backup --stream=xbstream``), plain or compressed: found, and unpacked.

Called by :mod:`.identify` when planning asks, and by the engine before a build's version is
chosen: what wrote a stream, and whether it is complete, only its end says, so that is read
where it is unpacked, in the build's own directory. From there it is a backup like others.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import IO, TYPE_CHECKING

from reconciler import proc
from reconciler.engines.base import LocalSource
from reconciler.engines.compressed import compression_of, open_stream
from reconciler.engines.mysql import backups, bootstrap, server
from reconciler.errors import BusyError, CommandError, SourceError, UnsupportedError
from reconciler.handover import give

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from reconciler.engines.base import BuildWork
    from reconciler.engines.compressed import Readable
    from reconciler.engines.mysql.product import Product

_MAGIC = b"XBSTCK01"
_UNPACKED = "unpacked"
_PIECE = 1 << 20
_REPORT_BYTES = 256 << 20
_GIB = 1 << 30


def find(source: LocalSource) -> Path | None:
    """Return the stream that a source of kind ``backup`` is built from; None: it has directories, or nothing.

    Of several it is the one that planning chose, or else the one that was written last.

    Raises:
        SourceError: it cannot be read.

    """
    if source.path is not None and source.path.is_file():
        if not is_stream(source.path):
            raise SourceError(f"{source.path} is neither a directory nor a stream of a backup")
        return source.path
    places = source.candidates if source.path is None else (source.path, *source.candidates)
    if any(backups.is_backup(place) for place in places):
        return None
    found = [path for path in source.files if is_stream(path)]
    chosen = next((path for path in found if identity(path) == source.chosen), None)
    return chosen or max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def is_stream(path: Path) -> bool:
    """Tell whether a file is a stream of a backup, packed or not.

    Raises:
        SourceError: it cannot be read, or unpacked.
        NotInstalledError: no program to decompress it is on this host.

    """
    try:
        compression = compression_of(path)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error
    with open_stream(path, compression) as stream:
        head = b""
        while len(head) < len(_MAGIC) and (piece := stream.read(len(_MAGIC) - len(head))):
            head += piece
    return head == _MAGIC


def unpacked(work: BuildWork, product: Product) -> BuildWork:
    """Unpack the stream of a build, if its source is one; return the build as one of the directory that it becomes.

    Raises:
        SourceError: it is damaged or truncated, or a part of a backup only.
        BusyError: it is another one than planning chose.
        NotInstalledError: the tool that unpacks it is not on this host.

    """
    if work.source.kind != "backup" or work.source.repository is not None:
        return work
    place = work.directory / _UNPACKED
    if not place.exists():
        stream = find(work.source)
        if stream is None:
            return work
        if work.source.wal is not None:
            raise UnsupportedError(
                "binary logs after a stream are not supported in this version",
                reason="SourceUnsupported",
                hint="unpack the stream into a directory",
            )
        if work.source.chosen and identity(stream) != work.source.chosen:
            raise BusyError("the stream that was chosen is not there any more", reason="SourceChanged")
        place.mkdir(mode=0o700)
        give(place, work.account)
        _unpack(work, product, stream, place)
        _require_full(stream, place, product)
    return replace(work, source=LocalSource("backup", path=place, name=work.source.name))


def is_unpacked(work: BuildWork) -> bool:
    """Tell whether a build's source lies in its own directory, where it need not be copied."""
    return work.source.path == work.directory / _UNPACKED


def identity(stream: Path) -> str:
    """Return what identifies a stream."""
    status = stream.stat()
    return f"stream:{status.st_size}:{status.st_mtime_ns}:{status.st_ino}"


def _unpack(work: BuildWork, product: Product, stream: Path, place: Path) -> None:
    tool = server.tool(server.choose(product), product.unpackers, product.backup_hint)
    work.progress(f"unpacking {stream}")
    try:
        with open_stream(stream, compression_of(stream)) as source, _fed(work, source) as pipe:
            proc.run(
                [tool, "-x", "-C", place],
                stdin=pipe,
                account=work.account,
                env=server.environment(),
                cwd=place,
                cancel=work.cancel,
            )
    except CommandError as error:
        told = bootstrap.first_error(error.stderr)
        raise SourceError(f"the stream {stream} is damaged or truncated: {tool.name}: {told}") from error


def _require_full(stream: Path, place: Path, product: Product) -> None:
    try:
        found = backups.read(place, product)
    except SourceError as error:
        told = error.message.replace(str(place), f"the stream {stream}")
        raise SourceError(told.replace("it is being written, or was interrupted", "it is truncated")) from error
    if found.incremental:
        raise SourceError(
            f"the stream {stream} is an incremental backup, which says nothing of what it builds on",
            hint=f"unpack it and its base into directories ({product.unpackers[0]} -x)",
        )


@contextmanager
def _fed(work: BuildWork, source: Readable) -> Iterator[IO[bytes]]:
    """Have a pipe in the block out of which comes what ``source`` holds; what that raises is raised at the end."""
    read_end, write_end = os.pipe()
    failures: list[Exception] = []
    thread = threading.Thread(target=_feed, args=(work, source, write_end, failures), daemon=True)
    thread.start()
    try:
        with os.fdopen(read_end, "rb", buffering=0) as pipe:
            yield pipe
    finally:
        thread.join()
        if failures:
            raise failures[0]


def _feed(work: BuildWork, source: Readable, write_end: int, failures: list[Exception]) -> None:
    count = told = 0
    with os.fdopen(write_end, "wb", buffering=0) as output:
        try:
            while piece := source.read(_PIECE):
                rest = memoryview(piece)
                while rest:
                    rest = rest[output.write(rest) or 0 :]
                count += len(piece)
                if count - told >= _REPORT_BYTES:
                    told = count
                    work.progress(f"unpacking: {count / _GIB:.1f} GiB so far")
        except BrokenPipeError:
            return  # the tool ended before, and says why
        except Exception as error:  # noqa: BLE001 - raised where the block ends
            failures.append(error)
