"""Signed envelopes: DSSE with Ed25519.

Used by :mod:`.attestation`. The format is that of https://github.com/secure-systems-lab/dsse
(protocol.md, envelope.md): what is signed is the type and the payload, never JSON that
somebody could write in another way. It must not know what a payload means.

``cryptography`` is imported when a key is first looked at; hosts without keys do not pay for it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
"""The in-toto specification's type of a statement in an envelope."""

_OPENSSH = "-----BEGIN OPENSSH PRIVATE KEY-----"


class MalformedError(ValueError):
    """These bytes are no envelope, or this text is no Ed25519 key; the message never quotes them."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that verifies; ``id`` is the SHA-256 of its SubjectPublicKeyInfo (RFC 8410) in hexadecimal digits."""

    id: str
    _key: Ed25519PublicKey = field(repr=False)

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Whether the key's owner signed a message."""
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - see the module's docstring

        try:
            self._key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Signer:
    """A key that signs."""

    public: PublicKey
    _key: Ed25519PrivateKey = field(repr=False)

    def sign(self, message: bytes) -> bytes:
        """Return the signature of a message: 64 bytes."""
        return self._key.sign(message)


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature; ``key`` is what its maker says of whose it is, and proves nothing."""

    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload with its signatures, none of them verified yet."""

    type: str
    payload: bytes
    signatures: tuple[Signature, ...] = ()

    def signed_by(self, keys: Mapping[str, PublicKey]) -> PublicKey | None:
        """Return a key, of those trusted by id, whose signature of type and payload is here; None when none is."""
        message = pre_authentication(self.type, self.payload)
        for signature in self.signatures:
            key = keys.get(signature.key)
            if key is not None and key.verifies(message, signature.value):
                return key
        return None


def seal(payload: bytes, signer: Signer | None, *, kind: str = PAYLOAD_TYPE) -> bytes:
    """Return an envelope as canonical JSON, signed by ``signer``; without one it has no signatures."""
    signatures = []
    if signer is not None:
        value = signer.sign(pre_authentication(kind, payload))
        signatures.append({"keyid": signer.public.id, "sig": base64.b64encode(value).decode()})
    envelope = {"payload": base64.b64encode(payload).decode(), "payloadType": kind, "signatures": signatures}
    return json.dumps(envelope, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def unseal(data: bytes) -> Envelope:
    """Return the envelope in ``data``; verifies nothing.

    Raises:
        MalformedError: it is none.

    """
    try:
        record = json.loads(data)
        signatures = tuple(Signature(str(row.get("keyid", "")), _decoded(row["sig"])) for row in record["signatures"])
        kind, payload = record["payloadType"], _decoded(record["payload"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise MalformedError("it is not a DSSE envelope") from None
    if not isinstance(kind, str):
        raise MalformedError("it is not a DSSE envelope")
    return Envelope(kind, payload, signatures)


def pre_authentication(kind: str, payload: bytes) -> bytes:
    """Return the bytes that are signed: PAE of the protocol, ``DSSEv1 SP LEN(type) SP type SP LEN(body) SP body``."""
    name = kind.encode()
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(payload), payload)


def load_signer(text: str) -> Signer:
    """Return the signer with a private key in PEM (PKCS #8, or as OpenSSH writes it), without a passphrase.

    Raises:
        MalformedError: it is none. Nothing of the text is in the message, nor in a cause.

    """
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - see the module's docstring
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - as above

    data = text.strip().encode() + b"\n"
    load = (
        serialization.load_ssh_private_key if text.strip().startswith(_OPENSSH) else serialization.load_pem_private_key
    )
    try:
        key = load(data, password=None)
    except Exception:  # noqa: BLE001 - whatever the library says of a private key is not repeated
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise MalformedError("it is not an Ed25519 private key in PEM without a passphrase")
    return Signer(_public(key.public_key()), key)


def load_public_key(text: str) -> PublicKey:
    """Return a public key in PEM, or as OpenSSH writes it (``ssh-ed25519 AAAA…``).

    Raises:
        MalformedError: it is none.

    """
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - see the module's docstring
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - as above
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415 - as above

    data = text.strip().encode() + b"\n"
    load = serialization.load_ssh_public_key if data.startswith(b"ssh-") else serialization.load_pem_public_key
    try:
        key = load(data)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise MalformedError("it is not an Ed25519 public key in PEM or of OpenSSH")
    return _public(key)


def _public(key: Ed25519PublicKey) -> PublicKey:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415 - as above

    encoded = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return PublicKey(hashlib.sha256(encoded).hexdigest(), key)


def _decoded(text: str) -> bytes:
    """Return the bytes of standard or URL-safe base64: the protocol lets readers take both."""
    return base64.b64decode(text.encode().translate(bytes.maketrans(b"-_", b"+/")), validate=True)
