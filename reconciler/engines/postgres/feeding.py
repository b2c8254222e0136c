"""Hand WAL to a server that recovers, file by file, from a place that its account cannot read.

Called by ``bootstrap`` around the start of a copy that is rolled forward. The server's
``restore_command`` leaves a note in a directory of the build; a thread of ours, which may
read the archive, puts the file there, and the next ones before they are asked for. The note
is the command's own, which takes it back: it may ask for the same file again as soon as it
has it (PostgreSQL reads the last segment twice), and a note that we removed could be that one.
The directory belongs to the server's account: nothing here follows a link in it.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import threading
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Protocol

from reconciler.engines import files
from reconciler.engines.postgres import control, recovery, server
from reconciler.engines.postgres.datafiles import share_blocks
from reconciler.handover import give

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from reconciler.engines.base import BuildWork, InstalledServer
    from reconciler.proc import Account

NAME = re.compile(r"[0-9A-F]{24}|[0-9A-F]{8}\.history")
"""What a server asks for: segments, and histories of timelines."""
_AHEAD = 2
_POLL_SECONDS = 0.02
_BLOCK = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class WalSource(Protocol):
    """Where WAL comes from. Called by one thread."""

    def open(self, name: str) -> AbstractContextManager[IO[bytes]] | None:
        """Return the content of a segment or history file; None when there is none, which ends recovery there.

        Raises:
            ReconcilerError, OSError: it cannot be read; the recovery fails.

        """
        ...

    def after(self, name: str) -> str | None:
        """Return the name of the segment that will probably be asked for after ``name``."""
        ...


@contextmanager
def feeding(work: BuildWork, installed: InstalledServer, source: WalSource) -> Iterator[None]:
    """Answer what the server asks for while the block runs.

    Room is needed for a few segments, because those that were replayed are removed, unless the
    server may hold prepared transactions: recovery reads these again at its end.

    Raises:
        ReconcilerError, OSError: what the source raised, in place of what the block raised for it.

    """
    data = server.data_directory(work)
    keep = "max_prepared_transactions" in control.read_control(installed, data).settings
    directory = recovery.restore_directory(work)
    directory.mkdir(mode=0o700)
    give(directory, work.account)
    feeder = _Feeder(work, source, directory, None if keep else data)
    thread = threading.Thread(target=feeder.run, name="wal")
    thread.start()
    try:
        yield
    except Exception:
        feeder.stop.set()
        thread.join()
        if feeder.error is not None:
            raise feeder.error from None
        raise
    finally:
        feeder.stop.set()
        thread.join()
        files.clear(work.directory, directory.name)
        directory.rmdir()


def put(source: WalSource, name: str, handle: int, account: Account | None) -> bool:
    """Put a file of a source into an open directory, as one visible step; return whether there is one.

    Raises:
        ReconcilerError, OSError: as :meth:`WalSource.open`.

    """
    opened = source.open(name)
    if opened is None:
        return False
    temporary = f".{name}.new"
    _unlink(temporary, handle)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        with opened as read, open(os.open(temporary, flags, 0o600, dir_fd=handle), "wb") as write:  # noqa: PTH123 - a descriptor
            if not _shared(read, write):
                shutil.copyfileobj(read, write, _BLOCK)
            if account is not None and os.geteuid() == 0:
                os.fchown(write.fileno(), account.uid, account.gid)
    except BaseException:
        _unlink(temporary, handle)  # where there is no room, it would take some
        raise
    os.replace(temporary, name, src_dir_fd=handle, dst_dir_fd=handle)
    return True


class _Feeder:
    def __init__(self, work: BuildWork, source: WalSource, directory: Path, prune: Path | None) -> None:
        self._work = work
        self._source = source
        self._directory = directory
        self._prune = prune
        self._given: list[str] = []
        self.stop = threading.Event()
        self.error: Exception | None = None

    def run(self) -> None:
        handle = os.open(self._directory, _DIRECTORY)
        try:
            while not self.stop.wait(_POLL_SECONDS):
                with os.scandir(handle) as entries:
                    noted = [entry.name for entry in entries if entry.name.startswith(recovery.WANTED)]
                for name in (note.removeprefix(recovery.WANTED) for note in noted):
                    if _is_waited_for(name, handle):
                        self._answer(handle, name)
        except Exception as error:  # noqa: BLE001 - of another thread: the caller raises it
            self.error = error
            _touch(recovery.FAILED, handle)
        finally:
            os.close(handle)

    def _answer(self, handle: int, name: str) -> None:
        if NAME.fullmatch(name) is None or not self._put(handle, name):
            _touch(recovery.ABSENT + name, handle)
            return
        self._work.progress(f"replaying WAL {name}")
        self._forget_before(name)
        for _ in range(_AHEAD):
            following = self._source.after(name)
            if following is None or not self._put(handle, following):
                return
            name = following

    def _put(self, handle: int, name: str) -> bool:
        """Put a file at hand; return whether there is one."""
        if _is_there(name, handle):
            return True
        if not put(self._source, name, handle, self._work.account):
            return False
        if name not in self._given:
            self._given.append(name)
        return True

    def _forget_before(self, name: str) -> None:
        """Remove replayed segments: in single-user mode there is no checkpointer, and nobody else does."""
        if self._prune is None or name.endswith(".history"):
            return
        old = [given for given in self._given if len(given) == len(name) and given[8:] < name[8:]][:-_AHEAD]
        for given in old:
            files.remove(self._prune, f"pg_wal/{given}")
            self._given.remove(given)


def _shared(read: IO[bytes], write: IO[bytes]) -> bool:
    """Have a plain file share its blocks, where the file system can: log of a mirror is in the pool of its builds."""
    plain = isinstance(read, io.BufferedReader) and read.seekable() and read.tell() == 0
    return plain and share_blocks(read, write)


def _is_waited_for(name: str, handle: int) -> bool:
    """Return whether a server has no answer yet. The note is looked at last, for it is taken back before the file."""
    answered = _is_there(name, handle) or _is_there(recovery.ABSENT + name, handle)
    return not answered and _is_there(recovery.WANTED + name, handle)


def _is_there(name: str, handle: int) -> bool:
    with suppress(FileNotFoundError):
        os.stat(name, dir_fd=handle, follow_symlinks=False)
        return True
    return False


def _touch(name: str, handle: int) -> None:
    with suppress(FileExistsError):
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644, dir_fd=handle))


def _unlink(name: str, handle: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=handle)
