"""Servers that die, ports that others took, and a reconciler that starts anew."""

from __future__ import annotations

import os
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from reconciler.runtimes import processes
from tests.support import clone, until

if TYPE_CHECKING:
    from tests.support import World

pytestmark = pytest.mark.postgres

_LOAD = """
import psycopg, sys
with psycopg.connect(sys.argv[1], autocommit=True) as connection:
    number = 10
    while True:
        connection.execute("INSERT INTO product VALUES (%s, 'under load')", (number,))
        print(number, flush=True)
        number += 1
"""


def test_a_server_killed_under_load_is_started_again_and_has_what_was_committed(shop: World) -> None:
    import sys  # noqa: PLC0415 - the interpreter that runs the load

    url = shop.run("url", "dev").stdout.strip()
    load = subprocess.Popen([sys.executable, "-c", _LOAD, url], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert load.stdout is not None
    for _ in range(50):
        load.stdout.readline()
    shop.kill_server("dev")
    committed = [int(line) for line in load.communicate()[0].split()]
    result = shop.apply().require()
    assert result.actions == ["start Clone/dev"]
    assert shop.sql("dev", "SELECT name FROM product WHERE id = 4") == [("somebody's work",)]
    stored = shop.sql("dev", "SELECT max(id), count(*) FROM product WHERE id >= 10")[0]
    assert stored[0] >= committed[-1]
    assert stored[1] == stored[0] - 9
    assert shop.leftovers() == []


def test_a_new_reconciler_adopts_the_servers_that_run(shop: World) -> None:
    with shop.connect("dev") as connection:
        started = connection.execute("SELECT pg_postmaster_start_time()").fetchone()
        for _ in range(2):
            assert shop.apply().require().actions == []
        assert connection.execute("SELECT pg_postmaster_start_time()").fetchone() == started


def test_a_clone_goes_on_while_its_document_asks_for_a_setting_that_the_server_does_not_take(shop: World) -> None:
    with shop.connect("dev") as connection:
        shop.write("dev.yaml", clone("dev", parameters={"work_mem": "banana"}))
        for _ in range(2):
            shop.apply()
        stalled = shop.apply().condition("Clone/dev", "Stalled")
        assert stalled is not None
        assert 'invalid value for parameter "work_mem"' in stalled[2]
        assert connection.execute("SHOW work_mem").fetchone() == ("4MB",)
    shop.write("dev.yaml", clone("dev", parameters={"work_mem": "7MB"}))
    shop.apply().require()
    assert shop.sql("dev", "SHOW work_mem") == [("7MB",)]


def test_a_clone_goes_on_while_its_document_asks_for_settings_that_the_server_does_not_start_with(shop: World) -> None:
    shop.write("dev.yaml", clone("dev", parameters={"work_mem": "7MB", "wal_level": "minimal", "max_wal_senders": "3"}))
    shop.apply()
    assert shop.sql("dev", "SELECT name FROM product WHERE id = 4") == [("somebody's work",)]
    with shop.connect("dev") as connection:
        for _ in range(2):
            assert shop.apply().actions == []
        stalled = shop.apply().condition("Clone/dev", "Stalled")
        assert stalled is not None
        assert "max_wal_senders = 3" in stalled[2]
        assert 'WAL streaming ("max_wal_senders" > 0) requires "wal_level"' in stalled[2]
        assert connection.execute("SHOW work_mem").fetchone() == ("4MB",)
    shop.write("dev.yaml", clone("dev", parameters={"work_mem": "7MB"}))
    shop.apply().require()
    assert shop.sql("dev", "SHOW work_mem") == [("7MB",)]


def test_a_clone_whose_port_somebody_took_says_so_and_comes_when_it_is_free(shop: World) -> None:
    port = shop.ports[35]
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", port))
        stranger.listen()
        shop.write("taken.yaml", clone("taken", port=port))
        result = shop.apply()
        assert f"port {port}" in result.errors["Clone/taken"]
        assert result.errors.keys() == {"Clone/taken"}
        assert shop.generations("taken") == {}
        assert shop.leftovers() == []
    until(lambda: shop.apply().actions == [] and shop.generations("taken"), what="the clone")
    assert shop.sql("taken", "SELECT count(*) FROM product") == [(3,)]


def test_the_port_of_a_running_clone_is_never_given_to_another(shop: World) -> None:
    shop.stop_servers()
    shop.write("more.yaml", *(clone(f"more-{number}") for number in range(3)))
    shop.apply().require()
    ports = [shop.current(name).port for name in ("dev", "test", "more-0", "more-1", "more-2")]
    assert len(set(ports)) == 5
    assert shop.sql("dev", "SELECT count(*) FROM product") == [(4,)]


@pytest.mark.root
def test_what_a_superuser_left_running_ends_with_the_clone(shop: World) -> None:
    first = 2_000_000 + 10 * os.getpid()  # nobody else's: all that runs under own accounts is killed
    ports = f"{shop.ports.start}-{shop.ports.stop - 1}"
    shop.configure(runtimes={"process": {"ports": ports, "accounts": {"own": f"{first}-{first + 9}"}}})
    shop.write("own.yaml", clone("own", users=[{"name": "app", "role": "superuser"}]))
    shop.apply().require()
    uid = shop.current("own").account
    program = "cat >/dev/null; cd / && setsid env -i /bin/sleep 300 >/dev/null 2>&1 &"
    shop.sql("own", f"COPY (SELECT 1) TO PROGRAM '{program}'")
    until(lambda: "sleep" in _running_as(uid), what="a process outside of the server")
    shop.remove("own.yaml")
    shop.apply().require()
    assert _running_as(uid) == []
    assert shop.leftovers() == []


def _running_as(uid: int | None) -> list[str]:
    return [processes.title(process.pid) for process in processes.live() if uid in processes.user_ids(process.pid)]
