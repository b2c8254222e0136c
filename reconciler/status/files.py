"""Small durable files: written whole or not at all, read whole or not at all.

Used by every module of the state directory: :mod:`reconciler.durable` with the errors
of this directory, and records as JSON. It must not know what the files mean.

Errors: :class:`~reconciler.errors.UnavailableError` when the operating system
refuses (permission, no room), :class:`~reconciler.errors.ConfigError` with reason
``StateUnreadable`` when a file is there but is not what was written.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from reconciler import durable
from reconciler.errors import ConfigError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_OTHER_ACCOUNT = "run this command under the account that owns the state directory"
_SIZE_LIMIT = 4 * 1024 * 1024


@contextmanager
def translated(verb: str, path: Path) -> Iterator[None]:
    """Turn what the operating system refuses into :class:`UnavailableError`."""
    try:
        yield
    except OSError as error:
        hint = _OTHER_ACCOUNT if isinstance(error, PermissionError) else None
        raise UnavailableError(f"cannot {verb} {path}: {error.strerror or error}", hint=hint) from error


def write_atomic(path: Path, data: bytes) -> None:
    """Replace ``path`` durably; readable by its owner only."""
    with translated("write", path):
        durable.write(path, data)


def create_once(path: Path, data: bytes) -> bytes:
    """Make ``path`` durably unless it exists; return what it holds, whoever made it."""
    with translated("write", path):
        return durable.create_once(path, data)


def sweep_unfinished(directory: Path) -> None:
    """Remove what writers that died left unfinished in a directory."""
    with translated("tidy up", directory):
        durable.sweep(directory)


def remove(path: Path) -> None:
    """Remove a file durably; absent is fine."""
    with translated("remove", path):
        try:
            path.unlink()
        except FileNotFoundError:
            return
        durable.sync_directory(path.parent)


def read(path: Path) -> bytes | None:
    """Return what a file holds, None when it is absent."""
    with translated("read", path):
        try:
            with path.open("rb") as file:
                data = file.read(_SIZE_LIMIT + 1)
        except FileNotFoundError:
            return None
    if len(data) > _SIZE_LIMIT:
        raise unreadable(path, "it is larger than anything the reconciler writes")
    return data


def names(directory: Path) -> list[str]:
    """Return the names in a directory in order, without those of unfinished writes; absent is empty."""
    return sorted(listed(directory))


def listed(directory: Path) -> list[str]:
    """Return :func:`names` in any order: thousands of clones have one each."""
    with translated("read", directory):
        try:
            return [name for name in os.listdir(directory) if not name.startswith(".")]  # noqa: PTH208 - it is fast
        except FileNotFoundError:
            return []


def make_directory(path: Path, mode: int) -> None:
    """Make a directory with exactly ``mode``, whatever the umask; an existing one gets it too."""
    with translated("make", path):
        path.mkdir(exist_ok=True)
        if path.stat().st_mode & 0o777 != mode:
            path.chmod(mode)


def encode(record: Mapping[str, object]) -> bytes:
    """Return a record as JSON, one line."""
    return json.dumps(record, ensure_ascii=False, sort_keys=True).encode() + b"\n"


def decode(path: Path, data: bytes, *, hint: str | None = None) -> dict[str, object]:
    """Return the record of a file; ``hint`` says what to do when it is damaged.

    Raises:
        ConfigError: it is torn or something else (``StateUnreadable``).

    """
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise unreadable(path, "it is not JSON", hint=hint) from error
    if not isinstance(record, dict):
        raise unreadable(path, "it is not a JSON object", hint=hint)
    return record


def read_record(path: Path, *, hint: str | None = None) -> dict[str, object] | None:
    """Return the record of a file, None when the file is absent."""
    data = read(path)
    return None if data is None else decode(path, data, hint=hint)


def unreadable(path: Path, why: str, *, hint: str | None = None) -> ConfigError:
    """Return the error for a file that is not what was written."""
    return ConfigError(f"{path} cannot be used: {why}", reason="StateUnreadable", hint=hint)


def text(record: Mapping[str, object], key: str) -> str:
    """Return a field that must be text; ValueError otherwise."""
    value = record.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{key} is not a string")  # noqa: TRY004 - one class for every malformed field
    return value


def format_time(time: datetime) -> str:
    """Return a time in UTC with a fixed number of digits, so that texts sort as times do."""
    return time.astimezone(UTC).isoformat(timespec="microseconds")


def format_second(time: datetime) -> str:
    """Return a time as RFC 3339 in UTC, to the second, for people and scripts."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(value: str) -> datetime:
    """Return the time that :func:`format_time` wrote; ValueError when it has no offset or is none."""
    time = datetime.fromisoformat(value)
    if time.tzinfo is None:
        raise ValueError("the time has no offset")
    return time.astimezone(UTC)


def from_timestamp(seconds: float) -> datetime:
    """Return the time of a file's last change as the operating system counts it."""
    return datetime.fromtimestamp(seconds, UTC)
