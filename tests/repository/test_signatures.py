"""Commits that are signed by the right person, by somebody else, with a key that counts no more, or not at all."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from reconciler.errors import ConfigError, InputError
from reconciler.repository import Author, Edit, Repository, Signers, open_repository
from tests.repository.shared import Remote, signing_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from reconciler.repository import SourceTree

ANN = "ann@example.org"


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    return Remote(tmp_path)


def opened(remote: Remote, signers: Signers | None) -> Repository:
    return open_repository(
        mirror=remote.path.with_name("mirror.git"), url=str(remote.path), path="specs", signers=signers
    )


def ssh_key(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    return signing_key(directory)


def allowed(file: Path, key: Path, options: str = "") -> Path:
    file.write_text(f"{ANN} {options} {key.with_suffix('.pub').read_text()}")
    return file


def push_signed(remote: Remote, key: Path, text: str = "a: 2\n", *options: str) -> str:
    for setting in ("gpg.format=ssh", f"user.signingKey={key}"):
        subprocess.run(["git", "-C", remote.desk, "config", *setting.split("=")], check=True)
    return remote.push({"specs/a.yaml": text}, "--gpg-sign", *options)


def refusal(repository: Repository) -> InputError:
    with pytest.raises(InputError) as caught:
        repository.verify(repository.fetch())
    return caught.value


def test_a_commit_signed_by_an_allowed_key_says_whose_it_is(remote: Remote, tmp_path: Path) -> None:
    key = ssh_key(tmp_path / "ann")
    head = push_signed(remote, key)
    repository = opened(remote, Signers(allowed=allowed(tmp_path / "allowed", key)))

    signature = repository.verify(repository.fetch())

    assert signature is not None
    assert signature.signer == ANN
    assert signature.key.startswith("SHA256:")
    assert repository.verify(repository.tree(head)) == signature


def test_without_signers_nobody_asks(remote: Remote) -> None:
    repository = opened(remote, None)
    assert repository.verify(repository.fetch()) is None


def test_an_unsigned_commit_is_refused_also_above_signed_ones(remote: Remote, tmp_path: Path) -> None:
    key = ssh_key(tmp_path / "ann")
    push_signed(remote, key)
    remote.push({"specs/a.yaml": "a: 3\n"})
    found = refusal(opened(remote, Signers(allowed=allowed(tmp_path / "allowed", key))))

    assert found.reason == "CommitNotSigned"
    assert "of Ada is not signed" in found.message
    assert "git commit --amend" in str(found.hint)


def test_a_signed_commit_above_unsigned_ones_vouches_for_its_tree(remote: Remote, tmp_path: Path) -> None:
    key = ssh_key(tmp_path / "ann")
    remote.push({"specs/a.yaml": "a: 3\n"})
    push_signed(remote, key, "a: 4\n")
    repository = opened(remote, Signers(allowed=allowed(tmp_path / "allowed", key)))

    assert repository.verify(repository.fetch()) is not None


def test_a_commit_signed_by_another_key_is_refused(remote: Remote, tmp_path: Path) -> None:
    push_signed(remote, ssh_key(tmp_path / "mallory"))
    found = refusal(opened(remote, Signers(allowed=allowed(tmp_path / "allowed", ssh_key(tmp_path / "ann")))))

    assert found.reason == "SignerUnknown"
    assert "SHA256:" in found.message


def test_a_key_that_has_expired_counts_no_more(remote: Remote, tmp_path: Path) -> None:
    key = ssh_key(tmp_path / "ann")
    push_signed(remote, key)
    file = allowed(tmp_path / "allowed", key, 'valid-before="20200101"')

    assert refusal(opened(remote, Signers(allowed=file))).reason == "SignerExpired"


def test_a_key_that_is_revoked_counts_no_more_from_the_moment_that_its_file_says_so(
    remote: Remote, tmp_path: Path
) -> None:
    key = ssh_key(tmp_path / "ann")
    push_signed(remote, key)
    revoked = tmp_path / "revoked"
    revoked.write_text("")
    repository = opened(remote, Signers(allowed=allowed(tmp_path / "allowed", key), revoked=revoked))
    assert repository.verify(repository.fetch()) is not None

    revoked.write_text(key.with_suffix(".pub").read_text())

    assert refusal(repository).reason == "SignatureInvalid"


def test_a_signature_that_was_moved_to_another_commit_is_refused(remote: Remote, tmp_path: Path) -> None:
    key = ssh_key(tmp_path / "ann")
    head = push_signed(remote, key)
    other = remote.git("cat-file", "commit", head).replace("theirs", "not theirs")
    made = subprocess.run(
        ["git", "-C", remote.path, "hash-object", "-t", "commit", "-w", "--stdin"],
        input=other + "\n",
        text=True,
        check=True,
        capture_output=True,
    ).stdout.strip()
    remote.git("update-ref", "refs/heads/main", made)

    assert refusal(opened(remote, Signers(allowed=allowed(tmp_path / "allowed", key)))).reason == "SignatureInvalid"


def test_a_file_of_signers_that_is_missing_is_an_error_of_the_configuration(remote: Remote, tmp_path: Path) -> None:
    repository = opened(remote, Signers(allowed=tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="cannot be read"):
        repository.verify(repository.fetch())


def test_no_commit_of_ours_vouches_for_an_unsigned_one(remote: Remote, tmp_path: Path) -> None:
    key = ssh_key(tmp_path / "ours")
    before = remote.push({"specs/a.yaml": "a: 3\n"})
    repository = opened(remote, Signers(allowed=allowed(tmp_path / "allowed", key)))

    def change(_tree: SourceTree) -> Edit:
        return Edit({"b.yaml": b"b: 2\n"}, "Ours")

    ours = Author(name="reconciler", email=ANN, key=key.read_text)
    with pytest.raises(InputError, match="is not signed"):
        repository.commit(change, author=ours)
    assert remote.git("rev-parse", "main") == before

    push_signed(remote, key, "a: 4\n")
    assert repository.commit(change, author=ours) is not None
    assert repository.verify(repository.fetch()) is not None


class Pgp:
    """Somebody's keyring, and the public keys that they hand out."""

    def __init__(self, directory: Path) -> None:
        if shutil.which("gpg") is None:
            pytest.skip("gpg is not installed: no commit can be signed with OpenPGP")
        self.home = directory
        self.home.mkdir(mode=0o700)

    def gpg(self, *words: str | Path) -> str:
        argv = ["gpg", "--homedir", self.home, "--batch", "--quiet", "--no-tty", "--passphrase", "", *words]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    def make(self, address: str, *options: str, expires: str = "never") -> None:
        self.gpg(*options, "--quick-generate-key", f"Ann <{address}>", "ed25519", "sign", expires)

    def export(self, file: Path) -> Path:
        file.write_text(self.gpg("--armor", "--export"))
        return file

    def push(self, remote: Remote, address: str, program: str = "gpg") -> str:
        for setting in ("gpg.format=openpgp", f"user.signingKey={address}", f"gpg.program={program}"):
            subprocess.run(["git", "-C", remote.desk, "config", *setting.split("=")], check=True)
        before = os.environ.get("GNUPGHOME")
        os.environ["GNUPGHOME"] = str(self.home)
        try:
            return remote.push({"specs/a.yaml": f"a: {address}\n"}, "--gpg-sign")
        finally:
            os.environ.pop("GNUPGHOME")
            if before is not None:
                os.environ["GNUPGHOME"] = before

    def close(self) -> None:
        subprocess.run(["gpgconf", "--homedir", self.home, "--kill", "all"], check=False)


