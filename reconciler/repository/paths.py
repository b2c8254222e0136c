"""Paths within a tree, and the ids that git would give to files and directories.

Pure functions, used by every kind of tree.
"""

from __future__ import annotations

import hashlib
import posixpath
from typing import TYPE_CHECKING

from reconciler.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_FILE_MODE = b"100644"
_TREE_MODE = b"40000"
_LFS_HEAD = b"version https://git-lfs.github.com/spec/"
LFS_POINTER_BYTES = 1024
"""A pointer of Git LFS is never larger (git-lfs, docs/spec.md)."""


def checked_path(path: str) -> str:
    """Return ``path`` normalised; ``.`` is the root of the tree.

    Raises:
        InputError: it is absolute, leaves the tree, starts with a dash (it could be taken
            for an option) or holds control characters.

    """
    if not path or not path.isprintable():
        raise InputError(f"{path!r} is not a usable path: it is empty or holds control characters")
    if path.startswith("/"):
        raise InputError(f"{path!r} is an absolute path; only paths inside the spec repository can be used here")
    normal = posixpath.normpath(path)
    if normal == ".." or normal.startswith("../"):
        raise InputError(f"{path!r} leads out of the spec repository")
    if normal.startswith("-"):
        raise InputError(f"{path!r} starts with a dash and could be taken for an option")
    return normal


def hidden(path: str) -> bool:
    """Whether a part of the path starts with a dot: no part of any tree (``.git``, ``.github``, editor files)."""
    return path.startswith(".") or "/." in path


def check_name(path: str) -> None:
    """Refuse file names that break listings or terminals.

    Raises:
        InputError: the name holds control characters or is not valid UTF-8.

    """
    if not path.isprintable():
        raise InputError(f"the file name {path!r} holds control characters or is not valid UTF-8", reason="FileRefused")


def check_not_lfs(path: str, head: bytes) -> None:
    """Refuse pointers of Git LFS: filters of the repository are never run, so the content is not here.

    Raises:
        InputError: ``head`` is the start of such a pointer.

    """
    if head.startswith(_LFS_HEAD):
        raise InputError(
            f"{path} is a pointer of Git LFS, which is not supported",
            reason="FileRefused",
            hint="keep large files under one of the host's sources.roots and name them by absolute path",
        )


def blob_id(data: bytes) -> str:
    """Return the id of a blob (Git's object format, gitformat-pack(5))."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def directories(files: Iterable[str]) -> dict[str, list[str]]:
    """Return for every directory (the root is ``""``) the paths of its direct children, files and directories."""
    children: dict[str, list[str]] = {"": []}
    for path in files:
        child = path
        while True:
            parent = child.rpartition("/")[0]
            known = parent in children
            children.setdefault(parent, []).append(child)
            if known:
                break
            child = parent
    return children


def tree_bytes(children: Iterable[str], ids: Mapping[str, str], trees: Mapping[str, str]) -> bytes:
    """Return the bytes of a tree object; git sorts directories as if their name ended in a slash."""
    rows = sorted(
        (name.rpartition("/")[2].encode() + (b"/" if name in trees else b""), name in trees, name) for name in children
    )
    return b"".join(
        (_TREE_MODE if is_tree else _FILE_MODE)
        + b" "
        + key.rstrip(b"/")
        + b"\0"
        + bytes.fromhex(trees[name] if is_tree else ids[name])
        for key, is_tree, name in rows
    )


def tree_ids(ids: Mapping[str, str]) -> dict[str, str]:
    """Return the tree id of every directory; ``ids`` maps file paths to blob ids. The root is ``""``."""
    children = directories(ids)
    trees: dict[str, str] = {}
    for directory in sorted(children, key=lambda name: name.count("/") if name else -1, reverse=True):
        data = tree_bytes(children[directory], ids, trees)
        trees[directory] = hashlib.sha1(b"tree %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    return trees
