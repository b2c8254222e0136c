from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pymysql
import pytest

from reconciler.engines.base import CloneWork, UserWish
from reconciler.engines.mysql import server, users
from reconciler.engines.mysql.engine import MariaDbEngine
from reconciler.engines.mysql.product import MARIADB, native_hash
from reconciler.engines.mysql.users import _hosts, _place
from reconciler.errors import PermanentError, UnsupportedError
from reconciler.ids import CloneName, ServerName
from reconciler.state.servers import Endpoint

if TYPE_CHECKING:
    from reconciler.state.observed import SnapshotManifest
    from tests.engines.mysql.conftest import MariaDbHarness

_APP = UserWish("app", "owner", "correct horse")
_BOSS = UserWish("boss", "superuser", "battery staple")
GONE = r"Lost connection|gone away|was killed"


@pytest.fixture
def work() -> CloneWork:
    snapshot: SnapshotManifest = None  # type: ignore[assignment] # not looked at
    here = Path("/nowhere")
    return CloneWork(
        clone=CloneName("dev"), server=ServerName("dev.1"), directory=here, run_directory=here, snapshot=snapshot
    )


def test_on_loopback_accounts_are_for_every_host(work: CloneWork) -> None:
    assert _hosts(work) == {"%": False}


def test_elsewhere_accounts_are_for_this_host_and_for_networks_that_are_let_in(work: CloneWork) -> None:
    found = _hosts(replace(work, host="0.0.0.0", allow=("10.1.0.0/16", "192.0.2.7/32")))
    assert found == {
        "127.0.0.0/255.0.0.0": False,
        "::1": False,
        "10.1.0.0/255.255.0.0": True,
        "192.0.2.7": True,
    }


def test_in_a_container_accounts_are_for_its_neighbours_and_for_programs_in_it_too(work: CloneWork) -> None:
    found = _hosts(replace(work, host="10.0.0.7", contained=True, allow=("10.1.0.0/16",)), ("172.18.0.0/16",))
    assert found == {
        "127.0.0.0/255.0.0.0": False,
        "::1": False,
        "localhost": False,
        "172.18.0.0/255.255.0.0": False,
        "10.0.0.7": False,
        "10.1.0.0/255.255.0.0": True,
    }


@pytest.mark.parametrize(
    ("host", "place"),
    [
        ("10.1.0.0/255.255.0.0", "10.1.0.0/255.255.0.0"),
        ("10.1.2.3", "10.1.0.0/255.255.0.0"),
        ("10.1.2.%", "10.1.0.0/255.255.0.0"),
        ("fd00::7", "fd00::7"),
        ("10.1.%.%", "10.1.0.0/255.255.0.0"),
        ("10.%", None),
        ("10.%.1.1", None),
        ("%.1.2.3", None),
        ("10.0.0.0/255.0.0.0", None),
        ("fd00::8", None),
        ("%", None),
        ("%.example.com", None),
    ],
)
def test_an_account_of_production_is_opened_where_it_lets_in_nobody_else(host: str, place: str | None) -> None:
    assert _place(host, {"10.1.0.0/255.255.0.0": True, "fd00::7": True}) == place
    assert _place(host, {"%": False}) == "%"


def test_a_network_that_accounts_cannot_be_for_is_refused(work: CloneWork) -> None:
    with pytest.raises(UnsupportedError, match="fd00::/8"):
        _hosts(replace(work, host="::", allow=("fd00::/8",)))


def test_what_accounts_cannot_be_for_is_refused_before_a_server_is_stopped_for_it(
    work: CloneWork, tmp_path: Path
) -> None:
    place = replace(work, directory=tmp_path, run_directory=tmp_path)
    with pytest.raises(UnsupportedError, match="fd00::/8"):
        MariaDbEngine().clone_server(replace(place, host="::", allow=("fd00::/8",)))
    assert list(tmp_path.iterdir()) == []


def test_the_server_is_given_what_it_keeps_of_a_password() -> None:
    assert native_hash("secret") == "*14E65567ABDB5135D0CFD9A70B3032C179A49EE7"  # SELECT PASSWORD('secret')


