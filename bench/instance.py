"""How soon a clone on an instance answers: a database of a server that exists already, on btrfs, with shared blocks.

Ours is measured from a spec that the loop can see to a query that psql had answered as the clone's
user; the floor is a shell script of ``CREATE DATABASE … TEMPLATE … STRATEGY FILE_COPY`` with
``file_copy_method = clone`` and the same query, as a superuser, of the same template.
"""

from __future__ import annotations

import os
import time
from itertools import count

import pytest

from bench.clones import SCALES
from bench.figures import Figure, Options, SkippedError, in_turns
from bench.installation import Installation, installation, size_of
from reconciler.ids import CloneName
from reconciler.state.hosted import login_name
from tests.live import PASSWORD, LiveServer, live_server

CLONE = """\
template=$1 target=$2 programs=$3
"$programs/psql" -XAtq -v ON_ERROR_STOP=1 -d postgres -c 'SET file_copy_method = clone' \\
    -c "CREATE DATABASE \\"$target\\" TEMPLATE \\"$template\\" STRATEGY FILE_COPY"
"$programs/psql" -XAtqc 'SELECT 1' -d "$target"
"""
"""One more clone until it answers: the floor."""
_SECRET = "instance"
_MAJOR = "18"
_MORE = "  runtime: instance\n  instance: bench"
_numbers = count()


def run(options: Options) -> list[Figure]:
    """Measure both, in turns."""
    _smaller, scale = SCALES[size_of(options)]
    repetitions = 1 if options.quick else max(options.repetitions, 15)
    try:
        with installation(options, {"instance": {"bench": {"url": {"secret": _SECRET}}}}) as opened:
            parent = opened.scratch / "pool" / "instance"
            parent.mkdir(mode=0o755, exist_ok=True)
            with live_server(_MAJOR, "fsync=on", "max_wal_size=4GB", parent=parent) as server:
                opened.keep_secret(_SECRET, server.url())
                opened.image("hosted", scale, _MAJOR)
                start = time.perf_counter()
                _ours(opened, server)  # a first time loads the snapshot
                loaded = time.perf_counter() - start
                ours, floor = in_turns(repetitions, lambda: _ours(opened, server), lambda: _floor(opened, server))
    except pytest.skip.Exception as error:
        raise SkippedError(str(error)) from error
    name = f"one more clone on an instance, of a database of scale {scale}"
    return [Figure(name, ours, floor, 1.2), Figure("the first one, which loads the snapshot", loaded, None, None)]


def _ours(opened: Installation, server: LiveServer) -> float:
    name = f"bench-{next(_numbers)}"
    opened.write_clones("hosted", [name], more=_MORE, parameters=None)
    os.sync()  # neither pays for what the end of the other one left to write
    start = time.perf_counter()
    opened.settle()
    password = opened.host.state.credentials.credential(CloneName(name), "app")
    environment = {"PGUSER": login_name(CloneName(name), "app"), "PGPASSWORD": password}
    opened.script(f'{_way(server, environment)}"$1/psql" -XAtqc \'SELECT 1\' -d "$2"', opened.programs, name)
    seconds = time.perf_counter() - start
    opened.remove_clones()
    return seconds


def _floor(opened: Installation, server: LiveServer) -> float:
    name = f"by-hand-{next(_numbers)}"
    ((template,),) = server.sql("SELECT datname FROM pg_database WHERE datname LIKE '%.template'")
    way = _way(server, {"PGUSER": "boss", "PGPASSWORD": PASSWORD})
    os.sync()
    seconds = opened.script(way + CLONE, str(template), name, opened.programs)
    server.sql(f'DROP DATABASE "{name}"')
    return seconds


def _way(server: LiveServer, environment: dict[str, str]) -> str:
    words = {"PGHOST": "127.0.0.1", "PGPORT": str(server.port), **environment}
    return "".join(f"export {name}='{value}'\n" for name, value in words.items())
