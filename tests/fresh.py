"""Empty data directories, made once by the products' own programs, and copied for every build.

initdb and mariadb-install-db make the same each time, and take longer than most of what tests
try. So they run once for each set of arguments in a session.
PostgreSQL's own tests do the same (INITDB_TEMPLATE in ``src/tools/testwrap`` and Cluster.pm).
All that is copied has one system identifier, which no build's tests tell servers apart by.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reconciler import proc
from reconciler.engines.mysql import bootstrap as mysql
from reconciler.engines.postgres import bootstrap as postgres

if TYPE_CHECKING:
    from collections.abc import Sequence

_PLACE = "RECONCILER_TESTS_FRESH"
_PROGRAMS = {"initdb", "mariadb-install-db"}
_COPY = 'umask 077 && cp -R "$1/." "$2"'


class _Copying:
    """The module :mod:`reconciler.proc`, which copies what was made before."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the module has
        return getattr(proc, name)

    def run(self, argv: Sequence[str | Path], **options: Any) -> proc.Completed:  # noqa: ANN401 - of proc.run
        program = Path(argv[0])
        if program.name not in _PROGRAMS:
            return proc.run(argv, **options)
        data = options["cwd"]
        made = _made(program, [str(word).replace(str(data), "@") for word in argv])
        if made.is_dir():
            return proc.run(["sh", "-c", _COPY, "copy", made, data], **options)
        done = proc.run(argv, **options)
        _keep(data, made)
        return done


def install(place: Path | None) -> None:
    """Have builds of this process copy; ``place`` is for the first process of a session, others inherit it."""
    if place is not None:
        os.environ[_PLACE] = str(place)
    if _PLACE in os.environ:
        for module in (postgres, mysql):
            vars(module)["proc"] = _Copying()


def _made(program: Path, words: list[str]) -> Path:
    """Return where the copy is kept of what a program makes with these arguments."""
    stamp = program.stat()
    key = repr((words, stamp.st_ino, stamp.st_mtime_ns))
    return Path(os.environ[_PLACE], hashlib.sha256(key.encode()).hexdigest()[:16])


def _keep(data: Path, made: Path) -> None:
    """Keep a copy that every account can read; somebody else's may have come first."""
    new = Path(tempfile.mkdtemp(prefix="new-", dir=made.parent))
    subprocess.run(["cp", "-R", f"{data}/.", new], check=True)
    subprocess.run(["chmod", "-R", "a+rX", new], check=True)
    with suppress(OSError):
        new.rename(made)
        return
    shutil.rmtree(new)
