"""Damaged tables and indexes fail a build by name, and never with what is in them."""

from __future__ import annotations

import struct
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from reconciler.engines.postgres import damage, software
from reconciler.errors import CheckFailedError, NotInstalledError
from tests.support import OLDER_MAJOR

from .conftest import Cluster, installed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    Maker = Callable[..., AbstractContextManager[Cluster]]

pytestmark = pytest.mark.postgres

SECRET = "anna@example.org"
_PAGE = 8192
_LINE_POINTERS = 24  # SizeOfPageHeaderData in PostgreSQL's bufpage.h
_TABLE = f"""
CREATE TABLE person (id int PRIMARY KEY, email text, long text);
ALTER TABLE person ALTER long SET STORAGE EXTERNAL;
INSERT INTO person SELECT n, '{SECRET}' || n, repeat('{SECRET}', 500) FROM generate_series(1, 2000) n;
CREATE INDEX by_email ON person (email COLLATE "C");
CREATE MATERIALIZED VIEW seen AS SELECT id FROM person;
CHECKPOINT;
"""


@pytest.fixture(params=[OLDER_MAJOR, "18"])
def made(request: pytest.FixtureRequest, make_cluster: Maker) -> Iterator[Cluster]:
    """A server with a database, without checksums: damage is what reading pages finds."""
    with make_cluster(request.param, running=False) as cluster:
        unsummed = () if request.param == OLDER_MAJOR else ("--no-data-checksums",)
        cluster.init("--locale=C.UTF-8", "--encoding=UTF8", *unsummed)
        cluster.start()
        fill(cluster)
        yield cluster


def fill(cluster: Cluster) -> None:
    cluster.tool("psql", "-X", "-q", "-c", "CREATE DATABASE shop")
    cluster.tool("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", database="shop", stdin=_TABLE.encode())


def look(cluster: Cluster, *, final: bool = True) -> int:
    return damage.look_for_damage(cluster.work(), cluster.programs, final=final)


def complaint(cluster: Cluster) -> str:
    with pytest.raises(CheckFailedError) as caught:
        look(cluster)
    assert caught.value.reason == "DataDamaged"
    assert caught.value.__cause__ is None
    assert SECRET not in str(caught.value)
    return str(caught.value)


def change_page(cluster: Cluster, relation: str, block: int, change: Callable[[bytearray], None]) -> None:
    """Change a page on disk while the server is down."""
    [(name,)] = cluster.query("shop", f"SELECT pg_relation_filepath('{relation}')")
    path = cluster.root / "volume" / "data" / str(name)
    cluster.stop()
    with path.open("r+b") as file:
        file.seek(block * _PAGE)
        page = bytearray(file.read(_PAGE))
        change(page)
        file.seek(block * _PAGE)
        file.write(page)
    cluster.launch()


def swap_line_pointers(page: bytearray) -> None:
    first, second = _LINE_POINTERS + 4 * 9, _LINE_POINTERS + 4 * 10
    page[first : first + 4], page[second : second + 4] = page[second : second + 4], page[first : first + 4]


def make_xmin_of_the_future(page: bytearray) -> None:
    (pointer,) = struct.unpack_from("<I", page, _LINE_POINTERS)
    at = pointer & 0x7FFF
    struct.pack_into("<I", page, at, 2_000_000_000)
    (mask,) = struct.unpack_from("<H", page, at + 20)
    struct.pack_into("<H", page, at + 20, mask & ~0x0300)  # neither committed nor frozen, so it is looked at


def kill_first_line_pointer(page: bytearray) -> None:
    (pointer,) = struct.unpack_from("<I", page, _LINE_POINTERS)
    struct.pack_into("<I", page, _LINE_POINTERS, pointer | 0x18000)  # LP_DEAD of itemid.h


