"""The runtime without servers hands out what is there, and nothing that would have to run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from reconciler.errors import CancelledError, PermanentError, UnsupportedError
from reconciler.ids import FILES, ServerName, VolumeId
from reconciler.proc import CancelToken
from reconciler.runtimes.none import FilesRuntime
from reconciler.state.servers import ServerSpec

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def runtime() -> FilesRuntime:
    return FilesRuntime(FILES)


@pytest.fixture
def files(tmp_path: Path) -> ServerSpec:
    return ServerSpec(name=ServerName("shop.1"), argv=(), directory=tmp_path, ready=lambda: True)


def test_starting_files_runs_nothing_and_stopping_them_ends_nothing(runtime: FilesRuntime, files: ServerSpec) -> None:
    runtime.start(files)
    runtime.stop(files.name, spec=files)
    assert (runtime.servers(), runtime.logs(files.name), runtime.traits.servers) == ({}, [], False)


def test_what_needs_a_server_is_refused(runtime: FilesRuntime, files: ServerSpec) -> None:
    with pytest.raises(UnsupportedError, match="needs a server"):
        runtime.start(replace(files, argv=("postgres",)))


def test_files_that_cannot_be_used_are_not_handed_out(runtime: FilesRuntime, files: ServerSpec) -> None:
    with pytest.raises(PermanentError, match="cannot be used"):
        runtime.start(replace(files, ready=lambda: False))


def test_cancelled_work_hands_out_nothing(runtime: FilesRuntime, files: ServerSpec) -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(CancelledError):
        runtime.start(files, cancel=token)


def test_there_are_no_ports_and_no_accounts_of_their_own(runtime: FilesRuntime) -> None:
    with pytest.raises(UnsupportedError):
        runtime.free_port(frozenset())
    with pytest.raises(UnsupportedError):
        runtime.account("own", VolumeId("shop.1"), frozenset())
    assert runtime.account("clone", VolumeId("shop.1"), frozenset()) is None
