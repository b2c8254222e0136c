"""Keys that sign attestations, made for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from reconciler.masking.dsse import Signer, load_signer

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey


def a_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def a_signer() -> Signer:
    return load_signer(pem(a_key()))


def pem(key: Ed25519PrivateKey | EllipticCurvePrivateKey) -> str:
    """Return a private key as ``openssl genpkey`` writes it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def openssh(key: Ed25519PrivateKey) -> str:
    """Return a private key as ``ssh-keygen`` writes it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    ).decode()


def public_pem(key: Ed25519PrivateKey) -> str:
    """Return the public half as ``openssl pkey -pubout`` writes it."""
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )
