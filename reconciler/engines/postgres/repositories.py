"""Backups that a tool keeps in its own format: asked for and restored by the tool's own command.

Called by :mod:`.backups`, :mod:`.identify` and :mod:`.physical`. Another tool is another
class with the methods of :class:`BackupTool`, and a line in :data:`_TOOLS`. Commands run as the
reconciler, which alone may read the tool's configuration, with nothing of a spec in
their arguments, and with an environment that has neither secrets nor settings of others.
"""

from __future__ import annotations

import json
import re
import tempfile
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

from reconciler import proc
from reconciler.engines.compressed import open_stream
from reconciler.engines.postgres.choice import WAL, Choice, Stock
from reconciler.engines.postgres.failures import told
from reconciler.engines.postgres.label import Backup, lsn
from reconciler.engines.postgres.walarchive import COMPRESSIONS, Archive, Stored
from reconciler.engines.postgres.walg import WalG
from reconciler.errors import BusyError, CommandError, SourceError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from reconciler.engines.base import BackupRepository, BuildWork

_SECONDS = 300
_ARCHIVED = re.compile(r"(?:.*/)?([0-9A-F]{24}|[0-9A-F]{8}\.history)(?:-[0-9a-f]{40}(?:\.\w+)?)?")


class BackupTool(Protocol):
    """A tool with a repository of backups and archived WAL."""

    def choose(self, chosen: str) -> Choice:
        """Return the newest backup and the WAL after it, or those that ``chosen`` identifies.

        Raises:
            SourceError: there is none, or the repository cannot be read.
            NotInstalledError: the tool is not on this host.
            BusyError: what was chosen is not there any more.

        """
        ...

    def restore(self, work: BuildWork, choice: Choice, data: Path) -> None:
        """Put the files of a backup into ``data``, with tablespaces inside, and without any setting for recovery.

        Raises:
            SourceError: the tool failed; the message is its own.

        """
        ...


def choose(repository: BackupRepository, chosen: str) -> Choice:
    """Return what a build from a repository starts from; see :meth:`BackupTool.choose`."""
    return tool(repository).choose(chosen)


def identity(choice: Choice) -> str:
    """Return what identifies a choice, WAL included."""
    label = "" if choice.stock is None else choice.stock.label
    reach = "" if choice.reach is None else choice.reach.identity
    return f"stock:{label}{WAL}{reach}"


def tool(repository: BackupRepository) -> BackupTool:
    """Return what works with a repository.

    Raises:
        UnsupportedError: this version does not know its tool.

    """
    if repository.tool not in _TOOLS:
        raise UnsupportedError(f"repositories of {repository.tool} are not available in this version")
    return _TOOLS[repository.tool](repository)


