"""Somebody between a client and its daemon of containers, who makes it slow, silent, or one of an older version.

with between(daemon) as it:
    it.delay = 1.0  # seconds before each answer
    it.version = "1.40"  # it knows this version of the API, and none after it
    configure(shop, daemon, product, socket=str(it.socket))
"""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import socketserver
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.containers import ContainerDaemon

_ASKED_VERSION = re.compile(r"/v(\d+)\.(\d+)/")
_SECONDS = 300.0
_REFUSED = 400


@dataclass
class Between:
    """What is done to answers from now on."""

    socket: Path
    delay: float = 0.0
    silent: bool = False
    version: str | None = None
    requests: int = 0


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    between: Between
    daemon: ContainerDaemon
    over: threading.Event


class _Handler(BaseHTTPRequestHandler):
    """Hands one connection's requests on, each with its whole body, and its whole answer back."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):  # whatever the method
            return self._hand_on
        raise AttributeError(name)

    def _hand_on(self) -> None:
        how = self.server.between
        how.requests += 1
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        time.sleep(how.delay)
        if how.silent:
            self.server.over.wait(_SECONDS)
            self.close_connection = True
            return
        asked = _ASKED_VERSION.match(self.path)
        if how.version is not None and asked and _numbers(how.version) < (int(asked[1]), int(asked[2])):
            message = f"client version {asked[1]}.{asked[2]} is too new. Maximum supported API version is {how.version}"
            self._answer(_REFUSED, "application/json", json.dumps({"message": message}).encode())
            return
        status, kind, told = self._asked(body)
        if how.version is not None and self.path.endswith("/version"):
            told = json.dumps({**json.loads(told), "ApiVersion": how.version}).encode()
        self._answer(status, kind, told)

    def _asked(self, body: bytes) -> tuple[int, str, bytes]:
        """Ask the daemon itself; nothing comes of it while that is not there."""
        link = http.client.HTTPConnection("localhost", timeout=_SECONDS)
        link.sock = socket.socket(socket.AF_UNIX)
        try:
            link.sock.connect(str(self.server.daemon.socket))
            kept = {
                name: value
                for name, value in self.headers.items()
                if name.lower() in ("content-type", "x-registry-auth")
            }
            link.request(self.command, self.path, body or None, kept)
            answer = link.getresponse()
            return answer.status, answer.headers.get("Content-Type", ""), answer.read()
        finally:
            link.close()

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "a client"

    def log_message(self, *_words: Any) -> None:  # noqa: ANN401 - of the library
        """Say nothing."""


@contextmanager
def between(daemon: ContainerDaemon) -> Iterator[Between]:
    """Have somebody between, who at first only hands on."""
    place = Path(tempfile.mkdtemp(prefix="dkb-"))
    made = Between(place / "docker.sock")
    with _Server(str(made.socket), _Handler) as server:
        server.between, server.daemon, server.over = made, daemon, threading.Event()
        worker = threading.Thread(target=server.serve_forever)
        worker.start()
        try:
            yield made
        finally:
            server.over.set()
            server.shutdown()
            worker.join()
            shutil.rmtree(place)


def _numbers(version: str) -> tuple[int, int]:
    major, _, minor = version.partition(".")
    return int(major), int(minor)
