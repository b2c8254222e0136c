from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from reconciler.errors import PermanentError
from reconciler.ids import ServerName
from reconciler.runtimes.logs import ServerLogs

if TYPE_CHECKING:
    from pathlib import Path

SHOP = ServerName("shop.1")


@pytest.fixture
def logs(tmp_path: Path) -> ServerLogs:
    return ServerLogs(tmp_path / "logs", limit=1000)


def write(logs: ServerLogs, *lines: str) -> None:
    with logs.path(SHOP).open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


def test_the_tail_is_the_last_lines_oldest_first(logs: ServerLogs) -> None:
    write(logs, "a", "b", "c")
    assert logs.tail(SHOP, 2) == ["b", "c"]
    assert logs.tail(SHOP, 9) == ["a", "b", "c"]


def test_the_tail_of_a_long_log_is_exact(logs: ServerLogs) -> None:
    write(logs, *(f"line {number}" for number in range(100_000)))
    assert logs.tail(SHOP, 20_000) == [f"line {number}" for number in range(80_000, 100_000)]


def test_the_tail_of_one_endless_line_is_bounded(logs: ServerLogs) -> None:
    write(logs, "x" * 20_000_000)
    (line,) = logs.tail(SHOP, 5)
    assert len(line) < 9_000_000


def test_a_log_that_outgrew_its_limit_is_moved_aside_and_the_tail_reads_across(logs: ServerLogs) -> None:
    write(logs, *(f"line {number}" for number in range(200)))
    logs.rotate()
    write(logs, "newest")
    assert logs.path(SHOP).read_text() == "newest\n"
    assert logs.tail(SHOP, 3) == ["line 198", "line 199", "newest"]


def test_a_server_goes_on_writing_to_the_same_file_after_rotation(logs: ServerLogs) -> None:
    with logs.path(SHOP).open("ab", buffering=0) as server:
        server.write(b"x" * 2000 + b"\n")
        logs.rotate()
        server.write(b"after\n")
    assert logs.path(SHOP).read_text() == "after\n"


def test_rotated_logs_are_few_bounded_and_private(logs: ServerLogs) -> None:
    for number in range(6):
        write(logs, f"round {number} " + "x" * 5000, f"end {number}")
        logs.rotate()
    old = sorted(logs.path(SHOP).parent.glob("shop.1.log.*"))
    assert [path.name for path in old] == ["shop.1.log.1", "shop.1.log.2", "shop.1.log.3"]
    assert [path.read_text().splitlines()[-1] for path in old] == ["end 5", "end 4", "end 3"]
    assert all(path.stat().st_size <= 1000 for path in old)
    assert {stat.S_IMODE(path.stat().st_mode) for path in old} == {0o600}


def test_a_small_log_is_left_alone(logs: ServerLogs) -> None:
    write(logs, "small")
    logs.rotate()
    assert [path.name for path in logs.path(SHOP).parent.iterdir()] == ["shop.1.log"]


def test_rotation_without_any_log_does_nothing(tmp_path: Path) -> None:
    ServerLogs(tmp_path / "never made").rotate()
    assert list(tmp_path.iterdir()) == []


def test_removing_removes_rotated_logs_of_this_server_only(logs: ServerLogs) -> None:
    write(logs, "x" * 2000)
    logs.rotate()
    other = logs.path(ServerName("shop.10"))
    other.write_text("stays")
    logs.remove(SHOP)
    assert list(other.parent.iterdir()) == [other]


def test_since_returns_only_what_came_later_and_is_bounded(logs: ServerLogs) -> None:
    write(logs, "before")
    offset = logs.size(SHOP)
    write(logs, "after")
    assert logs.since(SHOP, offset, 100) == "after"
    assert logs.since(SHOP, offset, 3) == "er"
    assert logs.since(ServerName("nobody"), 0, 10) == ""


def test_the_directory_is_private(logs: ServerLogs) -> None:
    assert stat.S_IMODE(logs.path(SHOP).parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["../escape", "a/b", ".hidden"])
def test_a_name_never_leads_out_of_the_directory(logs: ServerLogs, name: str) -> None:
    with pytest.raises(PermanentError, match="no name of a server"):
        logs.path(ServerName(name))
