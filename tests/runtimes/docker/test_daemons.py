"""Daemons of containers that are slow, that hang, and that are exchanged for others meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reconciler.runtimes.docker.daemon import Daemon, DaemonError
from tests.runtimes.docker.between import between
from tests.runtimes.docker.conftest import configure
from tests.support import clone

if TYPE_CHECKING:
    from tests.containers import ContainerDaemon
    from tests.runtimes.docker.conftest import Product
    from tests.support import World

pytestmark = [pytest.mark.root, pytest.mark.postgres, pytest.mark.long]

OLD = "1.40"


def test_a_slow_daemon_takes_its_time_and_nothing_fails(shop: World, daemon: ContainerDaemon, product: Product) -> None:
    with between(daemon) as it:
        configure(shop, daemon, product, socket=str(it.socket))
        it.delay = 0.5
        shop.write("dev.yaml", clone("dev", runtime="docker"))
        shop.converge()
        assert product.rows(shop, "dev", "SELECT count(*) FROM product") == [(3,)]
        shop.remove("dev.yaml")
        shop.converge()
        assert daemon.names() == set()


def test_a_daemon_that_hangs_is_unknown_and_what_it_serves_stays(
    shop: World, daemon: ContainerDaemon, product: Product
) -> None:
    with between(daemon) as it:
        configure(shop, daemon, product, socket=str(it.socket))
        shop.write("dev.yaml", clone("dev", runtime="docker"))
        shop.write("gone.yaml", clone("gone", runtime="docker"))
        shop.converge()
        before = daemon.names()
        it.silent = True
        shop.remove("gone.yaml")
        shop.write("beside.yaml", clone("beside"))
        hung = shop.apply()
        assert hung.actions == ["create Clone/beside"]
        assert hung.errors == {}
        condition = hung.condition("Clone/dev", "Ready")
        assert condition is not None
        assert condition[:2] == ("Unknown", "RuntimeUnavailable")
        assert daemon.names() == before
        assert product.rows(shop, "dev", "SELECT count(*) FROM product") == [(3,)]
        it.silent = False
        assert shop.apply().require().actions == ["delete Clone/gone"]


def test_a_daemon_that_is_exchanged_for_an_older_one_costs_one_answer(daemon: ContainerDaemon) -> None:
    with between(daemon) as it:
        asked = Daemon(it.socket)
        with asked._asked(1.0), asked._asked(1.0):  # two clients that nobody uses afterwards
            pass
        it.version = OLD
        with pytest.raises(DaemonError, match=r"client version .* is too new"):
            asked.containers()
        assert [facts["Id"] for facts in asked.containers()] == []
        assert {client.api_version for client in asked._idle} == {OLD}
