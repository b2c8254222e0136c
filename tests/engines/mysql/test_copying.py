"""A live primary is copied by SQL: as of one moment, with everything in it, by a user with few rights."""

from __future__ import annotations

import hashlib
import threading
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest

from reconciler.engines.mysql import mirror, moment, primary
from reconciler.engines.mysql.failures import SqlError
from reconciler.engines.mysql.product import MARIADB
from reconciler.errors import NotInstalledError, SourceError, UnavailableError, UnsupportedError
from reconciler.proc import CancelToken
from tests.engines.mysql.live import COPIES, PASSWORD, Production, certificate
from tests.engines.mysql.production import HELD, Answers, answers, script
from tests.followed.network import network
from tests.support import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from reconciler.engines.base import BuildSession, LocalSource
    from reconciler.engines.mysql.link import Link
    from tests.engines.mysql.conftest import MariaDbHarness

_ACCOUNTS = """
CREATE DATABASE bank; CREATE DATABASE vault;
CREATE TABLE bank.account (id int PRIMARY KEY, amount int) ENGINE=InnoDB;
CREATE TABLE vault.account LIKE bank.account;
INSERT INTO bank.account SELECT seq, 100 FROM seq_1_to_2000;
INSERT INTO vault.account SELECT seq, 100 FROM seq_1_to_2000;
CREATE TABLE bank.papers (id int PRIMARY KEY, scan longblob, f float, e enum('a', 'b'));
SET sql_mode = '';
INSERT INTO bank.papers VALUES (1, REPEAT(x'00275c0aff', 1500000), 0.1, 'x'), (2, 'small', NULL, 'b');
CREATE TABLE bank.idents (u uuid PRIMARY KEY, a inet6);
INSERT INTO bank.idents VALUES ('123e4567-e89b-12d3-a456-426655440000', '2001:db8::ff00:42:8329');
CREATE VIEW bank.broken AS SELECT id FROM bank.papers;
CREATE TABLE bank.gone (a int); CREATE VIEW bank.lost AS SELECT a FROM bank.gone; DROP TABLE bank.gone;
"""
_EXACT: Answers = {
    "SELECT length(scan), md5(scan), f = 0.1e0 OR f IS NULL, e + 0 FROM bank.papers ORDER BY id": [
        (7500000, hashlib.md5(bytes.fromhex("00275c0aff") * 1500000).hexdigest(), 0, 0),
        (5, hashlib.md5(b"small").hexdigest(), 1, 2),
    ],
    "SELECT cast(u AS char), cast(a AS char) FROM bank.idents": [
        ("123e4567-e89b-12d3-a456-426655440000", "2001:db8::ff00:42:8329")
    ],
    "SELECT cast(cast(f AS double) AS char) FROM bank.papers WHERE id = 1": [("0.10000000149011612",)],
    "SELECT count(*) FROM bank.broken": [(2,)],
}
_SUM = "SELECT (SELECT sum(amount) FROM bank.account) + (SELECT sum(amount) FROM vault.account)"


@pytest.fixture(scope="module")
def production(mariadb: MariaDbHarness) -> Iterator[Production]:
    made = Production(mariadb.volume(), mariadb.account(), setup=(), port=mariadb.free_port())
    try:
        made.load(script() + _ACCOUNTS)
        made.let_in(*COPIES)
        yield made
    finally:
        made.stop(kill=True)


@contextmanager
def moving(production: Production) -> Iterator[None]:
    """Have money moved between the two databases all the time, in transactions."""
    stop = threading.Event()

    def work() -> None:
        with production.connect() as connection, connection.cursor() as cursor:
            number = 0
            while not stop.is_set():
                number = number % 2000 + 1
                for statement in (
                    "BEGIN",
                    f"UPDATE bank.account SET amount = amount - 1 WHERE id = {number}",
                    f"UPDATE vault.account SET amount = amount + 1 WHERE id = {2001 - number}",
                    "COMMIT",
                ):
                    cursor.execute(statement)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_primary_that_is_written_to_becomes_a_clone_of_one_moment_with_all_that_it_holds(
    mariadb: MariaDbHarness, production: Production
) -> None:
    work = replace(mariadb.build_work(source=production.source()), jobs=3)
    with moving(production):
        before = datetime.now(UTC)
        snapshot = mariadb.build(work)
    assert snapshot.databases == ("bank", "depot", "shop", "vault")
    wanted = {**HELD, **_EXACT, _SUM: [(400000,)]}
    assert answers(mariadb, work.directory, snapshot, wanted) == wanted
    assert production.sessions() == []
    told = "; ".join(snapshot.source_notes)
    assert "shop.old (MyISAM)" in told
    assert "view bank.lost is not in it" in told
    assert snapshot.facts["binary_log"].startswith("pid-bin.0")
    assert snapshot.facts["gtid"].startswith("0-7-")
    assert snapshot.data_as_of is not None
    assert before <= snapshot.data_as_of <= datetime.now(UTC)