@pytest.fixture
def pgp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pgp]:
    made = Pgp(tmp_path_factory.mktemp("k") / "gpg")  # short enough for the agent's socket
    made.make(ANN)
    yield made
    made.close()


@pytest.fixture
def openpgp(remote: Remote, tmp_path: Path, pgp: Pgp) -> Callable[[], Repository]:
    """Return how to open the repository with the keys that the keyring has then."""
    return lambda: opened(remote, Signers(gpg_keys=(pgp.export(tmp_path / "keys.asc"),)))


def test_an_openpgp_key_counts_from_its_file_alone(
    remote: Remote, pgp: Pgp, openpgp: Callable[[], Repository], tmp_path: Path
) -> None:
    pgp.push(remote, ANN)
    repository = openpgp()

    signature = repository.verify(repository.fetch())

    assert signature is not None
    assert signature.signer == f"Ann <{ANN}>"
    assert [len(path.name) for path in (tmp_path / "signers").iterdir()] == [16]
    assert refusal(
        opened(remote, Signers(allowed=allowed(tmp_path / "allowed", ssh_key(tmp_path / "ann"))))
    ).reason == ("SignerUnknown")


def test_an_openpgp_key_that_expired_or_that_nobody_named_counts_for_nothing(
    remote: Remote, pgp: Pgp, tmp_path: Path
) -> None:
    file = pgp.export(tmp_path / "keys.asc")
    then = "--faked-system-time=20200101T000000"
    pgp.make("old@example.org", then, expires="2020-02-01")
    wrapper = tmp_path / "gpg-then"
    wrapper.write_text(f'#!/bin/sh\nexec gpg {then} "$@"\n')
    wrapper.chmod(0o755)
    pgp.push(remote, "old@example.org", str(wrapper))

    assert refusal(opened(remote, Signers(gpg_keys=(file,)))).reason == "SignerUnknown"
    pgp.export(file)
    assert refusal(opened(remote, Signers(gpg_keys=(file,)))).reason == "SignerExpired"


def test_an_openpgp_key_that_was_revoked_counts_no_more(
    remote: Remote, pgp: Pgp, openpgp: Callable[[], Repository]
) -> None:
    pgp.push(remote, ANN)
    certificate = next((pgp.home / "openpgp-revocs.d").iterdir())
    text = certificate.read_text()
    certificate.write_text(text[text.index(":-----BEGIN") + 1 :])
    pgp.gpg("--import", certificate)

    assert refusal(openpgp()).reason == "SignerRevoked"


def test_a_file_without_a_key_is_an_error_of_the_configuration(remote: Remote, tmp_path: Path, pgp: Pgp) -> None:
    pgp.push(remote, ANN)
    (tmp_path / "keys.asc").write_text("nothing\n")
    repository = opened(remote, Signers(gpg_keys=(tmp_path / "keys.asc",)))
    tree = repository.fetch()
    with pytest.raises(ConfigError, match="no OpenPGP public key"):
        repository.verify(tree)


def test_a_keyring_of_the_host_counts_where_it_trusts_a_key(remote: Remote, pgp: Pgp) -> None:
    pgp.push(remote, ANN)
    repository = opened(remote, Signers(gnupg_home=pgp.home))
    assert repository.verify(repository.fetch()) is not None

    pgp.make("other@example.org")
    pgp.push(remote, "other@example.org")
    trust = pgp.gpg("--export-ownertrust").replace(":6:", ":3:")
    (pgp.home / "trust").write_text(trust)
    pgp.gpg("--import-ownertrust", pgp.home / "trust")
    pgp.gpg("--check-trustdb")
    assert refusal(opened(remote, Signers(gnupg_home=pgp.home))).reason == "SignerUnknown"
