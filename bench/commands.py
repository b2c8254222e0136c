"""How long the program takes to start, against ``python -c pass``. Whole processes, wall-clock time."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.figures import Figure, Options, in_turns

_CLONE = """\
apiVersion: reconciler/v1
kind: Image
metadata: {name: shop}
spec:
  engine: postgres
  source: {empty: {}}
  parameters: {work_mem: 64MB}
---
apiVersion: reconciler/v1
kind: Clone
metadata: {name: shop-dev}
spec:
  image: shop
  owner: developers
  users: [{name: app, role: owner}]
"""


def run(options: Options) -> list[Figure]:
    """Measure ``--help`` and ``validate`` of one file."""
    program = Path(sys.executable).with_name("reconciler")
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "shop.yaml")
        file.write_text(_CLONE)
        floor, helped, validated = in_turns(
            2 if options.quick else 4 * options.repetitions,
            lambda: _seconds(sys.executable, "-c", "pass"),
            lambda: _seconds(str(program), "--help"),
            lambda: _seconds(str(program), "validate", str(file)),
        )
    return [
        Figure("reconciler --help", helped, floor, 12),
        Figure("reconciler validate ONEFILE", validated, floor, 25),
    ]


def _seconds(*argv: str) -> float:
    start = time.perf_counter()
    subprocess.run(argv, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return time.perf_counter() - start
