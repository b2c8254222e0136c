"""Binary logs after a backup: how far they go on from it, and their replay.

Called by :mod:`.identify` when planning asks, by :mod:`.physical`, which brings copies of them
into the build, and by the session, which has the build's own server apply them as it applies
a relay log: the two have one format. Nothing here asks the server that wrote them.
"""

from __future__ import annotations

import re
import time
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.engines import files
from reconciler.engines.compressed import compression_of, open_stream
from reconciler.engines.mysql import notes, relaylog, server
from reconciler.engines.mysql.following import failed_at
from reconciler.errors import BusyError, SourceError
from reconciler.handover import give_tree

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.engines.base import BuildWork
    from reconciler.engines.mysql.backups import Chain
    from reconciler.engines.mysql.link import Link

_START = ("xtrabackup_binlog_info", "mariadb_backup_binlog_info")
_LOG = re.compile(r"(?P<base>.+)\.(?P<number>\d{6,})(?:\.(?:gz|zst|lz4|bz2|xz))?")
_PLACE = "logs"
_NAME = "replay"
_POLL_SECONDS = 0.2
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Logs:
    """What is replayed after a backup, oldest first."""

    paths: tuple[Path, ...]
    offset: int
    """Where in the first of them the backup ends."""
    size: int
    """Bytes of the last one that count; more may have been written since."""
    notes: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """What identifies them, beside the backup."""
        return f"{self.paths[-1].name}:{self.size}" if self.paths else "-"

    @property
    def bytes(self) -> int:
        """What they take on disk."""
        return sum(path.stat().st_size for path in self.paths)


def find(directory: Path, chain: Chain, chosen: str = "") -> Logs:
    """Return the logs that go on from a backup; ``chosen`` is the identity of an earlier answer, which is not passed.

    Raises:
        SourceError: the one in which the backup ends is missing, while later ones are there.
        BusyError: what was chosen is not there any more.

    """
    base, first, offset = _start(chain.parts[-1].path)
    known = {
        int(found["number"]): path
        for path in sorted(directory.iterdir())
        if (found := _LOG.fullmatch(path.name)) is not None and found["base"] == base and path.is_file()
    }
    last, _, size = chosen.rpartition(":")
    number, paths = first, []
    while number in known and chosen != "-":
        paths.append(known[number])
        if known[number].name == last:
            break
        number += 1
    later = [one for one in known if one > number]
    if not paths and later and chosen != "-":
        raise SourceError(f"the binary log {base}.{first:06d}, in which the backup ends, is not in {directory}")
    if last and (not paths or paths[-1].name != last or paths[-1].stat().st_size < int(size)):
        raise BusyError("the binary logs that were chosen are not there any more", reason="SourceChanged")
    told = () if not later or last else (f"the binary log {base}.{number:06d} is missing: it ends before that",)
    return Logs(tuple(paths), offset, int(size) if last else paths[-1].stat().st_size if paths else 0, told)


def bring(work: BuildWork, logs: Logs) -> None:
    """Copy logs into a build, as relay logs of its server: what is complete of them."""
    place = work.directory / _PLACE
    place.mkdir(mode=0o700)
    targets = [place / f"{_NAME}.{number:06d}" for number in range(1, len(logs.paths) + 1)]
    for path, target in zip(logs.paths, targets, strict=True):
        work.cancel.check()
        work.progress(f"copying {path}")
        with open_stream(path, compression_of(path)) as source, target.open("wb") as copy:
            while piece := source.read(_PIECE):
                copy.write(piece)
    if targets and compression_of(logs.paths[-1]) is None:
        with targets[-1].open("r+b") as copy:
            copy.truncate(logs.size)
    if targets:
        ended = relaylog.complete(targets[-1])
        with targets[-1].open("r+b") as copy:
            copy.truncate(ended)
        at = [one for target in targets if (one := relaylog.last_commit(target, target.stat().st_size)) is not None]
        notes.add(work, {"log_offset": str(logs.offset)} | ({"as_of": max(at).isoformat()} if at else {}))
    for line in logs.notes:
        notes.add_line(work, "left_out", line)
    give_tree(place, work.account)


def settings_of(work: BuildWork) -> dict[str, str]:
    """Return the settings that a build's server needs for the replay; none where there is nothing to replay."""
    place = work.directory / _PLACE
    if "log_offset" not in notes.read(work) or not place.is_dir():
        return {}
    return {
        "server_id": str(zlib.crc32(work.server.encode()) or 1),
        "relay_log": str(place / _NAME),
        "relay_log_index": str(place / f"{_NAME}.index"),
        "relay_log_info_file": str(place / "info"),
        "master_info_file": str(place / "master"),
        "slave_max_allowed_packet": "1G",
    }


def replay(work: BuildWork) -> None:
    """Have the build's running server apply what was brought.

    Raises:
        SourceError: it cannot: a log is damaged, or is not of the server that was backed up.

    """
    place = work.directory / _PLACE
    offset = notes.read(work).get("log_offset")
    if offset is None or not place.is_dir():
        return
    names = sorted(path.name for path in place.iterdir() if re.fullmatch(rf"{_NAME}\.\d+", path.name))
    with server.connect(work, patient=True) as admin:
        index = "".join(f"{place / name}\n" for name in names)
        files.write_file(place, f"{_NAME}.index", index, work.account)
        admin.rows(
            "CHANGE MASTER TO MASTER_HOST = 'nowhere.invalid', MASTER_USE_GTID = no, RELAY_LOG_FILE = %s,"
            " RELAY_LOG_POS = %s",
            names[0],
            int(offset),
        )
        admin.rows("START SLAVE SQL_THREAD")
        _await(work, admin, names)
        admin.rows("STOP SLAVE")


def _await(work: BuildWork, admin: Link, names: list[str]) -> None:
    size = (work.directory / _PLACE / names[-1]).stat().st_size
    while True:
        work.cancel.check()
        (found,) = admin.named("SHOW SLAVE STATUS")
        if code := int(found["Last_SQL_Errno"] or 0):
            told = failed_at(code, str(found["Last_SQL_Error"]))
            raise SourceError(f"the binary logs after the backup cannot be replayed: {told}")
        if found["Slave_SQL_Running"] != "Yes":
            raise SourceError("the binary logs after the backup cannot be replayed: the server stopped that")
        file, position = str(found["Relay_Log_File"]), int(found["Relay_Log_Pos"] or 0)
        if file > names[-1] or (file == names[-1] and position >= size):  # it goes on to an empty one of its own
            return
        work.progress(f"replaying the binary logs: {names.index(file) + 1 if file in names else 1} of {len(names)}")
        time.sleep(_POLL_SECONDS)


def _start(path: Path) -> tuple[str, int, int]:
    """Return the name of the logs of a backed-up server, and the number and offset at which the backup ends."""
    text = next((told for name in _START if (told := files.read_small(path / name)) is not None), "")
    words = text.split()
    found = _LOG.fullmatch(words[0]) if words else None
    if found is None or len(words) < 2 or not words[1].isdigit():  # noqa: PLR2004 - a file and an offset
        raise SourceError(
            f"{path} does not say where in the binary log it ends: its server had none", hint="remove source.backup.wal"
        )
    return found["base"], int(found["number"]), int(words[1])
