"""Repositories as they are in the field: huge, with names and bytes of all kinds, slow, and pushed to meanwhile."""

from __future__ import annotations

import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

import pytest

from reconciler.errors import InputError, UnavailableError
from reconciler.repository import Limits, open_repository
from tests.repository.shared import Remote, TlsServer

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.repository import Repository

HISTORY = 25_000
"""Commits; each brings a tree, a tree below it, and a blob: 100,000 objects."""
STALL_BYTES = 1_000_000
"""More than git keeps back before it writes."""


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    return Remote(tmp_path)


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    return tmp_path / "state" / "repository.git"


def opened(remote: Remote, mirror: Path, url: str = "", **limits: float) -> Repository:
    return open_repository(mirror=mirror, url=url or str(remote.path), path="specs", limits=Limits(**limits))  # type: ignore[arg-type] # numbers all


def import_history(remote: Remote, stream: bytes) -> None:
    """Have git take over commits that are written in the language of git-fast-import(1)."""
    subprocess.run(["git", "-C", remote.path, "fast-import", "--quiet", "--force"], input=stream, check=True)


def commit(number: int, files: dict[bytes, bytes], *, onto: bytes = b"") -> bytes:
    """Return one commit to ``main`` for git-fast-import; names are quoted there."""
    parts = [
        b"commit refs/heads/main\ncommitter Ada <ada@example.org> %d +0000\ndata 1\nx\n" % (1_700_000_000 + number)
    ]
    if onto:
        parts.append(b"from %s\n" % onto)
    for name, data in files.items():
        parts.append(b'M 100644 inline "%s"\ndata %d\n%s\n' % (name, len(data), data))
    return b"".join(parts) + b"\n"


@pytest.mark.long
def test_a_hundred_thousand_objects_cost_one_fetch_and_then_only_what_is_new(remote: Remote, mirror: Path) -> None:
    stream = (commit(n, {b"specs/s%03d/a.yaml" % (n % 500): b"a: %d\n" % n}) for n in range(HISTORY))
    import_history(remote, b"".join(stream))
    assert int(remote.git("rev-list", "--objects", "--all", "--count")) >= 100_000
    repository = opened(remote, mirror)

    first = repository.fetch()

    assert len(first.entries()) == 500
    assert first.read("s499/a.yaml") == b"a: 24999\n"
    assert len(repository.history(["s499/a.yaml", "s000/a.yaml"])) == 2
    before = sum(file.stat().st_size for file in mirror.rglob("*") if file.is_file())
    import_history(remote, commit(HISTORY, {b"specs/s000/a.yaml": b"a: new\n"}, onto=b"refs/heads/main^0"))
    assert repository.fetch().read("s000/a.yaml") == b"a: new\n"
    assert sum(file.stat().st_size for file in mirror.rglob("*") if file.is_file()) - before < 100_000


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"specs/a\\nb.yaml", r"'a\nb.yaml'"),
        (b"specs/a\\033[2J.yaml", r"'a\x1b[2J.yaml'"),
        (b"specs/\\377.yaml", "udcff"),
    ],
)
def test_a_name_that_breaks_lines_or_terminals_is_refused_in_words_that_do_not(
    remote: Remote, mirror: Path, name: bytes, shown: str
) -> None:
    repository = opened(remote, mirror)
    repository.mark_good(repository.fetch().revision)
    import_history(remote, commit(1, {name: b"a: 2\n"}, onto=b"refs/heads/main^0"))

    with pytest.raises(InputError) as caught:
        repository.fetch()

    assert shown in str(caught.value)
    assert str(caught.value).isprintable()
    good = repository.last_good()
    assert good is not None
    assert good.read("a.yaml") == b"a: 1\n"


def test_a_name_outside_of_ascii_is_one_like_others(remote: Remote, mirror: Path) -> None:
    remote.push({"specs/größe-日本.yaml": "a: 2\n"})
    assert opened(remote, mirror).fetch().read("größe-日本.yaml") == b"a: 2\n"


