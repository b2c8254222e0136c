"""Whose signature a commit bears: git's own verification, with the signers that the host's configuration names.

Made by :mod:`.opening`, called by :mod:`.remote` before anything of a commit is read.
The one commit that is asked about is verified: its signature covers the whole tree that
would be applied (docs/decisions/0031-only-the-tip-is-verified.md). No keyring of a user
takes part unless the configuration names it: OpenPGP keys are imported from the named
files into a directory of ours, made anew whenever those files change.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from reconciler import proc
from reconciler.clock import SystemClock
from reconciler.errors import CommandError, ConfigError, InputError, UnavailableError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.repository.plumbing import Mirror

_GPG_SETTINGS = "no-autostart\nno-auto-key-retrieve\nno-auto-key-locate\ndisable-dirmngr\ntrust-model always\n"
"""Verification asks no other program and no network, and every key of this keyring was named by the host."""
_FORMAT = "%G?%x00%GS%x00%GF%x00%an"
_GOOD = frozenset("GU")
_RECHECK_SECONDS = 600.0
"""A key expires without any file changing."""
_SHOWN = 200
_SIGN = "commit again, signed by somebody whom repository.verify names (git commit --amend --no-edit -S), and push"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signers:
    """Whose signatures count; everything that is not named counts for nothing.

    ``allowed`` is a file as ssh-keygen(1) describes it under ALLOWED SIGNERS, ``revoked``
    one with public keys or a key revocation list. ``gpg_keys`` are files with OpenPGP public
    keys; ``gnupg_home`` is a keyring of the host instead, of which keys count that it
    trusts fully.
    """

    allowed: Path | None = None
    revoked: Path | None = None
    gpg_keys: tuple[Path, ...] = ()
    gnupg_home: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that decide, in a fixed order."""
        return tuple(path for path in (self.allowed, self.revoked, *self.gpg_keys) if path is not None)


class Signature(NamedTuple):
    """A valid signature: of whom, by their key's name or principal, and with which key (its fingerprint)."""

    signer: str
    key: str

    def __str__(self) -> str:
        return f"signed by {self.signer} ({self.key})"


