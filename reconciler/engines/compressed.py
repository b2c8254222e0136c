"""Compressed files of every product: recognised by their first bytes, read as a stream.

Called by engines for dumps and archives. What Python cannot decompress is piped through
the program of that name. Reads only.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import threading
import zlib
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Literal, Protocol

from reconciler import proc
from reconciler.errors import CommandError, ReconcilerError, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Compression = Literal["gzip", "bzip2", "xz", "zstd", "lz4"]


class Readable(Protocol):
    """Where bytes come from."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes; none at the end."""
        ...


_MAGIC_BYTES = 8
_MAGIC: tuple[tuple[bytes, Compression], ...] = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x04\x22\x4d\x18", "lz4"),
)


def compression_of(path: Path) -> Compression | None:
    """Return how a file is compressed, by its first bytes."""
    with path.open("rb") as file:
        return compression_in(file.read(_MAGIC_BYTES))


def compression_in(head: bytes) -> Compression | None:
    """Return how what begins with these bytes is compressed."""
    return next((name for magic, name in _MAGIC if head.startswith(magic)), None)


@contextmanager
def open_stream(path: Path, compression: Compression | None) -> Iterator[Readable]:
    """Open a dump or archive, decompressed, as a stream.

    Raises:
        SourceError: the compressed data is damaged or truncated.
        NotInstalledError: the program that decompresses it is not on this host.

    """
    try:
        if compression is None:
            with path.open("rb", buffering=0) as raw:
                yield raw
        elif compression in ("zstd", "lz4"):
            with path.open("rb") as file, _piped([compression, "-dc"], file) as output:
                yield output
        else:
            with _decompressed(path, compression) as stream:
                yield stream
    except CommandError as error:
        raise SourceError(f"{path} is damaged or truncated: {error.stderr.strip()[-200:]}") from error
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise SourceError(f"{path} is damaged or truncated: {error}") from error
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error}") from error


class _Output:
    """Standard output of a running command; reading its end raises what the command failed with."""

    def __init__(self, argv: list[str], stdin: IO[bytes]) -> None:
        read_end, write_end = os.pipe()
        self._pipe = os.fdopen(read_end, "rb", buffering=0)
        self._cancel = proc.CancelToken()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(argv, stdin, write_end), daemon=True)
        self._thread.start()

    def read(self, size: int, /) -> bytes:
        block = self._pipe.read(size)
        if not block:
            self._thread.join()
            if self._failure is not None:
                raise self._failure
        return block

    def close(self) -> None:
        self._cancel.cancel()
        self._pipe.close()
        self._thread.join()

    def _run(self, argv: list[str], stdin: IO[bytes], write_end: int) -> None:
        with os.fdopen(write_end, "wb", buffering=0) as output:
            try:
                proc.run(argv, stdin=stdin, stdout=output, cancel=self._cancel)
            except ReconcilerError as error:
                self._failure = error


@contextmanager
def _piped(argv: list[str], stdin: IO[bytes]) -> Iterator[Readable]:
    output = _Output(argv, stdin)
    try:
        yield output
    finally:
        output.close()


def _decompressed(path: Path, compression: Compression) -> gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile:
    if compression == "gzip":
        return gzip.open(path, "rb")
    return bz2.open(path, "rb") if compression == "bzip2" else lzma.open(path, "rb")
