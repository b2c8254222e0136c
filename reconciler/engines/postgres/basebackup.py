"""The first copy of a primary's files: a base backup, with its tablespaces inside.

Called by :mod:`.mirror`. A mirror lives inside its volume: a copy of that has to hold everything, and no link.
Where log makes its server create a tablespace elsewhere, it cannot go on, and is copied anew.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from reconciler import proc
from reconciler.engines.postgres import control, primary, server
from reconciler.engines.postgres.label import lsn_text
from reconciler.errors import CommandError, SourceError
from reconciler.status import words

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from reconciler.engines.base import InstalledServer, MirrorWork
    from reconciler.engines.postgres.primary import Primary

_TELL_EVERY = 1.0
_DUMP_SECONDS = 600
_TABLESPACES = "SELECT oid::text, pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname !~ '^pg_'"
_NO_REPLICATION = re.compile(r"must be superuser or replication role|permission denied to start WAL sender")
_SEGMENT = re.compile(r"[0-9A-F]{24}")
_COPIED = re.compile(r"^\s*(\d+)/\s*(\d+) kB \(\d+%\)[^\n]*\n?", re.MULTILINE)
"""A line of pg_basebackup's own progress: what it has of what the server expects to send, without log."""
_WAITING = "waiting for checkpoint\n"
_END_BYTES = 4096
_CREATED = re.compile(r"^rmgr: Tablespace .*desc: CREATE \d+ \"(/.*)\"$", re.MULTILINE)


def copy(work: MirrorWork, installed: InstalledServer, wanted: Primary) -> None:
    """Copy a primary into the work's directory, its tablespaces into the data directory.

    With a slot of its own the primary keeps its log from there on; without, a temporary one keeps
    what the copy itself takes, and ends with its session.

    Raises:
        SourceError: it does not let us.
        UnavailableError: it is gone.

    """
    data, links = work.directory / "data", _tablespaces(wanted)
    argv: list[str | Path] = [server.program(installed, "pg_basebackup"), "--pgdata", data, "--no-password"]
    argv += [
        "--wal-method=stream",
        # A checkpoint at once keeps the primary's clients waiting: not where they are to be spared.
        *(["--checkpoint=fast"] if work.copy_rate is None else [f"--max-rate={work.copy_rate >> 10}k"]),
        "--no-sync",
        "--progress",
        *([f"--slot={work.slot}"] if work.slot else []),
    ]
    argv += [
        f"--tablespace-mapping={_escaped(place)}={work.directory / f'tablespace.{oid}'}" for oid, place in links.items()
    ]
    argv += ["--dbname", wanted.argument()]
    try:
        with tempfile.TemporaryFile() as said, _progress(work, said.fileno()):
            proc.run(argv, stderr=said, env=wanted.environment(), cancel=work.cancel)
    except CommandError as error:
        told = wanted.redacted(_COPIED.sub("", error.stderr).replace(_WAITING, ""))
        if _NO_REPLICATION.search(told):
            raise SourceError(
                f"the primary {wanted.where} does not let us stream: {told}",
                hint="ALTER ROLE … REPLICATION, and a line for replication in its pg_hba.conf",
                reason="PrimaryRefused",
            ) from None
        raise primary.refusal(wanted, told) from None
    for oid in links:
        _bring_in(data, oid, work.directory)


def outside(data: Path) -> str | None:
    """Return where a mirror has a tablespace outside of its volume; None when it has none."""
    links = [entry for entry in (data / "pg_tblspc").iterdir() if entry.is_symlink()]
    return str(links[0].readlink()) if links else None


def new_tablespace(installed: InstalledServer, data: Path) -> str | None:
    """Return where the log that a stopped mirror has to replay creates a tablespace; None when it creates none.

    Recovery creates one where it was at the primary, and without that directory it ends. A directory of that name
    on this host is somebody else's, the primary's perhaps: it must not be used either.
    """
    found = control.read_control(installed, data)
    number, per_file = found.redo // found.wal_segment_bytes, (1 << 32) // found.wal_segment_bytes
    first = f"{number // per_file:08X}{number % per_file:08X}"
    names = sorted(
        name for entry in (data / "pg_wal").iterdir() if _SEGMENT.fullmatch(name := entry.name) and name[8:] >= first
    )
    for timeline in sorted({name[:8] for name in names}):
        own = [name for name in names if name[:8] == timeline]
        since = [f"--start={lsn_text(found.redo)}"] if own[0][8:] == first else []
        place = _created(installed, data, [*since, own[0], own[-1]])
        if place is not None:
            return place
    return None


def _created(installed: InstalledServer, data: Path, which: list[str]) -> str | None:
    argv: list[str | Path] = [
        server.program(installed, "pg_waldump"),
        "--rmgr=Tablespace",
        f"--path={data / 'pg_wal'}",
        *which,
    ]
    with tempfile.TemporaryFile() as output:
        with suppress(CommandError):  # so it ends at the end of what was written
            proc.run(argv, stdout=output, env=server.server_environment(), timeout=_DUMP_SECONDS)
        output.seek(0)
        places = _CREATED.findall(output.read().decode("utf-8", "replace"))
    return places[-1] if places else None


def _tablespaces(wanted: Primary) -> dict[str, str]:
    """Return the directories of the primary's own tablespaces by oid; none where it allows no SQL."""
    try:
        with primary.connect(wanted) as conn:
            return {oid: place for oid, place in conn.execute(_TABLESPACES).fetchall() if place.startswith("/")}
    except SourceError:
        return {}


@contextmanager
def _progress(work: MirrorWork, said: int) -> Iterator[None]:
    """Tell while the block runs how much was copied, by what the program says in the open file."""
    done = threading.Event()
    started = time.monotonic()

    def tell() -> None:
        while not done.wait(_TELL_EVERY):
            end = os.pread(said, _END_BYTES, max(0, os.fstat(said).st_size - _END_BYTES))
            work.progress(_told(end.decode("utf-8", "replace"), work.directory, time.monotonic() - started))

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()


def _told(said: str, directory: Path, seconds: float) -> str:
    """Say how much was copied, of how much and for how long still, where the program has told that yet."""
    figures = _COPIED.findall(said)
    copied, total = (int(kilobytes) << 10 for kilobytes in figures[-1]) if figures else (0, 0)
    if not copied or copied > total:
        return f"copying the primary: {words.size(_weight(directory))} so far"
    left = words.span(seconds * (total - copied) / copied)
    return f"copying the primary: {words.size(copied)} of {words.size(total)}, about {left} left"


def _weight(directory: Path) -> int:
    total = 0
    for base, _directories, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(base, name)).st_size  # noqa: PTH118 - walk hands out strings, of many files
            except FileNotFoundError:
                continue
    return total


def _escaped(place: str) -> str:
    return place.replace("\\", "\\\\").replace("=", "\\=")


def _bring_in(data: Path, oid: str, directory: Path) -> None:
    """Put a tablespace where its link was."""
    link = data / "pg_tblspc" / oid
    link.unlink()
    (directory / f"tablespace.{oid}").rename(link)
