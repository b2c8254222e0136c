"""pg_dump and pg_dumpall at a primary, and where their output lies until it is restored.

Called by :mod:`.copying`. Programs that log in at the primary run under our own account.
What they write goes to a directory of the volume that belongs to us until they are done,
and is found by descriptor: the build's account owns the volume, and could put a link there.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import threading
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from reconciler import proc
from reconciler.engines.postgres import server
from reconciler.engines.postgres.failures import without_values
from reconciler.errors import CommandError, PermanentError, ReconcilerError, SourceError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.engines.base import BuildWork, InstalledServer
    from reconciler.engines.postgres.primary import Primary

GLOBALS = "globals.sql"
"""File in the directory with the roles of the primary; absent where they may not be read."""
_COPY = "copy"
_LOCK_WAIT = "60s"
_REPORT_SECONDS = 2.0
_GIB = 1 << 30
_CUT = re.compile(
    r"server closed the connection|connection to server .* failed|could not (?:receive|send) data"
    r"|connection has been closed|terminating connection|connection not open|no connection to the server"
    r"|SSL (?:SYSCALL )?error|is (?:starting up|shutting down)|in recovery mode|conflict with recovery"
    r"|too many (?:clients|connections)|remaining connection slots|server process .* exited"
    r"|snapshot .*does not exist|invalid snapshot identifier|could not import|canceling statement"
    r"|lock timeout|could not obtain lock|deadlock|out of (?:shared )?memory"
)
"""What another try may change; all else of pg_dump's complaints stays until somebody changes something."""
_CHANGED = re.compile(r"relation .* does not exist|could not open relation|cache lookup failed")
_HINTS = (
    (re.compile(r"permission denied for large object"), "GRANT SELECT ON LARGE OBJECT … TO its user"),
    (re.compile(r"row-level security"), "ALTER ROLE … BYPASSRLS for its user, or let it log in as the tables' owner"),
    (re.compile(r"permission denied"), "GRANT pg_read_all_data TO its user"),
)
_SAID = re.compile(r"pg_dump(?:all)?: (?:error: |fatal: )?(.*)")
_NOISE = re.compile(r"detail: |hint: |warning: |last built-in OID|reading |saving |dumping ")


class Dumper:
    """pg_dump and pg_dumpall at one primary."""

    def __init__(self, work: BuildWork, installed: InstalledServer, here: Primary, directory: Directory) -> None:
        self._work = work
        self._installed = installed
        self._here = here
        self._directory = directory

    def globals(self) -> None:
        """Write the roles and their settings; where that is not permitted, only those roles come that own something."""
        words = ["--globals-only", "--no-role-passwords", "--no-tablespaces", "--no-security-labels", "--no-comments"]
        words += [f"--database={self._here.database}", f"--file={GLOBALS}"]
        try:
            self._run("pg_dumpall", words, self._here.database)
        except SourceError as error:
            self._directory.remove(GLOBALS)
            self._work.progress(f"roles are made as far as objects name them: {error.message}")

    def database(self, name: str, snapshot: str, place: str) -> None:
        """Write a database as of ``snapshot`` into the directory ``place``; each job of the build is a session."""
        words = ["--format=directory", f"--file={place}", f"--snapshot={snapshot}", f"--jobs={self._work.jobs}"]
        words += ["--compress=1", "--no-sync", "--no-subscriptions", "--no-security-labels"]
        words.append(f"--lock-wait-timeout={_LOCK_WAIT}")
        with self._directory.watched(self._work, place, f"copying database {name}"):
            self._run("pg_dump", words, name)

    def _run(self, program: str, words: list[str], database: str) -> None:
        try:
            proc.run(
                [server.program(self._installed, program), *words, f"--dbname={self._here.argument(database)}"],
                env=self._here.environment(database),
                cwd=self._directory.place,
                cancel=self._work.cancel,
            )
        except CommandError as error:
            raise _failure(self._here, database, error) from error


def _failure(here: Primary, database: str, error: CommandError) -> ReconcilerError:
    """Return the error for a complaint of pg_dump, which may quote the statement, but nothing of rows."""
    said = [line for line in _SAID.findall(error.stderr) if not _NOISE.match(line)]
    own = here.redacted(_quiet("; ".join(said[:2]) or "it failed"))
    what = f"database {database} of the primary {here.where}: {own}"
    if os.strerror(errno.ENOSPC) in error.stderr:
        return PermanentError(what)  # translated to a full pool by its cause
    if _CUT.search(error.stderr):
        return UnavailableError(f"the copy was interrupted, {what}", reason="PrimaryUnavailable")
    if _CHANGED.search(error.stderr):
        return UnavailableError(f"it changed while it was read, {what}", reason="SourceChanged")
    hint = next((hint for pattern, hint in _HINTS if pattern.search(error.stderr)), None)
    return SourceError(what, reason="PrimaryRefused", hint=hint)


def _quiet(text: str) -> str:
    """Return a complaint without values that the server may have quoted; names of tables stand without quotes."""
    own, refused, told = text.partition("ERROR:  ")
    return f"{own}{refused}{without_values(told, ())}" if refused else own


class Directory:
    """Where dumps lie between the primary and the build, until the end of the block."""

    def __init__(self, work: BuildWork) -> None:
        self.path = work.directory / _COPY
        self._account = work.account
        self._handle = -1

    def __enter__(self) -> Self:
        self.path.mkdir(mode=0o700)
        with ExitStack() as stack:
            self._handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            stack.callback(os.close, self._handle)
            if os.fstat(self._handle).st_uid != os.geteuid():
                raise SourceError(f"{self.path} was replaced while the build ran")
            stack.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        os.close(self._handle)
        shutil.rmtree(self.path, ignore_errors=True)  # finishing a build leaves nothing but its data

    @property
    def place(self) -> Path:
        """The directory itself, whatever stands at its path by now."""
        return Path(f"/proc/self/fd/{self._handle}")

    def remove(self, name: str) -> None:
        """Remove a file; absent is fine."""
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._handle)

    def give(self) -> None:
        """Hand everything to the build's account, which restores it."""
        if self._account is None or os.geteuid() != 0:
            return
        for _base, directories, names, handle in os.fwalk(".", dir_fd=self._handle):
            for name in (*directories, *names):
                os.chown(name, self._account.uid, self._account.gid, dir_fd=handle, follow_symlinks=False)
        os.fchown(self._handle, self._account.uid, self._account.gid)

    @contextmanager
    def watched(self, work: BuildWork, place: str, what: str) -> Iterator[None]:
        """Tell every few seconds how much there is by now."""
        ended = threading.Event()

        def report() -> None:
            while not ended.wait(_REPORT_SECONDS):
                work.progress(f"{what}: {self._bytes(place) / _GIB:.2f} GiB compressed")

        work.progress(what)
        thread = threading.Thread(target=report, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _bytes(self, place: str) -> int:
        with suppress(OSError):
            handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self._handle)
            try:
                with os.scandir(handle) as entries:
                    return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
            finally:
                os.close(handle)
        return 0
