"""Envelopes: the format of others, and no signature that is not one."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from reconciler.masking.dsse import (
    MalformedError,
    load_public_key,
    load_signer,
    pre_authentication,
    seal,
    unseal,
)
from tests.masking.keys import a_signer, openssh, pem

if TYPE_CHECKING:
    from reconciler.masking.dsse import Signer


@pytest.fixture(scope="module")
def signer() -> Signer:
    return a_signer()


def test_what_is_signed_is_as_in_the_protocol() -> None:
    """The example of https://github.com/secure-systems-lab/dsse/blob/master/protocol.md, test vectors."""
    signed = pre_authentication("http://example.com/HelloWorld", b"hello world")
    assert signed == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_an_envelope_has_the_fields_of_the_protocol(signer: Signer) -> None:
    record = json.loads(seal(b"{}", signer))
    assert record["payloadType"] == "application/vnd.in-toto+json"
    assert base64.b64decode(record["payload"]) == b"{}"
    (signature,) = record["signatures"]
    assert signature["keyid"] == signer.public.id
    assert len(base64.b64decode(signature["sig"])) == 64


def test_a_signature_counts_only_for_its_payload_its_type_and_a_trusted_key(signer: Signer) -> None:
    keys, others = {signer.public.id: signer.public}, {(other := a_signer()).public.id: other.public}
    envelope = seal(b'{"a":1}', signer)
    assert unseal(envelope).signed_by(keys) == signer.public
    assert unseal(envelope).signed_by(others) is None
    assert unseal(envelope).signed_by({signer.public.id: other.public}) is None
    record = json.loads(envelope)
    exchanged = {**record, "payload": base64.b64encode(b'{"a":2}').decode()}
    assert unseal(json.dumps(exchanged).encode()).signed_by(keys) is None
    assert unseal(json.dumps({**record, "payloadType": "text/plain"}).encode()).signed_by(keys) is None


def test_an_unsigned_envelope_is_signed_by_nobody(signer: Signer) -> None:
    envelope = unseal(seal(b"{}", None))
    assert envelope.signatures == ()
    assert envelope.signed_by({signer.public.id: signer.public}) is None


def test_url_safe_base64_is_read_as_the_protocol_asks_for(signer: Signer) -> None:
    payload = bytes(range(256))
    record = json.loads(seal(payload, signer))
    record["payload"] = base64.urlsafe_b64encode(payload).decode()
    assert unseal(json.dumps(record).encode()).payload == payload


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b'{"payload": "", "payloadType": "x"}',
        b'{"payload": "*", "payloadType": "x", "signatures": []}',
        b'{"payload": "", "payloadType": 1, "signatures": []}',
        b'{"payload": "", "payloadType": "x", "signatures": [1]}',
        b'{"payload": "", "payloadType": "x", "signatures": [{}]}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_envelope_is_told(data: bytes) -> None:
    with pytest.raises(MalformedError):
        unseal(data)


def test_keys_of_openssl_and_openssh_are_read() -> None:
    key = Ed25519PrivateKey.generate()
    signers = [load_signer(pem(key)), load_signer(openssh(key))]
    spki = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    ssh = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    publics = [load_public_key(spki.decode()), load_public_key(ssh.decode() + " somebody@host")]
    assert len({signer.public.id for signer in signers} | {public.id for public in publics}) == 1


@pytest.mark.parametrize("kind", ["text", "other algorithm", "passphrase", "public"])
def test_what_is_no_private_key_is_told_without_quoting_it(kind: str) -> None:
    key = Ed25519PrivateKey.generate()
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"passphrase"),
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    texts = {
        "text": "sesame-open",
        "other algorithm": pem(generate_private_key(SECP256R1())),
        "passphrase": locked.decode(),
        "public": public.decode(),
    }
    with pytest.raises(MalformedError, match="not an Ed25519 private key") as caught:
        load_signer(texts[kind])
    assert (caught.value.__cause__, "sesame" in str(caught.value)) == (None, False)


def test_a_private_key_has_no_representation(signer: Signer) -> None:
    assert "private" not in repr(signer).lower()


def test_what_is_no_public_key_is_told() -> None:
    with pytest.raises(MalformedError, match="not an Ed25519 public key"):
        load_public_key("ssh-rsa AAAA")
