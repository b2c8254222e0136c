"""A bare repository that several people push to, and a server that speaks TLS."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING, Self

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from http.server import BaseHTTPRequestHandler
    from pathlib import Path


class Remote:
    """A bare repository, and a work tree of somebody who pushes to it."""

    def __init__(self, path: Path) -> None:
        self.path, self.desk = path / "remote.git", path / "desk"
        subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", self.path], check=True)
        subprocess.run(["git", "clone", "--quiet", self.path, self.desk], check=True, capture_output=True)
        self.push({"specs/a.yaml": "a: 1\n", "specs/b.yaml": "b: 1\n"})

    def git(self, *words: str) -> str:
        """Run git in the remote."""
        return self._git(self.path, *words)

    def push(self, files: dict[str, str], *options: str) -> str:
        """Commit files as somebody else, and push."""
        for name, text in files.items():
            (self.desk / name).parent.mkdir(parents=True, exist_ok=True)
            (self.desk / name).write_text(text)
        self._git(self.desk, "add", "--all")
        self._git(self.desk, "commit", "--quiet", "--message=theirs", *options)
        self._git(self.desk, "push", "--quiet", "--force", "origin", "HEAD:main")
        return self._git(self.desk, "rev-parse", "HEAD")

    def pull(self) -> None:
        self._git(self.desk, "pull", "--quiet", "origin", "main")

    def hook(self, name: str, script: str) -> None:
        file = self.path / "hooks" / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    def files(self) -> list[str]:
        return self.git("ls-tree", "-r", "--name-only", "main").splitlines()

    def read(self, path: str) -> str:
        return self.git("show", f"main:{path}")

    @staticmethod
    def _git(path: Path, *words: str) -> str:
        identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "core.fileMode=true")
        argv = ["git", "-C", str(path), *identity, *words]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.rstrip("\n")


class TlsServer:
    """Answers by HTTPS as long as it is open; ``url`` says where."""

    def __init__(self, handler: Callable[..., BaseHTTPRequestHandler], certificate: Path) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def signing_key(directory: Path) -> Path:
    """Return the file of a new SSH private key; that of the public key lies beside it."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed: no commit can be signed")
    file = directory / "signing"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", file], check=True)
    return file
