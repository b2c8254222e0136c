"""Stands in for the program ``wal-g``, which no registry has, over a directory; written by :mod:`.test_walg`.

It takes, prints and returns what WAL-G's source says (commit 43fb039f): ``cmd/pg/*.go`` for commands and
flags, ``backup_time.go``, ``backup_sentinel_dto.go`` and ``wal_show_handler.go`` for what ``--json`` prints,
``fetch_helper.go`` and ``constants.go`` for ``wal-fetch``. In the directory ``backups`` has data directories,
each with its entry of the listing in ``NAME.json``, and ``wal`` segments and histories, compressed.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import NoReturn

EX_IOERR = 74
PER_FILE = 256


def main() -> None:
    words = argparse.ArgumentParser()
    commands = words.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("backup-list")
    listing.add_argument("--detail", action="store_true", required=True)
    listing.add_argument("--json", action="store_true", required=True)
    show = commands.add_parser("wal-show")
    show.add_argument("--detailed-json", action="store_true", required=True)
    show.add_argument("--without-backups", action="store_true", required=True)
    fetch = commands.add_parser("backup-fetch")
    fetch.add_argument("destination", type=Path)
    fetch.add_argument("name")
    fetch.add_argument("--restore-spec", type=Path, required=True)
    wal = commands.add_parser("wal-fetch")
    wal.add_argument("name")
    wal.add_argument("destination", type=Path)
    for command in (listing, show, fetch, wal):
        command.add_argument("--config", type=Path, required=True)
    given = words.parse_args()
    if not given.config.is_file():
        fatal(f"open {given.config}: no such file or directory")
    if any(name.startswith("RECONCILER_SECRET") for name in os.environ):
        fatal("a secret in the environment")
    root = Path(json.loads(given.config.read_text())["WALG_FILE_PREFIX"])
    log("INFO", "List backups from storages: [default]")
    known = {"backup-list": backup_list, "wal-show": wal_show, "backup-fetch": backup_fetch, "wal-fetch": wal_fetch}
    known[given.command](root, given)


def fatal(message: str) -> NoReturn:
    log("ERROR", message)
    sys.exit(1)


def log(level: str, message: str) -> None:
    sys.stderr.write(f"{level}: 2026/11/26 08:00:00.000000 {message}\n")


def backup_list(root: Path, _given: argparse.Namespace) -> None:
    entries = [json.loads(entry.read_text()) for entry in sorted((root / "backups").glob("*.json"))]
    sys.stdout.write(f"{json.dumps(entries)}\n")


def wal_show(root: Path, _given: argparse.Namespace) -> None:
    names = sorted(path.name.removesuffix(".gz") for path in (root / "wal").iterdir())
    lines = []
    for timeline in sorted({name[:8] for name in names if re.fullmatch("[0-9A-F]{24}", name)}):
        own = [name for name in names if name[:8] == timeline and len(name) == 24]
        numbers = [int(name[8:16], 16) * PER_FILE + int(name[16:], 16) for name in own]
        lost = [n for n in range(numbers[0], numbers[-1]) if n not in numbers]
        line: dict[str, object] = {"id": int(timeline, 16), "parent_id": 0, "switch_point_lsn": 0}
        line |= {"start_segment": own[0], "end_segment": own[-1], "segments_count": len(own)}
        line["missing_segments"] = [f"{timeline}{n // PER_FILE:08X}{n % PER_FILE:08X}" for n in lost]
        line["segment_range_size"] = numbers[-1] - numbers[0] + 1
        line["status"] = "LOST_SEGMENTS" if lost else "OK"
        if f"{timeline}.history" in names:
            with gzip.open(root / "wal" / f"{timeline}.history.gz", "rt") as history:
                line["parent_id"] = int([row for row in history.read().splitlines() if row][-1].split()[0])
        lines.append(line)
    sys.stdout.write(json.dumps(lines))


def backup_fetch(root: Path, given: argparse.Namespace) -> None:
    spec = json.loads(given.restore_spec.read_text())
    if not spec.get("base_prefix"):
        fatal("base prefix not set while working with tablespaces")
    if not (root / "backups" / given.name).is_dir():
        fatal(f"Backup '{given.name}' does not exist.")
    if any(given.destination.iterdir()):
        fatal(f"Directory {given.destination} for delta base must be empty")
    for name in spec["tablespaces"]:
        Path(spec["base_prefix"], spec[name]["link"]).symlink_to(spec[name]["loc"])
    skipped = shutil.ignore_patterns("tablespace_map", "backup_manifest")
    shutil.copytree(root / "backups" / given.name, given.destination, dirs_exist_ok=True, ignore=skipped)
    log("INFO", "Backup extraction complete.")


def wal_fetch(root: Path, given: argparse.Namespace) -> None:
    with given.destination.open("xb") as file:
        try:
            with gzip.open(root / "wal" / f"{given.name}.gz") as stored:
                shutil.copyfileobj(stored, file)
        except FileNotFoundError:
            given.destination.unlink()
            log("ERROR", f"Archive '{given.name}' does not exist.")
            sys.exit(EX_IOERR)
    if os.environ.get("WALG_DOWNLOAD_CONCURRENCY") != "1" and "history" not in given.name:
        (given.destination.parent / ".wal-g").mkdir()  # here the real one goes on with wal-prefetch


if __name__ == "__main__":
    main()
