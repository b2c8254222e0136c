"""The keys of attestations, as the host's configuration names them.

Called by the composition root. A key that cannot be had is no reason to trust more or
to do nothing else: it is left out, and told to whoever misses it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reconciler.errors import SecretError
from reconciler.ids import SecretName
from reconciler.masking import dsse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reconciler.secrets import SecretStore
    from reconciler.spec.config import Attestation

_MAKE = "openssl genpkey -algorithm ed25519"
_LARGEST = 64 * 1024


@dataclass(frozen=True, slots=True)
class Trust:
    """Public keys by id whose signatures count, and why others that are configured do not."""

    keys: Mapping[str, dsse.PublicKey] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def signer(settings: Attestation, secrets: SecretStore) -> dsse.Signer | None:
    """Return what signs attestations of this host; None where they are not signed.

    Raises:
        SecretError: a key is configured, and there is none that can be used.

    """
    if settings.key is None:
        return None
    name = SecretName(settings.key.secret)
    text = secrets.get(name)
    try:
        return dsse.load_signer(text)
    except dsse.MalformedError as error:
        raise SecretError(f"secret {name} cannot sign attestations: {error}", hint=f"make one with: {_MAKE}") from None


def trusted(settings: Attestation, secrets: SecretStore) -> Trust:
    """Return the keys that this host trusts: those of its files, and the one that it signs with."""
    keys: dict[str, dsse.PublicKey] = {}
    problems: list[str] = []
    for path in settings.public_keys:
        try:
            with path.open("rb") as file:
                key = dsse.load_public_key(file.read(_LARGEST).decode())
        except OSError as error:
            problems.append(f"{path} cannot be read: {error.strerror}")
        except ValueError as error:  # MalformedError is one, and so is what is not UTF-8
            what = error if isinstance(error, dsse.MalformedError) else "it is not text"
            problems.append(f"{path} is not used: {what}")
        else:
            keys[key.id] = key
    try:
        own = signer(settings, secrets)
    except SecretError as error:
        problems.append(error.message)
        own = None
    return Trust(keys if own is None else {**keys, own.public.id: own.public}, tuple(problems))
