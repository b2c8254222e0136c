"""The spec repository: from a URL or a directory to the bytes of one revision.

Called by the loop and the command line through :func:`open_repository`; the loader
and :mod:`reconciler.state.resolve` see a :class:`SourceTree` only. Nothing from the
repository is ever executed, checked out or followed: see :mod:`.plumbing`.

This package is the one door to git. The names below are its interface; the
submodules are its business, and ``git`` itself is imported when first needed.
"""

from reconciler.repository.base import Author, Change, Edit, Entry, Limits, Repository, SourceTree
from reconciler.repository.directory import DirectoryTree
from reconciler.repository.opening import open_repository
from reconciler.repository.paths import checked_path
from reconciler.repository.signatures import Signature, Signers

__all__ = [
    "Author",
    "Change",
    "DirectoryTree",
    "Edit",
    "Entry",
    "Limits",
    "Repository",
    "Signature",
    "Signers",
    "SourceTree",
    "checked_path",
    "open_repository",
]