def test_bytes_that_are_no_text_are_handed_out_as_they_are(remote: Remote, mirror: Path) -> None:
    data = bytes(range(256)) * 3
    import_history(remote, commit(1, {b"specs/a.yaml": data}, onto=b"refs/heads/main^0"))
    assert opened(remote, mirror).fetch().read("a.yaml") == data


class SlowServer(TlsServer):
    """Serves bare repositories by git's own CGI program; stops in the middle of a pack until it is told to go on."""

    def __init__(self, root: Path, certificate: Path) -> None:
        go_on = self.go_on = threading.Event()
        stalled = self.stalled = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer(b"")

            def do_POST(self) -> None:
                self.answer(self.rfile.read(int(self.headers["Content-Length"])))

            def answer(self, body: bytes) -> None:
                path, _, query = self.path.partition("?")
                about = {
                    "GIT_PROJECT_ROOT": str(root),
                    "GIT_HTTP_EXPORT_ALL": "1",
                    "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                    "PATH_INFO": path,
                    "QUERY_STRING": query,
                    "REQUEST_METHOD": self.command,
                    "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                }
                done = subprocess.run(
                    ["git", "http-backend"], input=body, env=os.environ | about, capture_output=True, check=True
                )
                head, _, content = done.stdout.partition(b"\r\n\r\n")
                self.send_response(200)
                for line in head.decode().splitlines():
                    self.send_header(*line.split(": ", 1))
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[:STALL_BYTES])
                if len(content) > STALL_BYTES and not go_on.is_set():
                    self.wfile.flush()
                    stalled.set()
                    go_on.wait()
                self.wfile.write(content[STALL_BYTES:])

            def log_message(self, *args: object) -> None:
                pass

        super().__init__(Handler, certificate)

    def __exit__(self, *about: object) -> None:
        self.go_on.set()
        super().__exit__(*about)


def test_a_remote_that_stalls_in_the_middle_of_a_fetch_costs_its_time_and_nothing_else(
    remote: Remote, mirror: Path, certificate: Path
) -> None:
    objects = mirror / "objects"
    with SlowServer(remote.path.parent, certificate) as server:
        repository = opened(remote, mirror, f"{server.url}/remote.git", fetch_seconds=3)
        repository.mark_good(repository.fetch().revision)
        noise = {f"noise/{number}": os.urandom(STALL_BYTES // 100).hex() for number in range(200)}
        remote.push({"specs/a.yaml": "a: 2\n", **noise})

        for _ in range(2):
            server.stalled.clear()
            with pytest.raises(UnavailableError, match="took longer than 3 s"):
                repository.fetch()
            assert server.stalled.is_set()
            good = repository.last_good()
            assert good is not None
            assert good.read("a.yaml") == b"a: 1\n"
            (part,) = objects.rglob("tmp_*")
            os.utime(part, (1, 1))  # as after a while

        server.go_on.set()
        assert repository.fetch().read("a.yaml") == b"a: 2\n"


def test_what_is_fetched_during_pushes_is_one_commit_each_time(remote: Remote, mirror: Path) -> None:
    repository, numbers, ended = opened(remote, mirror), set[bytes](), threading.Event()

    def push() -> None:
        for number in range(2, 40):
            remote.push({f"specs/{name}.yaml": f"n: {number}\n" for name in "abcdef"})
        ended.set()

    pushing = threading.Thread(target=push)
    pushing.start()
    try:
        while not ended.is_set():
            tree = repository.fetch()
            held = {tree.read(name) for name in tree.entries()} - {b"a: 1\n", b"b: 1\n"}
            assert len(held) <= 1, held
            numbers |= held
    finally:
        pushing.join()
    assert len(numbers) > 3
    assert repository.fetch().read("f.yaml") == b"n: 39\n"
