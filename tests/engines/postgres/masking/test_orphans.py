"""Files that no catalog knows are removed, all others stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reconciler.engines.postgres.masking.orphans import remove_orphans
from reconciler.errors import PermanentError

from .masked_database import make_database

if TYPE_CHECKING:
    from pathlib import Path

    from tests.engines.postgres.conftest import Cluster

pytestmark = pytest.mark.postgres

_TABLES = """
CREATE TABLE a (x text); INSERT INTO a SELECT repeat(md5(n::text), 500) FROM generate_series(1, 2000) n;
CREATE TABLE gone AS SELECT * FROM a; CREATE UNLOGGED TABLE b AS SELECT * FROM a; CREATE INDEX ON b (md5(x));
DROP TABLE gone; VACUUM a; VACUUM FULL a; VACUUM FULL pg_class; TRUNCATE b; CREATE SEQUENCE s;
"""


def data(cluster: Cluster) -> Path:
    return cluster.work().directory / "data"


def directory(cluster: Cluster, database: str) -> Path:
    ((oid,),) = cluster.query("postgres", f"SELECT oid FROM pg_database WHERE datname = '{database}'")
    return data(cluster) / "base" / str(oid)


def test_nothing_that_belongs_to_a_database_is_removed(cluster: Cluster) -> None:
    make_database(cluster, _TABLES)
    cluster.query("shop", "SELECT pg_relation_filenode('a')")
    assert remove_orphans(cluster.work()) == ()
    cluster.restart()
    assert cluster.query("shop", "SELECT count(*), min(length(x)) FROM a") == [(2000, 16000)]
    assert remove_orphans(cluster.work()) == ()


def test_files_that_no_catalog_knows_are_removed(cluster: Cluster) -> None:
    make_database(cluster, _TABLES)
    shop, template0 = directory(cluster, "shop"), directory(cluster, "template0")
    names = ("987654", "987654.1", "987654_fsm", "987655_init", "t3_987656", "16384.bak", "notes")
    shared = data(cluster) / "global"
    strange = [*(shop / name for name in names), template0 / "987657", shared / "987658", shared / "pg_control.old"]
    for path in strange:
        path.write_bytes(b"what a table once held")
    dropped = data(cluster) / "base" / "999999"
    dropped.mkdir()
    (dropped / "1259").write_bytes(b"of a database that is no more")
    removed = remove_orphans(cluster.work())
    assert {data(cluster) / path for path in removed} == {*strange, dropped}
    assert not any(path.exists() for path in (*strange, dropped))
    cluster.restart()
    assert cluster.query("postgres", "SELECT datallowconn FROM pg_database WHERE datname = 'template0'") == [(False,)]


def test_a_link_is_refused(cluster: Cluster) -> None:
    make_database(cluster, "")
    link = directory(cluster, "shop") / "987654"
    link.symlink_to("/etc/hostname")
    with pytest.raises(PermanentError, match="symbolic link"):
        remove_orphans(cluster.work())
    link.unlink()