class Verifier:
    """Verifies commits of one mirror; what is valid is remembered for ten minutes, while no file of signers changes."""

    def __init__(self, mirror: Mirror, signers: Signers, *, directory: Path) -> None:
        self._mirror = mirror
        self._signers = signers
        self._directory = directory
        self._clock = SystemClock()
        self._known: dict[str, Signature] = {}
        self._valid: tuple[object, float] = (None, 0.0)

    def verify(self, commit: str) -> Signature:
        """Return the signature of a commit.

        Raises:
            InputError: it bears none that counts; the reason is ``CommitNotSigned``,
                ``SignerUnknown``, ``SignerExpired``, ``SignerRevoked`` or ``SignatureInvalid``.
            ConfigError: a file of signers is missing, or is none.
            UnsupportedError: a program that verification needs is not installed.

        """
        stamps = tuple(_stamp(path) for path in self._signers.files)
        if self._valid[0] != stamps or self._clock.monotonic() >= self._valid[1]:
            self._known, self._valid = {}, (stamps, self._clock.monotonic() + _RECHECK_SECONDS)
        if commit not in self._known:
            self._known[commit] = self._verify(commit)
        return self._known[commit]

    def _verify(self, commit: str) -> Signature:
        settings = tuple(word for setting in self._settings() for word in ("-c", setting))
        env = {"GNUPGHOME": str(self._keyring()), "LC_ALL": "C"}
        checked = self._mirror.attempt(*settings, "verify-commit", "--raw", commit, env=env)
        shown = self._mirror.attempt(*settings, "show", "--no-patch", f"--format={_FORMAT}", commit, env=env)
        if shown.status != 0:
            raise UnavailableError(f"the signature of {commit[:12]} cannot be read: {shown.stderr[:_SHOWN]}")
        code, signer, key, author = (_plain(part) for part in shown.text.split("\0"))
        if checked.status == 0 and code in _GOOD:
            return Signature(signer or "an unnamed signer", key)
        if code == "N" and self._is_signed(commit):
            raise InputError(
                f"commit {commit[:12]} of {author} is signed in a way for which repository.verify names no signers",
                reason="SignerUnknown",
                hint=f"name the key in allowedSigners (SSH) or gpgKeys (OpenPGP), or {_SIGN}",
            )
        raise _problem(commit, code, signer or author, key, checked.stderr)

    def _is_signed(self, commit: str) -> bool:
        """Whether a commit has any signature: git says of one that no program could look at that there is none."""
        header = self._mirror.run("cat-file", "commit", commit).stdout.partition(b"\n\n")[0]
        return b"\ngpgsig" in header

    def _settings(self) -> Iterator[str]:
        yield f"gpg.ssh.allowedSignersFile={self._signers.allowed or os.devnull}"
        yield f"gpg.ssh.program={_program('ssh-keygen', 'openssh-client') if self._signers.allowed else '/bin/false'}"
        if self._signers.revoked is not None:
            yield f"gpg.ssh.revocationFile={self._signers.revoked}"
        openpgp = self._signers.gpg_keys or self._signers.gnupg_home
        yield f"gpg.program={_program('gpg', 'gnupg') if openpgp else '/bin/false'}"
        yield "gpg.x509.program=/bin/false"
        if self._signers.gnupg_home is not None:
            yield "gpg.minTrustLevel=fully"

    def _keyring(self) -> Path:
        """Return the keyring to verify with: the configured one, or ours with exactly the configured keys."""
        if self._signers.gnupg_home is not None:
            return self._signers.gnupg_home
        content = [_content(path) for path in self._signers.gpg_keys]
        name = hashlib.sha256(b"\0".join(hashlib.sha256(one).digest() for one in content)).hexdigest()[:16]
        home = self._directory / name
        if not home.is_dir():
            self._make_keyring(home, content)
        return home

    def _make_keyring(self, home: Path, content: list[bytes]) -> None:
        """Import keys into a new directory, and give it its name once it is complete; older ones go."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".new-", dir=self._directory, ignore_cleanup_errors=True) as name:
                made = Path(name, "keys")
                made.mkdir(mode=0o700)
                made.joinpath("gpg.conf").write_text(_GPG_SETTINGS)
                for path, data in zip(self._signers.gpg_keys, content, strict=True):
                    _import(made, path, data)
                if not home.is_dir():
                    made.rename(home)
        except OSError as error:
            raise UnavailableError(f"no keyring can be made in {self._directory}: {error.strerror}") from error
        for other in self._directory.iterdir():
            if other != home and not other.name.startswith("."):
                shutil.rmtree(other, ignore_errors=True)


def _import(home: Path, path: Path, data: bytes) -> None:
    """Import the public keys of a file.

    What gpg reports counts, not how it ends: it looks for an agent that it does not need here, and fails
    where the path of a directory is too long for the agent's socket.
    """
    report = home / "import.status"
    words = [_program("gpg", "gnupg"), f"--homedir={home}", "--batch", "--quiet", "--no-tty"]
    complaint = ""
    try:
        proc.run([*words, f"--status-file={report}", "--import"], stdin=data, timeout=60)
    except CommandError as error:
        complaint = f": {error.stderr.strip()[:_SHOWN]}"
    if not report.is_file() or " IMPORT_OK " not in report.read_text(errors="replace"):
        raise ConfigError(f"{path} holds no OpenPGP public key{complaint}", hint="gpg --export --armor ADDRESS")
    report.unlink()


def _problem(commit: str, code: str, who: str, key: str, stderr: str) -> InputError:
    """Return why a commit does not count, after what ``%G?`` of git-log(1) and the verification itself said."""
    named = f"commit {commit[:12]} of {who}"
    with_key = f"the key {key}" if key else "a key"
    if code == "N":
        return InputError(f"{named} is not signed", reason="CommitNotSigned", hint=_SIGN)
    if code in "XY" or "key has expired" in stderr:
        hint = f"let its owner extend it and update the file that repository.verify names, or {_SIGN}"
        return InputError(f"{named} is signed with {with_key}, which has expired", reason="SignerExpired", hint=hint)
    if code == "R":
        return InputError(
            f"{named} is signed with {with_key}, which was revoked",
            reason="SignerRevoked",
            hint=f"find out why; {_SIGN}",
        )
    if code == "B":
        message = f"{named} has a signature that is not valid: of other content, or with a key that was revoked"
        return InputError(message, reason="SignatureInvalid", hint=f"find out who pushed it; {_SIGN}")
    message = f"{named} is signed with {with_key}, which repository.verify does not name"
    return InputError(message, reason="SignerUnknown", hint=f"add the key there if it may decide, or {_SIGN}")


def _program(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise UnsupportedError(
            f"commits cannot be verified: {name} is not installed", hint=f"apt-get install {package}"
        )
    return found


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{path}, which repository.verify names, cannot be read: {error.strerror}")


def _plain(text: str) -> str:
    return "".join(character for character in text if character.isprintable())[:_SHOWN]
