"""Runs the benchmarks: ``python -m bench [TOPIC ...]``; see docs/benchmarks.md.

Prints a table of figures: ours, a floor made by hand and measured in the same run, their
ratio and its target. Exits with 1 when a target is missed. What cannot be measured on
this host is skipped, and said.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from bench.figures import Figure, Options, SkippedError, as_json, table

if TYPE_CHECKING:
    from collections.abc import Sequence

TOPICS = {
    "commands": "start-up of the program",
    "specs": "10,000 spec files: read, validate, resolve, plan",
    "pull_requests": "findings and plan of 1,000 specs, as the action runs them",
    "reaction": "from a push, or a saved file, to the first action",
    "loop": "memory of the loop with 10,000 objects",
    "resting": "1,000 clones on btrfs with nothing to do",
    "restore": "restore of a dump",
    "leaks": "proof that masking left nothing: drawing, SQL, search of files",
    "rewrite": "masking of a large table",
    "masking": "masking methods inside the database",
    "clones": "one clone, 15 clones, and how the image's size matters",
    "docker": "one clone in a container, and 40",
    "mariadb": "one clone of MariaDB",
    "mariadb-masking": "masking of a large table of MariaDB",
    "instance": "one clone on a PostgreSQL server that exists already",
    "refresh": "a refresh from a live primary, and how its size matters",
    "moments": "a clone of a moment in the past, against the replay of its log by hand",
    "primary": "what clients of a primary wait for while it is copied and refreshed from",
    "connections": "what users of clones notice of refreshes",
    "sqlite": "one clone of a SQLite file by reflink",
    "swap": "silence of a port during a reset",
    "loopback": "transactions on a pool in a file, against those on the device below it",
    "bytes": "bytes that a clone holds of its own",
    "memory": "memory of an idle clone",
}
"""Each is a module of this directory (``-`` as ``_``) with ``run(options) -> list[Figure]``; cheap ones first."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for and print it; return the exit code."""
    parsed = _parser().parse_args(arguments)
    options = Options(
        full=parsed.full,
        quick=parsed.quick,
        repetitions=parsed.repetitions,
        idle_seconds=parsed.idle_seconds,
        scratch=parsed.scratch,
        device=parsed.device,
    )
    figures: list[Figure] = []
    skipped: dict[str, str] = {}
    for topic in parsed.topics or TOPICS:
        print(f"measuring {TOPICS[topic]} …", file=sys.stderr)
        try:
            found: list[Figure] = import_module(f"bench.{topic.replace('-', '_')}").run(options)
        except SkippedError as error:
            skipped[topic] = str(error)
            print(f"SKIPPED {topic}: {error}", file=sys.stderr)
            continue
        figures += found
        if not parsed.json:
            print(table(found) + "\n", flush=True)
    if parsed.json:
        json.dump({"figures": [as_json(figure) for figure in figures], "skipped": skipped}, sys.stdout, indent=2)
        print()
    missed = [figure.name for figure in figures if figure.ok is False]
    for name in missed:
        print(f"target missed: {name}", file=sys.stderr)
    return 1 if missed else 0


def _parser() -> argparse.ArgumentParser:
    defaults = Options()
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure reconciler against floors.")
    parser.add_argument("topics", nargs="*", metavar="TOPIC", choices=[[], *TOPICS], help=f"of: {', '.join(TOPICS)}")
    parser.add_argument("--json", action="store_true", help="print figures for machines")
    parser.add_argument("--full", action="store_true", help="images of 1.5 and 15 GB instead of 0.15 and 1.5 GB")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only shows that the benchmarks work")
    parser.add_argument("--repetitions", type=int, default=defaults.repetitions, help="of each measurement")
    parser.add_argument(
        "--idle-seconds", type=float, default=defaults.idle_seconds, help="how long clones are left alone (topic bytes)"
    )
    parser.add_argument(
        "--scratch", type=Path, help="where images and dumps are kept from run to run (40 GB if --full)"
    )
    parser.add_argument("--device", type=Path, help="a block device that may be OVERWRITTEN (topic loopback)")
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # so that everything is taken back
    sys.exit(main())
