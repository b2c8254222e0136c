"""Which keys count."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reconciler.errors import SecretError
from reconciler.masking.trust import signer, trusted
from reconciler.secrets import SecretStore
from reconciler.spec.config import Attestation
from tests.masking.keys import a_key, pem, public_pem

if TYPE_CHECKING:
    from pathlib import Path


def settings(path: Path, *public: str, key: bool = True) -> Attestation:
    record = {"publicKeys": [str(path / name) for name in public]} | ({"key": {"secret": "signing"}} if key else {})
    return Attestation.model_validate(record)


def test_a_host_trusts_its_own_key_and_those_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "signing").write_text(pem(a_key()))
    (tmp_path / "old.pub").write_text(public_pem(a_key()))
    secrets = SecretStore(tmp_path, "NONE_")
    trust = trusted(settings(tmp_path, "old.pub"), secrets)
    own = signer(settings(tmp_path), secrets)
    assert own is not None
    assert (own.public.id in trust.keys, len(trust.keys), trust.problems) == (True, 2, ())


def test_without_a_key_nothing_is_signed(tmp_path: Path) -> None:
    assert signer(settings(tmp_path, key=False), SecretStore(tmp_path, "NONE_")) is None


def test_a_key_that_is_configured_and_cannot_be_used_stops_who_would_sign(tmp_path: Path) -> None:
    secrets = SecretStore(tmp_path, "NONE_")
    with pytest.raises(SecretError, match="was not found"):
        signer(settings(tmp_path), secrets)
    (tmp_path / "signing").write_text("sesame-open")
    with pytest.raises(SecretError, match="openssl genpkey") as caught:
        signer(settings(tmp_path), secrets)
    assert "sesame" not in str(caught.value)


def test_keys_that_cannot_be_had_are_told_and_the_others_count(tmp_path: Path) -> None:
    (tmp_path / "good.pub").write_text(public_pem(a_key()))
    (tmp_path / "bad.pub").write_bytes(b"\xff\xfe")
    (tmp_path / "text.pub").write_text("no key")
    trust = trusted(settings(tmp_path, "bad.pub", "good.pub", "none.pub", "text.pub"), SecretStore(tmp_path, "NONE_"))
    assert len(trust.keys) == 1
    told = "; ".join(trust.problems)
    assert all(what in told for what in ("bad.pub", "none.pub", "text.pub", "secret signing was not found"))
