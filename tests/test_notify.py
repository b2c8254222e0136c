"""What a service manager hears of the loop."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from reconciler import notify

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def manager(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    path = tmp_path_factory.mktemp("n") / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        yield listener


def test_the_manager_hears_of_the_start_of_every_pass_and_of_the_end(manager: socket.socket) -> None:
    notify.ready("looking\nfor the first time")
    notify.alive("all well")
    notify.alive()
    notify.stopping()
    heard = [manager.recv(1000).decode() for _ in range(4)]
    assert heard[:3] == ["READY=1\nSTATUS=looking for the first time", "WATCHDOG=1\nSTATUS=all well", "WATCHDOG=1"]
    assert heard[3].startswith("STOPPING=1\n")


def test_a_manager_that_is_gone_or_that_there_never_was_fails_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify.ready("x")
    for address in (str(tmp_path / "gone"), "@nobody/listens", "vsock:2:1", "x" * 500):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        notify.alive()


@pytest.mark.parametrize(("value", "expected"), [("30000000", 10.0), ("", None), ("x", None), ("0", None)])
def test_the_watchdog_hears_three_words_in_its_time(
    monkeypatch: pytest.MonkeyPatch, value: str, expected: float | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", value)
    assert notify.longest_silence() == expected
