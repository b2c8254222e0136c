"""New commits, made in the mirror with plumbing commands: blobs, a tree, and the commit over them.

Called by :mod:`.remote`, which pushes them. There is no work tree: the tree is put
together in an index of its own, so modes, symlinks and submodules of other files stay as
they are. What a killed process leaves are objects that no ref holds, which git collects.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.errors import CommandError, SecretError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from reconciler.repository.base import Author
    from reconciler.repository.plumbing import Mirror

_REGULAR = "100644"
_ABSENT = "0"
"""Mode of an entry that leaves the index (git-update-index(1), --index-info)."""


def write_commit(
    mirror: Mirror,
    base: str | None,
    files: Mapping[str, bytes | None],
    *,
    message: str,
    author: Author,
    alone: bool = False,
) -> str:
    """Return the id of a new commit over ``base``, in which ``files`` (by path, None: absent) are as given.

    With ``alone`` it has the other files of ``base`` and no history; without a base it has nothing else.

    Raises:
        SecretError: it cannot be signed.

    """
    tree = _write_tree(mirror, base, files)
    parents = () if base is None or alone else ("-p", base)
    who = {
        f"GIT_{role}_{field}": value
        for role in ("AUTHOR", "COMMITTER")
        for field, value in (("NAME", author.name), ("EMAIL", author.email))
    }
    with _signing(author) as (settings, sign):
        words = (*settings, "commit-tree", *sign, *parents, tree)
        try:
            return mirror.run(*words, stdin=message.encode(), env=who).text
        except CommandError as error:
            if not sign:
                raise
            raise SecretError(
                f"the commit cannot be signed: {' '.join(error.stderr.split())[:300]}",
                reason="SigningFailed",
                hint="signing needs ssh-keygen (openssh-client) and an SSH private key without passphrase",
            ) from error


def _write_tree(mirror: Mirror, base: str | None, files: Mapping[str, bytes | None]) -> str:
    with tempfile.TemporaryDirectory() as directory:
        index = {"GIT_INDEX_FILE": os.path.join(directory, "index")}  # noqa: PTH118 - a value for git
        mirror.run("read-tree", base or "--empty", env=index)
        rows = [_row(mirror, base, path, data) for path, data in files.items()]
        mirror.run("update-index", "-z", "--index-info", stdin=b"".join(rows), env=index)
        return mirror.run("write-tree", env=index).text


def _row(mirror: Mirror, base: str | None, path: str, data: bytes | None) -> bytes:
    """Return what --index-info takes: mode, blob and path; a file that is there keeps its mode."""
    if data is None:
        return f"{_ABSENT} {'0' * 40}\t{path}\0".encode()
    blob = mirror.run("hash-object", "-w", "--no-filters", "--stdin", stdin=data).text
    mode = mirror.run("ls-tree", "--full-tree", base, "--", path).text.partition(" ")[0] if base else ""
    return f"{mode or _REGULAR} {blob}\t{path}\0".encode()


@contextmanager
def _signing(author: Author) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Hand over settings and options that sign a commit; the key is in a private file meanwhile."""
    if author.key is None:
        yield (), ()
        return
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "key")
        write_key(file, author.key(), of="repository.writeBack.signingKey")
        yield ("-c", "gpg.format=ssh", "-c", f"user.signingKey={file}"), ("-S",)


def write_key(file: Path, secret: str, *, of: str) -> None:
    """Write an SSH private key into a private file.

    Raises:
        SecretError: it is none; ``of`` says whose it should be.

    """
    key = secret.strip()
    if not key.startswith("-----BEGIN"):
        raise SecretError(f"{of} must be a private key without passphrase")
    file.touch(mode=0o600)
    file.write_text(key + "\n")