def test_everything_whole_is_counted_and_nothing_is_left_behind(made: Cluster) -> None:
    before = made.query("shop", "SELECT nspname FROM pg_namespace ORDER BY 1")
    number = look(made)
    counted = (
        "SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'm', 't') AND NOT relisshared"
        " OR relkind = 'i' AND relam = 403 AND NOT relisshared"
    )
    here = sum(int(str(made.query(name, counted)[0][0])) for name in ("shop", "postgres", "template1"))
    [(shared,)] = made.query("shop", "SELECT count(*) FROM pg_class WHERE relisshared AND relkind IN ('r', 't', 'i')")
    assert number == here + int(str(shared))
    assert look(made, final=False) <= number
    assert made.query("shop", "SELECT nspname FROM pg_namespace ORDER BY 1") == before
    assert made.query("shop", "SELECT extname FROM pg_extension WHERE extname = 'amcheck'") == []


def test_an_index_out_of_order_is_named(made: Cluster) -> None:
    change_page(made, "person_pkey", 1, swap_line_pointers)
    told = complaint(made)
    assert told.startswith("index public.person_pkey of database shop is damaged: item order invariant violated")


def test_a_row_that_an_index_does_not_have_is_found(made: Cluster) -> None:
    hide = "UPDATE pg_index SET indisready = {} WHERE indexrelid = 'by_email'::regclass"
    for statement in (hide.format("false"), f"INSERT INTO person VALUES (0, '{SECRET}', '')", hide.format("true")):
        made.tool("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", statement, database="shop")
    told = complaint(made)
    assert told.startswith("index public.by_email of database shop is damaged: heap tuple")


def test_a_broken_row_is_named_by_its_place(made: Cluster) -> None:
    change_page(made, "person", 0, make_xmin_of_the_future)
    told = complaint(made)
    assert told.startswith("table public.person of database shop is damaged at block 0, item 1: xmin 2000000000")


def test_a_value_without_its_pieces_is_found(made: Cluster) -> None:
    [(toast,)] = made.query("shop", "SELECT reltoastrelid::regclass::text FROM pg_class WHERE relname = 'person'")
    change_page(made, str(toast), 0, kill_first_line_pointer)
    assert complaint(made).startswith("table public.person of database shop is damaged at block 0, item")


def test_a_page_with_a_wrong_checksum_is_damage(make_cluster: Maker) -> None:
    with make_cluster("18") as cluster:
        fill(cluster)

        def flip(page: bytearray) -> None:
            page[-1] ^= 1

        change_page(cluster, "seen", 0, flip)
        told = complaint(cluster)
        assert told.startswith("table public.seen of database shop is damaged: invalid page in block 0 of relation")


@pytest.mark.parametrize(
    ("relation", "told"),
    [
        ("by_email", 'index public.by_email of database shop is damaged: index "by_email" lacks a main relation fork'),
        ("seen", "table public.seen of database shop is damaged (UndefinedFile, SQLSTATE 58P01)"),
    ],
)
def test_a_missing_file_is_damage(build: Cluster, relation: str, told: str) -> None:
    fill(build)
    [(name,)] = build.query("shop", f"SELECT pg_relation_filepath('{relation}')")
    build.stop()
    (build.root / "volume" / "data" / str(name)).unlink()
    build.launch()
    assert complaint(build) == told


def test_the_extension_that_a_database_has_is_used_and_stays(made: Cluster) -> None:
    made.tool("psql", "-X", "-q", "-c", "CREATE EXTENSION amcheck", database="shop")
    assert look(made) > 0
    assert made.query("shop", "SELECT extname FROM pg_extension WHERE extname = 'amcheck'") == [("amcheck",)]


def test_a_server_without_amcheck_says_which_package_has_it(open_path: Path) -> None:
    programs = installed("18")
    with ExitStack() as stack:
        bare = replace(programs, directory=software.shared_copy(programs, open_path / "software"))
        (control,) = (open_path / "software").rglob("amcheck.control")
        control.unlink()
        cluster = Cluster(open_path, bare)
        stack.callback(cluster.stop)
        cluster.init()
        cluster.start()
        with pytest.raises(NotInstalledError, match=r"has no extension amcheck \(install .*postgresql-18 of Debian"):
            look(cluster)
