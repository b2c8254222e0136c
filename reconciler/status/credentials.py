"""Generated passwords of clones: one file per clone and user, readable by the owner only.

Asked by ``apply`` when it delivers users without a secret, and by ``url`` and
``connect``. A password is made once and kept until the clone is forgotten, or delivered
without that user. It never goes anywhere but to the engine and to whoever can read
these files.

A file that is empty or is no text (a torn write cannot leave one; a person can) is
replaced by a new password; its fingerprint changes, and the next pass delivers it.
"""

from __future__ import annotations

import secrets
import shutil
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from reconciler import durable
from reconciler.ids import CloneName
from reconciler.status import files

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

_RANDOM_BYTES = 24


class Credentials:
    """The passwords of one state directory; safe to use from several threads and processes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def credential(self, clone: CloneName, user: str) -> str:
        """Return a user's password; the first call makes it, durably."""
        known = self.existing(clone, user)
        if known is not None:
            return known
        directory = self._directory / _file_name(clone)
        if not directory.is_dir():
            files.make_directory(directory, 0o700)
            with files.translated("sync", self._directory):
                durable.sync_directory(self._directory)
        path = directory / _file_name(user)
        fresh = secrets.token_urlsafe(_RANDOM_BYTES).encode()
        made = _password(files.create_once(path, fresh))
        if made is None:
            files.write_atomic(path, fresh)
        return made or fresh.decode()

    def existing(self, clone: CloneName, user: str) -> str | None:
        """Return a user's password if one was made; never makes one."""
        data = files.read(self._directory / _file_name(clone) / _file_name(user))
        return None if data is None else _password(data)

    def clones(self) -> frozenset[CloneName]:
        """Return the clones that have passwords here."""
        return frozenset(CloneName(unquote(name)) for name in files.listed(self._directory))

    def users(self, clone: CloneName) -> frozenset[str]:
        """Return the users of a clone that have passwords here."""
        return frozenset(unquote(name) for name in files.names(self._directory / _file_name(clone)))

    def forget(self, clone: CloneName) -> None:
        """Remove a clone's passwords; absent is fine."""
        directory = self._directory / _file_name(clone)
        with files.translated("remove", directory):
            try:
                shutil.rmtree(directory)
            except FileNotFoundError:
                return
            durable.sync_directory(self._directory)

    def retain(self, clone: CloneName, users: Collection[str]) -> None:
        """Remove the passwords of all other users of a clone: one who comes back gets a new one."""
        for user in self.users(clone).difference(users):
            files.remove(self._directory / _file_name(clone) / _file_name(user))

    def rename(self, old: CloneName, new: CloneName) -> None:
        """Give a clone's passwords its new name, over any that the new name has; done already is fine."""
        source, target = self._directory / _file_name(old), self._directory / _file_name(new)
        if source == target or not source.is_dir():
            return
        files.make_directory(target, 0o700)
        with files.translated("rename", source):
            for name in files.names(source):
                (source / name).rename(target / name)
            durable.sync_directory(target)
            shutil.rmtree(source)
            durable.sync_directory(self._directory)


def _file_name(name: str) -> str:
    """Return a file name for any user name: no separators, no leading dot, reversible."""
    if not name:
        raise ValueError("a clone and a user have names")
    quoted = quote(name, safe="")
    return "%2E" + quoted[1:] if quoted.startswith(".") else quoted


def _password(data: bytes) -> str | None:
    try:
        password = data.decode("ascii").strip()
    except UnicodeDecodeError:
        return None
    return password if password and password.isprintable() else None
