"""What a repository hands out: trees of files at one revision, and who changed them.

Used by everybody who reads specs. Values and protocols only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from datetime import datetime
    from pathlib import Path

    from reconciler.ids import Revision
    from reconciler.repository.signatures import Signature

MIB = 1024 * 1024
GIB = 1024 * MIB


class Entry(NamedTuple):
    """A regular file: its git blob id and its size in bytes."""

    object_id: str
    size: int


class Change(NamedTuple):
    """Who changed a file last. ``author`` is a name for people, without control characters."""

    commit: str
    author: str
    at: datetime


class Edit(NamedTuple):
    """What a commit changes: the new bytes of files by path (None: the file goes), and what it says."""

    files: Mapping[str, bytes | None]
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """Whose commits ours are. ``key`` gives the SSH private key (without passphrase) that signs them."""

    name: str
    email: str
    key: Callable[[], str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of what is taken from a repository, which is untrusted input.

    ``read_bytes`` bounds a file that is read into memory (documents, scripts);
    ``file_bytes`` any file (dumps). Times are in seconds: one fetch, one local
    command, one copy of a file or directory to disk.
    """

    files: int = 50_000
    read_bytes: int = 64 * MIB
    file_bytes: int = 64 * GIB
    total_bytes: int = 256 * GIB
    history_commits: int = 20_000
    fetch_seconds: float = 600
    command_seconds: float = 120
    copy_seconds: float = 7200


class SourceTree(Protocol):
    """The regular files of one revision, below the configured sub-path.

    Paths are relative to that sub-path, with ``/``, normalised. Files and directories
    whose name starts with a dot are not part of the tree. Every method raises
    :class:`~reconciler.errors.InputError` when the revision holds something that is
    refused (a symlink, a submodule, too many files, …), with the path in the message,
    and :class:`~reconciler.errors.UnavailableError` when its bytes cannot be read.
    """

    @property
    def revision(self) -> Revision:
        """Name of the commit, or of the content for a plain directory."""
        ...

    @property
    def rewrite(self) -> str:
        """How it rewrites the history of the revision that was followed before (a forced push); mostly empty."""
        ...

    def entries(self) -> Mapping[str, Entry]:
        """Return every file by path, in path order. Listed once, then kept."""
        ...

    def read(self, path: str) -> bytes:
        """Return a file's bytes.

        Raises:
            InputError: no such file, or it is larger than ``Limits.read_bytes``.

        """
        ...

    def read_many(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Yield path and bytes of many files, in the order given; much quicker than :meth:`read` for each."""
        ...

    def object_id(self, path: str) -> str | None:
        """Return the id of a file's blob or a directory's tree; None when there is no such path."""
        ...

    def extract(self, path: str, target: Path) -> None:
        """Copy a file or directory tree to ``target``, which must not exist; never a symlink, in chunks.

        Raises:
            InputError: no such path.
            BusyError: the file is being changed (plain directories).

        """
        ...


class Repository(Protocol):
    """A configured repository. One per process; keeps no open files or processes between calls."""

    def fetch(self) -> SourceTree:
        """Return the newest revision; the same object as long as nothing changed.

        Raises:
            UnavailableError: the remote does not answer, or has no such branch (any more);
                the message says which last good revision stays in force.
            InputError: the newest revision holds what is refused (see :class:`SourceTree`).

        """
        ...

    def tree(self, revision: str) -> SourceTree:
        """Return another revision: ``main@sha1:…``, a commit id, ``main~1``.

        The remote is asked only for what the mirror does not have.

        Raises:
            InputError: there is no such revision.
            UnavailableError: as :meth:`fetch`.

        """
        ...

    def last_good(self) -> SourceTree | None:
        """Return the revision that was last marked good, also after a restart and while the remote is away."""
        ...

    def mark_good(self, revision: Revision) -> None:
        """Keep a revision as the last good one, durably. Costs nothing when it is already."""
        ...

    def verify(self, tree: SourceTree) -> Signature | None:
        """Return the valid signature that a revision bears; None when this repository asks for none.

        Raises:
            InputError: it bears none that counts, and must not be applied; the message says why and what to do.
            ConfigError: the signers that the configuration names cannot be read.
            UnsupportedError: a program that verification needs is not installed.

        """
        ...

    def history(self, paths: Iterable[str]) -> Mapping[str, Change]:
        """Return who changed each file of the newest revision last, as far as history was looked at.

        Empty for a plain directory.
        """
        ...

    def change(self, revision: Revision) -> Change | None:
        """Return who made a revision, without asking the remote; None for a plain directory, or where it is gone."""
        ...

    def commit(self, edit: Callable[[SourceTree], Edit | None], *, author: Author) -> Revision | None:
        """Commit a change on top of the newest revision, there where everybody sees it; None: nothing to change.

        ``edit`` is asked again, of the newer revision, when somebody else was quicker:
        nothing of theirs is ever overwritten.

        Raises:
            UnavailableError: as :meth:`fetch`, or the remote does not take the commit (``PushRefused``).
            InputError: the newest revision bears no signature that counts (see :meth:`verify`): a signature of
                ours on top of it would vouch for it.
            SecretError: the commit cannot be signed.
            UnsupportedError: it is a plain directory.

        """
        ...

    def publish(
        self, ref: str, path: str, edit: Callable[[bytes | None], Edit | None], *, author: Author
    ) -> Revision | None:
        """Make a ref one commit without history, with the files of an edit and the others that were there.

        ``edit`` is given what the file ``path`` holds there now (None: there is none, or no
        such ref), and asked again when somebody else was quicker; None: nothing to change.
        Its mirror is one for publishing alone: what no ref holds in it goes within hours.

        Raises:
            UnavailableError: as :meth:`commit`.
            SecretError: the commit cannot be signed.
            UnsupportedError: it is a plain directory.

        """
        ...