class PgBackRest:
    """pgBackRest: https://pgbackrest.org/command.html.

    WAL is read with ``repo-get``, which decrypts: ``archive-get`` needs the data directory of a server that is
    there already, and looks for each file in all of the repositories.
    """

    def __init__(self, repository: BackupRepository) -> None:
        self._stanza = repository.stanza
        self._options = [
            f"--config={repository.config}",
            f"--stanza={repository.stanza}",
            "--log-level-console=off",
            "--log-level-stderr=error",
            "--log-level-file=off",
        ]

    def choose(self, chosen: str) -> Choice:
        wanted, _, last = chosen.removeprefix("stock:").partition(WAL)
        stanza = self._info()
        found = [one for one in stanza["backup"] if not one.get("error") and wanted in ("", one["label"])]
        if not found and wanted:
            raise BusyError(f"backup {wanted} is not in the repository any more", reason="SourceChanged")
        if not found:
            raise SourceError(f"stanza {self._stanza} of pgBackRest has no backup without errors")
        newest = max(found, key=lambda one: (one["timestamp"]["start"], one["label"]))
        failed = [one["label"] for one in stanza["backup"] if one.get("error") and one["label"] > newest["label"]]
        key, database = newest["database"]["repo-key"], newest["database"]["id"]
        version = next(str(one["version"]) for one in stanza["db"] if one["id"] == database)
        stock = Stock(newest["label"], key, int(newest["info"]["size"]), version)
        backup = _backup(newest)
        stored = self._archived(key, f"{version}-{database}")
        place = f"the archive of stanza {self._stanza}"
        reach = Archive(backup, stored, place=place, opening=self._opening(key)).reach(last)
        notes = [f"backup {label} has errors in its pages" for label in failed]
        notes += [reach.gap] if reach.gap is not None else []
        return Choice((backup.path,), backup, reach, tuple(notes), stock)

    def restore(self, work: BuildWork, choice: Choice, data: Path) -> None:
        if choice.stock is None:
            raise SourceError("no backup was chosen")
        work.progress(f"restoring backup {choice.stock.label}")
        spaces = work.directory / "spaces"
        words = [f"--repo={choice.stock.repository}", f"--set={choice.stock.label}", f"--pg1-path={data}"]
        words += ["--type=none", f"--tablespace-map-all={spaces}", f"--lock-path={work.directory / 'lock'}"]
        # since 2.34 it empties the spool of its stanza, and the one in its file may be production's
        words += [f"--spool-path={work.directory / 'spool'}"]
        data.mkdir(mode=0o700)
        self._run("restore", words, cancel=work.cancel, timeout=None)
        for link in (data / "pg_tblspc").iterdir():
            if link.is_symlink():
                place = link.resolve()
                link.unlink()
                place.rename(link)
        if spaces.is_dir():
            spaces.rmdir()

    def _info(self) -> Any:  # noqa: ANN401 - JSON
        found = json.loads(self._run("info", ["--output=json"]).text)
        stanza = next((one for one in found if one["name"] == self._stanza), None)
        if stanza is None or not stanza["backup"]:
            why = f": {stanza['status']['message']}" if stanza is not None else ""
            raise SourceError(f"stanza {self._stanza} of pgBackRest has no backup{why}")
        return stanza

    def _archived(self, key: int, archive: str) -> dict[str, Stored]:
        path = f"archive/{self._stanza}/{archive}"
        listing = json.loads(self._run("repo-ls", [f"--repo={key}", "--recurse", "--output=json", path]).text)
        found = {}
        for name, entry in listing.items():
            named = _ARCHIVED.fullmatch(name)
            if named is not None and entry["type"] == "file":
                found[named[1]] = Stored(f"{path}/{name}", int(entry.get("size", 0)))
        return found

    def _opening(self, key: int) -> Callable[[Stored], Any]:
        @contextmanager
        def opening(file: Stored) -> Iterator[IO[bytes]]:
            with tempfile.TemporaryFile() as packed:  # has no name that a killed reconciler could leave behind
                self._run("repo-get", [f"--repo={key}", file.file], stdout=packed)
                place = Path(f"/proc/self/fd/{packed.fileno()}")
                try:
                    with open_stream(place, COMPRESSIONS.get(PurePosixPath(file.file).suffix)) as content:
                        yield cast("IO[bytes]", content)  # what recovery gets is only read
                except SourceError as error:
                    error.message = error.message.replace(str(place), file.file)
                    raise

        return opening

    def _run(
        self,
        command: str,
        words: list[str],
        *,
        stdout: IO[bytes] | None = None,
        cancel: proc.CancelToken | None = None,
        timeout: float | None = _SECONDS,
    ) -> proc.Completed:
        argv = ["pgbackrest", command, *self._options, *words]
        try:
            return proc.run(argv, stdout=stdout, env=proc.environment(), cwd=Path("/"), cancel=cancel, timeout=timeout)
        except CommandError as error:
            why = told(" ".join(error.stderr.split()))
            raise SourceError(f"pgbackrest {command} of stanza {self._stanza} failed: {why}") from error


def _backup(entry: Mapping[str, Any]) -> Backup:
    segment = str(entry["archive"]["start"])
    return Backup(
        path=Path(entry["label"]),
        started_at=datetime.fromtimestamp(entry["timestamp"]["start"], UTC),
        start=lsn(entry["lsn"]["start"]),
        segment=segment,
        timeline=int(segment[:8], 16),
        end=lsn(entry["lsn"]["stop"]),
    )


_TOOLS: Mapping[str, Callable[[BackupRepository], BackupTool]] = {"pgbackrest": PgBackRest, "wal-g": WalG}
