"""The proof that masking left no original, against the build that it is a part of; and the search of files alone.

20 masked columns of text with 500 originals each; for its memory alone, 200 of them. The
build is a load, indexes, a plain rewrite with md5() and the product's own settling, without
a restore from a source: a real one takes longer. The proof is everything that it adds:
drawing originals and controls, comparing through SQL, searching files on the running server
and what changed afterwards.
"""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from bench.figures import Figure, Options, in_turns
from bench.installation import size_of
from bench.restore import build_server
from reconciler.engines.postgres import server, settle
from reconciler.engines.postgres.masking import sample
from reconciler.engines.postgres.masking.introspect import read_schema
from reconciler.engines.postgres.masking.prove import RELATIONS, prove
from reconciler.ids import PolicyName
from reconciler.masking import leaks
from reconciler.masking.coverage import cover
from reconciler.masking.report import Masked
from reconciler.spec.masking_policy import MaskingPolicySpec
from reconciler.state.desired import Policy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import LiteralString

    from reconciler.engines.base import BuildWork
    from reconciler.masking.assignment import DatabaseMasking
    from reconciler.masking.matcher import Matcher
    from reconciler.masking.report import Sample

_OF_BUILD = 0.25
"""Of the time of a build of several GB: what a search costs at least weighs more in a small one."""
ROWS = {"quick": 2_000, "default": 500_000, "full": 2_500_000}
"""Per table: some 1 and 5 GB altogether."""
_TABLES = ("one", "two", "three", "four")
_LOAD: LiteralString = """
CREATE TABLE public.{name} AS SELECT n AS id,
    'person' || n || '.' || left(md5(n::text || '{name}'), 8) || '@mail-' || n % 500 || '.example.org' AS email,
    initcap(translate(left(md5(n::text || 'f{name}'), 9), '0123456789', 'aeioulmnrs')) || ' Berg' AS name,
    '+49 ' || 100 + n % 900 || ' ' || 1000000 + n AS phone,
    'Long Street ' || n % 999 || ', ' || 10000 + n % 90000 || ' Oldtown' AS address,
    repeat('lorem ipsum dolor sit amet ', 2 + n % 5) || md5(n::text || 'n{name}') AS notes,
    now() - n * interval '1 second' AS created, n * 1.07 AS balance
FROM generate_series(1, {rows}) n
"""
_INDEX: LiteralString = "CREATE INDEX ON public.{name} (email); CREATE UNIQUE INDEX ON public.{name} (id)"
_MASK: LiteralString = """
CREATE UNLOGGED TABLE public.{name}_s AS SELECT id, 'u-' || left(md5('k' || email), 16) || '@example.com' AS email,
    left(md5('k' || name), 12) AS name, translate(phone, '0123456789', '4179283056') || '0' AS phone,
    'New Street ' || left(md5('k' || address), 8) AS address, md5('k' || notes) || repeat(' lorem ipsum', 9) AS notes,
    created, balance FROM public.{name};
BEGIN; TRUNCATE public.{name}; INSERT INTO public.{name} SELECT * FROM public.{name}_s; COMMIT;
DROP TABLE public.{name}_s
"""
_RULES = {"email": "email", "name": "hash", "phone": "preserve", "address": "hash", "notes": "hash", "*": "keep"}
_LIMIT = 200e6
"""Bytes of memory that masking may cost the reconciler."""
_WIDE_COLUMNS, _WIDE_ROWS = 50, 3_000
"""Per table, of as many tables: 200 columns altogether."""


@dataclass(slots=True)
class _Spent:
    """Seconds of the build, and of what the proof adds to it."""

    build: float = 0
    proof: float = 0


def run(options: Options) -> list[Figure]:
    """Build, mask and prove once; search its files a few times."""
    rows = ROWS[size_of(options)]
    spent = _Spent()
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # the peak of a process that has done nothing else
        wide, patterns = pool.submit(_wide, 5 if options.quick else _WIDE_COLUMNS).result()
    with build_server() as work:
        _forget_peak()
        samples, matcher = _masked(work, rows, spent)
        peak = _peak()
        volume, threads = work.directory, work.jobs
        size = sum(path.stat().st_size for path in _files(volume))
        ours, floor = in_turns(
            1 if options.quick else options.repetitions,
            lambda: _timed(lambda: _searched(volume, samples, matcher, threads)),
            lambda: _timed(lambda: _digested(volume, threads)),
        )
    rate = f"{size / ours / threads / 1e9:.2f} GB/s per thread, {matcher.patterns} patterns, {size / 1e9:.1f} GB"
    return [
        Figure(
            "drawing, proof and search, against the build",
            spent.proof,
            spent.build,
            _OF_BUILD if options.full else None,
        ),
        Figure("memory of it (peak)", peak, None, _LIMIT, "B"),
        Figure("memory of 200 masked columns (peak)", wide, None, _LIMIT, "B", note=f"{patterns} patterns"),
        Figure("search and digests, against SHA-256 alone", ours, floor, None, note=rate),
    ]


