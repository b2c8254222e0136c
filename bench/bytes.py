"""Bytes that a clone on btrfs holds of its own: started, after reading everything, after lying idle.

WAL is told apart: it is bounded by settings. An idle time below an hour is made to count
like one: autovacuum looks 60 times and four checkpoints are made in it. With
``--idle-seconds 3600`` the clone keeps the settings that clones have.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bench.figures import Figure, Options
from bench.installation import Installation, installation, size_of

if TYPE_CHECKING:
    from bench.installation import ClonedServer

SCALES = {"quick": 1, "default": 100, "full": 100}
_MIB = 1 << 20
_HOUR = 3600.0
_CHECKPOINTS = 4
"""In an hour, as clones are configured."""
_READ_ALL = """\
SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off;
DO $$ DECLARE one regclass; ignored bigint; BEGIN
    FOR one IN SELECT oid FROM pg_class WHERE relkind IN ('r', 'm', 't') AND has_table_privilege(oid, 'SELECT') LOOP
        EXECUTE format('SELECT count(*) FROM %s', one) INTO ignored;
    END LOOP;
END $$;
"""


def run(options: Options) -> list[Figure]:
    """Measure one clone through its life."""
    idle = 2.0 if options.quick else options.idle_seconds
    with installation(options) as opened:
        image = "large" if size_of(options) == "default" else "small"  # the one of 1.5 GB, as topic clones makes it
        opened.image(image, SCALES[size_of(options)])
        opened.write_clones(image, ["bytes"], _parameters(idle))
        opened.settle()
        clone = opened.clone("bytes")
        started = _figure(opened, clone, "bytes of a clone, started", 1)
        opened.psql(clone, _READ_ALL)
        opened.checkpoint(clone)
        read = _figure(opened, clone, "bytes of a clone, after reading everything", 2)
        return [started, read, _idle(opened, clone, idle)]


def _parameters(idle: float) -> str:
    """Return settings that make a short time count like an hour."""
    if idle >= _HOUR:
        return "{}"
    return "{" + f"autovacuum_naptime: {max(1, round(idle / 60))}s" + "}"


def _idle(opened: Installation, clone: ClonedServer, seconds: float) -> Figure:
    for _ in range(_CHECKPOINTS):
        time.sleep(seconds / _CHECKPOINTS)
        if seconds < _HOUR:
            opened.checkpoint(clone)
    return _figure(opened, clone, f"bytes of a clone, after {seconds:g} s idle", 5)


def _figure(opened: Installation, clone: ClonedServer, name: str, mebibytes: int) -> Figure:
    own, wal = opened.exclusive(clone)
    return Figure(name, own, None, mebibytes * _MIB, "B", note=f"and {wal / _MIB:.2f} MiB of WAL")