def test_a_primary_is_the_same_until_something_is_committed(mariadb: MariaDbHarness, production: Production) -> None:
    before = mariadb.engine.identify(production.source())
    assert mariadb.engine.identify(production.source()) == before
    production.sql("INSERT INTO depot.shelf VALUES (1)")
    production.sql("DELETE FROM depot.shelf")
    assert mariadb.engine.identify(production.source()).input_id != before.input_id


def _named(source: LocalSource, *databases: str) -> LocalSource:
    assert source.primary is not None
    return replace(source, primary=replace(source.primary, databases=databases))


def test_who_may_not_see_everything_is_told_which_rights_are_missing(
    mariadb: MariaDbHarness, production: Production
) -> None:
    production.let_in("SELECT, SHOW VIEW, EVENT ON shop.*", "RELOAD ON *.*", user="few")
    with pytest.raises(SourceError, match=r"lacks rights .* TRIGGER ON `shop`\.\*; SELECT ON mysql\.proc") as caught:
        mariadb.engine.identify(_named(production.source(user="few"), "shop"))
    assert caught.value.reason == "PrimaryRefused"
    assert caught.value.hint == "GRANT TRIGGER ON `shop`.* TO it, and so on"


def test_without_the_right_to_hold_commits_the_binary_log_tells_the_moment(production: Production) -> None:
    production.let_in("SELECT, SHOW VIEW, TRIGGER, EVENT ON *.*", user="reader")
    here = primary.of_source(production.source(user="reader"))
    with moving(production), moment.opened(here, MARIADB, 3, CancelToken()) as found:
        totals = {str(session.value(_SUM)) for session in found.sessions}
        seen = {tuple(session.rows("SELECT amount FROM bank.account")) for session in found.sessions}
    assert (totals, len(seen)) == ({"400000"}, 1)


def test_a_wrong_password_a_missing_database_and_a_primary_that_is_away(
    mariadb: MariaDbHarness, production: Production
) -> None:
    with pytest.raises(SourceError, match=r"does not let us in: .*Access denied") as caught:
        mariadb.engine.identify(production.source(password="hunter2"))
    assert "hunter2" not in str(caught.value)
    with pytest.raises(SourceError, match=r"no database nothing .*; it shows: bank, depot, shop, vault"):
        mariadb.engine.identify(_named(production.source(), "nothing"))
    with pytest.raises(UnavailableError, match="cannot be reached") as away:
        mariadb.engine.identify(production.source(port=mariadb.free_port()))
    assert away.value.reason == "PrimaryUnavailable"
    assert PASSWORD not in str(away.value)


def test_a_primary_without_tls_is_refused_where_it_is_required(mariadb: MariaDbHarness, production: Production) -> None:
    with pytest.raises(SourceError, match="does not let us in"):
        mariadb.engine.identify(production.source(options="?ssl-mode=REQUIRED"))


def test_a_version_that_is_older_than_the_primary_is_refused(mariadb: MariaDbHarness, production: Production) -> None:
    work = replace(mariadb.build_work(source=production.source()), version="10.4")
    with pytest.raises((UnsupportedError, NotInstalledError), match=r"10\.4"):
        mariadb.engine.prepare(work)


@contextmanager
def copying(mariadb: MariaDbHarness, source: LocalSource, *, jobs: int = 2) -> Iterator[BuildSession]:
    """Have a build of a primary whose databases are about to be copied."""
    work = replace(mariadb.build_work(source=_named(source, "bank", "vault")), databases=("bank", "vault"), jobs=jobs)
    mariadb.engine.prepare(work)
    with mariadb.serving(mariadb.engine.build_server(work)), mariadb.engine.session(work) as session:
        yield session


