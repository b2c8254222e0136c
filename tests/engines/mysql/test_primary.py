from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from reconciler.engines.base import CloneWork
from reconciler.engines.mysql import primary, server
from reconciler.engines.mysql.activity import activity_of
from reconciler.engines.mysql.failures import SqlError
from reconciler.engines.mysql.primary import Primary, failure, parse, refusal
from reconciler.errors import BusyError, SecretError, SourceError, UnavailableError
from reconciler.ids import CloneName, ServerName
from reconciler.testing.storage import snapshot_manifest

if TYPE_CHECKING:
    from pathlib import Path

_HERE = Primary("dsn", "me", "db.example", password="hunter2")


def test_a_url_says_where_a_primary_is_and_how_to_log_in() -> None:
    assert parse("mysql://me:a%2Fb%40@db.example/shop\n", "dsn") == Primary("dsn", "me", "db.example", password="a/b@")
    assert parse("mariadb://me@[::1]:3307/?ssl-mode=verify_identity&ssl_ca=/etc/ca.pem", "dsn") == Primary(
        "dsn", "me", "::1", 3307, tls="VERIFY_IDENTITY", ca="/etc/ca.pem"
    )
    assert parse("mysql://me@localhost/?socket=/run/m.sock", "dsn").where == "/run/m.sock"
    assert parse("mysql://me@h/?ssl-ca=/etc/ca.pem", "dsn").tls == "VERIFY_CA"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@db.example/",
        "mysql://me:hunter2/@db.example/",
        "mysql://me:hunter2@x@db.example/",
        "mysql://db.example/",
        "mysql://me:hunter2@db.example:port/",
        "mysql://me:hunter2@db.example/?password=hunter2",
        "mysql://me:hunter2@db.example/?ssl-mode=hunter2",
        "mysql://me:hun#ter2@db.example/",
        "hunter2",
        "",
    ],
)
def test_a_secret_that_holds_no_url_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(SecretError) as caught:
        parse(url, "dsn")
    assert "hunter2" not in str(caught.value)
    assert "dsn" in str(caught.value)


def test_nothing_shows_a_password() -> None:
    assert "hunter2" not in repr(_HERE)
    assert "hunter2" not in str(refusal(_HERE, 1045, "Access denied: hunter2"))


@pytest.mark.parametrize(
    ("code", "kind"),
    [(1142, SourceError), (1412, UnavailableError), (2013, UnavailableError), (1205, BusyError), (1030, SourceError)],
)
def test_what_another_try_may_change_is_tried_again(code: int, kind: type[Exception]) -> None:
    assert type(failure(_HERE, SqlError(code, "something"))) is kind


def test_a_primary_that_takes_connections_and_says_nothing_is_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"mysql://me:hunter2@127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(UnavailableError) as caught, primary.look(parse(url, "dsn")):
            pass
    assert caught.value.reason == "PrimaryUnavailable"


def test_a_server_of_ours_that_hangs_is_unavailable(tmp_path: Path) -> None:
    work = CloneWork(
        clone=CloneName("dev"),
        server=ServerName("dev.1"),
        directory=tmp_path,
        run_directory=tmp_path,
        snapshot=snapshot_manifest(),
    )
    (tmp_path / "admin.key").write_text("hunter2")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(server.socket(work)))
        silent.listen()
        with pytest.raises(UnavailableError, match="cannot connect to server"):
            activity_of(work)
