"""What is refused of a tree, whatever it is read from: other than regular files, and too much."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reconciler.repository.base import Entry, Limits

_NAMED = 5


def check_refused(refused: list[str], revision: str) -> None:
    """Refuse a tree with entries that are no regular files.

    Raises:
        InputError: there are some; the message names the first ones.

    """
    if refused:
        more = f" and {len(refused) - _NAMED} more" if len(refused) > _NAMED else ""
        raise InputError(
            f"only regular files can be used, but at {revision} {', '.join(refused[:_NAMED])}{more}",
            reason="FileRefused",
            hint="replace them by files, or move the specs to a sub-path without them",
        )


def check_sizes(entries: Mapping[str, Entry], revision: str, limits: Limits) -> None:
    """Refuse a tree that is larger than ``limits``.

    Raises:
        InputError: too many files, a file too large, or too much in all.

    """
    if len(entries) > limits.files:
        raise InputError(
            f"{revision} has {len(entries):,} files; the limit is {limits.files:,}", reason="RepositoryTooLarge"
        )
    for name, entry in entries.items():
        if entry.size > limits.file_bytes:
            raise InputError(
                f"{name} has {entry.size:,} bytes; the limit is {limits.file_bytes:,}", reason="FileTooLarge"
            )
    total = sum(entry.size for entry in entries.values())
    if total > limits.total_bytes:
        raise InputError(
            f"the files of {revision} have {total:,} bytes in all; the limit is {limits.total_bytes:,}",
            reason="RepositoryTooLarge",
        )


def check_readable(path: str, entry: Entry, limits: Limits) -> None:
    """Refuse to read a large file into memory.

    Raises:
        InputError: it is larger than ``limits.read_bytes``.

    """
    if entry.size > limits.read_bytes:
        raise InputError(
            f"{path} has {entry.size:,} bytes; documents and scripts may have {limits.read_bytes:,}",
            reason="FileTooLarge",
        )
