"""What is asked of an image of containers before a server of MariaDB runs from it, and what is written for one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reconciler.engines.base import CloneWork
from reconciler.engines.mysql import contained, server, settings
from reconciler.engines.mysql.engine import MariaDbEngine, MysqlEngine
from reconciler.engines.mysql.product import MARIADB
from reconciler.errors import UnavailableError, UnsupportedError
from reconciler.ids import CloneName, ServerName
from reconciler.state.servers import Software

if TYPE_CHECKING:
    from reconciler.state.observed import SnapshotManifest


SNAPSHOT: SnapshotManifest = None  # type: ignore[assignment] # not looked at
WORK = CloneWork(
    clone=CloneName("dev"),
    server=ServerName("dev.1"),
    directory=Path("/nowhere"),
    run_directory=Path("/nowhere"),
    snapshot=SNAPSHOT,
    contained=True,
)


def image(answer: str | None) -> Software:
    def ask(_words: tuple[str, ...]) -> str:
        if answer is None:
            raise UnsupportedError("mariadbd does not run in the container image: no such file")
        return answer

    return Software("registry.example/db:1", "sha256:0123", {}, None, ask)


OURS = image("mariadbd  Ver 11.4.2-MariaDB-ubu2404 for debian-linux-gnu on x86_64 (mariadb.org binary distribution)")


def test_an_image_serves_data_of_its_own_version_only() -> None:
    assert contained.installed(OURS, MARIADB, "11.4").version == "11.4.2"
    with pytest.raises(UnsupportedError, match=r"db:1 runs MariaDB 11\.4\.2, and the data is of version 10\.11"):
        contained.installed(OURS, MARIADB, "10.11")


@pytest.mark.parametrize("answer", [None, "mysqld  Ver 8.4.1 for Linux on x86_64", "postgres (PostgreSQL) 18.1"])
def test_an_image_of_something_else_is_refused_by_its_name(answer: str | None) -> None:
    with pytest.raises(UnsupportedError, match=r"the container image registry\.example/db:1 does not run MariaDB"):
        contained.installed(image(answer), MARIADB, "11.4")


def test_elsewhere_than_on_loopback_a_container_listens_where_its_neighbours_can_be_told_apart(tmp_path: Path) -> None:
    for host, address in (("127.0.0.1", "*"), ("::1", "*"), ("0.0.0.0", "0.0.0.0"), ("10.0.0.7", "0.0.0.0")):
        work = replace(WORK, directory=tmp_path, run_directory=tmp_path, host=host, port=6000)
        settings.write_clone(work, MARIADB, {})
        assert f'bind_address = "{address}"' in server.settings_file(work).read_text().splitlines()


ROUTES = """\
Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	010012AC	0003	0	0	0	00000000	0	0	0
eth0	000012AC	00000000	0001	0	0	0	0000FFFF	0	0	0
eth1	00026464	00000000	0001	0	0	0	00FEFFFF	0	0	0
eth1	0000000A	01026464	0003	0	0	0	000000FF	0	0	0
"""
"""Of a container in two networks, with a default route and one to elsewhere by way of a neighbour."""


def test_neighbours_are_in_networks_that_are_reached_without_a_gateway() -> None:
    assert contained.attached(ROUTES) == ("172.18.0.0/16", "100.100.2.0/23")
    assert contained.attached(ROUTES.partition("\n")[0]) == ()  # a container without a network


def test_a_server_that_cannot_be_seen_from_here_has_no_neighbours_that_could_be_let_in() -> None:
    with pytest.raises(UnavailableError, match="run the reconciler on the host of the daemon"):
        contained.neighbours(0)


def test_the_makers_image_is_of_the_version_that_is_asked_for() -> None:
    assert MariaDbEngine().container_image("11.4").reference == "mariadb:11.4"
    assert MariaDbEngine().container_image("11.4").user == "mysql"
    with pytest.raises(UnsupportedError, match=r"MySQL 8\.4 in containers is not supported"):
        MysqlEngine().container_image("8.4")


def test_settings_name_files_where_the_container_has_them(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    work = replace(WORK, directory=tmp_path, run_directory=run, port=6000)
    settings.write_clone(work, MARIADB, {})
    server.prepare_admin(work, MARIADB)
    written = server.settings_file(work).read_text().splitlines()
    assert {'port = "3306"', 'bind_address = "*"', 'socket = "/run/mysqld/mysqld.sock"'} <= set(written)
    assert [line for line in written if str(run) in line] == []
    place = contained.place(work, OURS)
    named = {path for line in written if (path := line.partition(" = ")[2].strip('"')).startswith("/")}
    assert [path for path in named if not any(path.startswith(f"{target}/") for target in map(str, place.mounts))] == []
    assert server.socket(work).parent == place.mounts[contained.RUN] == run


def test_the_probe_of_a_containers_health_knows_a_password_that_opens_nothing_else(tmp_path: Path) -> None:
    work = replace(WORK, directory=tmp_path, run_directory=tmp_path)
    told = server.prepare_admin(work, MARIADB).read_text()
    probe = (tmp_path / "health.cnf").read_text()
    assert "reconciler_health" in told
    assert "GRANT" not in told
    assert (tmp_path / "admin.key").read_text() not in probe
    server.prepare_admin(work, MARIADB)
    assert (tmp_path / "health.cnf").read_text() == probe  # a server that runs goes on knowing it
