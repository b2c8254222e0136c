"""What servers of repositories need that are asked by HTTPS."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a certificate for 127.0.0.1, and its key; git trusts it."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: no certificate for a test server")
    file = tmp_path / "certificate.pem"
    subject = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(file))
    argv = ["openssl", "req", "-x509", *key, "-out", str(tmp_path / "public.pem"), *subject]
    subprocess.run(argv, check=True, capture_output=True)
    file.write_text(file.read_text() + (tmp_path / "public.pem").read_text())
    monkeypatch.setenv("GIT_SSL_CAINFO", str(tmp_path / "public.pem"))
    return file
