from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reconciler.engines.base import CloneWork
from reconciler.engines.mysql.product import native_hash
from reconciler.engines.mysql.users import _hosts, _place
from reconciler.errors import UnsupportedError
from reconciler.ids import CloneName, ServerName

if TYPE_CHECKING:
    from reconciler.state.observed import SnapshotManifest


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
        ("10.%", None),
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


def test_the_server_is_given_what_it_keeps_of_a_password() -> None:
    assert native_hash("secret") == "*14E65567ABDB5135D0CFD9A70B3032C179A49EE7"  # SELECT PASSWORD('secret')