@pytest.fixture
def shop(mariadb: MariaDbHarness) -> CloneWork:
    """A clone that was delivered on loopback and is stopped; its view works with the rights of ``app@%``."""
    work = replace(mariadb.clone_of_shop(), users=("app", "boss"))
    with mariadb.serving(mariadb.engine.clone_server(work)):
        mariadb.engine.deliver(work, [_APP, _BOSS], [])
        mariadb.rows(at(work, _APP), _APP.password, "CREATE VIEW items AS SELECT count(*) FROM item")
    return work


def at(work: CloneWork, user: UserWish) -> Endpoint:
    return Endpoint("127.0.0.1", work.port or 0, "shop", user.name)


def opened(work: CloneWork, user: UserWish) -> set[str]:
    """Return the hosts that accounts of a user with the rights of its role let in."""
    with server.connect(work) as admin:
        hosts = {login.host for login in MARIADB.logins(admin) if login.name == user.name}
        return {host for host in hosts if users._role_of(admin, user.name, host) == user.role}


def test_an_account_that_was_closed_as_a_definer_is_opened_again_where_it_is_wanted_again(
    mariadb: MariaDbHarness, shop: CloneWork
) -> None:
    here = {"127.0.0.0/255.0.0.0", "::1"}
    for host, hosts in (("0.0.0.0", here), ("127.0.0.1", {"%"} | here)):
        work = replace(shop, host=host)
        with mariadb.serving(mariadb.engine.clone_server(work)):
            assert mariadb.rows(at(work, _APP), _APP.password, "SELECT * FROM items") == [(1,)]
            assert (opened(work, _APP), opened(work, _BOSS)) == (hosts, hosts)


def test_a_network_that_is_let_in_again_opens_what_was_closed_within_it(
    mariadb: MariaDbHarness, shop: CloneWork
) -> None:
    here = {"127.0.0.0/255.0.0.0", "::1"}
    for network, hosts in (
        ("10.1.2.3/32", {"10.1.2.3"}),
        ("10.2.0.0/16", {"10.2.0.0/255.255.0.0"}),
        ("10.1.0.0/16", {"10.1.0.0/255.255.0.0", "10.1.2.3"}),
    ):
        work = replace(shop, host="0.0.0.0", allow=(network,))
        with mariadb.serving(mariadb.engine.clone_server(work)):
            assert opened(work, _APP) == hosts | here
            definer = "CREATE OR REPLACE DEFINER = app@'10.1.2.3' VIEW shop.far AS SELECT 1"
            mariadb.rows(at(work, _BOSS), _BOSS.password, definer)


def test_who_came_in_where_nobody_is_let_in_any_more_goes(mariadb: MariaDbHarness, shop: CloneWork) -> None:
    with mariadb.serving(mariadb.engine.clone_server(shop)):
        published = replace(shop, host="0.0.0.0")
        with closing(mariadb.connect(at(shop, _APP), _APP.password)) as before:
            mariadb.engine.deliver(published, [_APP, _BOSS], [])
            with pytest.raises(pymysql.Error, match=GONE):
                before.query("SELECT 1")
        with closing(mariadb.connect(at(shop, _APP), _APP.password)) as after:
            mariadb.engine.deliver(published, [_APP, _BOSS], [])
            assert after.query("SELECT 1") == 1
            mariadb.engine.deliver(shop, [_APP, _BOSS], [])
            assert after.query("SELECT 1") == 1
        with closing(mariadb.connect(at(shop, _APP), _APP.password)) as late:
            assert users.admitted(published, MARIADB)
            with pytest.raises(pymysql.Error, match=GONE):
                late.query("SELECT 1")


def test_accounts_that_somebody_broke_are_told_as_an_error_of_ours(mariadb: MariaDbHarness, shop: CloneWork) -> None:
    spec = mariadb.engine.clone_server(shop)
    with mariadb.serving(spec):
        mariadb.rows(at(shop, _BOSS), _BOSS.password, "RENAME TABLE mysql.db TO mysql.elsewhere")
        with pytest.raises(PermanentError, match=r"the server refused a statement: .*mysql\.db"):
            spec.ready()
