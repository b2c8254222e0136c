"""Who owns what once users' things have been adopted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reconciler.engines.postgres import ownership, server

if TYPE_CHECKING:
    from .conftest import Cluster

pytestmark = pytest.mark.postgres

_LARGE_OBJECTS = b"""
CREATE DATABASE large;
\\connect large
SELECT lo_create(0) FROM generate_series(1, 3);
SELECT lo_create(4711), lo_create(4712);
GRANT SELECT ON LARGE OBJECT 4711 TO reconciler_readonly;
"""
_OWNERS = "SELECT pg_get_userbyid(lomowner)::text, count(*) FROM pg_largeobject_metadata GROUP BY 1"


@pytest.mark.parametrize("fixture", ["build_older", "build"])
def test_large_objects_of_the_admin_become_the_groups_in_every_catalog(
    request: pytest.FixtureRequest, fixture: str
) -> None:
    build: Cluster = request.getfixturevalue(fixture)
    build.tool("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", "-", stdin=_LARGE_OBJECTS)

    with server.connect(build.work(), "large") as conn:
        ownership.adopt(conn)
        ownership.adopt(conn)
        assert conn.execute(_OWNERS).fetchall() == [(server.OWNER, 5)]
        conn.execute("REASSIGN OWNED BY reconciler_owner TO reconciler_builder")  # finds them by pg_shdepend
        assert conn.execute(_OWNERS).fetchall() == [(server.BUILDER, 5)]
        owners = "SELECT count(*) FROM pg_shdepend WHERE classid = 'pg_largeobject'::regclass AND deptype = 'o'"
        assert conn.execute(owners).fetchone() == (5,)


_ONCE_A_SUPERUSERS = b"""
CREATE ROLE boss SUPERUSER;
CREATE DATABASE shop;
\\connect shop
SET SESSION AUTHORIZATION boss;
CREATE TABLE of_boss (a int);
CREATE FOREIGN DATA WRAPPER far;
CREATE FUNCTION trip() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER trip ON ddl_command_end EXECUTE FUNCTION trip();
RESET SESSION AUTHORIZATION;
ALTER ROLE boss NOSUPERUSER;
"""


@pytest.mark.parametrize("fixture", ["build_older", "build"])
def test_what_only_superusers_may_own_becomes_the_admins_also_of_who_was_one_once(
    request: pytest.FixtureRequest, fixture: str
) -> None:
    build: Cluster = request.getfixturevalue(fixture)
    build.tool("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", "-", stdin=_ONCE_A_SUPERUSERS)

    with server.connect(build.work(), "shop") as conn:
        ownership.adopt(conn)
        wrapper = conn.execute("SELECT fdwowner::int FROM pg_foreign_data_wrapper").fetchall()
        trigger = conn.execute("SELECT evtowner::int FROM pg_event_trigger").fetchall()
        table = conn.execute(
            "SELECT pg_get_userbyid(relowner)::text FROM pg_class WHERE relname = 'of_boss'"
        ).fetchall()
    assert (wrapper, trigger, table) == ([(10,)], [(10,)], [(server.OWNER,)])
