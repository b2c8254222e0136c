"""A registry of container images, of which this host has one where it needs it: with a login, over HTTP on loopback.

with registry("ann", "secret") as private:
    private.hold("shop/postgres", "15", daemon, IMAGE)
    daemon.docker("pull", f"{private.address}/shop/postgres:15")
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import subprocess
import tarfile
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.containers import ContainerDaemon

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"  # the daemon looks for itself how it is packed


@dataclass
class Registry:
    """Images by name and tag, for whoever knows the login."""

    login: str
    port: int = 0
    pulls: int = 0
    """How often a manifest was handed out."""
    _blobs: dict[str, bytes] = field(default_factory=dict)
    _manifests: dict[str, bytes] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def hold(self, name: str, tag: str, daemon: ContainerDaemon, reference: str) -> None:
        """Have an image of a daemon's under a name and tag from now on."""
        argv = ["docker", "--host", f"unix://{daemon.socket}", "save", reference]
        with tarfile.open(fileobj=io.BytesIO(subprocess.run(argv, check=True, capture_output=True).stdout)) as saved:
            (known,) = json.loads(_member(saved, "manifest.json"))
            config = self._keep(_CONFIG, _member(saved, known["Config"]))
            layers = [self._keep(_LAYER, _member(saved, layer)) for layer in known["Layers"]]
        manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": config, "layers": layers}
        told = json.dumps(manifest).encode()
        for at in (tag, _digest(told)):
            self._manifests[f"/v2/{name}/manifests/{at}"] = told

    def refuse(self) -> None:
        """Let nobody in from now on."""
        self.login = "nobody:"

    def found(self, path: str) -> tuple[str, bytes] | None:
        """Return the type and content of what lies at a path; None: nothing."""
        if path in self._manifests:
            self.pulls += 1
            return _MANIFEST, self._manifests[path]
        blob = b"" if path == "/v2/" else self._blobs.get(path.rpartition("/")[2])
        return None if blob is None else ("application/octet-stream", blob)

    def _keep(self, kind: str, content: bytes) -> dict[str, Any]:
        digest = _digest(content)
        self._blobs[digest] = content
        return {"mediaType": kind, "size": len(content), "digest": digest}


class _Server(ThreadingHTTPServer):
    registry: Registry


class _Handler(BaseHTTPRequestHandler):
    """Answers as the registry's API says (OCI Distribution Specification), for reading only."""

    server: _Server

    def do_GET(self) -> None:
        wanted = "Basic " + base64.b64encode(self.server.registry.login.encode()).decode()
        if self.headers.get("Authorization") != wanted:
            self._answer(HTTPStatus.UNAUTHORIZED, "application/json", b'{"errors": [{"code": "UNAUTHORIZED"}]}')
            return
        found = self.server.registry.found(self.path)
        if found is None:
            self._answer(HTTPStatus.NOT_FOUND, "application/json", b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}')
        else:
            self._answer(HTTPStatus.OK, *found)

    do_HEAD = do_GET  # noqa: N815 - named by the library

    def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        if kind == _MANIFEST:
            self.send_header("Docker-Content-Digest", _digest(body))
        if status == HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", 'Basic realm="tests"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_words: Any) -> None:  # noqa: ANN401 - of the library
        """Say nothing."""


@contextmanager
def registry(user: str, password: str) -> Iterator[Registry]:
    """Have a registry in the block."""
    made = Registry(f"{user}:{password}")
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.registry, made.port = made, server.server_address[1]
        worker = threading.Thread(target=server.serve_forever)
        worker.start()
        try:
            yield made
        finally:
            server.shutdown()
            worker.join()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    found = archive.extractfile(name)
    assert found is not None
    return found.read()
