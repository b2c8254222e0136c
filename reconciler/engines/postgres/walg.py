"""WAL-G repositories: https://github.com/wal-g/wal-g, docs/PostgreSQL.md.

One of the tools of :mod:`.repositories`. What it prints, takes and returns was read in its source (its command
package ``cmd/pg``, the structs behind ``--json``, and ``constants.go`` for exit codes), not tried: no
package of Debian or PyPI has it. Its configuration file says where the repository is, and how it is opened.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from reconciler import proc
from reconciler.engines.postgres.choice import WAL, Choice, Stock
from reconciler.engines.postgres.failures import told
from reconciler.engines.postgres.label import Backup
from reconciler.engines.postgres.walarchive import SEGMENT_SIZES, Archive, Stored
from reconciler.errors import BusyError, CommandError, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from reconciler.engines.base import BackupRepository, BuildWork

_SECONDS = 300
_NO_SUCH_WAL = 74
"""Exit code of ``wal-fetch`` (EX_IOERR of sysexits.h) for a file that is not in the repository."""
_PLACE = "reconciler-wal-g-"
_NO_PREFETCH = {"WALG_DOWNLOAD_CONCURRENCY": "1"}
"""With more, ``wal-fetch`` leaves a process behind that writes further segments beside the one that was asked for."""


class WalG:
    """WAL-G, by the commands ``backup-list``, ``wal-show``, ``backup-fetch`` and ``wal-fetch``."""

    def __init__(self, repository: BackupRepository) -> None:
        self._config = repository.config
        self._name = f"the WAL-G repository of {repository.config}"

    def choose(self, chosen: str) -> Choice:
        wanted, _, last = chosen.removeprefix("stock:").partition(WAL)
        listed = self._json("backup-list", "--detail", "--json")
        found = [one for one in listed if wanted in ("", one["backup_name"])]
        if not found and wanted:
            raise BusyError(f"backup {wanted} is not in the repository any more", reason="SourceChanged")
        if not found:
            raise SourceError(f"{self._name} has no backup")
        newest = max(found, key=lambda one: (_time(one), one["backup_name"]))
        backup = _backup(newest)
        archive = Archive(backup, self._archived(), place=f"the archive of {self._name}", opening=self._opening)
        reach = archive.reach(last)
        # of an incremental backup it is the increment's, and it builds on one of the others
        size = max(int(one.get("uncompressed_size") or 0) for one in listed)
        stock = Stock(newest["backup_name"], 0, size, str(int(newest["pg_version"]) // 10000))
        return Choice((backup.path,), backup, reach, (reach.gap,) if reach.gap is not None else (), stock)

    def restore(self, work: BuildWork, choice: Choice, data: Path) -> None:
        if choice.stock is None:
            raise SourceError("no backup was chosen")
        work.progress(f"restoring backup {choice.stock.label}")
        data.mkdir(mode=0o700)
        spaces = work.directory / "tablespaces.json"
        # without a place of its own, each tablespace is unpacked where its link would be
        spaces.write_text(json.dumps({"base_prefix": str(data), "tablespaces": []}))
        words: list[str | Path] = [data, choice.stock.label, f"--restore-spec={spaces}"]
        self._run("backup-fetch", words, cancel=work.cancel, timeout=None)
        spaces.unlink()

    def _archived(self) -> dict[str, Stored]:
        """Return the segments and histories, by name; how large they are is not told."""
        found: dict[str, Stored] = {}
        for line in self._json("wal-show", "--detailed-json", "--without-backups"):
            missing = set(line.get("missing_segments") or ())
            found |= {name: Stored(name, 0) for name in _range(line) if name not in missing}
            if line["parent_id"]:
                history = f"{int(line['id']):08X}.history"
                found[history] = Stored(history, 0)
        return found

    @contextmanager
    def _opening(self, file: Stored) -> Iterator[IO[bytes]]:
        with _place() as place:
            self._run("wal-fetch", [file.file, place / file.file], env=_NO_PREFETCH)
            with (place / file.file).open("rb") as content:
                yield content

    def _json(self, command: str, *words: str) -> Any:  # noqa: ANN401 - JSON
        told = self._run(command, list(words)).text
        try:
            return json.loads(told) or []
        except ValueError as error:
            raise SourceError(
                f"wal-g {command} does not answer in JSON", hint="this was written for WAL-G 3"
            ) from error

    def _run(
        self,
        command: str,
        words: list[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cancel: proc.CancelToken | None = None,
        timeout: float | None = _SECONDS,
    ) -> proc.Completed:
        argv: list[str | Path] = ["wal-g", command, *words, f"--config={self._config}"]
        try:
            return proc.run(argv, env=proc.environment(env or {}), cwd=Path("/"), cancel=cancel, timeout=timeout)
        except CommandError as error:
            if command == "wal-fetch" and error.returncode == _NO_SUCH_WAL:
                raise BusyError(f"{words[0]} is not in the repository any more", reason="SourceChanged") from error
            why = told(" ".join(error.stderr.split()))
            raise SourceError(f"wal-g {command} with {self._config} failed: {why}") from error


@contextmanager
def _place() -> Iterator[Path]:
    """Have a private directory for the block; those of processes that were killed go first."""
    root = Path(tempfile.gettempdir())
    for left in root.glob(f"{_PLACE}*"):
        owner = left.name.removeprefix(_PLACE).partition("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists() and left.lstat().st_uid == os.geteuid():
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{_PLACE}{os.getpid()}-", dir=root) as place:
        yield Path(place)


def _time(entry: Mapping[str, Any]) -> datetime:
    """Return when a backup began; old ones have no metadata, and say zero."""
    began = datetime.fromisoformat(entry["start_time"])
    return began if began.year > 1 else datetime.fromisoformat(entry["time"])


def _backup(entry: Mapping[str, Any]) -> Backup:
    segment = str(entry["wal_file_name"])
    return Backup(
        path=Path(entry["backup_name"]),
        started_at=_time(entry).astimezone(UTC),
        start=int(entry["start_lsn"]),
        segment=segment,
        timeline=int(segment[:8], 16),
        end=int(entry["finish_lsn"]) or None,
    )


def _range(line: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names from a timeline's first segment to its last; how large they are, their number tells."""
    first, last, many = str(line["start_segment"]), str(line["end_segment"]), int(line["segment_range_size"])
    for size in SEGMENT_SIZES:
        per_file = (1 << 32) // size
        begin, end = _number(first, per_file), _number(last, per_file)
        if end - begin + 1 == many:
            for number in range(begin, end + 1):
                yield f"{first[:8]}{number // per_file:08X}{number % per_file:08X}"
            return


def _number(name: str, per_file: int) -> int:
    return int(name[8:16], 16) * per_file + int(name[16:24], 16)
