"""Put the files of a physical source in place as a build's data directory, and open them once.

Called by the engine before any server runs. Everything is done to copies: the tool that
prepares a backup writes into it and into its increments, and a second time needs them as
they were. Nothing of a source's settings is used but the layout of its files.
"""

from __future__ import annotations

import fcntl
import re
import struct
from typing import TYPE_CHECKING

from reconciler import proc
from reconciler.engines import files
from reconciler.engines.mysql import backups, binlogs, bootstrap, following, leftovers, notes, server, settings, streams
from reconciler.errors import BusyError, CommandError, SourceError, UnsupportedError
from reconciler.handover import give_tree, take_tree

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from reconciler.engines.base import BuildWork, InstalledServer, LocalSource
    from reconciler.engines.mysql.product import Product

_FIRST = (
    "DELETE FROM mysql.plugin;\nDELETE FROM mysql.func;\nDELETE FROM mysql.servers;\n"
    "UPDATE mysql.event SET status = 'DISABLED';\n"
)
"""Before a server loads libraries that the data names, or runs what it schedules."""
_UPGRADE_NOTES = ("mariadb_upgrade_info", "mysql_upgrade_info")
_SYSTEM_FILE = "ibdata1"
_LAYOUT_LINE = re.compile(
    r"^(innodb_page_size|innodb_data_file_path|innodb_undo_tablespaces)\s*=\s*(\S+)", re.MULTILINE
)
_PREPARED = re.compile(r"prepared transactions", re.IGNORECASE)
_LOCK = "hhqqi4x"
"""``struct flock`` of 64-bit Linux: type, whence, start, length, process."""


def major_of(source: LocalSource, product: Product) -> str | None:
    """Return the version that must serve a physical source; None: it does not say."""
    if source.kind == "backup":
        return backups.choose(source, product).major
    path = _required(source)
    text = next((text for name in _UPGRADE_NOTES if (text := files.read_small(path / name)) is not None), "")
    found = re.match(r"(\d+\.\d+)\.\d+", text)
    if found is None:
        return None
    if ("MariaDB" in text) != (product.name == "mariadb"):
        raise SourceError(f"{path} is a data directory of another product: {text.strip()[:50]}")
    return found[1]


def require_stopped(path: Path) -> None:
    """Raise :class:`BusyError` when a server of this host has its files open (InnoDB locks them)."""
    with (path / _SYSTEM_FILE).open("rb") as file:
        asked = struct.pack(_LOCK, fcntl.F_WRLCK, 0, 0, 0, 0)
        kind, *_rest, holder = struct.unpack(_LOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))
    if kind != fcntl.F_UNLCK:
        raise BusyError(
            f"a server (process {holder}) runs on {path}", hint="stop it, or use a backup or an atomic snapshot"
        )


def open_physical(work: BuildWork, product: Product, installed: InstalledServer) -> None:
    """Copy a source, prepare it, and open it for the first time without a server that anybody can reach.

    Raises:
        SourceError: it is incomplete, damaged, or not what it should be.
        BusyError: a server runs on it, or what planning chose is gone.
        NotInstalledError: the tool that prepares backups is not on this host.

    """
    data = server.data_directory(work)
    take_tree(work.directory)
    layout = _bring_backup(work, product, installed, data) if work.source.kind == "backup" else _bring_files(work, data)
    notes.add(work, layout | {"major": installed.major})  # what is served must not depend on what is added meanwhile
    take_tree(work.directory)
    _make_fit(work, product, data, layout)
    _open(work, product, installed)


def _make_fit(work: BuildWork, product: Product, data: Path, layout: Mapping[str, str]) -> None:
    """Leave nothing in a data directory that its server would go on with, and write the settings of that."""
    leftovers.refuse_links(data)
    leftovers.remove_following(data)
    data.chmod(0o700)
    give_tree(work.directory, work.account)
    settings.write_build(work, product, {name: layout[name] for name in settings.LAYOUT if name in layout})