def _wide(columns: int) -> tuple[float, int]:
    """Return the peak of memory, in bytes, with many columns, and how many patterns were looked for."""
    with build_server() as work:
        with server.connect(work, "postgres") as conn:
            conn.execute("CREATE DATABASE bench")
        values = [f"'value-{number}-' || md5(n || '{{name}}{number}') AS c{number}" for number in range(columns)]
        masks = [f"md5('k' || c{number}) AS c{number}" for number in range(columns)]
        load = f"CREATE TABLE public.{{name}} AS SELECT {', '.join(values)} FROM generate_series(1, {{rows}}) n"
        mask = f"CREATE TABLE public.{{name}}_s AS SELECT {', '.join(masks)} FROM public.{{name}}"
        swap = "DROP TABLE public.{name}; ALTER TABLE public.{name}_s RENAME TO {name}"
        _execute(work, _WIDE_ROWS, load)
        masking = _masking(work, {"*": "hash"})
        _forget_peak()
        with server.connect(work, "bench") as conn:
            samples = sample.draw(conn, masking)
        _execute(work, _WIDE_ROWS, mask, swap)
        settle.settle_cluster(work, server.choose())
        with server.connect(work, "bench") as conn:
            samples = sample.with_controls(conn, masking, samples)
        patterns = prove(work, Masked((), samples)).scan.patterns
        return _peak(), patterns


def _masked(work: BuildWork, rows: int, spent: _Spent) -> tuple[tuple[Sample, ...], Matcher]:
    with server.connect(work, "postgres") as conn:
        conn.execute("CREATE DATABASE bench")
    spent.build += _timed(lambda: _execute(work, rows, _LOAD, _INDEX))
    masking = _masking(work, _RULES)
    start = time.perf_counter()
    with server.connect(work, "bench") as conn:
        samples = sample.draw(conn, masking)
    spent.proof += time.perf_counter() - start
    spent.build += _timed(lambda: _execute(work, rows, _MASK))
    spent.build += _timed(lambda: settle.settle_cluster(work, server.choose()))
    start = time.perf_counter()
    with server.connect(work, "bench") as conn:
        samples = sample.with_controls(conn, masking, samples)
    proof = prove(work, Masked((), samples))
    leaks.judge(
        leaks.scan(
            work.directory,
            samples,
            threads=work.jobs,
            below=RELATIONS,
            earlier=proof.scan,
            matcher=proof.matcher,
            running=True,
        ),
        proof.accepted,
    )
    spent.proof += time.perf_counter() - start
    return samples, proof.matcher


def _masking(work: BuildWork, columns: Mapping[str, str]) -> DatabaseMasking:
    rules = [{"table": f"public.{name}", "columns": columns} for name in _TABLES]
    spec = MaskingPolicySpec.model_validate({"key": {"secret": "key"}, "rules": rules})
    with server.connect(work, "bench") as conn:
        schema = read_schema(conn, "bench")
    (masking,) = cover([Policy(PolicyName("bench"), spec)], [schema])
    return masking


def _execute(work: BuildWork, rows: int, *statements: str) -> None:
    """Run statements for every table, each connection with its own."""

    def lane(name: str) -> None:
        with server.connect(work, "bench") as conn:
            for statement in statements:
                conn.execute(statement.format(name=name, rows=rows).encode())

    with ThreadPoolExecutor(work.jobs) as pool:
        list(pool.map(lane, _TABLES))


def _searched(volume: Path, samples: tuple[Sample, ...], matcher: Matcher, threads: int) -> None:
    leaks.scan(volume, samples, threads=threads, below=RELATIONS, matcher=matcher, running=True)


def _digested(volume: Path, threads: int) -> None:
    def digest(path: Path) -> bytes:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(digest, sorted(_files(volume), key=lambda path: -path.stat().st_size)))


def _files(volume: Path) -> list[Path]:
    return [path for inside in RELATIONS for path in (volume / inside).rglob("*") if path.is_file()]


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return float(line.split()[1]) * 1024
    return 0
