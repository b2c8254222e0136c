"""What is made of a primary's connection URL, and that its password is shown nowhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from reconciler.engines.base import LiveServer
from reconciler.engines.postgres import primary
from reconciler.errors import SecretError, SourceError, UnavailableError
from tests import live
from tests.support import OLDER_MAJOR, free_port, pause, resume

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def shop() -> Iterator[live.LiveServer]:
    with live.live_server(OLDER_MAJOR) as made:
        yield made


def test_a_url_is_taken_apart_with_its_password_unescaped() -> None:
    found = primary.parse("postgresql://app:p%40ss%2Fw@db.example:5433/shop?sslmode=verify-full", "dsn")
    assert (found.where, found.database, found.password) == ("db.example:5433", "shop", "p@ss/w")
    assert found.settings["sslmode"] == "verify-full"


def test_a_string_of_keywords_is_a_url_as_well() -> None:
    found = primary.parse("host=/run/pg user=app password='a b' dbname=shop", "dsn")
    assert (found.where, found.password) == ("/run/pg", "a b")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hunter2",
        "postgresql://app:hunter2@x@db.example/shop",
        "postgresql://app:hunter2/x@db.example/shop",
        "postgresql://app:12/hunter2@db.example/shop",
        "postgresql://app:x@db.example:hunter2/shop",
    ],
)
def test_what_is_no_url_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(SecretError) as caught:
        primary.parse(url, "shop-dsn")
    assert "shop-dsn" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("more", ["service=other", "replication=true", "sslpassword=x"])
def test_settings_that_lead_past_the_secret_are_refused(more: str) -> None:
    with pytest.raises(SecretError, match=more.partition("=")[0]):
        primary.parse(f"host=db.example {more}", "dsn")


def test_the_password_is_in_no_representation_and_no_argument_but_in_the_environment() -> None:
    found = primary.parse("postgresql://app:hunter2@db.example/shop?keepalives_idle=7", "dsn")
    shown = [repr(found), repr(LiveServer("postgresql://app:hunter2@db.example", "dsn", "logical")), found.argument()]
    assert not [text for text in shown if "hunter2" in text]
    assert "keepalives_idle=7" in found.argument()
    environment = found.environment("other")
    assert (environment["PGPASSWORD"], environment["PGDATABASE"], environment["PGHOST"]) == (
        "hunter2",
        "other",
        "db.example",
    )


def test_a_text_is_shown_without_the_password_on_one_line() -> None:
    found = primary.parse("postgresql://app:hunter2@db.example/shop", "dsn")
    assert found.redacted("it is\n\thunter2,\n so") == "it is …, so"


@pytest.mark.postgres
def test_a_session_has_none_of_the_limits_that_production_has(shop: live.LiveServer) -> None:
    shop.sql("ALTER ROLE boss SET statement_timeout = 1; ALTER ROLE boss SET idle_in_transaction_session_timeout = 1")
    try:
        with primary.connect(primary.parse(shop.url(), "dsn")) as conn:
            assert conn.execute("SELECT current_setting('search_path'), count(*) FROM pg_sleep(0.01)").fetchone() == (
                "pg_catalog",
                1,
            )
    finally:
        shop.sql("ALTER ROLE boss RESET ALL")


@pytest.mark.postgres
def test_whoever_is_not_let_in_hears_why_and_sees_no_password(shop: live.LiveServer) -> None:
    urls = [shop.url(password="hunter2"), shop.url("nobody"), shop.url(database="absent")]
    for url in urls:
        with pytest.raises(SourceError, match=r"does not let us in.*shop-dsn") as caught:
            primary.connect(primary.parse(url, "shop-dsn"))
        assert caught.value.reason == "PrimaryRefused"
        assert not {"hunter2", live.PASSWORD} & set(str(caught.value).split())


def test_a_primary_that_is_away_is_not_an_answer() -> None:
    with pytest.raises(UnavailableError, match="cannot be reached") as caught:
        primary.connect(primary.parse(f"postgresql://app:hunter2@127.0.0.1:{free_port()}/shop", "dsn"))
    assert caught.value.reason == "PrimaryUnavailable"
    assert "hunter2" not in str(caught.value)


@pytest.mark.postgres
def test_of_several_hosts_the_one_that_answered_is_meant_from_then_on(shop: live.LiveServer) -> None:
    url = shop.url().replace("127.0.0.1:", f"127.0.0.1:{free_port()},127.0.0.1:")
    several = primary.parse(url, "dsn")
    with primary.connect(several) as conn:
        pinned = several.pinned(conn)
    assert (pinned.settings["host"], pinned.settings["port"]) == ("127.0.0.1", str(shop.port))


@pytest.mark.postgres
def test_a_primary_that_hangs_in_the_middle_of_a_look_is_away(shop: live.LiveServer) -> None:
    wanted = primary.parse(shop.url(), "dsn")
    with primary.connect(wanted, look=True) as conn:
        backend = conn.info.backend_pid
        pause(backend)
        try:
            with pytest.raises(psycopg.OperationalError) as caught:
                conn.execute("SELECT 1")
        finally:
            resume(backend)
    assert type(primary.failure(wanted, caught.value)) is UnavailableError