def note_mirrored(work: BuildWork) -> None:
    """Note what a copy of a mirror says of itself: how far that had come, and what serves it."""
    state = following.read_state(work.directory)
    if "major" not in state:
        raise BusyError("the copy of the mirror does not say how far that had come", reason="MirrorSilent")
    facts = {name: state[name] for name in (*settings.LAYOUT, "major", "as_of") if name in state}
    left_out = notes.read(work).get("left_out", "")
    notes.replace(work, facts | {"position": state["gtid"], "gtid": state["gtid"], "left_out": left_out})


def open_mirrored(work: BuildWork, product: Product, installed: InstalledServer) -> None:
    """Open the copy of a mirror that a build's directory is. Raises as :func:`open_physical`."""
    if work.source.at is not None:
        raise UnsupportedError("moments of a mirror are not supported for this engine", reason="SourceUnsupported")
    data = server.data_directory(work)
    take_tree(work.directory)
    for entry in list(work.directory.iterdir()):
        if entry not in (data, work.directory / notes.FILE):
            leftovers.remove(entry)
    _make_fit(work, product, data, notes.read(work))
    _open(work, product, installed)


def _bring_files(work: BuildWork, data: Path) -> dict[str, str]:
    path = _required(work.source)
    if not (path / _SYSTEM_FILE).is_file():
        raise SourceError(f"{path} is no data directory: it has no {_SYSTEM_FILE}")
    require_stopped(path)
    work.progress(f"copying {path}")
    _copy(work, path, data)
    require_stopped(path)
    return {}


def _bring_backup(work: BuildWork, product: Product, installed: InstalledServer, data: Path) -> dict[str, str]:
    chain = backups.choose(work.source, product)
    tool = server.tool(installed, product.backups, product.backup_hint)
    for line in chain.notes:
        notes.add_line(work, "left_out", line)
    places = [data, *(work.directory / f"increment{number}" for number in range(1, len(chain.parts)))]
    for part, place in zip(chain.parts, places, strict=True):
        if streams.is_unpacked(work):
            part.path.rename(place)
            continue
        work.progress(f"copying {part.path}")
        _copy(work, part.path, place)
    layout = dict(_LAYOUT_LINE.findall(files.read_small(data / "backup-my.cnf") or ""))
    give_tree(work.directory, work.account)
    for number, words in enumerate(product.prepare(data, places[1:])):
        work.progress("preparing the backup" if number == 0 else f"applying increment {number}")
        try:
            proc.run([tool, *words], account=work.account, env=server.environment(), cwd=data, cancel=work.cancel)
        except CommandError as error:
            raise SourceError(
                f"{chain.parts[min(number, len(chain.parts) - 1)].path} cannot be prepared by {tool.name}:"
                f" {bootstrap.first_error(error.stderr)}"
            ) from error
    take_tree(work.directory)
    for place in places[1:]:
        leftovers.remove(place)
    if work.source.wal is not None:
        binlogs.bring(work, binlogs.find(work.source.wal, chain, work.source.chosen.partition("+")[2]))
    return layout


def _copy(work: BuildWork, source: Path, target: Path) -> None:
    try:
        proc.run(["cp", "-a", "--reflink=auto", source, target], cancel=work.cancel)
    except CommandError as error:
        raise SourceError(f"{source} cannot be copied: {error.stderr.strip()[-300:]}") from error


def _open(work: BuildWork, product: Product, installed: InstalledServer) -> None:
    """Recover what was not shut down, and take what acts out of it."""
    work.progress("opening the copy")
    try:
        try:
            bootstrap.run(work, product, installed, _FIRST)
        except CommandError as error:
            if _PREPARED.search(error.stderr) is None:
                raise
            # Committed in the binary log, which is not part of the data, or about to be: nobody was told that one
            # of them failed, and of those that succeeded none may be missing.
            bootstrap.run(work, product, installed, "", "--tc-heuristic-recover=COMMIT")
            bootstrap.run(work, product, installed, _FIRST)
    except CommandError as error:
        raise SourceError(
            f"{work.source.name or work.source.path} cannot be opened by {product.title} {installed.version}:"
            f" {bootstrap.first_error(error.stderr)}"
        ) from error


def _required(source: LocalSource) -> Path:
    if source.path is None:
        raise SourceError("the source has no path")
    return source.path
