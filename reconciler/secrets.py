"""The values of secrets: files of the host, or its environment.

Asked by ``observe`` for fingerprints and by ``apply`` for values, right where they
are used. A value is never kept, logged or put into an error.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
import threading
from typing import TYPE_CHECKING

from reconciler.errors import SecretError

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.ids import SecretName

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")
_SIZE_LIMIT = 64 * 1024

_Stamp = tuple[int, int, int, int, int]


class SecretStore:
    """Looks a secret up as ``<directory>/NAME``, then as the environment variable ``<prefix>NAME``.

    In the variable's name letters are upper-case, and dashes and dots are underscores.
    A symlink in the directory is followed: that is how container platforms mount
    secrets, and the directory is the host's, not the repository's. Safe to use from
    several threads.
    """

    def __init__(self, directory: Path | None, prefix: str) -> None:
        self._directory = directory
        self._prefix = prefix
        self._lock = threading.Lock()
        self._fingerprints: dict[tuple[SecretName, bytes], tuple[_Stamp, str]] = {}
        self._warnings: dict[SecretName, str] = {}

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is wrong with secrets that were read and could be used all the same."""
        with self._lock:
            return tuple(self._warnings[name] for name in sorted(self._warnings))

    def get(self, name: SecretName) -> str:
        """Return a secret's value, without one final newline.

        Raises:
            SecretError: there is none, or it is unreadable; the message says where it was looked for.

        """
        _check(name)
        found = self._from_file(name)
        value = self._from_environment(name) if found is None else found
        if value is None:
            raise SecretError(f"secret {name} was not found", hint=f"looked at {self._places(name)}")
        if not value:
            raise SecretError(f"secret {name} is empty", hint=f"looked at {self._places(name)}")
        return value

    def fingerprint(self, name: SecretName, key: bytes) -> str | None:
        """Return a keyed fingerprint of a secret's value, 32 hexadecimal digits; None when it cannot be had.

        A file is read again only when it changed.
        """
        try:
            _check(name)
            stamp = self._stamp(name)
            with self._lock:
                known = self._fingerprints.get((name, key))
            if known is not None and known[0] == stamp:
                return known[1]
            fingerprint = fingerprint_of(self.get(name), key)
        except SecretError:
            return None
        if stamp is not None:
            with self._lock:
                self._fingerprints[name, key] = (stamp, fingerprint)
        return fingerprint

    def _variable(self, name: SecretName) -> str:
        return self._prefix + re.sub("[-.]", "_", name).upper()

    def _places(self, name: SecretName) -> str:
        variable = f"the environment variable {self._variable(name)}"
        return variable if self._directory is None else f"the file {self._directory / name} and {variable}"

    def _stamp(self, name: SecretName) -> _Stamp | None:
        if self._directory is None:
            return None
        try:
            return _stamp(os.stat(self._directory / name))  # noqa: PTH116 - asked for every secret in every pass
        except OSError:
            return None

    def _from_environment(self, name: SecretName) -> str | None:
        value = os.environ.get(self._variable(name))
        return None if value is None else _decode(name, f"${self._variable(name)}", os.fsencode(value))

    def _from_file(self, name: SecretName) -> str | None:
        """Return a secret's value from its file; None when there is no such file."""
        if self._directory is None:
            return None
        path = self._directory / name
        try:
            # Without O_NONBLOCK a named pipe would hold the reconciler up for ever.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise SecretError(f"secret {name} cannot be read: {path}: {error.strerror}") from error
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise SecretError(f"secret {name} cannot be read: {path} is not a regular file")
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(_SIZE_LIMIT + 1)
        finally:
            os.close(descriptor)
        self._judge(name, path, found.st_mode)
        return _decode(name, path, data)

    def _judge(self, name: SecretName, path: Path, mode: int) -> None:
        with self._lock:
            if mode & 0o077:
                self._warnings[name] = f"secret {name}: other accounts can read {path}; run chmod 600 on it"
            else:
                self._warnings.pop(name, None)


def fingerprint_of(value: str, key: bytes) -> str:
    """Return the keyed fingerprint of a value: equal values have equal ones, and no value follows from it."""
    return hmac.new(key, value.encode(), hashlib.sha256).hexdigest()[:32]


def _check(name: SecretName) -> None:
    if not _NAME.fullmatch(name):
        raise SecretError(f"{name!r} cannot be the name of a secret", hint="letters, digits, dashes, dots, underscores")


def _decode(name: SecretName, place: object, data: bytes) -> str:
    if len(data) > _SIZE_LIMIT:
        raise SecretError(f"secret {name} is larger than {_SIZE_LIMIT // 1024} KiB: {place}")
    try:
        value = data.decode()
    except UnicodeDecodeError:
        # Without "from": the error's text would carry bytes of the value.
        raise SecretError(f"secret {name} is not UTF-8 text: {place}") from None
    return value.removesuffix("\n").removesuffix("\r")


def _stamp(found: os.stat_result) -> _Stamp:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
