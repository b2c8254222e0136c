"""Clients of a primary that write at the same time, and what its log says of the order of their commits.

The time of a commit is taken before its record is written, so that commits at the same
time may be in the log in another order than their times. What a copy has is a beginning
of the log; :func:`commits` reads it there, with PostgreSQL's own ``pg_waldump``.
"""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from reconciler.engines.postgres import server
from reconciler.engines.postgres.replication import lsn
from tests.followed.primary import account

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.followed.primary import Primary

_ENTER = "BEGIN;\nLOCK TABLE ledger IN SHARE ROW EXCLUSIVE MODE;\nSELECT enter();\nCOMMIT;\n"
"""One entry at a time, whoever makes it: each notes the one before."""
_COMMIT = re.compile(r"tx: +(\d+), lsn: ([0-9A-F]+/[0-9A-F]+),.* desc: (COMMIT|ABORT) (\S+ \S+) UTC")
TORN = """
SELECT (SELECT count(*) FROM
          (SELECT id, chain, lag(chain) OVER (ORDER BY id) AS before, row_number() OVER (ORDER BY id) AS number
           FROM ledger) l
        WHERE id <> number OR chain <> md5(coalesce(before, '') || id)),
       (SELECT sum(abalance) FROM pgbench_accounts) - (SELECT coalesce(sum(delta), 0) FROM pgbench_history),
       (SELECT sum(tbalance) FROM pgbench_tellers) - (SELECT coalesce(sum(delta), 0) FROM pgbench_history),
       (SELECT sum(bbalance) FROM pgbench_branches) - (SELECT coalesce(sum(delta), 0) FROM pgbench_history)
"""
"""Entries that do not follow the one before, and balances that do not add up: all 0 in what is of one moment."""
WRITERS = "SELECT xmin::text::bigint FROM ledger UNION ALL SELECT xmin::text::bigint FROM pgbench_history"
"""The transactions that are visible: each has left one row, which says who wrote it."""


@dataclass(frozen=True)
class Commit:
    """The end of a transaction, as the log has it."""

    transaction: int
    position: int
    at: datetime
    aborted: bool


@contextmanager
def pgbench(production: Primary, *, rate: int, clients: int = 6) -> Iterator[None]:
    """Have pgbench's own transactions and entries of the ledger committed by several clients while the block runs."""
    production.run("pgbench", "--initialize", "--quiet", "shop")
    script = production.root / "enter.sql"
    script.write_text(_ENTER)
    script.chmod(0o644)
    argv: list[str | Path] = [
        server.program(production.programs, "pgbench"),
        "--no-vacuum",
        f"--client={clients}",
        f"--rate={rate}",
    ]
    argv += ["--builtin=tpcb-like@2", f"--file={script}@1", "--time=3600", "shop"]
    with subprocess.Popen(
        argv, env=production.environment(), cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **account()
    ) as process:
        try:
            yield
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
        finally:
            process.terminate()


def commits(production: Primary, start: str) -> list[Commit]:
    """Return the ends of transactions from a position on, in the order of the log."""
    ((end,),) = production.sql("SELECT pg_current_wal_flush_lsn()::text")
    argv: list[str | Path] = [server.program(production.programs, "pg_waldump"), "--rmgr=Transaction"]
    done = subprocess.run(
        [*argv, f"--start={start}", f"--end={end}", f"--path={production.data / 'pg_wal'}"],
        env={"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"},
        check=True,
        capture_output=True,
        text=True,
    )
    return [
        Commit(int(transaction), lsn(position), datetime.fromisoformat(f"{at}+00:00"), kind == "ABORT")
        for transaction, position, kind, at in _COMMIT.findall(done.stdout)
    ]
