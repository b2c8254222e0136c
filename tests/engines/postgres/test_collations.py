"""A snapshot is served only where text sorts as it did when its indexes were built."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from reconciler.engines.postgres import collations, server
from reconciler.errors import UnsupportedError
from reconciler.state.desired import Script
from tests.support import OLDER_MAJOR

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.engines.conftest import PostgresHarness


def test_the_record_of_this_host_is_accepted_and_another_refused_with_both_versions() -> None:
    installed = server.choose()
    record = collations.record(["glibc"], installed)
    assert record == {"collation.glibc": os.confstr("CS_GNU_LIBC_VERSION").removeprefix("glibc ")}  # type: ignore[union-attr] # glibc hosts only
    collations.check(record | {"admin": "x"}, installed)
    with pytest.raises(UnsupportedError, match=r"glibc 2\.1, this host has"):
        collations.check({"collation.glibc": "2.1"}, installed)


def test_the_c_library_is_asked_again_after_this_process_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = collations.record(["glibc"], server.choose())
    upgraded = tmp_path / "getconf"
    upgraded.write_text("#!/bin/sh\necho glibc 2.99\n")
    upgraded.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(UnsupportedError, match=r"this host has 2\.99"):
        collations.check(record, server.choose())


@pytest.mark.postgres
def test_a_database_that_sorts_by_code_point_depends_on_nobody(postgres: PostgresHarness) -> None:
    _directory, snapshot = postgres.shop()
    assert [fact for fact in snapshot.facts if collations.is_record(fact)] == []


@pytest.mark.postgres
def test_indexes_of_another_sort_order_are_built_again(make_harness: Callable[[str], PostgresHarness]) -> None:
    harness = make_harness(OLDER_MAJOR)
    if not any(name.startswith("libicui18n.") for name in server.linked_libraries(harness.installed)):
        pytest.skip(f"needs PostgreSQL {OLDER_MAJOR} with ICU")
    work = harness.build_work()
    harness.engine.prepare(work)
    table = 'CREATE TABLE word (w text COLLATE "de-x-icu"); CREATE INDEX word_w ON word (w);'
    table += 'CREATE INDEX plain ON word (w COLLATE "C")'
    with harness.serving(harness.engine.build_server(work)), harness.engine.session(work) as session:
        session.run(Script("a.sql", "CREATE DATABASE shop"))
        session.run(Script("b.sql", table, database="shop"))
        with server.connect(work, "shop") as conn:
            conn.execute("UPDATE pg_collation SET collversion = 'old' WHERE collname = 'de-x-icu'")
            files = "SELECT pg_relation_filenode('public.word_w'), pg_relation_filenode('public.plain')"
            before = conn.execute(files).fetchone()
            collations.repair(conn)
            after = conn.execute(files).fetchone()
            stale = conn.execute("SELECT count(*) FROM pg_collation WHERE collversion = 'old'").fetchone()
            used = collations.dependencies(conn)
    assert before is not None
    assert after is not None
    assert (before[0] != after[0], before[1] == after[1], stale, used) == (True, True, (0,), {"icu"})


@pytest.mark.postgres
def test_a_snapshot_of_another_sort_order_is_not_served(postgres: PostgresHarness) -> None:
    clone = postgres.clone_of_shop(tcp=False)
    moved = replace(clone.snapshot, facts={**clone.snapshot.facts, "collation.icu": "1"})
    with pytest.raises(UnsupportedError, match="build the image again"):
        postgres.engine.clone_server(replace(clone, snapshot=moved))