@pytest.mark.long
def test_a_network_that_is_cut_ends_the_copy_and_leaves_nothing_at_the_primary(
    mariadb: MariaDbHarness, production: Production
) -> None:
    with network(production.port or 0) as way, copying(mariadb, production.source(port=way.port)) as session:
        way.cut_after(4_000_000)
        with pytest.raises(UnavailableError, match="was interrupted") as caught:
            session.restore()
    assert caught.value.reason == "PrimaryUnavailable"
    until(lambda: production.sessions() == [], what="the end of the sessions")


def test_a_table_that_is_changed_before_it_was_read_begins_everything_anew(production: Production) -> None:
    here = primary.of_source(production.source())
    with moment.opened(here, MARIADB, 1, CancelToken()) as found:
        production.sql("TRUNCATE vault.account")
        try:
            with pytest.raises(UnavailableError) as caught, primary.told(here):
                found.sessions[0].rows("SELECT * FROM vault.account")
        finally:
            production.sql("INSERT INTO vault.account SELECT id, 100 FROM bank.account")
    assert caught.value.reason == "SourceChanged"


@pytest.mark.long
def test_a_primary_that_dies_in_the_middle_is_waited_for(mariadb: MariaDbHarness, production: Production) -> None:
    with copying(mariadb, production.source()) as session:

        def kill() -> None:
            until(lambda: len(production.sessions()) > 1, what="sessions that read")
            production.stop(kill=True)

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            with pytest.raises(UnavailableError) as caught:
                session.restore()
        finally:
            killer.join()
            production.start()
    assert caught.value.reason == "PrimaryUnavailable"
    assert PASSWORD not in str(caught.value)


def test_a_primary_that_hangs_in_the_middle_of_a_look_is_away(production: Production) -> None:

    def look() -> None:
        with primary.look(primary.of_source(production.source())) as link:
            production.freeze()
            link.value("SELECT 1")

    try:
        with pytest.raises(UnavailableError) as caught:
            look()
    finally:
        production.thaw()
    assert caught.value.reason == "PrimaryUnavailable"


def test_a_mirror_whose_primary_cannot_be_asked_uses_tls_as_it_did_and_guesses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(primary, "look", Mock(side_effect=UnavailableError("it is away")))
    here, work = primary.parse("mysql://me@db.example/", "dsn"), Mock()
    assert mirror._is_private(work, here, {"tls": "1"})
    assert not mirror._is_private(work, here, {"tls": "0"})
    with pytest.raises(UnavailableError):
        mirror._is_private(work, here, {})


def test_a_primary_that_is_lost_while_it_is_asked_whether_it_is_private_is_away(
    mariadb: MariaDbHarness, production: Production, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(link: Link) -> bool:
        with suppress(SqlError):
            link.rows("KILL CONNECTION_ID()")
        return bool(link.rows("SELECT 1"))

    monkeypatch.setattr(primary, "_must_be_private", lambda _: True)
    monkeypatch.setattr(primary, "is_private", ended)
    with pytest.raises(UnavailableError, match="was interrupted"):
        mariadb.engine.identify(production.source())


@pytest.mark.long
def test_tls_is_used_as_the_url_says(mariadb: MariaDbHarness, production: Production, tmp_path: Path) -> None:
    own, other = certificate(production.root, "own"), certificate(tmp_path, "other")
    production.stop()
    production.start(f"--ssl-cert={own[0]}", f"--ssl-key={own[1]}")
    try:
        production.sql("ALTER USER copier@'127.0.0.1' REQUIRE SSL")
        for accepted in ("", "?ssl-mode=REQUIRED", f"?ssl-mode=VERIFY_IDENTITY&ssl-ca={own[0]}"):
            assert mariadb.engine.identify(production.source(options=accepted)).size_bytes > 0
        for refused in ("?ssl-mode=DISABLED", f"?ssl-ca={other[0]}", "?ssl-mode=VERIFY_CA"):
            with pytest.raises(SourceError) as caught:
                mariadb.engine.identify(production.source(options=refused))
            assert caught.value.reason == "PrimaryRefused"
    finally:
        production.sql("ALTER USER copier@'127.0.0.1' REQUIRE NONE")
        production.stop()
        production.start()
